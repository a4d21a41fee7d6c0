package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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
	if err := os.Chmod(m.cfg.Socket(), 0o660); err != nil { // until now its group could not open it
		return nil, errors.Join(err, ln.Close())
	}
	if id.drop {
		if err := os.Chown(m.cfg.Socket(), id.uid, id.gid); err != nil {
			return nil, errors.Join(err, ln.Close())
		}
	}
	return ln, nil
}
