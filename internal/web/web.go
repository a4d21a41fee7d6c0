package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// RequestIDHeader carries the id that follows one request through the roles and their logs.
const RequestIDHeader = "X-Request-Id"

// MaxBody bounds a JSON body, as balena's server does.
const MaxBody = 512 << 10

// HandlerFunc is a handler that returns its error instead of rendering it.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// Decode reads a JSON body strictly bounded in size. Unknown fields are ignored: the wire is not strict, configuration is.
func Decode(r *http.Request, into any) error {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if t, _, err := mime.ParseMediaType(ct); err != nil || (t != "application/json" && !strings.HasSuffix(t, "+json")) {
			return api.Errorf(api.Unsupported, "the body must be application/json, not %q", ct)
		}
	}
	body, err := ReadBody(r, MaxBody)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) && te.Field != "" {
			return api.Errorf(api.Invalid, "%q must be a %s, not a %s", te.Field, te.Type, te.Value)
		}
		return api.Errorf(api.Invalid, "the body is not valid JSON: %v", err)
	}
	return nil
}

// ReadBody reads at most limit bytes of a body and refuses a longer one.
func ReadBody(r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, api.Errorf(api.Invalid, "the body ended early")
	}
	if int64(len(body)) > limit {
		return nil, api.Errorf(api.TooLarge, "the body is larger than %d bytes", limit)
	}
	return body, nil
}

// WriteJSON answers with a JSON value.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return WriteRawJSON(w, status, data)
}

// WriteRawJSON answers with a JSON value that is written out already. It takes the text over.
func WriteRawJSON(w http.ResponseWriter, status int, data []byte) error {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // a client that did not wait is its own business
	return nil
}

// WriteText answers with plain text.
func WriteText(w http.ResponseWriter, status int, text string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
	return nil
}

// WriteError renders an error the way balena's clients read it: the text as a JSON string, an empty body when there is none.
func WriteError(w http.ResponseWriter, err error) {
	e := api.AsError(err)
	if e.Code == api.Unauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="roadstead"`)
	}
	if e.Code == api.Unavailable && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "2")
	}
	if e.Text == "" || e.Code == api.Internal {
		w.WriteHeader(e.Code.Status())
		return
	}
	data, err := json.Marshal(e.Text)
	if err != nil {
		w.WriteHeader(e.Code.Status())
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(e.Code.Status())
	_, _ = w.Write(data)
}

// Handle adapts a handler: it renders its error and logs the ones that are our fault.
func Handle(log *slog.Logger, h HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{ResponseWriter: w}
		err := h(sw, r)
		if err == nil {
			return
		}
		e := api.AsError(err)
		switch {
		case r.Context().Err() != nil: // nobody waits for the answer
		case e.Code == api.Unavailable:
			log.WarnContext(r.Context(), "request put off", "method", r.Method, "path", ShownPath(r), "request", RequestID(r.Context()), "error", err)
		case e.Code == api.Internal:
			log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", ShownPath(r), "request", RequestID(r.Context()), "error", err)
		}
		if sw.status == 0 {
			WriteError(sw, err)
		}
	})
}

type requestKey struct{}

// RequestID gives the id of the request that a context belongs to.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// WithRequestID gives a context a request id; outgoing requests made with [Propagate] carry it on.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// Logged gives every request an id (its own when a peer role sent one and trust says so), recovers from a panic, and logs one
// line when it ends; of health checks and answers that nothing is new only when everything is logged. Neither query nor headers are: they may hold secrets.
func Logged(log *slog.Logger, trust func(*http.Request) bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(RequestIDHeader)
		if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return c < '!' || c > '~' }) || !trust(r) {
			id = newID()
		}
		ctx := WithRequestID(r.Context(), id)
		w.Header().Set(RequestIDHeader, id)
		sw := &statusWriter{ResponseWriter: w}
		start := time.Now()
		defer func() {
			p := recover()
			aborted := p == http.ErrAbortHandler //nolint:errorlint // the sentinel is compared by identity, as net/http does
			if p != nil && !aborted {
				log.ErrorContext(ctx, "panic", "method", r.Method, "path", ShownPath(r), "request", id, "panic", p,
					"stack", string(debug.Stack()))
				if sw.status == 0 {
					sw.WriteHeader(http.StatusInternalServerError)
				}
			}
			if level := logLevel(r, sw.status); log.Enabled(ctx, level) {
				log.LogAttrs(ctx, level, "request", slog.String("method", r.Method), slog.String("host", r.Host),
					slog.String("path", ShownPath(r)), slog.Int("status", sw.status),
					slog.Int64("ms", time.Since(start).Milliseconds()), slog.String("request", id))
			}
			if aborted {
				panic(p)
			}
		}()
		next.ServeHTTP(sw, r.WithContext(ctx))
	})
}

// logLevel is how much a request matters to whoever reads the log. Those that ask again and again, and are told that nothing is
// new, would bury the others, and a line of log costs a good part of what they do.
func logLevel(r *http.Request, status int) slog.Level {
	if status == http.StatusNotModified || r.URL.Path == "/healthz" {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func newID() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

// Propagate is a transport that carries the request id of the context on to the next role.
type Propagate struct{ Next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (p Propagate) RoundTrip(r *http.Request) (*http.Response, error) {
	if id := RequestID(r.Context()); id != "" && r.Header.Get(RequestIDHeader) == "" {
		r = r.Clone(r.Context())
		r.Header.Set(RequestIDHeader, id)
	}
	return p.Next.RoundTrip(r)
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach the transport below.
func (p Propagate) CloseIdleConnections() {
	if c, ok := p.Next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// statusWriter remembers the status that was sent. Unwrap keeps flushing and full duplex working through it.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) { // the others only go before the answer
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher, for callers that do not know http.ResponseController.
func (w *statusWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Serve runs an HTTP server on a listener until the context ends, then lets requests finish for at most grace.
func Serve(ctx context.Context, srv *http.Server, serve func() error, grace time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- serve() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		_ = srv.Close()
	}
	<-failed //nolint:errcheck // it is http.ErrServerClosed
	return nil
}

// ShownPath is a request's path as logs show it: an invitation is a secret that stands in a path, and so is where a command line waits
// for its session, and who has the name of a webhook can send something there.
func ShownPath(r *http.Request) string {
	for _, secret := range []string{"/invitation/", "/login/cli/", "/hooks/v1/"} {
		if before, _, found := strings.Cut(r.URL.Path, secret); found {
			return before + secret + "…"
		}
	}
	return r.URL.Path
}
