package permit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
)

// apiRole answers as the api role does: it lets everybody in, until it is told otherwise.
type apiRole struct {
	*httptest.Server
	mu    sync.Mutex // covers what follows
	n     int
	over  string // the permit that must end
	away  bool
	ended []api.ReachEnded
}

func newAPI(t *testing.T) *apiRole {
	a := &apiRole{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /internal/reach/permit", func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.n++
		_ = json.NewEncoder(w).Encode(api.ReachPermit{Permit: fmt.Sprint("permit ", a.n)})
	})
	mux.HandleFunc("POST /internal/reach/still", func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.away {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var ask api.ReachStill
		_ = json.NewDecoder(r.Body).Decode(&ask)
		a.ended = append(a.ended, ask.Ended...)
		answer := api.ReachEnd{}
		for _, one := range ask.Permits {
			if one == a.over {
				answer.End = append(answer.End, api.ReachOver{Permit: one, Why: "the key was deleted"})
			}
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

func (a *apiRole) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// told waits until the api role was told how a connection ended.
func (a *apiRole) told(t *testing.T, one *permit.Permit) api.ReachEnded {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < 3*time.Minute; <-tick.C {
		a.mu.Lock()
		for _, e := range a.ended {
			if e.Permit == one.Permit {
				a.mu.Unlock()
				return e
			}
		}
		a.mu.Unlock()
	}
	t.Fatalf("%s: nobody was told of its end", one.Permit)
	return api.ReachEnded{}
}

func start(t *testing.T, a *apiRole, every, away time.Duration) *permit.Permits {
	p := permit.New(permit.Config{API: &pki.Peer{URL: a.URL, HTTP: a.Client()}, Every: every, Away: away})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

func (a *apiRole) ask(t *testing.T, p *permit.Permits) *permit.Permit {
	t.Helper()
	one, err := p.Ask(t.Context(), api.ReachRequest{Kind: api.ReachTunnel})
	if err != nil {
		t.Fatal(err)
	}
	return one
}

// pipe is two ends of a TCP connection.
func pipe(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if near, err = net.Dial("tcp", ln.Addr().String()); err == nil {
		far, err = ln.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// What is open ends on the api role's word, with the numbers of what it carried; what else is open goes on.
func TestAConnectionEndsOnTheWordOfTheAPI(t *testing.T) {
	a := newAPI(t)
	p := start(t, a, 20*time.Millisecond, time.Hour)
	one, other := a.ask(t, p), a.ask(t, p)
	user, client := pipe(t)
	device, service := pipe(t)
	joined := make(chan struct{})
	go func() { one.Join(client, device, time.Hour); close(joined) }()
	for _, way := range [][2]net.Conn{{user, service}, {service, user}} {
		if _, err := way[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(way[1], make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	a.set(func() { a.over = one.Permit })
	<-joined
	if _, err := user.Read(make([]byte, 1)); err == nil {
		t.Error("the client's connection is still open")
	}
	if _, err := service.Read(make([]byte, 1)); err == nil {
		t.Error("the device's connection is still open")
	}
	e := a.told(t, one)
	if e.BytesIn != 5 || e.BytesOut != 5 || e.Why != permit.ErrOver.Error()+": the key was deleted" {
		t.Errorf("told: %+v", e)
	}
	if other.Context().Err() != nil || p.Open() != 1 {
		t.Errorf("the other connection: %v; %d are open", context.Cause(other.Context()), p.Open())
	}
	other.Tell("service", "web")
	other.End("closed")
	if e := a.told(t, other); e.Why != "closed" || e.Detail["service"] != "web" {
		t.Errorf("told: %+v", e)
	}
}

// When nobody can be asked everything ends, but not before the time for which that is borne; afterwards there are new ones.
func TestNothingIsOpenWithoutTheAPI(t *testing.T) {
	a := newAPI(t)
	const away = time.Second
	p := start(t, a, 20*time.Millisecond, away)
	one := a.ask(t, p)
	began := time.Now()
	a.set(func() { a.away = true })
	select {
	case <-one.Context().Done():
	case <-time.After(3 * time.Minute):
		t.Fatal("it is still open")
	}
	if took := time.Since(began); !errors.Is(context.Cause(one.Context()), permit.ErrAway) || took < away-100*time.Millisecond {
		t.Errorf("after %s: %v", took, context.Cause(one.Context()))
	}
	one.End("closed")
	a.set(func() { a.away = false })
	if e := a.told(t, one); e.Why != permit.ErrAway.Error() {
		t.Errorf("told: %+v", e)
	}
	var last *permit.Permit
	for range 1100 { // more than is told in one question
		last = a.ask(t, p)
		last.End("closed")
	}
	a.told(t, last)
	again := a.ask(t, p)
	if again.Context().Err() != nil {
		t.Error("a new connection is over already")
	}
	a.Close()
	if _, err := p.Ask(t.Context(), api.ReachRequest{}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("without the api role: %v", err)
	}
}

// A connection that carries nothing ends after a while, and one side's last word reaches the other.
func TestJoin(t *testing.T) {
	a := newAPI(t)
	p := start(t, a, 20*time.Millisecond, time.Hour)
	one := a.ask(t, p)
	_, client := pipe(t)
	device, _ := pipe(t)
	one.Join(client, device, 50*time.Millisecond)
	if e := a.told(t, one); e.Why != permit.WhyIdle {
		t.Errorf("told: %+v", e)
	}

	two := a.ask(t, p)
	user, client := pipe(t)
	device, service := pipe(t)
	joined := make(chan struct{})
	go func() { two.Join(client, device, time.Hour); close(joined) }()
	_, _ = user.Write([]byte("question"))
	_ = user.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(service); string(got) != "question" || err != nil {
		t.Errorf("the device read %q, %v", got, err)
	}
	_, _ = service.Write([]byte("answer"))
	_ = service.Close()
	if got, err := io.ReadAll(user); string(got) != "answer" || err != nil {
		t.Errorf("the client read %q, %v", got, err)
	}
	<-joined
	if e := a.told(t, two); e.Why != permit.WhyClosed || e.BytesIn != 8 || e.BytesOut != 6 {
		t.Errorf("told: %+v", e)
	}
}
