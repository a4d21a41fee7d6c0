package account

import (
	"net/netip"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// TryLaterError refuses a login before the password is looked at.
type TryLaterError struct{ After time.Duration }

func (e *TryLaterError) Error() string { return "too many failed logins; try again later" }

// Unwrap makes it an api.RateLimited error.
func (e *TryLaterError) Unwrap() error { return api.Errorf(api.RateLimited, "%s", e.Error()) }

// Seconds is the delay in whole seconds, at least one: what a Retry-After header says.
func (e *TryLaterError) Seconds() int64 { return max(1, int64((e.After+time.Second-1)/time.Second)) }

// How failures turn into delays. Each counter lets some failures pass and then asks for a delay that doubles up to a bound.
// A stranger who fails on somebody's account from his own address makes his own address wait, for all accounts. Only
// many failures from everywhere make an account itself wait; then for a short time, and not for addresses that its
// user has logged in from before.
var (
	perPair    = limit{free: 10, first: 2 * time.Second, most: time.Hour, forget: 2 * time.Hour}        // account from one address
	perAddress = limit{free: 30, first: 2 * time.Second, most: 15 * time.Minute, forget: 2 * time.Hour} // any account
	perAccount = limit{free: 50, first: time.Second, most: 30 * time.Second, forget: time.Hour}         // any address
)

type limit struct {
	free        int
	first, most time.Duration
	forget      time.Duration // after the last failure
}

func (l limit) delay(failures int) time.Duration {
	if failures < l.free {
		return 0
	}
	n := min(failures-l.free, 30)
	return min(l.first<<n, l.most)
}

// maxTracked bounds the memory of each table of the throttle.
const maxTracked = 50_000

// throttle counts failed logins, in memory: a restart forgets them, and argon2 alone keeps guessing slow.
type throttle struct {
	mu       sync.Mutex // covers the tables
	pairs    map[pair]*failures
	addrs    map[netip.Prefix]*failures
	accounts map[string]*failures
	known    map[pair]time.Time // addresses that a user logged in from
}

type pair struct {
	account string
	from    netip.Prefix
}

type failures struct {
	limit limit
	count int
	last  time.Time
}

func newThrottle() *throttle {
	return &throttle{
		pairs: map[pair]*failures{}, addrs: map[netip.Prefix]*failures{}, accounts: map[string]*failures{},
		known: map[pair]time.Time{},
	}
}

// network is what counts as one address: a host of IPv4, a /64 of IPv6.
func network(address string) netip.Prefix {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// try counts an attempt as failed before it is made, so that attempts side by side see each other, or refuses it. ok undoes
// that when the password was right.
func (t *throttle) try(account, address string, now time.Time) (ok func(), err error) {
	p := pair{account, network(address)}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := []*failures{counter(t.pairs, p, perPair, now), counter(t.addrs, p.from, perAddress, now)}
	if _, known := t.known[p]; !known {
		all = append(all, counter(t.accounts, account, perAccount, now))
	}
	for _, f := range all {
		if wait := f.limit.delay(f.count) - now.Sub(f.last); f.count > 0 && wait > 0 {
			return nil, &TryLaterError{After: wait}
		}
	}
	before := make([]time.Time, len(all))
	for i, f := range all {
		before[i] = f.last
		f.count, f.last = f.count+1, now
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for i, f := range all {
			f.count = max(0, f.count-1)
			if f.last.Equal(now) {
				f.last = before[i]
			}
		}
		delete(t.pairs, p)
		if len(t.known) >= maxTracked {
			clear(t.known)
		}
		t.known[p] = now
	}, nil
}

// counter finds or makes a counter. A counter whose last failure is long past starts anew; a full table drops such counters
// first, then any.
func counter[K comparable](table map[K]*failures, key K, l limit, now time.Time) *failures {
	f, known := table[key]
	if known && now.Sub(f.last) < l.forget {
		return f
	}
	if !known && len(table) >= maxTracked {
		for k, old := range table {
			if now.Sub(old.last) >= l.forget {
				delete(table, k)
			}
		}
		for k := range table { // a good part at once, so that a full table does not cost a walk every time
			if len(table) < maxTracked*3/4 {
				break
			}
			delete(table, k)
		}
	}
	f = &failures{limit: l}
	table[key] = f
	return f
}
