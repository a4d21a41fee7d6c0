package signin

import (
	"net/netip"
	"sync"
)

// How many sign-ins may wait for one provider: a slow one must not fill the places that requests have, and nobody's network all of them.
const (
	maxBusy      = 16
	maxOfNetwork = 4
)

// places are those of the sign-ins that wait for a provider.
type places struct {
	mu  sync.Mutex // covers what follows
	all int
	of  map[netip.Prefix]int
}

// enter takes a place, if there is one for whoever comes from a network.
func (p *places) enter(network netip.Prefix) (leave func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= maxBusy || p.of[network] >= maxOfNetwork {
		return nil, false
	}
	if p.of == nil {
		p.of = map[netip.Prefix]int{}
	}
	p.all++
	p.of[network]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all--
		if p.of[network]--; p.of[network] == 0 {
			delete(p.of, network)
		}
	}, true
}
