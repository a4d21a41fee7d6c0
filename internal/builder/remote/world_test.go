package remote_test

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/builder/pool"
	"github.com/roadstead-io/roadstead/internal/builder/remote"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/release"
	"github.com/roadstead-io/roadstead/internal/release/workers"
)

// world is the builder's listener before the real rows of a real database.
type world struct {
	t      testing.TB
	dir    string
	db     *db.DB
	rows   *workers.Rows
	pool   *pool.Pool
	at     string
	reach  string      // where machines connect; "": at
	down   atomic.Bool // the api role does not answer
	cancel context.CancelFunc
	done   chan error
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), rows: workers.New(token.NewHasher([]byte("pepper")))}
	w.db = dbtest.Open(t, time.Now, audit.Migrations(), account.Migrations(), fleet.Migrations(), release.Migrations(), workers.Migrations())
	if err := remote.NewKey(filepath.Join(w.dir, remote.KeyFile)); err != nil {
		t.Fatal(err)
	}
	w.start("127.0.0.1:0")
	t.Cleanup(w.stop)
	return w
}

func (w *world) start(address string) {
	w.t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.at, w.pool, w.done = ln.Addr().String(), pool.New(), make(chan error, 1)
	s, err := remote.NewServer(remote.Config{Dir: w.dir, Pool: w.pool, Log: slog.New(slog.DiscardHandler), Call: w.call})
	if err != nil {
		w.t.Fatal(err)
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(context.Background())
	go func() { w.done <- s.Run(ctx, ln) }()
}

func (w *world) stop() {
	w.t.Helper()
	w.cancel()
	if err := <-w.done; err != nil {
		w.t.Error(err)
	}
	w.done <- nil // for the next
}

// call is what the routes of the api role do.
func (w *world) call(ctx context.Context, path string, in, out any) error {
	if w.down.Load() {
		return api.Errorf(api.Unavailable, "the api role does not answer; try again")
	}
	by := access.Caller{Kind: access.Service, Role: api.RoleBuilder}
	return w.db.Write(ctx, func(tx *db.Tx) (err error) {
		switch path {
		case "/internal/v1/workers/join":
			*out.(*api.WorkerAdmitted), err = w.rows.Join(ctx, tx, by, in.(api.WorkerJoin))
		case "/internal/v1/workers/open":
			*out.(*api.WorkerAdmitted), err = w.rows.Open(ctx, tx, in.(api.WorkerJoin).Key)
		case "/internal/v1/workers/live":
			*out.(*api.WorkersStay), err = w.rows.Live(ctx, tx, in.(api.WorkersLive))
		default:
			err = errors.New(path)
		}
		return err
	})
}

// invite makes a token for a worker.
func (w *world) invite(name string) remote.Token {
	w.t.Helper()
	var made api.WorkerInvitation
	if err := w.db.Write(w.t.Context(), func(tx *db.Tx) (err error) {
		made, err = w.rows.Add(w.t.Context(), tx, access.Itself(), api.NewWorker{Name: name, Seconds: 3600})
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	server, err := remote.Fingerprint(filepath.Join(w.dir, remote.KeyFile))
	if err != nil {
		w.t.Fatal(err)
	}
	return remote.Token{Addresses: []string{cmp.Or(w.reach, w.at)}, Server: server, Secret: made.Secret}
}

func (w *world) remove(name string) {
	w.t.Helper()
	if err := w.db.Write(w.t.Context(), func(tx *db.Tx) error { return w.rows.Remove(w.t.Context(), tx, access.Itself(), name) }); err != nil {
		w.t.Fatal(err)
	}
}

// row is what the operator reads of a worker.
func (w *world) row(name string) (found api.Worker) {
	w.t.Helper()
	if err := w.db.Read(w.t.Context(), func(tx *db.Tx) error {
		list, err := w.rows.List(w.t.Context(), tx)
		for _, k := range list {
			if k.Name == name {
				found = k
			}
		}
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return found
}

// manager answers on a Unix socket in the place of a machine's build service.
func manager(t testing.TB, h http.Handler) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return socket
}

// statusOnly says that it builds for arm64.
func statusOnly() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"platforms":[{"platform":"linux/arm64","native":true}],"version":"v0.33.1"}`))
	})
	return mux
}

// machine is one that has joined, in a directory of its own.
type machine struct {
	t    testing.TB
	dir  string
	link *remote.Link
	stop func()
}

func (w *world) machine(name, socket string) *machine {
	w.t.Helper()
	m := &machine{t: w.t, dir: w.t.TempDir()}
	got, err := remote.Join(w.t.Context(), m.dir, w.invite(name).String(), "1.2.3")
	if err != nil || got != name {
		w.t.Fatalf("join: %q %v", got, err)
	}
	m.start(socket)
	return m
}

func (m *machine) start(socket string) {
	m.t.Helper()
	link, err := remote.NewLink(remote.LinkConfig{Dir: m.dir, Manager: socket, Version: "1.2.3"}, slog.New(slog.DiscardHandler))
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = link.Run(ctx) })
	m.link = link
	m.stop = sync.OnceFunc(func() { cancel(); run.Wait() })
	m.t.Cleanup(m.stop)
}

func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	late := time.After(20 * time.Second)
	for !cond() {
		select {
		case <-late:
			t.Fatalf("%s: not within 20 s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// member is a worker as the builder's pool has it.
func (w *world) member(name string) (pool.Member, bool) {
	for _, m := range w.pool.Members(w.t.Context()) {
		if m.Name == name {
			return m, m.Err == nil
		}
	}
	return pool.Member{}, false
}
