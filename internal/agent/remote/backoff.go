package remote

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff gives growing waits: Min, twice that, and so on up to Max, each shortened by up to a fifth at random so that a
// fleet does not come back all at once.
type Backoff struct {
	Min, Max time.Duration
	failures int
}

// Next is how long to wait after one more failure.
func (b *Backoff) Next() time.Duration {
	d := b.Min
	for range min(b.failures, 40) {
		if d *= 2; d >= b.Max {
			break
		}
	}
	b.failures++
	return Jitter(min(d, b.Max), 0.2)
}

// Reset is called after a success.
func (b *Backoff) Reset() { b.failures = 0 }

// Failures is how often Next was called since the last Reset.
func (b *Backoff) Failures() int { return b.failures }

// Jitter shortens a wait by up to the given part of it.
func Jitter(d time.Duration, part float64) time.Duration {
	return d - time.Duration(rand.Float64()*part*float64(d)) //nolint:gosec // spreading load needs no secrecy
}

// Wait is how long to wait after a failure: as long as the caller would, and not less than the server asked for. To that some is
// added at random, for the server may have told many the same.
func Wait(own time.Duration, err error) time.Duration {
	asked := RetryAfterOf(err)
	return max(own, Jitter(asked+asked/5, 1./6))
}

// Sleep waits, or returns the context's error when that ends first.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
