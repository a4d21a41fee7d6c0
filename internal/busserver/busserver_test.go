package busserver_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/busserver"
	"github.com/roadstead-io/roadstead/internal/pki"
)

type role struct {
	t     *testing.T
	roles string // directory of the identities
	addr  string
	stop  func()
}

func start(t *testing.T) *role {
	t.Helper()
	r := &role{t: t, roles: t.TempDir()}
	if err := pki.NewTestIdentities(r.roles, "bus", "api", "edge", "parent", "builder"); err != nil {
		t.Fatal(err)
	}
	s, err := busserver.New(busserver.Config{Dir: filepath.Join(r.roles, "bus")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()
	r.stop = func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
			done <- nil // for another stop
		case <-time.After(20 * time.Second):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(r.stop)
	return r
}

func (r *role) identity(name string) *pki.Identity {
	r.t.Helper()
	id, err := pki.LoadIdentity(filepath.Join(r.roles, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

func (r *role) connect(as string, node int) (*bus.Bus, error) {
	id := r.identity(as)
	return bus.Connect(bus.ConnectConfig{Node: node, Dial: func(ctx context.Context) (net.Conn, error) {
		return id.Dial(ctx, "bus", r.addr, bus.Protocol)
	}})
}

func TestAPIProcessesShareTheBus(t *testing.T) {
	r := start(t)
	var rings []*bus.Ring
	for node := range 2 {
		b, err := r.connect("api", node)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.Close() }()
		ring, err := b.Ring(t.Context(), bus.RingConfig{Name: "logs", PerKey: 10, MaxAge: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		rings = append(rings, ring)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f, err := rings[1].Follow(ctx, "a", 0, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := rings[0].Append(ctx, "a", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if e, _, err := f.Next(ctx); err != nil || string(e.Data) != "hello" {
		t.Errorf("the other process follows %q, %v", e.Data, err)
	}
	began := time.Now()
	r.stop()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s to stop with two processes connected", d)
	}
}

// Only the api role gets onto the bus: whoever else has a certificate of this server may ask how it is, no more.
func TestOthersStayOutside(t *testing.T) {
	r := start(t)
	for _, as := range []string{"edge", "parent", "builder", "bus"} {
		id := r.identity(as)
		conn, err := id.Dial(t.Context(), "bus", r.addr, bus.Protocol)
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			got, _ := io.ReadAll(conn)
			_ = conn.Close()
			if len(got) > 0 {
				t.Errorf("the bus says %q to %s", got, as)
			}
		}
		peer := id.Client("bus", r.addr)
		res, err := peer.HTTP.Get(peer.URL + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s asks for its health: %s", as, res.Status)
		}
		peer.HTTP.CloseIdleConnections()
	}
	if conn, err := r.identity("api").Dial(t.Context(), "signer", r.addr, bus.Protocol); err == nil {
		_ = conn.Close()
		t.Error("the bus was taken for the signer")
	}
	strange := t.TempDir()
	if err := pki.NewTestIdentities(strange, "api"); err != nil {
		t.Fatal(err)
	}
	id, err := pki.LoadIdentity(filepath.Join(strange, "api"))
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := id.Dial(t.Context(), "bus", r.addr, bus.Protocol); err == nil {
		_ = conn.Close()
		t.Error("another server's api role was let in")
	}
}
