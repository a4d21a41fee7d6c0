// Package keyuse remembers what keys are used for and from where, until it is written down.
package keyuse

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Day is the form in which a day is written.
const Day = "2006-01-02"

// maxWritten bounds what is remembered of what is in the database already.
const maxWritten = 10_000

// Uses is what is remembered. The zero value is ready.
type Uses struct {
	mu      sync.Mutex // covers what follows
	from    map[int64]string
	verbs   map[keyVerb]string // → day
	written map[keyVerb]string // what the database knows, of this process' keys
	writing map[keyVerb]string // what the transaction writes that is on its way …
	told    map[int64]string   // … and the addresses that it does
}

type keyVerb struct {
	key  int64
	verb access.Verbs
}

func (k keyVerb) compare(o keyVerb) int {
	return cmp.Or(cmp.Compare(k.key, o.key), cmp.Compare(k.verb, o.verb))
}

// Add remembers that a key was used, from where, and for what: the verb that a request asks for by its route or by the resource it
// writes. It touches no database. Keys of devices are not looked at: theirs are too many, and they have one use.
func (u *Uses) Add(by access.Caller, verb access.Verbs, now time.Time) {
	if by.Key == 0 || by.Kind == access.Device || by.Kind == access.FrozenDevice {
		return
	}
	today := now.UTC().Format(Day)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.from == nil {
		u.from, u.verbs, u.written = map[int64]string{}, map[keyVerb]string{}, map[keyVerb]string{}
	}
	u.from[by.Key] = by.Address
	if by.User == 0 {
		return
	}
	for _, one := range (verb | access.Read).Each() {
		if k := (keyVerb{by.Key, one}); u.written[k] != today {
			u.verbs[k] = today
		}
	}
}

// Write writes down what there is; the transaction may be run again.
func (u *Uses) Write(ctx context.Context, tx *db.Tx) error {
	u.mu.Lock()
	from, verbs := maps.Clone(u.from), maps.Clone(u.verbs)
	u.writing, u.told = verbs, from
	u.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(from)) { // in one order, whichever process writes
		if _, err := tx.ExecContext(ctx, `UPDATE api_key SET last_used_from = ?1 WHERE id = ?2 AND (last_used_from IS NULL OR last_used_from <> ?1)`,
			from[key], key); err != nil {
			return fmt.Errorf("last use: %w", err)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(verbs), keyVerb.compare) {
		if _, err := tx.ExecContext(ctx, `INSERT INTO api_key_use (api_key, verb, last_on) SELECT id, CAST(? AS BIGINT), ? FROM api_key WHERE id = ?
			ON CONFLICT (api_key, verb) DO UPDATE SET last_on = excluded.last_on WHERE api_key_use.last_on < excluded.last_on`,
			int(k.verb), verbs[k], k.key); err != nil {
			return fmt.Errorf("use of a verb: %w", err)
		}
	}
	return nil
}

// Wrote forgets what is in the database now.
func (u *Uses) Wrote() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.written) > maxWritten {
		clear(u.written)
	}
	for k, on := range u.writing {
		u.written[k] = on
		if u.verbs[k] == on {
			delete(u.verbs, k)
		}
	}
	for key, address := range u.told {
		if u.from[key] == address {
			delete(u.from, key)
		}
	}
	u.writing, u.told = nil, nil
}
