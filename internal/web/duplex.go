package web

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// What a handler leaves of a body is read so that whoever sends it hears the answer, up to here.
const (
	drainBytes = 256 << 10
	drainTime  = 500 * time.Millisecond
)

// FullDuplex lets a handler answer while the request's body still comes in: a build streams its output during the upload.
// HTTP/2 always does; HTTP/1.1 needs to be told, and then no longer reads the rest of a body that the handler left, which
// must happen before the handler is over.
//
// An answer that begins before its request has ended is the last one of its connection. net/http would go on after a body that could not
// be read to its end, and take the rest of it for a request: whoever sent it could put a request of theirs in front of somebody else's.
func FullDuplex(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if r.ProtoMajor != 1 || r.Body == nil || r.Body == http.NoBody || rc.EnableFullDuplex() != nil {
			next.ServeHTTP(w, r)
			return
		}
		body := &heard{ReadCloser: r.Body}
		r.Body = body
		last := &lastWriter{ResponseWriter: w, body: body}
		next.ServeHTTP(last, r)
		last.begin(http.StatusOK)
		_ = rc.SetReadDeadline(time.Now().Add(drainTime)) // a client that goes on sending loses its connection
		_, _ = io.CopyN(io.Discard, body, drainBytes)
	})
}

// heard is a body that knows whether it was read to its end.
type heard struct {
	io.ReadCloser
	whole atomic.Bool
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	if err == io.EOF {
		h.whole.Store(true)
	}
	return n, err
}

// lastWriter says at the beginning of an answer that it is the connection's last one, if the body has not ended.
type lastWriter struct {
	http.ResponseWriter
	body  *heard
	begun bool
}

func (w *lastWriter) begin(status int) {
	if w.begun || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	w.begun = true
	if !w.body.whole.Load() && status != http.StatusSwitchingProtocols {
		w.Header().Set("Connection", "close")
	}
}

func (w *lastWriter) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *lastWriter) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// FlushError implements what http.ResponseController looks for.
func (w *lastWriter) FlushError() error {
	w.begin(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher, for callers that do not know http.ResponseController.
func (w *lastWriter) Flush() { _ = w.FlushError() }

func (w *lastWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
