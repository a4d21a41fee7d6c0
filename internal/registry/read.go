package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"
	"time"
)

// read serves a blob or manifest and compares it with the digest it was asked by while it goes out. When the bytes on the
// disk are not what they were, the last of them is held back and the connection cut: no client can take them for whole, and
// the log has an alarm. A file that was compared within the last minute and was not written to since is not compared again.
func (s *Server) read(w http.ResponseWriter, r *http.Request, q request, next http.Handler) {
	if r.Method != http.MethodGet || !digestForm.MatchString(q.reference) || r.Header.Get("Range") != "" {
		next.ServeHTTP(w, r)
		return
	}
	began := time.Now()
	before, seen := s.storage.look(q.reference, began)
	if seen && s.beliefs.holds(q.reference, before, began) {
		next.ServeHTTP(w, r)
		return
	}
	cw := &checking{ResponseWriter: w, want: q.reference[len("sha256:"):], sum: sha256.New(), left: -1}
	next.ServeHTTP(cw, r)
	if cw.left > 0 && cw.failed == nil && r.Context().Err() == nil {
		cw.bad = true // the library ran out of bytes: the file is shorter than it was
	}
	if cw.bad {
		s.alarm(r, q.repository, q.reference)
		if !cw.started {
			refuse(w, http.StatusInternalServerError, "UNKNOWN", "the stored bytes are damaged")
			return
		}
		panic(http.ErrAbortHandler)
	}
	if cw.left == 0 && seen {
		if after, ok := s.storage.look(q.reference, time.Now()); ok && after == before {
			s.beliefs.note(q.reference, before, began)
		}
	}
}

// checking hashes an answer of known length and holds its last chunk back until the digest is right.
type checking struct {
	http.ResponseWriter
	want    string
	sum     hash.Hash
	status  int
	left    int64 // bytes of the body still to come; -1: not checked
	started bool  // the header went out
	bad     bool
	failed  error // of the connection to the client
}

func (w *checking) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	if n, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64); err == nil && status == http.StatusOK && n > 0 {
		w.left = n // the header goes out with the first bytes that may
		return
	}
	w.start()
}

func (w *checking) start() {
	if !w.started {
		w.started = true
		w.ResponseWriter.WriteHeader(w.status)
	}
}

func (w *checking) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.left >= 0 {
		w.sum.Write(p) // never fails, see hash.Hash
		w.left -= int64(len(p))
		if w.left <= 0 && hex.EncodeToString(w.sum.Sum(nil)) != w.want {
			w.bad = true
			return len(p), nil // swallowed; read cuts the connection
		}
	}
	w.start()
	n, err := w.ResponseWriter.Write(p)
	if err != nil {
		w.failed = err
	}
	return n, err
}

func (w *checking) Unwrap() http.ResponseWriter { return w.ResponseWriter }
