package remote

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/yamux"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Why a worker's connection ended, for the log and for those whose build it ended.
var (
	errStopped  = errors.New("the builder is stopping")
	errReplaced = errors.New("it connected anew")
	errRemoved  = errors.New("it was removed by the operator")
	errUntold   = errors.New("the api role has not answered for too long")
	errLost     = errors.New("the connection was lost")
	errRude     = errors.New("it asked for something, and a worker asks for nothing")
)

// session is a connected worker.
type session struct {
	s                           *Server
	id                          int64
	name, key, address, version string
	mux                         *yamux.Session
	open                        chan struct{} // holds a value for each stream

	ended chan struct{} // closed with the connection
	once  sync.Once
	cause error // read after ended

	mu     sync.Mutex // covers what follows
	status worker.Status
	asked  bool  // there is a status
	err    error // why there is none now
}

// end cuts the connection.
func (w *session) end(cause error) {
	w.once.Do(func() {
		w.cause = cause
		close(w.ended)
		_ = w.mux.Close()
	})
}

// why is the reason of the end.
func (w *session) why() error {
	<-w.ended
	return w.cause
}

// keep looks after the connection until it ends.
func (w *session) keep() {
	var all sync.WaitGroup
	all.Go(w.refuse)
	all.Go(w.look)
	select {
	case <-w.mux.CloseChan():
		w.end(errLost)
	case <-w.ended:
	}
	all.Wait()
	w.s.leave(w)
}

// refuse cuts a worker off that opens a stream: it has nothing to ask, and each would have us keep what it sends.
func (w *session) refuse() {
	if conn, err := w.mux.Accept(); err == nil {
		_ = conn.Close()
		w.end(errRude)
	}
}

// look asks the worker again and again how it is.
func (w *session) look() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { <-w.ended; cancel() }()
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-w.ended:
			return
		case <-tick.C:
		}
		one, done := context.WithTimeout(ctx, helloTime)
		status, err := w.Ask(one)
		done()
		w.mu.Lock()
		news := (w.err == nil) != (err == nil) || !w.asked
		if w.err = err; err == nil {
			w.status, w.asked = status, true
		}
		w.mu.Unlock()
		if news {
			w.s.tell()
		}
		if err == nil {
			tick.Reset(lookEvery)
		} else {
			tick.Reset(lookSoon)
		}
	}
}

// telling is what the api role is told of the worker.
func (w *session) telling() api.WorkerLive {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := api.WorkerLive{ID: w.id, Key: w.key, Address: w.address, Version: w.version, BuildKit: w.status.Version, Platforms: []api.WorkerPlatform{}}
	for _, p := range w.status.Platforms {
		t.Platforms = append(t.Platforms, api.WorkerPlatform(p))
	}
	switch {
	case w.err != nil && api.AsError(w.err).Code == api.Internal:
		t.Why = "its build service does not answer"
	case w.err != nil:
		t.Why = api.AsError(w.err).Error()
	case !w.asked:
		t.Why = "it has not answered yet"
	}
	return t
}

// stream opens a connection to the worker's manager. It is a worker.Link.
func (w *session) stream(ctx context.Context) (net.Conn, error) {
	select {
	case w.open <- struct{}{}:
	default:
		return nil, api.Errorf(api.Unavailable, "worker %s has %d connections open already; try again", w.name, maxStreams)
	}
	leave := sync.OnceFunc(func() { <-w.open })
	type opened struct {
		conn net.Conn
		err  error
	}
	result := make(chan opened, 1)
	go func() { // yamux knows no context: a worker that does not read could hold us until its connection is given up
		conn, err := w.mux.Open()
		result <- opened{conn, err}
	}()
	select {
	case r := <-result:
		if r.err != nil {
			leave()
			return nil, w.lost(r.err)
		}
		return &stream{Conn: r.conn, w: w, leave: leave}, nil
	case <-ctx.Done():
		go func() { // ends at the latest with the connection
			if r := <-result; r.err == nil {
				_ = r.conn.Close()
			}
			leave()
		}()
		return nil, api.Errorf(api.Unavailable, "worker %s does not answer", w.name)
	}
}

// lost says why a stream broke.
func (w *session) lost(err error) error {
	select {
	case <-w.ended:
		return errors.Join(api.Errorf(api.Unavailable, "worker %s went away: %v", w.name, w.cause), err)
	default:
	}
	if w.mux.IsClosed() {
		return errors.Join(api.Errorf(api.Unavailable, "worker %s went away: %v", w.name, errLost), err)
	}
	return err
}

// stream is a connection over the worker's.
type stream struct {
	net.Conn
	w     *session
	leave func()
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err != nil {
		err = s.w.lost(err)
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err != nil {
		err = s.w.lost(err)
	}
	return n, err
}

// Close implements net.Conn.
func (s *stream) Close() error {
	defer s.leave()
	return s.Conn.Close()
}

// Connect opens a connection to a domain's daemon.
func (w *session) Connect(ctx context.Context, domain string) (net.Conn, error) {
	return worker.Link(w.stream).Connect(ctx, domain)
}

// Ask asks what the worker can build for.
func (w *session) Ask(ctx context.Context) (worker.Status, error) {
	s, err := worker.Link(w.stream).Ask(ctx)
	if err != nil {
		return worker.Status{}, err
	}
	return sane(s), nil
}

// sane leaves of what a worker says what people may be shown: it may be hostile.
func sane(s worker.Status) worker.Status {
	s.Platforms = s.Platforms[:min(len(s.Platforms), maxPlatforms)]
	s.Platforms = slices.DeleteFunc(s.Platforms, func(p worker.Platform) bool { return !platformForm.MatchString(p.Platform) })
	s.Missing = s.Missing[:min(len(s.Missing), maxPlatforms)]
	s.Missing = slices.DeleteFunc(s.Missing, func(p worker.Missing) bool { return !platformForm.MatchString(p.Platform) })
	for i := range s.Missing {
		s.Missing[i].Why = plain(s.Missing[i].Why, maxWords)
	}
	s.Version = plain(s.Version, maxVersion)
	return s
}

const (
	maxPlatforms = 40
	maxWords     = 300
)

var platformForm = pattern.New(`^[a-z0-9]{1,20}/[a-z0-9]{1,20}(/[a-z0-9]{1,10})?$`)

// plain is a text without what would steer a terminal, and not longer than so many bytes.
func plain(text string, most int) string {
	text = strings.ToValidUTF8(text[:min(len(text), most)], "")
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
}

// Killed asks which steps of a domain the worker ended since a time.
func (w *session) Killed(ctx context.Context, domain string, since time.Time) ([]worker.Kill, error) {
	list, err := worker.Link(w.stream).Killed(ctx, domain, since)
	for i := range list {
		list[i].Words = plain(list[i].Words, maxWords)
	}
	return list, err
}
