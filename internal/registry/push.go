package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/web"
)

var (
	uploadForm = pattern.New(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	// referrersTag is the tag of the list of what refers to an image, where the specification puts it.
	referrersTag = pattern.New(`^sha256-[0-9a-f]{64}$`)
)

// write lets the builder's request through, within the limits. Giving an upload up is always possible.
func (s *Server) write(w http.ResponseWriter, r *http.Request, q request, next http.Handler) {
	if r.Method != http.MethodDelete && s.fullFor(max(r.ContentLength, 0)) {
		full(w)
		return
	}
	switch {
	case q.kind == "manifests":
		s.putManifest(w, r, q, next)
	case q.reference == "":
		s.beginUpload(w, r, q, next)
	case r.Method == http.MethodDelete:
		s.dropUpload(w, r, q)
	default:
		s.receive(w, r, q, next)
	}
}

// fullFor reports whether the disk has no room for so many bytes.
func (s *Server) fullFor(n int64) bool {
	free, known, err := s.storage.free()
	return known && err == nil && free < s.cfg.MinFree+n
}

// one makes what changes one repository's list of tags or uploads happen one after the other.
func (s *Server) one(repository string) func() {
	h := fnv.New32a()
	_, _ = io.WriteString(h, repository) // never fails, see hash.Hash
	mu := &s.locks[h.Sum32()%uint32(len(s.locks))]
	mu.Lock()
	return mu.Unlock
}

// beginUpload opens an upload, unless the organization has no room or the repository too many of them.
func (s *Server) beginUpload(w http.ResponseWriter, r *http.Request, q request, next http.Handler) {
	if r.Method != http.MethodPost {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "an upload begins with POST")
		return
	}
	if _, err := s.ledger.room(r.Context(), q.repository, true); err != nil {
		s.refused(w, r, q, err)
		return
	}
	defer s.one(q.repository)()
	open, err := s.storage.list(r.Context(), path.Join(repositoryDir(q.repository), "_uploads"))
	switch {
	case err != nil:
		s.log.ErrorContext(r.Context(), "uploads cannot be counted", "error", err, "request", web.RequestID(r.Context()))
		refuse(w, http.StatusServiceUnavailable, "UNAVAILABLE", "the storage does not answer; try again")
		return
	case len(open) >= s.cfg.MaxUploads:
		s.count.refused.Add(1)
		refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS",
			fmt.Sprintf("%d uploads are open in this repository; finish or cancel some", len(open)))
		return
	}
	if r.URL.RawQuery != "" {
		// Mounting a blob of another repository would be a way to learn what others have. Without the parameters the
		// library answers as the specification wants for "cannot": it opens an ordinary upload.
		v := r.URL.Query()
		v.Del("mount")
		v.Del("from")
		r = r.Clone(r.Context())
		r.URL.RawQuery = v.Encode()
	}
	s.passOn(w, r, q, next, nil)
}

// dropUpload gives an upload up. The library could not cancel one whose last part was cut off.
func (s *Server) dropUpload(w http.ResponseWriter, r *http.Request, q request) {
	if !uploadForm.MatchString(q.reference) {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload")
		return
	}
	dir := uploadDir(q)
	if _, err := s.storage.Stat(r.Context(), path.Join(dir, "startedat")); missing(err) {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload")
		return
	}
	if err := s.storage.remove(r.Context(), dir); err != nil {
		s.log.WarnContext(r.Context(), "an upload could not be removed", "error", err, "request", web.RequestID(r.Context()))
		refuse(w, http.StatusServiceUnavailable, "UNAVAILABLE", "the upload could not be removed; try again")
		return
	}
	w.Header().Set("Docker-Upload-UUID", q.reference)
	w.WriteHeader(http.StatusNoContent)
}

func uploadDir(q request) string {
	return path.Join(repositoryDir(q.repository), "_uploads", q.reference)
}

// receive takes bytes of an upload, and its end.
func (s *Server) receive(w http.ResponseWriter, r *http.Request, q request, next http.Handler) {
	if r.Method != http.MethodPatch && r.Method != http.MethodPut {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "an upload goes on with PATCH or PUT")
		return
	}
	if !uploadForm.MatchString(q.reference) {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload")
		return
	}
	largest, err := s.ledger.room(r.Context(), q.repository, false)
	if err != nil {
		s.refused(w, r, q, err)
		return
	}
	body := &bounded{ReadCloser: r.Body, why: "a blob is at most " + api.FormatBytes(s.cfg.MaxBlob) + " large", status: http.StatusRequestEntityTooLarge}
	have := offsetOf(r)
	body.left = s.cfg.MaxBlob - have
	if largest >= 0 && largest < s.cfg.MaxBlob {
		body.left, body.status = largest-have, http.StatusForbidden
		body.why = "the blob does not fit into what the organization may have: it has room for " + api.FormatBytes(largest) + " at most"
	}
	if r.ContentLength > body.left {
		s.tooLarge(w, r, q, body)
		return
	}
	if r.Method == http.MethodPut {
		digest := r.URL.Query().Get("digest")
		switch {
		case !digestForm.MatchString(digest):
			refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "the digest of a blob is a SHA-256")
			return
		case !measure(r):
			refuse(w, http.StatusLengthRequired, "SIZE_INVALID", "the last part of a blob says its length")
			return
		}
		body.ReadCloser = r.Body
		if err := s.ledger.link(r.Context(), q.repository, digest, have+r.ContentLength); err != nil {
			s.refused(w, r, q, err)
			return
		}
		s.repair(r, digest)
		s.count.pushed.Add(1)
	}
	r.Body = body
	s.passOn(w, r, q, next, body)
}

