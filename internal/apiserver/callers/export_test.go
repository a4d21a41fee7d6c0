package callers

import "time"

// SetNow gives the memory another clock.
func (c *Memory) SetNow(now func() time.Time) { c.now = now }
