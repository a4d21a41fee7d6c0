package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/web"
)

const statusSocket = "status.sock"

// Status is what `roadsteadd status` shows.
type Status struct {
	Healthy bool   `json:"healthy"`
	Ready   bool   `json:"ready"`
	PID     int    `json:"pid"`
	Domain  string `json:"domain"`
	Alone   string `json:"alone,omitempty"` // what the machine is when it is no server
	Listen  string `json:"listen"`
	URL     string `json:"url"`
	// Database is as healthy as the api role says.
	Database DatabaseStatus `json:"database"`
	Roles    []RoleStatus   `json:"roles"`
}

// DatabaseStatus is where the data is, and whether it can be reached.
type DatabaseStatus struct {
	Database
	State State  `json:"state"`
	Why   string `json:"why,omitempty"`
}

// RoleStatus is one role of it.
type RoleStatus struct {
	Role     string    `json:"role"`
	PID      int       `json:"pid"`
	User     string    `json:"user"`
	Address  string    `json:"address"`
	Public   string    `json:"public,omitempty"` // of a public port of its own
	Tells    string    `json:"tells,omitempty"`  // what there is to know of it
	State    State     `json:"state"`
	Why      string    `json:"why,omitempty"`
	Restarts int       `json:"restarts"`
	Since    time.Time `json:"since"`
}

func (p *Parent) status() Status {
	s := Status{Healthy: true, Ready: p.isReady.Load(), PID: os.Getpid(), Domain: p.cfg.Domain, Alone: p.cfg.Alone}
	if p.public != nil {
		s.Listen, s.URL = p.public.Addr().String(), p.site.URL("dashboard")
		s.Database = DatabaseStatus{Database: p.cfg.Database, State: Starting}
	}
	for _, c := range p.children {
		c.mu.Lock()
		r := RoleStatus{Role: c.role.Name, PID: c.pid, User: p.user, Address: c.addr, State: c.state, Why: c.why,
			Public: p.ownAddress(c.role.Name), Tells: c.tells,
			Restarts: c.restarts, Since: c.since.UTC().Truncate(time.Second)}
		c.mu.Unlock()
		if c.account != nil {
			r.User = c.account.name
		}
		if c.role.Public {
			r.Address = s.Listen
		}
		s.Healthy = s.Healthy && r.State == Healthy
		if c.role.kind() == api.RoleAPI && s.Database.State != Healthy { // one process that reaches it is enough
			s.Database.State, s.Database.Why = r.State, r.Why
		}
		s.Roles = append(s.Roles, r)
	}
	for _, off := range p.cfg.Off { // nothing is wrong with that
		s.Roles = append(s.Roles, RoleStatus{Role: off.Name, State: NotHere, Why: off.Why, Since: p.began.UTC().Truncate(time.Second)})
	}
	return s
}

// listenStatus opens run/status.sock, which only the parent's own user can open.
func (p *Parent) listenStatus() (net.Listener, error) {
	path, done, err := socketPath(p.layout)
	if err != nil {
		return nil, fmt.Errorf("status socket: %w", err)
	}
	_ = os.Remove(path) // of a run that was killed; the lock says that there is no other
	ln, err := net.Listen("unix", path)
	if err != nil {
		done()
		return nil, fmt.Errorf("status socket: %w", err)
	}
	held := &statusListener{Listener: ln, done: done}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("status socket: %w", err), held.Close())
	}
	return held, nil
}

// statusListener keeps the directory open through which its path leads: closing the listener removes the socket.
type statusListener struct {
	net.Listener
	once sync.Once
	done func()
}

func (l *statusListener) Close() error {
	err := l.Listener.Close()
	l.once.Do(l.done)
	return err
}

// serveStatus answers whoever asks on the socket how the roles are.
func (p *Parent) serveStatus(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{ReadTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = web.WriteJSON(w, http.StatusOK, p.status())
	})}
	return web.Serve(ctx, srv, func() error { return srv.Serve(ln) }, time.Second)
}

// socketPath names the socket through an open directory: a socket's own path has room for 107 bytes only.
func socketPath(l Layout) (path string, done func(), err error) {
	if long := filepath.Join(l.Run(), statusSocket); len(long) < 100 {
		return long, func() {}, nil
	}
	dir, err := os.Open(l.Run())
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), statusSocket), func() { _ = dir.Close() }, nil
}

// ErrNotRunning says that no server runs on a data directory.
var ErrNotRunning = errors.New("no server is running on this data directory")

// Ask asks the server that runs on a data directory how it is.
func Ask(ctx context.Context, l Layout) (*Status, error) {
	if _, err := os.Stat(l.Run()); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("%s cannot be read: run this as the user that started the server", l)
		}
		return nil, fmt.Errorf("%w: %s", ErrNotRunning, l)
	}
	path, done, err := socketPath(l)
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	defer done()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://status/", nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("%s cannot be read: run this as the user that started the server", l)
		}
		return nil, fmt.Errorf("%w: %s", ErrNotRunning, l)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	var s Status
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	return &s, nil
}

func currentUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint(os.Geteuid())
}
