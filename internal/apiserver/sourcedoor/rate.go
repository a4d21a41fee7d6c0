package sourcedoor

import (
	"net/netip"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// Bounds of what comes to webhooks, in a minute. They are of this process; where several share the work, each lets so much in.
const (
	perHook    = 60
	perNetwork = 120 // whatever webhook it is for: /24 of IPv4, /56 of IPv6
	maxCounted = 10_000

	atOnce    = 32 // are read at a time,
	ofNetwork = 4  // and of one network
)

// rate counts what comes to webhooks, before anything of it is read.
type rate struct {
	mu     sync.Mutex // covers what follows
	since  time.Time  // when the counts of this minute began
	count  map[string]int
	places int            // that are taken
	of     map[string]int // and by whom
}

func newRate() *rate { return &rate{count: map[string]int{}, of: map[string]int{}} }

var errRate = api.Errorf(api.RateLimited, "too many deliveries; try again in a minute")

// enter counts one in, or refuses it.
func (r *rate) enter(hook, address string, now time.Time) (leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.since) >= time.Minute || now.Before(r.since) {
		r.since = now
		clear(r.count)
	}
	from := network(address)
	h, n := "hook "+hook, "net "+from
	if r.count[h] >= perHook || r.count[n] >= perNetwork || len(r.count) >= maxCounted || r.places >= atOnce || r.of[from] >= ofNetwork {
		return nil, errRate
	}
	r.count[n]++
	r.count[h]++
	r.places++
	r.of[from]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.places--
		if r.of[from]--; r.of[from] == 0 {
			delete(r.of, from)
		}
	}, nil
}

// network is whose an address is, as far as can be told.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	ip = ip.Unmap().WithZone("")
	bits := 24
	if ip.Is6() {
		bits = 56
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return address
	}
	return p.String()
}
