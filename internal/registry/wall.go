package registry

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// route is what the wall lets through: a manifest, a blob, an upload, or what refers to an image of one repository. Lists of
// what there is (the catalogue, tags) are not there for anybody: that is the api role's knowledge. The strict form of the name
// leaves no room for a path that the wall reads one way and the library another.
var route = pattern.New(`^/v2/(v2/[0-9a-f]{32}(?:-[0-9]{1,3})?)/(manifests|blobs/uploads|blobs|referrers)/([^/]*)$`)

var digestForm = pattern.New(`^sha256:[0-9a-f]{64}$`)

// request is one request as the wall understands it.
type request struct {
	repository string
	kind       string // manifests, blobs, blobs/uploads, referrers
	reference  string
	write      bool
}

func parse(r *http.Request) (request, bool) {
	write := r.Method != http.MethodGet && r.Method != http.MethodHead
	if r.URL.Path == "/v2/" {
		return request{}, !write
	}
	m := route.FindStringSubmatch(r.URL.Path)
	if m == nil || r.URL.RawPath != "" {
		return request{}, false
	}
	return request{repository: m[1], kind: m[2], reference: m[3], write: write}, true
}

func (q request) actions() []string {
	if q.write || q.kind == "blobs/uploads" {
		return []string{"pull", "push"}
	}
	return []string{"pull"}
}

// wall decides, before the library sees a request, whether it may be made at all.
func (s *Server) wall(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, ok := parse(r)
		grants, err := s.tokens.grants(r)
		if err != nil {
			reason := "invalid_token"
			if errors.Is(err, errNoToken) {
				reason = ""
			} else {
				s.log.InfoContext(r.Context(), "token refused", "error", err, "request", web.RequestID(r.Context()))
			}
			s.challenge(w, q, reason)
			return
		}
		if !ok {
			refuse(w, http.StatusForbidden, "DENIED", "this registry does not do that")
			return
		}
		if q.repository == "" { // GET /v2/: the token holds
			next.ServeHTTP(w, r)
			return
		}
		if place, is := quarantined(grants, q.repository); is {
			s.serveQuarantine(w, r, q, place)
			return
		}
		if !allows(grants, q.repository, q.actions()...) {
			s.challenge(w, q, "insufficient_scope")
			return
		}
		builder := pki.PeerRole(r) == api.RoleBuilder
		switch {
		case (q.write || q.kind == "blobs/uploads") && !builder:
			// The second wall: even a token that allows it does not help anybody but the builder.
			s.log.WarnContext(r.Context(), "a write that did not come from the builder", "peer", pki.PeerRole(r),
				"repository", q.repository, "request", web.RequestID(r.Context()))
			refuse(w, http.StatusForbidden, "DENIED", "only the builder writes to this registry")
		case r.Method == http.MethodDelete && q.kind != "blobs/uploads":
			refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "nothing is deleted here by request")
		case q.write && (q.kind == "blobs" || q.kind == "referrers"):
			refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this is only read")
		case q.write:
			s.write(w, r, q, next)
		case q.kind == "blobs/uploads":
			s.uploadState(w, r, q, next)
		case q.kind == "referrers":
			s.referrers(w, r, q, next)
		case q.kind == "manifests" && !digestForm.MatchString(q.reference) && !builder && !referrersTag.MatchString(q.reference):
			refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "images are pulled by digest")
		default:
			s.read(w, r, q, next)
		}
	})
}

func (s *Server) challenge(w http.ResponseWriter, q request, reason string) {
	w.Header().Set("WWW-Authenticate", s.tokens.challenge(q.repository, q.actions(), reason))
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "a token for this is needed")
}

// refuse answers in the registry protocol's own error form.
func refuse(w http.ResponseWriter, status int, code, message string) {
	data, err := json.Marshal(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
	if err != nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	w.Header().Del("Content-Length")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

func full(w http.ResponseWriter) {
	refuse(w, http.StatusInsufficientStorage, "UNAVAILABLE", "the registry's disk is full")
}

// writeFailure turns the library's "500, unknown error" into what it is when the disk ran full meanwhile.
type writeFailure struct {
	http.ResponseWriter
	full    func() bool
	body    *bounded
	swallow bool
	over    bool // the body was longer than it may be
}

func (w *writeFailure) WriteHeader(status int) {
	if status >= http.StatusBadRequest && w.body != nil && w.body.over {
		w.swallow, w.over = true, true
		return
	}
	if status == http.StatusInternalServerError && w.full() {
		w.swallow = true
		full(w.ResponseWriter)
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writeFailure) Write(p []byte) (int, error) {
	if w.swallow {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

func (w *writeFailure) Unwrap() http.ResponseWriter { return w.ResponseWriter }