// smallBody is how much of a body without a length is read to find it out.
const smallBody = 64 << 10

// measure finds out how long a small body is that does not say so; false: it is not small.
func measure(r *http.Request) bool {
	if r.ContentLength >= 0 {
		return true
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, smallBody+1))
	if err != nil || len(data) > smallBody {
		return false
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	r.Header.Set("Content-Length", strconv.Itoa(len(data)))
	return true
}

// offsetOf is how much of an upload there is, as the state says that the library gave the client. What is false in it the library
// finds: it is sealed.
func offsetOf(r *http.Request) int64 {
	data, err := base64.URLEncoding.DecodeString(r.URL.Query().Get("_state"))
	if err != nil || len(data) < sha256.Size {
		return 0
	}
	var state struct{ Offset int64 }
	if json.Unmarshal(data[sha256.Size:], &state) != nil || state.Offset < 0 {
		return 0
	}
	return state.Offset
}

// refused answers with the api role's no, and throws away what was uploaded for nothing.
func (s *Server) refused(w http.ResponseWriter, r *http.Request, q request, err error) {
	s.count.refused.Add(1)
	code := api.AsError(err).Code
	s.log.InfoContext(r.Context(), "a push was refused", "repository", q.repository, "error", err, "request", web.RequestID(r.Context()))
	if code == api.Forbidden || code == api.TooLarge {
		s.abandon(r, q)
	}
	refusal(w, err)
}

func (s *Server) tooLarge(w http.ResponseWriter, r *http.Request, q request, body *bounded) {
	s.count.refused.Add(1)
	s.abandon(r, q)
	code := "SIZE_INVALID"
	if body.status == http.StatusForbidden {
		code = "DENIED"
	}
	w.Header().Set("Connection", "close") // the rest of the body is not wanted
	refuse(w, body.status, code, body.why)
}

// bounded is a body that may not be longer than it may.
type bounded struct {
	io.ReadCloser
	left   int64
	over   bool
	status int
	why    string
}

var errTooLong = errors.New("the body is too long")

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		b.over = true
		return 0, errTooLong
	}
	return n, err
}

// passOn has the library do it, and says in its place what went wrong when it cannot know.
func (s *Server) passOn(w http.ResponseWriter, r *http.Request, q request, next http.Handler, body *bounded) {
	failure := &writeFailure{ResponseWriter: w, full: func() bool { return s.fullFor(0) }, body: body}
	next.ServeHTTP(failure, r)
	switch {
	case failure.over:
		s.tooLarge(w, r, q, body)
	case failure.swallow:
		s.abandon(r, q)
	}
}

// abandon throws away what came of an upload. The library would keep it for a day.
func (s *Server) abandon(r *http.Request, q request) {
	if q.kind != "blobs/uploads" || !uploadForm.MatchString(q.reference) {
		return
	}
	if err := s.storage.remove(context.WithoutCancel(r.Context()), uploadDir(q)); err != nil {
		s.log.WarnContext(r.Context(), "a failed upload could not be removed", "error", err, "request", web.RequestID(r.Context()))
	}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// putManifest takes a manifest in. A tag is given once; only a list of referrers may grow.
func (s *Server) putManifest(w http.ResponseWriter, r *http.Request, q request, next http.Handler) {
	if r.Method != http.MethodPut {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "a manifest is written with PUT")
		return
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, s.cfg.MaxManifest+1))
	switch {
	case err != nil:
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", "the manifest was cut off")
		return
	case int64(len(data)) > s.cfg.MaxManifest:
		s.count.refused.Add(1)
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a manifest is at most "+api.FormatBytes(s.cfg.MaxManifest)+" large")
		return
	}
	digest := digestOf(data)
	defer s.one(q.repository)()
	if !digestForm.MatchString(q.reference) {
		if strings.Contains(q.reference, ":") {
			refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "the digest of a manifest is a SHA-256")
			return
		}
		old, status := s.get(r, q, q.reference, next)
		switch {
		case status == http.StatusNotFound:
		case status != http.StatusOK:
			refuse(w, http.StatusServiceUnavailable, "UNAVAILABLE", "the registry cannot tell whether the tag is taken; try again")
			return
		case !bytes.Equal(old, data) && (!referrersTag.MatchString(q.reference) || !grows(old, data)):
			refuse(w, http.StatusConflict, "DENIED", "the tag "+q.reference+" is taken; what is released does not change")
			return
		}
	} else if q.reference != digest {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "the manifest has another digest: "+digest)
		return
	}
	about, err := aboutOf(data)
	if err != nil {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
		return
	}
	if err := s.ledger.link(r.Context(), q.repository, digest, int64(len(data))); err != nil {
		s.refused(w, r, q, err)
		return
	}
	s.repair(r, digest)
	if about.Subject.Digest == "" {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
		s.passOn(w, r, q, next, nil)
		return
	}
	answer := s.put(r, q, q.reference, r.Header.Get("Content-Type"), data, next)
	if answer.status == http.StatusCreated {
		if err := s.refer(r, q, about.entry(digest, data), about.Subject.Digest, next); err != nil {
			s.refused(w, r, q, err)
			return
		}
		answer.header.Set("OCI-Subject", about.Subject.Digest)
	}
	maps.Copy(w.Header(), answer.header)
	w.WriteHeader(answer.status)
	_, _ = w.Write(answer.body.Bytes())
}

// uploadState says how far an upload is, so that it goes on there.
func (s *Server) uploadState(w http.ResponseWriter, r *http.Request, q request, next http.Handler) {
	if !uploadForm.MatchString(q.reference) {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload")
		return
	}
	next.ServeHTTP(w, r)
}
