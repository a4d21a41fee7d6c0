package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/time/rate"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/admission"
	"github.com/roadstead-io/roadstead/internal/builder/pool"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	upgrade     = "roadstead-worker" // the protocol of a connection that was taken over: streams, which the server opens
	places      = 256                // connections that have not said who they are
	helloTime   = 10 * time.Second   // for them to do so
	askAgain    = time.Second        // how soon a worker that was removed is cut off, and how often the api role is asked
	trustSpan   = 10 * time.Minute   // for which an api role that does not answer is waited for
	lookEvery   = 15 * time.Second   // how often a worker is asked how it is
	lookSoon    = time.Second        // the same while it cannot build
	maxVersion  = 100
	maxNetworks = 1000 // whose failures are counted
)

// Who comes with a wrong secret may try so often: each network, and together those of which there is no place to count each.
const (
	triesOfOne  = 5
	pauseOfOne  = 5 * time.Second
	triesOfAll  = 50
	pauseOfAll  = 200 * time.Millisecond
	tooManyText = "too many machines that the server does not know have tried from your network; wait a minute and try again"
)

// Config is what the listener for workers works with.
type Config struct {
	Dir  string // of the role, which holds KeyFile
	Pool *pool.Pool
	Log  *slog.Logger
	// Call asks the api role, which knows who may come.
	Call func(ctx context.Context, path string, in, out any) error
}

// Server is the builder's side.
type Server struct {
	cfg  Config
	log  *slog.Logger
	key  tls.Certificate
	door *admission.Lobby
	all  *rate.Limiter

	mu       sync.Mutex // covers what follows
	networks map[netip.Prefix]*rate.Limiter
	sessions map[string]*session // by name
	closed   bool
	changed  chan struct{} // holds a value when there is something to tell the api role
	ends     sync.WaitGroup
}

// NewServer loads the key; Run starts it.
func NewServer(cfg Config) (*Server, error) {
	key, err := loadKey(filepath.Join(cfg.Dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("workers: %w", err)
	}
	return &Server{cfg: cfg, log: cfg.Log, key: key, door: admission.NewLobby(places), all: rate.NewLimiter(rate.Every(pauseOfAll), triesOfAll),
		networks: map[netip.Prefix]*rate.Limiter{}, sessions: map[string]*session{}, changed: make(chan struct{}, 1)}, nil
}

// Run lets workers in until the context ends, and then cuts them off. Without a listener it only tells the api role that there are none.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	var keeping sync.WaitGroup
	keeping.Go(func() { s.keepTold(ctx) })
	defer keeping.Wait()
	if ln == nil {
		return nil
	}
	srv := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: helloTime, ReadTimeout: helloTime, WriteTimeout: 2 * helloTime, IdleTimeout: helloTime, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.key}, ClientAuth: tls.RequireAnyClientCert,
			NextProtos: []string{protocol}, SessionTicketsDisabled: true},
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	srv.SetKeepAlivesEnabled(false)
	err := web.Serve(ctx, srv, func() error { return srv.ServeTLS(&waitingRoom{ln, s.door}, "", "") }, time.Second)
	s.mu.Lock()
	s.closed = true
	all := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	for _, w := range all {
		w.end(errStopped)
	}
	s.ends.Wait()
	return err
}

// waitingRoom gives every connection a place among those that have not said who they are.
type waitingRoom struct {
	net.Listener
	door *admission.Lobby
}

// Accept implements net.Listener.
func (l *waitingRoom) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.door.Enter(conn)
	return &waiting{conn, sync.OnceFunc(func() { l.door.Leave(conn) })}, nil
}

type waiting struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (w *waiting) Close() error {
	w.leave()
	return w.Conn.Close()
}

// connKey is where a request's context holds its connection.
type connKey struct{}

// handler is the whole list of what a machine can ask.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/join", web.Handle(s.log, s.join))
	mux.Handle("POST /v1/connect", web.Handle(s.log, s.connect))
	return web.Logged(s.log, func(*http.Request) bool { return false }, mux)
}

// caller is the key that the other side proved, and from where it comes.
func caller(r *http.Request) (key, address string, err error) {
	if r.TLS == nil {
		return "", "", api.Errorf(api.Unauthorized, "%v", errNoKey)
	}
	if key, err = peerKey(*r.TLS); err != nil {
		return "", "", api.Errorf(api.Unauthorized, "%v", err)
	}
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "", "", fmt.Errorf("where a worker comes from: %w", err)
	}
	return key, ap.Addr().Unmap().String(), nil
}

// joining is what a machine says to join, and the answer.
type joining struct {
	Secret string `json:"secret,omitempty"`
	Name   string `json:"name,omitempty"`
}

// join makes a machine that has a token known by its key.
func (s *Server) join(w http.ResponseWriter, r *http.Request) error {
	var ask joining
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	if ask.Secret == "" {
		return api.Errorf(api.Invalid, "secret: is empty")
	}
	return s.admit(r, "/internal/v1/workers/join", ask.Secret, func(worker api.WorkerAdmitted, _ api.WorkerJoin) error {
		s.log.InfoContext(r.Context(), "a worker joined", "worker", worker.Name, "address", r.RemoteAddr)
		return web.WriteJSON(w, http.StatusOK, joining{Name: worker.Name})
	})
}

