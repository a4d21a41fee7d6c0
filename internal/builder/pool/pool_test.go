package pool_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/pool"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

// machine is a worker that says of itself what the test wants. Workers that build are tested in package worker and by the builder.
type machine struct {
	asked atomic.Int32
	wait  time.Duration

	mu     sync.Mutex // covers what follows
	can    []worker.Platform
	err    error
	dialed []string
}

func (m *machine) Connect(_ context.Context, domain string) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dialed = append(m.dialed, domain)
	return nil, errors.New("it has no daemon")
}

func (m *machine) Ask(ctx context.Context) (worker.Status, error) {
	m.asked.Add(1)
	select {
	case <-time.After(m.wait):
	case <-ctx.Done():
		return worker.Status{}, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return worker.Status{Platforms: m.can}, m.err
}

func (m *machine) Killed(context.Context, string, time.Time) ([]worker.Kill, error) { return nil, nil }

func (m *machine) set(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// of makes a machine: "linux/amd64" is native, "linux/arm64?" emulated.
func of(platforms ...string) *machine {
	m := &machine{}
	for _, p := range platforms {
		name, emulated := strings.CutSuffix(p, "?")
		m.can = append(m.can, worker.Platform{Platform: name, Native: !emulated})
	}
	return m
}

func choose(t *testing.T, p *pool.Pool, w pool.Wish) *pool.Lease {
	t.Helper()
	l, err := p.Choose(t.Context(), w)
	if err != nil {
		t.Fatalf("Choose(%+v): %v", w, err)
	}
	return l
}

func TestNativeThenCacheThenLoad(t *testing.T) {
	p := pool.New()
	p.Set("a", of("linux/amd64", "linux/arm64?"))
	p.Set("b", of("linux/arm64"))
	p.Set("c", of("linux/arm64"))
	arm := pool.Wish{Domain: "org-1", Fleet: "1", Platform: "linux/arm64"}
	first := choose(t, p, arm)
	if first.Name != "b" || !first.Native {
		t.Errorf("Choose(arm64): %s, native %v; want b, native", first.Name, first.Native)
	}
	second := choose(t, p, arm)
	if second.Name != "c" {
		t.Errorf("Choose while b is at work: %s, want c", second.Name)
	}
	second.Built()
	third := choose(t, p, arm)
	if third.Name != "c" {
		t.Errorf("Choose after c built for the fleet: %s, want c, which has the cache", third.Name)
	}
	// Whose cache it is counts: another organization's fleet of the same name, or another platform, goes by the load.
	for _, w := range []pool.Wish{{Domain: "org-2", Fleet: "1", Platform: "linux/arm64"}, {Domain: "org-1", Fleet: "2", Platform: "linux/arm64"}} {
		l := choose(t, p, w)
		if l.Name != "b" {
			t.Errorf("Choose(%+v): %s, want b, which does the least", w, l.Name)
		}
		l.Leave()
	}
	p.Remove("c")
	if l := choose(t, p, arm); l.Name != "b" {
		t.Errorf("Choose when c is gone: %s, want b", l.Name)
	}
	p.Remove("b")
	if l := choose(t, p, arm); l.Name != "a" || l.Native || !l.Runs {
		t.Errorf("Choose when only an emulator is left: %+v", l)
	}
}

// A lease reaches the daemon of its own organization and no other.
func TestLeaseIsForItsDomain(t *testing.T) {
	p, m := pool.New(), of("linux/amd64")
	p.Set("a", m)
	l := choose(t, p, pool.Wish{Domain: "org-7", Platform: "linux/amd64"})
	_, _ = l.Connect(t.Context())
	if len(m.dialed) != 1 || m.dialed[0] != "org-7" {
		t.Errorf("Connect: %v, want org-7", m.dialed)
	}
}

func TestLoadEndsWithTheLease(t *testing.T) {
	p := pool.New()
	p.Set("a", of("linux/amd64"))
	p.Set("b", of("linux/amd64"))
	w := pool.Wish{Platform: "linux/amd64"}
	l := choose(t, p, w)
	l.Leave()
	l.Leave()
	for _, m := range p.Members(t.Context()) {
		if m.Builds != 0 {
			t.Errorf("%s has %d builds after Leave", m.Name, m.Builds)
		}
	}
}

func TestNobodyBuildsThat(t *testing.T) {
	p := pool.New()
	w := pool.Wish{Platform: "linux/arm/v7"}
	if _, err := p.Choose(t.Context(), w); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("Choose from no worker: %v, want Unavailable", err)
	}
	if err := p.Check(t.Context(), "linux/arm/v7"); err != nil {
		t.Errorf("Check when nothing is known: %v", err)
	}
	silent := of("linux/arm/v7")
	p.Set("near", of("linux/amd64", "linux/arm64?"))
	for _, err := range []error{p.Check(t.Context(), "linux/amd64", "linux/arm/v7"), func() error { _, err := p.Choose(t.Context(), w); return err }()} {
		if e := api.AsError(err); e.Code != api.Invalid || !strings.Contains(e.Text, "linux/arm/v7; they build for linux/amd64, linux/arm64") {
			t.Errorf("%v, want an Invalid error that names what can be built", err)
		}
	}
	if err := p.Check(t.Context(), "linux/amd64", "linux/arm64"); err != nil {
		t.Errorf("Check: %v", err)
	}
	w.Foreign = true
	if l := choose(t, p, w); l.Name != "near" || l.Runs || l.Native {
		t.Errorf("Choose(Foreign): %+v", l)
	}
	silent.set(api.Errorf(api.Unavailable, "builds cannot run: no runc"))
	p.Set("far", silent)
	if err := p.Check(t.Context(), "linux/arm/v7"); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "no runc (far)") {
		t.Errorf("Check while who might does not answer: %v, want Unavailable and why", err)
	}
}

