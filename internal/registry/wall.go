package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// route is what the wall lets through: a manifest, a blob, or an upload of one repository. Lists (the catalogue, tags,
// referrers) are not there for anybody: what exists is the api role's knowledge. The strict form of the name leaves no room
// for a path that the wall reads one way and the library another.
var route = regexp.MustCompile(`^/v2/(v2/[0-9a-f]{32}(?:-[0-9]{1,3})?)/(manifests|blobs/uploads|blobs)/([^/]*)$`)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// request is one request as the wall understands it.
type request struct {
	repository string
	kind       string // manifests, blobs, blobs/uploads
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
		case q.write:
			s.write(w, r, q, next)
		case q.kind == "manifests" && !digestForm.MatchString(q.reference) && !builder:
			refuse(w, http.StatusForbidden, "DENIED", "images are pulled by digest")
		default:
			s.read(w, r, q, next)
		}
	})
}

// write lets the builder's request through, unless the disk is full or a tag would change its meaning. Giving an upload up is
// always possible.
func (s *Server) write(w http.ResponseWriter, r *http.Request, q request, next http.Handler) {
	if free, err := freeBytes(s.storage); err == nil && r.Method != http.MethodDelete && free < s.cfg.MinFree+max(r.ContentLength, 0) {
		full(w)
		return
	}
	if q.kind == "blobs/uploads" && r.Method == http.MethodPost && r.URL.RawQuery != "" {
		// Mounting a blob of another repository would be a way to learn what others have. Without the parameters the
		// library answers as the specification wants for "cannot": it opens an ordinary upload.
		v := r.URL.Query()
		v.Del("mount")
		v.Del("from")
		r = r.Clone(r.Context())
		r.URL.RawQuery = v.Encode()
	}
	if q.kind == "manifests" && !digestForm.MatchString(q.reference) && s.tagTaken(r, next) {
		refuse(w, http.StatusConflict, "DENIED", "the tag "+q.reference+" is taken; what is released does not change")
		return
	}
	failure := &writeFailure{ResponseWriter: w, full: func() bool {
		free, err := freeBytes(s.storage)
		return err == nil && free < s.cfg.MinFree
	}}
	next.ServeHTTP(failure, r)
	if failure.swallow {
		s.abandon(r, q)
	}
}

var uploadForm = regexp.MustCompile(`^[0-9a-f-]{36}$`)

// abandon throws away what came of an upload that filled the disk. The library would keep it for a day, and cannot cancel an
// upload whose last part was cut off.
func (s *Server) abandon(r *http.Request, q request) {
	if q.kind != "blobs/uploads" || !uploadForm.MatchString(q.reference) {
		return
	}
	dir := filepath.Join(s.storage, "docker", "registry", "v2", "repositories", q.repository, "_uploads", q.reference)
	if err := os.RemoveAll(dir); err != nil {
		s.log.WarnContext(r.Context(), "a failed upload could not be removed", "error", err, "request", web.RequestID(r.Context()))
	}
}

// tagTaken asks the library itself whether a tag exists already.
func (s *Server) tagTaken(r *http.Request, next http.Handler) bool {
	head := r.Clone(r.Context())
	head.Method, head.Body, head.ContentLength = http.MethodHead, http.NoBody, 0
	head.Header.Set("Accept", strings.Join([]string{
		"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	}, ", "))
	answer := statusOnly{header: http.Header{}}
	next.ServeHTTP(&answer, head)
	return answer.status != http.StatusNotFound
}

// statusOnly keeps the status of an answer and nothing else.
type statusOnly struct {
	header http.Header
	status int
}

func (w *statusOnly) Header() http.Header         { return w.header }
func (w *statusOnly) Write(p []byte) (int, error) { return len(p), nil }
func (w *statusOnly) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
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
	swallow bool
}

func (w *writeFailure) WriteHeader(status int) {
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
