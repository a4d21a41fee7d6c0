package pool

import (
	"cmp"
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

// Local is the name of the worker on the builder's own machine.
const Local = "local"

const (
	fresh       = 5 * time.Second  // what a worker said of itself holds for so long
	freshError  = time.Second      // that it did not answer, for so long
	askTime     = 10 * time.Second // for it to answer
	lookAgain   = 200 * time.Millisecond
	maxRemember = 10_000 // fleets whose last worker is remembered
)

// Worker is a machine that builds, as [worker.Link] reaches one. Its methods may be called at once.
type Worker interface {
	// Connect opens a connection to a domain's daemon.
	Connect(ctx context.Context, domain string) (net.Conn, error)
	// Ask asks what it can build for.
	Ask(ctx context.Context) (worker.Status, error)
	// Killed asks which steps of a domain it ended since a time.
	Killed(ctx context.Context, domain string, since time.Time) ([]worker.Kill, error)
}

// Pool is the set of workers. They come and go while it is used.
type Pool struct {
	mu      sync.Mutex // covers what follows
	members map[string]*member
	last    map[home]string // worker that built last
}

// home is what has a cache of its own on a worker.
type home struct{ domain, fleet, platform string }

type member struct {
	name   string
	worker Worker

	// What follows is covered by the pool's lock.
	asking chan struct{} // closed when an answer is there; nil when nobody asks
	status worker.Status // the last that was told; kept when the worker falls silent, to know what is missing
	told   bool          // there is one
	err    error         // of the last answer
	until  time.Time     // the answer holds
	leases int
}

// New makes a pool without workers.
func New() *Pool { return &Pool{members: map[string]*member{}, last: map[home]string{}} }

// Set adds a worker, or puts it in the place of one with its name: builds that have that one keep it.
func (p *Pool) Set(name string, w Worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members[name] = &member{name: name, worker: w}
}

// Remove takes a worker out. Builds that have it keep it for as long as it answers.
func (p *Pool) Remove(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.members, name)
}

// Member is a worker as it is now.
type Member struct {
	Name   string
	Status worker.Status // when Err is not nil, what it said before
	Builds int           // images that are being made there
	Err    error         // why it does not answer

	told bool
	m    *member
}

// can reports whether a worker builds for a platform, as far as is known, and whether by itself.
func (m Member) can(platform string) (can, native bool) {
	for _, p := range m.Status.Platforms {
		if p.Platform == platform {
			return true, p.Native
		}
	}
	return false, false
}

