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
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	// smallBody is what the edge reads before it forwards, so that a request can be sent again when a kept connection
	// turns out to be dead (the role was restarted). Larger bodies are streamed.
	smallBody        = 64 << 10
	smallBodyTimeout = 30 * time.Second
	// retryFor bounds how long a GET that a dying role cut off is tried again.
	retryFor = 5 * time.Second
)

// proxy forwards to one role: streaming both ways, keeping the Host and the exact path and query.
func (s *Server) proxy(role string) http.Handler {
	peer := s.id.Client(role, s.cfg.Peers[role])
	rp := &httputil.ReverseProxy{
		Rewrite:       func(pr *httputil.ProxyRequest) { forward(pr, s.cfg.Peers[role]) },
		Transport:     retrying{next: peer.HTTP.Transport},
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ModifyResponse: func(res *http.Response) error {
			res.Header.Del(web.RequestIDHeader) // ours is already there
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { s.failed(w, r, role, err) },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := bufferSmall(w, r); err != nil {
			web.WriteError(w, err)
			return
		}
		rp.ServeHTTP(w, r)
	})
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

// bufferSmall reads a small body of known length ahead, see smallBody.
func bufferSmall(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength <= 0 || r.ContentLength > smallBody || r.Header.Get("Expect") != "" {
		return nil
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(smallBodyTimeout)) // every connection we serve can; if not, the server's own hold
	data := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, data); err != nil {
		return api.Errorf(api.Invalid, "the body ended early")
	}
	_ = rc.SetReadDeadline(time.Time{})
	r.Body = io.NopCloser(bytes.NewReader(data))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	return nil
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

// retrying sends a GET or HEAD again when the role died before it answered. A role's listening socket belongs to the parent
// process and outlives it, so the next attempt simply waits for the new process to accept.
type retrying struct{ next http.RoundTripper }

func (t retrying) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(r)
	if err == nil || (r.Method != http.MethodGet && r.Method != http.MethodHead) || (r.Body != nil && r.Body != http.NoBody) {
		return res, err
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
