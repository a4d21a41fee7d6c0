package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/web"
)

// upgrade is the protocol of a connection that was taken over: the raw stream to a daemon's socket.
const upgrade = "buildkit"

// Handler is what the manager answers: how it is, and connections to the daemons.
func (m *Manager) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/status", web.Handle(m.log, m.status))
	mux.Handle("GET /v1/domains/{domain}/kills", web.Handle(m.log, m.killed))
	mux.Handle("POST /v1/domains/{domain}/connect", web.Handle(m.log, m.connect))
	return mux
}

func (m *Manager) status(w http.ResponseWriter, r *http.Request) error {
	if err := m.Healthy(r.Context()); err != nil {
		return api.Errorf(api.Unavailable, "builds cannot run: %v", err)
	}
	return web.WriteJSON(w, http.StatusOK, m.Status())
}

// killed lists the steps that were ended since a time ("since", in RFC 3339).
func (m *Manager) killed(w http.ResponseWriter, r *http.Request) error {
	since, err := time.Parse(time.RFC3339Nano, r.URL.Query().Get("since"))
	if err != nil {
		return api.Errorf(api.Invalid, "since: %v", err)
	}
	return web.WriteJSON(w, http.StatusOK, m.Kills(r.PathValue("domain"), since))
}

func (m *Manager) connect(w http.ResponseWriter, r *http.Request) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), upgrade) {
		return api.Errorf(api.Invalid, "this is a connection to be upgraded to %q", upgrade)
	}
	daemon, err := m.Connect(r.Context(), r.PathValue("domain"))
	if err != nil {
		return err
	}
	defer func() { _ = daemon.Close() }()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take the connection over: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil
	}
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgrade); err != nil {
		return nil // the caller went away
	}
	splice(conn, buffered.Reader, daemon)
	return nil
}

// splice copies both ways until both directions have ended, or one of them broke.
func splice(conn net.Conn, from io.Reader, daemon net.Conn) {
	var both sync.WaitGroup
	pass := func(to net.Conn, from io.Reader) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
			return
		}
		_ = conn.Close()
		_ = daemon.Close()
	}
	both.Go(func() { pass(daemon, from) })
	both.Go(func() { pass(conn, daemon) })
	both.Wait()
}

// Serve answers on the manager's socket until the context ends. The socket is open to the group of the service's user, which is
// the builder role's way in.
func (m *Manager) Serve(ctx context.Context) error {
	ln, err := m.listen()
	if err != nil {
		return fmt.Errorf("build service: %w", err)
	}
	srv := &http.Server{Handler: m.Handler(), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	return web.Serve(ctx, srv, func() error { return srv.Serve(ln) }, time.Second)
}

func (m *Manager) listen() (net.Listener, error) {
	id, err := identity(m.cfg.User)
	if err != nil {
		return nil, err
	}
	if err := id.makeDir(m.cfg.Dir, 0o710); err != nil {
		return nil, err
	}
	if err := os.Remove(m.cfg.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", m.cfg.Socket())
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(m.cfg.Socket(), 0o660); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	if id.drop {
		if err := os.Chown(m.cfg.Socket(), id.uid, id.gid); err != nil {
			return nil, errors.Join(err, ln.Close())
		}
	}
	return ln, nil
}

// Dial opens a connection to a domain's daemon through a manager's socket ("unix:///path").
func Dial(ctx context.Context, address, domain string) (net.Conn, error) {
	conn, err := dialManager(ctx, address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://worker/v1/domains/"+url.PathEscape(domain)+"/connect", nil)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgrade)
	buffered := bufio.NewReader(conn)
	res, err := exchange(conn, buffered, req)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer func() { _ = res.Body.Close() }() // empty, when the connection is ours
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer func() { _ = conn.Close() }()
		return nil, answerError(res)
	}
	if !stop() {
		return nil, errors.Join(ctx.Err(), conn.Close())
	}
	return &stream{Conn: conn, from: buffered}, nil
}

// Ask asks a manager what it can build for.
func Ask(ctx context.Context, address string) (s Status, err error) {
	err = get(ctx, address, "/v1/status", &s)
	return s, err
}

// Killed asks a manager which steps of a domain it ended since a time.
func Killed(ctx context.Context, address, domain string, since time.Time) (list []Kill, err error) {
	err = get(ctx, address, "/v1/domains/"+url.PathEscape(domain)+"/kills?since="+url.QueryEscape(since.Format(time.RFC3339Nano)), &list)
	return list, err
}

func get(ctx context.Context, address, path string, into any) error {
	conn, err := dialManager(ctx, address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://worker"+path, nil)
	if err != nil {
		return err
	}
	res, err := exchange(conn, bufio.NewReader(conn), req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return answerError(res)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("ask the build service: %w", err)
	}
	return nil
}

const maxAnswer = 64 << 10

func dialManager(ctx context.Context, address string) (net.Conn, error) {
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok {
		return nil, fmt.Errorf("the build service's address %q is not unix://", address)
	}
	return dial(ctx, path)
}

func exchange(conn net.Conn, buffered *bufio.Reader, req *http.Request) (*http.Response, error) {
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("ask the build service: %w", err)
	}
	res, err := http.ReadResponse(buffered, req)
	if err != nil {
		return nil, fmt.Errorf("ask the build service: %w", err)
	}
	return res, nil
}

func answerError(res *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask the build service: %w", err)
	}
	var words string
	if json.Unmarshal(text, &words) != nil {
		words = strings.TrimSpace(string(text))
	}
	return &api.Error{Code: api.CodeOf(res.StatusCode), Text: words}
}

// stream is a connection of which a little was read already.
type stream struct {
	net.Conn
	from *bufio.Reader
}

func (s *stream) Read(p []byte) (int, error) { return s.from.Read(p) }
