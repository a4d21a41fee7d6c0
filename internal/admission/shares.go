package admission

import (
	"context"
	"errors"
	"sync"

	"github.com/roadstead-io/roadstead/api"
)

// Shares gives each caller a gate of its own, which lives as long as the caller is inside or waits.
type Shares[K comparable] struct {
	limit Limit

	mu    sync.Mutex // covers gates
	gates map[K]*shared
}

type shared struct {
	gate *Gate
	held int // who is inside, waits or is about to
}

// NewShares makes them; the limit is each caller's.
func NewShares[K comparable](limit Limit) *Shares[K] {
	return &Shares[K]{limit: limit, gates: map[K]*shared{}}
}

// TryEnter takes one of the caller's places if there is one at once.
func (s *Shares[K]) TryEnter(caller K) (leave func(), ok bool) {
	sh := s.hold(caller)
	g := sh.gate
	g.mu.Lock()
	ok = g.running < g.limit.Running && g.queue.Len() == 0
	if ok {
		g.running++
	}
	g.mu.Unlock()
	if !ok {
		s.release(caller, sh)
		return nil, false
	}
	return s.leave(caller, sh), true
}

// Enter takes one of the caller's places, waiting for one if need be. A caller who asks for too much is told so.
func (s *Shares[K]) Enter(ctx context.Context, caller K) (leave func(), err error) {
	sh := s.hold(caller)
	if _, err := sh.gate.Enter(ctx); err != nil {
		s.release(caller, sh)
		var busy *BusyError
		if errors.As(err, &busy) {
			return nil, &BusyError{After: busy.After, code: api.RateLimited, text: "you have too many requests at once; come again later"}
		}
		return nil, err
	}
	return s.leave(caller, sh), nil
}

func (s *Shares[K]) leave(caller K, sh *shared) func() {
	return func() {
		sh.gate.leave()
		s.release(caller, sh)
	}
}

func (s *Shares[K]) hold(caller K) *shared {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.gates[caller]
	if sh == nil {
		sh = &shared{gate: NewGate("requests", s.limit)}
		s.gates[caller] = sh
	}
	sh.held++
	return sh
}

func (s *Shares[K]) release(caller K, sh *shared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.held--; sh.held == 0 {
		delete(s.gates, caller)
	}
}

// Callers is how many have a gate now.
func (s *Shares[K]) Callers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.gates)
}
