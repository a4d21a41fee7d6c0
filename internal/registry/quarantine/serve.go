package quarantine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Request is one request, as the registry's wall has understood and allowed it.
type Request struct {
	Repository string // v2/<32 hex>
	Kind       string // manifests, blobs, blobs/uploads
	Reference  string
	Builder    bool // it comes from the builder
	Delete     bool // its token lets it close and empty the repository
	Push       bool // its token lets it write
}

var (
	digestForm = pattern.New(`^sha256:([0-9a-f]{64})$`)
	tagForm    = pattern.New(`^\w[\w.-]{0,127}$`)
	uploadForm = pattern.New(`^[A-Z2-7]{26}$`)
	nameForm   = pattern.New(`^v2/([0-9a-f]{32})$`)
)

// protocolError is an answer of the registry protocol.
type protocolError struct {
	status        int
	code, message string
}

func (e *protocolError) Error() string { return e.message }

// answers are those for a repository's errors. What is full is no 5xx: a client would try again.
var answers = []struct {
	err    error
	status int
	code   string
}{
	{errClosed, http.StatusForbidden, "DENIED"},
	{errFull, http.StatusRequestEntityTooLarge, "SIZE_INVALID"},
	{errMany, http.StatusForbidden, "DENIED"},
	{errBusy, http.StatusConflict, "BLOB_UPLOAD_INVALID"},
	{errUnknown, http.StatusNotFound, "NAME_UNKNOWN"},
	{errDigest, http.StatusBadRequest, "DIGEST_INVALID"},
	{errNoRoom, http.StatusInsufficientStorage, "UNAVAILABLE"},
}

// Serve answers a request, or gives an error that is not the client's.
func (s *Store) Serve(w http.ResponseWriter, r *http.Request, q Request) error {
	m := nameForm.FindStringSubmatch(q.Repository)
	if m == nil {
		return refuse(w, &protocolError{http.StatusNotFound, "NAME_UNKNOWN", "there is no such repository"})
	}
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	err := s.serve(w, r, q, s.repository(m[1]))
	var p *protocolError
	if errors.As(err, &p) {
		return refuse(w, p)
	}
	for _, a := range answers {
		if errors.Is(err, a.err) {
			return refuse(w, &protocolError{a.status, a.code, a.err.Error()})
		}
	}
	if r.Context().Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil // the client is gone
	}
	return err
}

func refuse(w http.ResponseWriter, p *protocolError) error {
	text, err := json.Marshal(map[string]any{"errors": []map[string]string{{"code": p.code, "message": p.message}}})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(p.status)
	_, _ = w.Write(text)
	return nil
}

var errDenied = &protocolError{http.StatusForbidden, "DENIED", "quarantine does not do that"}

// serve is the list of what is done here: outside, writing, and asking whether something is there; reading for the builder.
func (s *Store) serve(w http.ResponseWriter, r *http.Request, q Request, repo *repository) error {
	what := r.Method + " " + q.Kind
	switch {
	case q.Builder && q.Delete && what == "DELETE blobs/uploads" && q.Reference == "":
		return done(w, repo.shut())
	case q.Builder && q.Delete && what == "DELETE blobs" && q.Reference == "":
		return done(w, repo.empty())
	case r.Method == http.MethodHead, r.Method == http.MethodGet && q.Builder && q.Kind != "blobs/uploads":
		if q.Kind == "manifests" {
			return repo.manifest(w, r, q.Reference)
		}
		return repo.blob(w, r, q.Reference)
	case !q.Push:
		return errDenied
	case what == "POST blobs/uploads" && q.Reference == "":
		return s.begin(w, q, repo)
	case q.Kind == "blobs/uploads" && uploadForm.MatchString(q.Reference):
		return s.upload(w, r, q, repo)
	case what == "PUT manifests":
		return s.takeManifest(w, r, q, repo)
	}
	return errDenied
}

func done(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusAccepted)
	}
	return err
}

// begin opens an upload. A wish to mount a blob of another repository is answered as the specification wants for "cannot": with an
// ordinary upload.
func (s *Store) begin(w http.ResponseWriter, q Request, repo *repository) error {
	id, err := s.open(repo)
	if err != nil {
		return err
	}
	uploading(w, q, id, 0)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func uploading(w http.ResponseWriter, q Request, id string, size int64) {
	w.Header().Set("Location", "/v2/"+q.Repository+"/blobs/uploads/"+id)
	w.Header().Set("Docker-Upload-UUID", id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(size-1, 0)))
	w.Header().Set("Content-Length", "0")
}

