package odata

import (
	"strings"
	"sync"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata/rows"
)

// plans keeps compiled requests: clients ask the same few things over and over. What a plan holds depends on the URL and the kind
// of the caller alone, so nothing in it can be out of date and it may be dropped at any time.
type plans struct {
	mu       sync.Mutex
	new, old map[planKey]*rows.Plan // what is not asked for while new fills up is forgotten
	size     int
}

type planKey struct {
	mount *mount
	kind  access.Kind
	url   string
}

const (
	keptPlans   = 4 << 20 // bytes, once for each of the two maps
	longestPlan = 2 << 10 // bytes of URL
)

// keepable reports whether a URL may be kept: short, and without a secret.
func keepable(query string) bool {
	return len(query) <= longestPlan && !strings.Contains(query, "apikey")
}

func (c *plans) get(k planKey) *rows.Plan {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.new[k]; p != nil {
		return p
	}
	p := c.old[k]
	if p != nil {
		c.add(k, p)
	}
	return p
}

func (c *plans) put(k planKey, p *rows.Plan) {
	k.url = strings.Clone(k.url) // not the buffer that the request came in
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(k, p)
}

func (c *plans) add(k planKey, p *rows.Plan) {
	if c.size > keptPlans || c.new == nil {
		c.new, c.old, c.size = map[planKey]*rows.Plan{}, c.new, 0
	}
	c.new[k] = p
	c.size += len(k.url) + p.Root.Size()
}
