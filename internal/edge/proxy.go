package edge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	// smallBody is what the edge reads before it forwards, so that a request can be sent again when a kept connection
	// turns out to be dead (the role was restarted). Larger bodies are streamed.
	smallBody        = 64 << 10
	smallBodyTimeout = 30 * time.Second
	// retryFor bounds how long a request that a dying role cut off is tried again.
	retryFor = 5 * time.Second
	// lingerTime is how long a client may go on sending after the answer is over.
	lingerTime = 500 * time.Millisecond
)

// proxy forwards to one role: streaming both ways, keeping the Host and the exact path and query.
func (s *Server) proxy(role string) http.Handler {
	peer := s.id.Client(role, s.cfg.Peers[role])
	buffers := &bufferPool{sync.Pool{New: func() any { return new([bufferSize]byte) }}}
	rp := &httputil.ReverseProxy{
		Rewrite:       func(pr *httputil.ProxyRequest) { forward(pr, s.cfg.Peers[role]) },
		Transport:     retrying{next: peer.HTTP.Transport},
		FlushInterval: -1,
		BufferPool:    buffers,
		ErrorLog:      slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ModifyResponse: func(res *http.Response) error {
			res.Header.Del(web.RequestIDHeader) // ours is already there
			if f, ok := res.Request.Context().Value(finishKey{}).(func()); ok && res.StatusCode != http.StatusSwitchingProtocols {
				res.Body = &finishing{ReadCloser: res.Body, finish: f}
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { s.failed(w, r, role, err) },
	}
	streaming := web.FullDuplex(rp)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		buffered, err := bufferSmall(w, r)
		switch {
		case err != nil:
			web.WriteError(w, err)
		case buffered:
			rp.ServeHTTP(w, r)
		default:
			rc := http.NewResponseController(w)
			finish := func() { _ = rc.SetReadDeadline(time.Now().Add(lingerTime)) }
			streaming.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), finishKey{}, finish)))
		}
	})
}

// bufferSize is the size of the buffers that answers are copied through.
const bufferSize = 32 << 10

// bufferPool keeps them: most answers are small, and a fresh buffer for each is most of what the edge would allocate.
type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte  { return b.pool.Get().(*[bufferSize]byte)[:] }
func (b *bufferPool) Put(p []byte) { b.pool.Put((*[bufferSize]byte)(p)) }

// finishKey finds, in a request's context, what to do once the role's answer is over.
type finishKey struct{}

// finishing is the body of a role's answer. When it ends, whatever the client still sends is of no use: a device whose key was
// revoked in the middle of its log stream must not hold the connection.
type finishing struct {
	io.ReadCloser
	finish func()
}

func (f *finishing) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil {
		f.finish()
	}
	return n, err
}

// forward makes the request that the role sees.
func forward(pr *httputil.ProxyRequest, addr string) {
	out := pr.Out
	out.URL.Scheme, out.URL.Host = "https", addr
	// The query goes on as it came: OData uses ";" in it, which net/url would drop.
	out.URL.RawQuery = pr.In.URL.RawQuery
	out.Host = pr.In.Host
	for name := range out.Header {
		if strings.HasPrefix(name, "X-Forwarded") || name == "X-Real-Ip" || name == "Forwarded" {
			delete(out.Header, name)
		}
	}
	if ip, _, err := net.SplitHostPort(pr.In.RemoteAddr); err == nil {
		out.Header.Set("X-Forwarded-For", ip)
	}
	out.Header.Set("X-Forwarded-Proto", "https")
	out.Header.Set("X-Forwarded-Host", pr.In.Host)
	out.Header.Set(web.RequestIDHeader, web.RequestID(pr.In.Context()))
	if _, ok := pr.In.Header["User-Agent"]; !ok {
		out.Header.Set("User-Agent", "") // otherwise the transport would add its own
	}
}

// bufferSmall reads a small body of known length ahead, see smallBody. It reports whether there is nothing left to stream.
func bufferSmall(w http.ResponseWriter, r *http.Request) (bool, error) {
	if r.ContentLength == 0 {
		return true, nil
	}
	if r.ContentLength < 0 || r.ContentLength > smallBody || r.Header.Get("Expect") != "" {
		return false, nil
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(smallBodyTimeout)) // every connection we serve can; if not, the server's own hold
	data := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, data); err != nil {
		return false, api.Errorf(api.Invalid, "the body ended early")
	}
	_ = rc.SetReadDeadline(time.Time{})
	r.Body = io.NopCloser(bytes.NewReader(data))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	return true, nil
}

// failed answers for a role that did not.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, role string, err error) {
	if r.Context().Err() != nil {
		return // the client is gone
	}
	s.log.WarnContext(r.Context(), "a role did not answer", "role", role, "path", r.URL.Path,
		"request", web.RequestID(r.Context()), "error", err)
	w.Header().Set("Retry-After", "2")
	web.WriteError(w, api.Errorf(api.Unavailable, "the %s role is not answering; it is being restarted", role))
}

// retrying sends a request again when the role died before it answered, if repeating it is harmless. A role's listening socket
// belongs to the parent process and outlives it, so the next attempt simply waits for the new process to accept.
type retrying struct{ next http.RoundTripper }

// harmless reports whether a request may reach a role twice: it reads, or it sets or removes what it names.
func harmless(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
	}
	return false
}

func (t retrying) RoundTrip(r *http.Request) (*http.Response, error) {
	if !harmless(r) {
		return t.next.RoundTrip(r)
	}
	r.Header["Idempotency-Key"] = nil // tells the transport the same; a key without a value is not sent
	res, err := t.next.RoundTrip(r)
	if err == nil {
		return res, nil
	}
	ctx := r.Context()
	limit := time.Now().Add(retryFor)
	for wait := 50 * time.Millisecond; err != nil && time.Now().Before(limit) && ctx.Err() == nil; wait *= 2 {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			break // it has waited long enough already
		}
		if pause(ctx, wait) != nil {
			break
		}
		if r.GetBody != nil {
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
		res, err = t.next.RoundTrip(r)
	}
	return res, err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