// Members asks every worker how it is, unless it said so a moment ago, and gives them in the order of their names.
func (p *Pool) Members(ctx context.Context) []Member {
	p.mu.Lock()
	all := slices.Collect(maps.Values(p.members))
	p.mu.Unlock()
	var each sync.WaitGroup
	for _, m := range all {
		each.Go(func() { p.ask(ctx, m) })
	}
	each.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]Member, 0, len(all))
	for _, m := range all {
		err := m.err
		if err == nil && !m.told { // the caller's patience ended before the worker's answer
			err = api.Errorf(api.Unavailable, "it does not answer")
		}
		list = append(list, Member{Name: m.name, Status: m.status, Builds: m.leases, Err: err, told: m.told, m: m})
	}
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// ask makes sure that a fresh answer of a worker is there, or waits until ctx ends. One question at a time is under way.
func (p *Pool) ask(ctx context.Context, m *member) {
	p.mu.Lock()
	if time.Now().Before(m.until) {
		p.mu.Unlock()
		return
	}
	done := m.asking
	if done == nil {
		done = make(chan struct{})
		m.asking = done
		// The answer is everybody's: it does not end with the one who asked first.
		go p.question(context.WithoutCancel(ctx), m, done)
	}
	p.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (p *Pool) question(ctx context.Context, m *member, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	status, err := m.worker.Ask(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	m.err, m.until, m.asking = err, time.Now().Add(freshError), nil
	if err == nil {
		m.status, m.told, m.until = status, true, time.Now().Add(fresh)
	}
	close(done)
}

// Wish is what a worker is wanted for.
type Wish struct {
	Domain   string // the organization's walls
	Fleet    string // whose cache it is
	Platform string // "linux/arm64"
	// Foreign takes a worker that runs no programs of the platform, when there is none that does.
	Foreign bool
}

// Choose gives a worker: one whose machine runs the platform's programs by itself before one that has an emulator for them, then the one
// that built for the fleet last, then the one with the fewest images in the making. Leave must be called once for what it gives.
func (p *Pool) Choose(ctx context.Context, w Wish) (*Lease, error) {
	var best *Member
	var rank [4]int
	members := p.Members(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.last[w.home()]
	for i, m := range members {
		can, native := m.can(w.Platform)
		if m.Err != nil || (!can && !w.Foreign) || p.members[m.Name] != m.m {
			continue
		}
		r := [4]int{score(!can), score(!native), score(m.Name != last), m.m.leases}
		if best == nil || slices.Compare(r[:], rank[:]) < 0 {
			best, rank = &members[i], r
		}
	}
	if best == nil {
		return nil, missing(members, w.Platform)
	}
	best.m.leases++
	can, native := best.can(w.Platform)
	return &Lease{Name: best.Name, Runs: can, Native: native, pool: p, m: best.m, wish: w,
		leave: sync.OnceFunc(func() { p.leave(best.m) })}, nil
}

func (w Wish) home() home { return home{w.Domain, w.Fleet, w.Platform} }

func score(bad bool) int {
	if bad {
		return 1
	}
	return 0
}

func (p *Pool) leave(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.leases--
}

// Await is Choose that waits for a worker which may be on its way back, for at most a time.
func (p *Pool) Await(ctx context.Context, w Wish, patience time.Duration) (*Lease, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		l, err := p.Choose(ctx, w)
		if err == nil || api.AsError(err).Code != api.Unavailable {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-late.C:
			return nil, err
		case <-time.After(lookAgain):
		}
	}
}

// Check reports whether somebody builds for every platform: nil, an Invalid error when nobody does, an Unavailable one when who might
// does not answer. When no worker answers at all, nothing is known, and nothing is wrong.
func (p *Pool) Check(ctx context.Context, platforms ...string) error {
	members := p.Members(ctx)
	if !slices.ContainsFunc(members, func(m Member) bool { return m.Err == nil }) {
		return nil
	}
	for _, platform := range platforms {
		if !slices.ContainsFunc(members, func(m Member) bool { can, _ := m.can(platform); return can && m.Err == nil }) {
			return missing(members, platform)
		}
	}
	return nil
}

// missing says why there is no worker for a platform.
func missing(members []Member, platform string) error {
	var silent []string
	var why error
	var builds []string
	for _, m := range members {
		can, _ := m.can(platform)
		if m.Err != nil && (can || !m.told) {
			silent, why = append(silent, m.Name), cmp.Or(why, m.Err)
		}
		if m.Err != nil {
			continue
		}
		for _, q := range m.Status.Platforms {
			if !slices.Contains(builds, q.Platform) {
				builds = append(builds, q.Platform)
			}
		}
	}
	slices.Sort(builds)
	switch {
	case len(silent) > 0:
		return api.Errorf(api.Unavailable, "no worker that answers builds for %s: %s (%s); `roadsteadd status` says more",
			platform, Words(why), strings.Join(silent, ", "))
	case len(builds) == 0:
		return api.Errorf(api.Unavailable, "no worker builds for %s: there is none", platform)
	}
	return api.Errorf(api.Invalid, "no worker of this server builds for %s; they build for %s. An operator adds a worker of that architecture, "+
		"or an emulator (qemu-user-static); `roadstead build platforms` shows what there is", platform, strings.Join(builds, ", "))
}

// Words is what people read of why a worker does not answer.
func Words(err error) string {
	if e := api.AsError(err); e.Code != api.Internal {
		return e.Error()
	}
	return "the build service is not running"
}

// Lease is a worker that makes an image.
type Lease struct {
	Name   string // of the worker
	Runs   bool   // it runs programs of the platform
	Native bool   // without an emulator

	pool  *Pool
	m     *member
	wish  Wish
	leave func()
}

// Connect opens a connection to the daemon of the lease's domain.
func (l *Lease) Connect(ctx context.Context) (net.Conn, error) {
	return l.m.worker.Connect(ctx, l.wish.Domain)
}

// Killed asks which steps of the domain the worker ended since a time.
func (l *Lease) Killed(ctx context.Context, since time.Time) ([]worker.Kill, error) {
	return l.m.worker.Killed(ctx, l.wish.Domain, since)
}

// Built remembers that the fleet's cache is on this worker.
func (l *Lease) Built() {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if len(l.pool.last) >= maxRemember {
		for k := range l.pool.last { // any: what is lost is a warm cache
			delete(l.pool.last, k)
			break
		}
	}
	l.pool.last[l.wish.home()] = l.Name
}

// Doubt has the worker asked again before anybody is given it: it broke off.
func (l *Lease) Doubt() {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	l.m.until = time.Time{}
}

// Leave gives the worker back.
func (l *Lease) Leave() { l.leave() }
