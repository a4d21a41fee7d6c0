package rows

import "sync"

// Kept keeps plans: clients ask the same few things over and over. What a plan holds must depend on its key alone; it may be
// dropped at any time.
type Kept[K comparable] struct {
	mu       sync.Mutex
	new, old map[K]*Plan // what is not asked for while new fills up is forgotten
	size     int
}

// keptBytes is how much they may take, once for each of the two maps.
const keptBytes = 4 << 20

// Get finds a plan; nil: there is none.
func (c *Kept[K]) Get(k K) *Plan {
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

// Put keeps a plan whose key takes so many bytes.
func (c *Kept[K]) Put(k K, p *Plan, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.key = size
	c.add(k, p)
}

func (c *Kept[K]) add(k K, p *Plan) {
	if c.size > keptBytes || c.new == nil {
		c.new, c.old, c.size = map[K]*Plan{}, c.new, 0
	}
	c.new[k] = p
	c.size += p.key + p.Root.Size()
}
