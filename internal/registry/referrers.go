package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/web"
)

// grows reports whether a list of referrers holds everything that another one does.
func grows(old, list []byte) bool {
	before, err := indexOf(old)
	after, err2 := indexOf(list)
	if err != nil || err2 != nil {
		return false
	}
	have := map[string]bool{}
	for _, m := range after.Manifests {
		have[m.Digest] = true
	}
	for _, m := range before.Manifests {
		if !have[m.Digest] {
			return false
		}
	}
	return true
}

const indexType = "application/vnd.oci.image.index.v1+json"

// index is what we read of a list of manifests.
type index struct {
	MediaType string            `json:"mediaType"`
	Manifests []descriptor      `json:"manifests"`
	Raw       []json.RawMessage `json:"-"` // the same, as they were written
}

type descriptor struct {
	Digest       string `json:"digest"`
	ArtifactType string `json:"artifactType"`
}

func indexOf(data []byte) (index, error) {
	var x index
	var raw struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := errors.Join(json.Unmarshal(data, &x), json.Unmarshal(data, &raw)); err != nil {
		return x, err
	}
	if x.MediaType != indexType {
		return x, fmt.Errorf("%q is no index", x.MediaType)
	}
	x.Raw = raw.Manifests
	return x, nil
}

// about is what we read of a manifest.
type about struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
	Config       part              `json:"config"`
	Layers       []part            `json:"layers"`
	Subject      part              `json:"subject"`
}

type part struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
}

// aboutOf reads a manifest. One whose layers are elsewhere is refused: a device would get them from whom the manifest says.
func aboutOf(data []byte) (about, error) {
	var a about
	if err := json.Unmarshal(data, &a); err != nil {
		return a, errors.New("the manifest is not valid JSON")
	}
	for _, l := range a.Layers {
		if strings.Contains(l.MediaType, "nondistributable") || strings.Contains(l.MediaType, ".foreign.") {
			return a, errors.New("layers that are kept elsewhere are not taken")
		}
	}
	if a.Subject.Digest != "" && !digestForm.MatchString(a.Subject.Digest) {
		return a, errors.New("the digest of the subject is not a SHA-256")
	}
	return a, nil
}

// entry is how the manifest stands in the list of its subject's referrers.
func (a about) entry(digest string, data []byte) entry {
	e := entry{MediaType: a.MediaType, Digest: digest, Size: int64(len(data)), ArtifactType: a.ArtifactType, Annotations: a.Annotations}
	if e.ArtifactType == "" && a.MediaType != indexType {
		e.ArtifactType = a.Config.MediaType
	}
	return e
}

type entry struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// maxReferrers bounds the list of what refers to one image.
const maxReferrers = 1000

// refer adds a manifest to the list of its subject's referrers. The repository is held.
func (s *Server) refer(r *http.Request, q request, e entry, subject string, next http.Handler) error {
	tag := strings.Replace(subject, ":", "-", 1)
	old, status := s.get(r, q, tag, next)
	list := []json.RawMessage{}
	switch status {
	case http.StatusNotFound:
	case http.StatusOK:
		x, err := indexOf(old)
		if err != nil {
			return api.Errorf(api.Conflict, "the tag %s is not a list of referrers", tag)
		}
		for _, m := range x.Manifests {
			if m.Digest == e.Digest {
				return nil
			}
		}
		list = x.Raw
	default:
		return api.Errorf(api.Unavailable, "the list of referrers cannot be read")
	}
	if len(list) >= maxReferrers {
		return api.Errorf(api.TooLarge, "an image has at most %d referrers", maxReferrers)
	}
	one, err := json.Marshal(e)
	if err != nil {
		return err
	}
	data, err := indexWith(append(list, one))
	if err != nil {
		return err
	}
	if int64(len(data)) > s.cfg.MaxManifest {
		return api.Errorf(api.TooLarge, "the list of referrers is at most %s large", api.FormatBytes(s.cfg.MaxManifest))
	}
	if err := s.ledger.link(r.Context(), q.repository, digestOf(data), int64(len(data))); err != nil {
		return err
	}
	if answer := s.put(r, q, tag, indexType, data, next); answer.status != http.StatusCreated {
		return api.Errorf(api.Unavailable, "the list of referrers cannot be written: %d", answer.status)
	}
	return nil
}

func indexWith(list []json.RawMessage) ([]byte, error) {
	return json.Marshal(struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
	}{2, indexType, list})
}

// put writes a manifest through the library.
func (s *Server) put(r *http.Request, q request, reference, mediaType string, data []byte, next http.Handler) *kept {
	in := r.Clone(r.Context())
	in.Method, in.Body, in.ContentLength, in.URL.RawQuery = http.MethodPut, io.NopCloser(bytes.NewReader(data)), int64(len(data)), ""
	in.URL.Path = "/v2/" + q.repository + "/manifests/" + reference
	in.Header = http.Header{"Content-Type": {mediaType}}
	answer := &kept{header: http.Header{}}
	next.ServeHTTP(answer, in)
	return answer
}

// get reads a manifest through the library.
func (s *Server) get(r *http.Request, q request, reference string, next http.Handler) (data []byte, status int) {
	in := r.Clone(r.Context())
	in.Method, in.Body, in.ContentLength, in.URL.RawQuery = http.MethodGet, http.NoBody, 0, ""
	in.URL.Path = "/v2/" + q.repository + "/manifests/" + reference
	in.Header = http.Header{"Accept": {strings.Join([]string{
		"application/vnd.oci.image.manifest.v1+json", indexType,
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	}, ", ")}}
	answer := &kept{header: http.Header{}}
	next.ServeHTTP(answer, in)
	return answer.body.Bytes(), answer.status
}

// kept is an answer that goes nowhere.
type kept struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *kept) Header() http.Header { return w.header }
func (w *kept) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}
func (w *kept) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// referrers lists what refers to an image: the index under the tag where the specification has clients put it.
func (s *Server) referrers(w http.ResponseWriter, r *http.Request, q request, next http.Handler) {
	if !digestForm.MatchString(q.reference) {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "referrers are of a SHA-256 digest")
		return
	}
	list := []json.RawMessage{}
	data, status := s.get(r, q, strings.Replace(q.reference, ":", "-", 1), next)
	x, err := index{}, error(nil)
	if status == http.StatusOK {
		x, err = indexOf(data)
	}
	if (status != http.StatusOK && status != http.StatusNotFound) || err != nil {
		s.log.ErrorContext(r.Context(), "referrers cannot be read", "status", status, "error", err, "request", web.RequestID(r.Context()))
		refuse(w, http.StatusInternalServerError, "UNKNOWN", "the list of referrers cannot be read")
		return
	}
	kind := r.URL.Query().Get("artifactType")
	for i, m := range x.Manifests {
		if kind == "" || m.ArtifactType == kind {
			list = append(list, x.Raw[i])
		}
	}
	if kind != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	answer, err := indexWith(list)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "UNKNOWN", "the list of referrers cannot be written")
		return
	}
	w.Header().Set("Content-Type", indexType)
	w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(answer)
	}
}