func (s *Store) upload(w http.ResponseWriter, r *http.Request, q Request, repo *repository) error {
	u, err := repo.take(q.Reference)
	if err != nil {
		return err
	}
	defer repo.release(u)
	switch r.Method {
	case http.MethodGet:
		uploading(w, q, q.Reference, u.size)
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodDelete:
		if err := repo.drop(q.Reference, u); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodPatch, http.MethodPut:
	default:
		return errDenied
	}
	digest := ""
	if r.Method == http.MethodPut {
		m := digestForm.FindStringSubmatch(r.URL.Query().Get("digest"))
		if m == nil {
			return &protocolError{http.StatusBadRequest, "DIGEST_INVALID", "digest: must be sha256: and 64 hexadecimal digits"}
		}
		digest = m[1]
	}
	if text := r.Header.Get("Content-Range"); text != "" {
		from, _, _ := strings.Cut(strings.TrimPrefix(text, "bytes "), "-")
		if at, err := strconv.ParseInt(from, 10, 64); err != nil || at != u.size {
			uploading(w, q, q.Reference, u.size)
			return &protocolError{http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "Content-Range: this is not where the upload goes on"}
		}
	}
	if err := s.add(repo, u, r.Body); err != nil {
		return err
	}
	if r.Method == http.MethodPatch {
		uploading(w, q, q.Reference, u.size)
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	if err := repo.finish(q.Reference, u, digest); err != nil {
		if errors.Is(err, errDigest) {
			err = errors.Join(err, repo.drop(q.Reference, u))
		}
		return err
	}
	w.Header().Set("Location", "/v2/"+q.Repository+"/blobs/sha256:"+digest)
	w.Header().Set("Docker-Content-Digest", "sha256:"+digest)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// descriptor is what a manifest says of something else.
type descriptor struct {
	Digest string   `json:"digest"`
	Size   int64    `json:"size"`
	URLs   []string `json:"urls"`
}

// takeManifest keeps a manifest all of whose parts are here, in this repository: that somebody else has them does not count.
func (s *Store) takeManifest(w http.ResponseWriter, r *http.Request, q Request, repo *repository) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxManifest+1))
	if err != nil {
		return err
	}
	if len(text) > maxManifest {
		return &protocolError{http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", fmt.Sprintf("a manifest has at most %d bytes", maxManifest)}
	}
	sum := sha256.Sum256(text)
	digest, tag := hex.EncodeToString(sum[:]), ""
	if m := digestForm.FindStringSubmatch(q.Reference); m == nil {
		if tag = q.Reference; !tagForm.MatchString(tag) {
			return &protocolError{http.StatusBadRequest, "TAG_INVALID", "the tag is none"}
		}
	} else if m[1] != digest {
		return &protocolError{http.StatusBadRequest, "DIGEST_INVALID", "the manifest does not have this digest"}
	}
	var m struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        *descriptor  `json:"config"`
		Layers        []descriptor `json:"layers"`
		Manifests     []descriptor `json:"manifests"`
	}
	invalid := &protocolError{http.StatusBadRequest, "MANIFEST_INVALID", "only manifests of images, and lists of them, are taken"}
	if json.Unmarshal(text, &m) != nil || m.SchemaVersion != 2 || len(m.Layers)+len(m.Manifests) > maxBlobs {
		return invalid
	}
	media := types.MediaType(m.MediaType)
	if m.MediaType == "" {
		media = types.MediaType(r.Header.Get("Content-Type"))
	}
	switch {
	case media.IsImage() && m.Config != nil && len(m.Manifests) == 0:
		for _, d := range append(m.Layers, *m.Config) {
			if err := repo.has(blobsDir, d); err != nil {
				return err
			}
		}
	case media.IsIndex() && m.Config == nil && len(m.Layers) == 0 && len(m.Manifests) > 0:
		for _, d := range m.Manifests {
			if err := repo.has(manifestsDir, d); err != nil {
				return err
			}
		}
	default:
		return invalid
	}
	if err := s.putManifest(repo, digest, tag, text); err != nil {
		return err
	}
	w.Header().Set("Location", "/v2/"+q.Repository+"/manifests/sha256:"+digest)
	w.Header().Set("Docker-Content-Digest", "sha256:"+digest)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// has refuses a part that was not pushed into this repository, or is to be fetched from somewhere else.
func (r *repository) has(dir string, d descriptor) error {
	unknown := &protocolError{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "not pushed into this repository: " + strings.ToValidUTF8(d.Digest, "?")}
	m := digestForm.FindStringSubmatch(d.Digest)
	if m == nil || len(d.URLs) > 0 {
		return unknown
	}
	info, err := os.Stat(filepath.Join(r.dir, dir, m[1]))
	if err != nil || info.Size() != d.Size {
		return unknown
	}
	return nil
}

func (r *repository) manifest(w http.ResponseWriter, req *http.Request, reference string) error {
	unknown := &protocolError{http.StatusNotFound, "MANIFEST_UNKNOWN", "there is no such manifest"}
	m := digestForm.FindStringSubmatch(reference)
	digest := ""
	switch {
	case m != nil:
		digest = m[1]
	case tagForm.MatchString(reference):
		text, err := os.ReadFile(filepath.Join(r.dir, tagsDir, reference))
		if err != nil {
			return unknown
		}
		digest = string(text)
	default:
		return unknown
	}
	text, err := os.ReadFile(filepath.Join(r.dir, manifestsDir, digest))
	if errors.Is(err, fs.ErrNotExist) {
		return unknown
	}
	if err != nil {
		return err
	}
	var said struct {
		MediaType string `json:"mediaType"`
		Manifests []any  `json:"manifests"`
	}
	_ = json.Unmarshal(text, &said) // it was read when it came
	if said.MediaType == "" {
		said.MediaType = string(types.OCIManifestSchema1)
		if len(said.Manifests) > 0 {
			said.MediaType = string(types.OCIImageIndex)
		}
	}
	w.Header().Set("Content-Type", said.MediaType)
	w.Header().Set("Docker-Content-Digest", "sha256:"+digest)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(http.StatusOK)
	if req.Method == http.MethodGet {
		_, _ = io.Copy(w, bytes.NewReader(text)) // a client that goes away does not matter
	}
	return nil
}

func (r *repository) blob(w http.ResponseWriter, req *http.Request, reference string) error {
	unknown := &protocolError{http.StatusNotFound, "BLOB_UNKNOWN", "there is no such blob"}
	m := digestForm.FindStringSubmatch(reference)
	if m == nil {
		return unknown
	}
	f, err := os.Open(filepath.Join(r.dir, blobsDir, m[1]))
	if errors.Is(err, fs.ErrNotExist) {
		return unknown
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", reference)
	http.ServeContent(w, req, "", info.ModTime(), f)
	return nil
}