// Who falls silent is known for what it could; a build waits for it, or takes another that can.
func TestWorkerGoesAwayAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, b := pool.New(), of("linux/arm64"), of("linux/arm64?")
		p.Set("a", a)
		w := pool.Wish{Fleet: "1", Platform: "linux/arm64"}
		l := choose(t, p, w)
		l.Built()
		a.set(errors.New("connection refused"))
		l.Doubt()
		if _, err := p.Choose(t.Context(), w); !errors.Is(err, api.ErrUnavailable) || strings.Contains(err.Error(), "refused") {
			t.Errorf("Choose when it is away: %v, want Unavailable without our own words", err)
		}
		time.AfterFunc(3*time.Second, func() { a.set(nil) })
		back, err := p.Await(t.Context(), w, time.Minute)
		if err != nil {
			t.Fatalf("Await: %v", err)
		}
		back.Leave()
		p.Set("b", b)
		a.set(errors.New("connection refused"))
		back.Doubt()
		if l := choose(t, p, w); l.Name != "b" {
			t.Errorf("Choose when a is away: %s, want b", l.Name)
		}
		b.set(errors.New("connection refused"))
		<-time.After(10 * time.Second)
		began := time.Now()
		if _, err := p.Await(t.Context(), w, 5*time.Second); !errors.Is(err, api.ErrUnavailable) || time.Since(began) < 5*time.Second {
			t.Errorf("Await with nobody: %v after %s", err, time.Since(began))
		}
	})
}

// Asking is cheap: many ask at once and a worker hears one question, and another one only after a while.
func TestAnswersAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := pool.New(), of("linux/amd64")
		m.wait = time.Second
		p.Set("a", m)
		hurried, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := p.Choose(hurried, pool.Wish{Platform: "linux/amd64"}); !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("Choose in a hurry: %v", err)
		}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if err := p.Check(t.Context(), "linux/amd64"); err != nil {
					t.Errorf("Check: %v", err)
				}
			})
		}
		all.Wait()
		if n := m.asked.Load(); n != 1 {
			t.Errorf("it was asked %d times, want once", n)
		}
		<-time.After(time.Minute)
		if err := p.Check(t.Context(), "linux/amd64"); err != nil || m.asked.Load() != 2 {
			t.Errorf("a minute later: %v, asked %d times", err, m.asked.Load())
		}
	})
}

func TestMembersComeAndGo(t *testing.T) {
	p := pool.New()
	var all sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		all.Go(func() {
			for range 100 {
				p.Set(name, of("linux/amd64"))
				if l, err := p.Choose(t.Context(), pool.Wish{Platform: "linux/amd64", Fleet: name}); err == nil {
					l.Built()
					l.Leave()
				}
				p.Remove(name)
			}
		})
	}
	all.Wait()
	if list := p.Members(t.Context()); len(list) != 0 {
		t.Errorf("Members: %v, want none", list)
	}
}