// admit asks the api role about a machine that comes with a secret, or with a key alone. Wrong secrets may be tried only so often.
func (s *Server) admit(r *http.Request, path, secret string, then func(api.WorkerAdmitted, api.WorkerJoin) error) error {
	key, address, err := caller(r)
	if err != nil {
		return err
	}
	// A key needs no such bound: nobody guesses one, and to ask for it costs less than the handshake did.
	mine := s.tries(r)
	if secret != "" && mine.Tokens() < 1 {
		return api.Errorf(api.RateLimited, "%s", tooManyText)
	}
	ask := api.WorkerJoin{Secret: secret, Key: key, Address: address}
	var worker api.WorkerAdmitted
	if err := s.cfg.Call(r.Context(), path, ask, &worker); err != nil {
		if code := api.AsError(err).Code; secret != "" && code != api.Unavailable && code != api.Internal {
			_ = mine.Allow()
		}
		return err
	}
	if worker.ID <= 0 || worker.Name == "" || worker.Name == pool.Local {
		return errors.New("admit a worker: the api role's answer names none")
	}
	return then(worker, ask)
}

// tries counts the failures of a request's network.
func (s *Server) tries(r *http.Request) *rate.Limiter {
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	network := admission.Group(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.networks[network]
	if l == nil {
		if len(s.networks) >= maxNetworks { // those that have long stopped are forgotten; if none has, the others share a bound
			maps.DeleteFunc(s.networks, func(_ netip.Prefix, l *rate.Limiter) bool { return l.Tokens() >= triesOfOne })
			if len(s.networks) >= maxNetworks {
				return s.all
			}
		}
		l = rate.NewLimiter(rate.Every(pauseOfOne), triesOfOne)
		s.networks[network] = l
	}
	return l
}

// connect takes a connection over on which the builder then asks and the worker answers.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), upgrade) {
		return api.Errorf(api.Invalid, "this is a connection to be upgraded to %q", upgrade)
	}
	return s.admit(r, "/internal/v1/workers/open", "", func(worker api.WorkerAdmitted, ask api.WorkerJoin) error {
		version := r.Header.Get("Roadstead-Version")
		version = plain(version, maxVersion)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return fmt.Errorf("take the connection over: %w", err)
		}
		if buffered.Reader.Buffered() > 0 { // it speaks before it was answered
			return conn.Close()
		}
		if err := conn.SetDeadline(time.Now().Add(helloTime)); err != nil {
			return errors.Join(err, conn.Close())
		}
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgrade); err != nil {
			_ = conn.Close()
			return nil // it went away
		}
		if err := conn.SetDeadline(time.Time{}); err != nil {
			return errors.Join(err, conn.Close())
		}
		if t, ok := conn.(*tls.Conn); ok {
			if inner, ok := t.NetConn().(*waiting); ok {
				inner.leave()
			}
		}
		mux, err := yamux.Client(conn, muxed(s.log, 1))
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		s.begin(&session{s: s, id: worker.ID, name: worker.Name, key: ask.Key, address: ask.Address, version: version, mux: mux,
			ended: make(chan struct{}), open: make(chan struct{}, maxStreams)})
		return nil
	})
}

// begin lets a worker build. It takes the place of an older connection of the same worker.
func (s *Server) begin(w *session) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		w.end(errStopped)
		return
	}
	old := s.sessions[w.name]
	s.sessions[w.name] = w
	s.cfg.Pool.Set(w.name, w)
	s.ends.Go(func() { w.keep() })
	s.mu.Unlock()
	if old != nil {
		old.end(errReplaced)
	}
	s.log.Info("a worker is connected", "worker", w.name, "address", w.address, "version", w.version)
	s.tell()
}

// leave takes a worker out whose connection has ended.
func (s *Server) leave(w *session) {
	s.mu.Lock()
	if s.sessions[w.name] == w {
		delete(s.sessions, w.name)
		s.cfg.Pool.Remove(w.name)
	}
	s.mu.Unlock()
	s.log.Info("a worker is gone", "worker", w.name, "why", w.why())
	s.tell()
}

// tell has the api role told soon.
func (s *Server) tell() {
	select {
	case s.changed <- struct{}{}:
	default: // it is on its way
	}
}

// keepTold tells the api role which workers are connected, and cuts off those that may not stay.
func (s *Server) keepTold(ctx context.Context) {
	trusted := time.Now()
	told := false // that there is nobody
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		live, all := s.live()
		if len(all) > 0 || !told {
			var stay api.WorkersStay
			for _, w := range all { // an answer without a list means that nothing is new
				stay.IDs = append(stay.IDs, w.id)
			}
			err := s.cfg.Call(ctx, "/internal/v1/workers/live", live, &stay)
			told = err == nil && len(all) == 0
			switch {
			case err == nil:
				trusted = time.Now()
				for _, w := range all {
					if !slices.Contains(stay.IDs, w.id) {
						w.end(errRemoved)
					}
				}
			case time.Since(trusted) > trustSpan:
				for _, w := range all {
					w.end(errUntold)
				}
			}
		} else {
			trusted = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.changed:
			told = false
		}
	}
}

// live is every connected worker.
func (s *Server) live() (live api.WorkersLive, all []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all = slices.Collect(maps.Values(s.sessions))
	live.Workers = []api.WorkerLive{}
	for _, w := range all {
		live.Workers = append(live.Workers, w.telling())
	}
	return live, all
}
