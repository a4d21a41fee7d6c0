package db

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// maxChanged bounds the changes that are told apart; with more of them everything is forgotten.
const maxChanged = 20_000

// Answers remembers what the database said, for as long as nobody has told of a change in it. Each answer is about subjects, which are
// what writers tell a channel of PostgreSQL (pg_notify). What was read before a change was heard of is never given after it, whichever
// comes first; and nothing is given unless all was heard that had been told two seconds ago.
type Answers[V any] struct {
	listener *listener
	bytes    int // of one generation

	mu          sync.Mutex // covers what follows
	round       uint64     // goes up with every change
	floor       uint64     // what was read in a round before this one does not count, whenever it is kept
	changed     map[string]uint64
	recent, old map[int64]answer[V]
	size        int // of recent
}

type answer[V any] struct {
	value V
	about []string
	size  int
	round uint64 // in which it was read
}

// NewAnswers makes an empty memory of as many bytes, roughly, for what is told on a channel. It remembers only while Run runs, and
// nothing on SQLite.
func NewAnswers[V any](d *DB, channel string, log *slog.Logger, bytes int) *Answers[V] {
	a := &Answers[V]{bytes: bytes / 2, changed: map[string]uint64{}, recent: map[int64]answer[V]{}}
	a.listener = &listener{db: d, channel: channel, log: log, heard: a.tell, began: a.Forget, start: time.Now()}
	return a
}

// Run hears of changes until the context ends.
func (a *Answers[V]) Run(ctx context.Context) error { return a.listener.run(ctx) }

// Current says whether anything can be remembered at this moment.
func (a *Answers[V]) Current() bool { return a.listener.current() }

// Find gives what is known of a key. If nothing is, round is to be given to Keep with what the database, asked after this, says.
func (a *Answers[V]) Find(key int64) (v V, found bool, round uint64) {
	if !a.Current() {
		return v, false, 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	known, ok := a.recent[key]
	aged := !ok
	if aged {
		known, ok = a.old[key]
	}
	if !ok {
		return v, false, a.round
	}
	if known.round < a.floor || slices.ContainsFunc(known.about, func(s string) bool { return a.changed[s] > known.round }) {
		a.drop(key)
		return v, false, a.round
	}
	if aged {
		a.put(key, known)
	}
	return known.value, true, a.round
}

// Keep remembers an answer of the database about some subjects; size is roughly how many bytes it holds. round is from the Find before
// the database was asked.
func (a *Answers[V]) Keep(key int64, v V, size int, round uint64, about ...string) {
	if !a.Current() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	const itself = 200 // what the memory spends on an answer
	for _, s := range about {
		size += len(s)
	}
	a.put(key, answer[V]{value: v, about: about, size: size + itself, round: round})
}

// put makes an answer the most recent one. a.mu is held.
func (a *Answers[V]) put(key int64, known answer[V]) {
	a.drop(key)
	if known.size > a.bytes {
		return
	}
	if a.size+known.size > a.bytes {
		a.old, a.recent, a.size = a.recent, map[int64]answer[V]{}, 0
	}
	a.recent[key] = known
	a.size += known.size
}

// drop forgets an answer. a.mu is held.
func (a *Answers[V]) drop(key int64) {
	if known, ok := a.recent[key]; ok {
		a.size -= known.size
		delete(a.recent, key)
	}
	delete(a.old, key)
}

// tell hears of a change.
func (a *Answers[V]) tell(subject string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.round++
	if len(a.changed) >= maxChanged {
		a.clear()
	}
	a.changed[subject] = a.round
}

// Forget forgets everything, and what is being read at this moment.
func (a *Answers[V]) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.round++
	a.clear()
}

func (a *Answers[V]) clear() {
	a.floor = a.round
	clear(a.changed)
	clear(a.recent)
	a.old, a.size = nil, 0
}
