// Package logbook owns the transparency log: its leaves and tree, the checkpoints that the signer signs, the signatures of witnesses, and the evidence of another
// history. Whoever publishes something about the trust of a fleet appends it in the same transaction, and has the log signed afterwards. The tables
// are in the migrations of package trust.
package logbook

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/job"
)

// Config is what it works with.
type Config struct {
	DB  *db.DB
	Log *slog.Logger
	// Ask asks the signer: POST /v1/trust/<what>.
	Ask func(ctx context.Context, what string, in, out any) error
}

// Book is the log.
type Book struct {
	cfg  Config
	once job.Together

	mu  sync.Mutex // covers key; held while the signer is asked for it, once
	key api.TrustLogKey
}

// New makes it; it starts nothing.
func New(cfg Config) *Book { return &Book{cfg: cfg} }

func (b *Book) ask(ctx context.Context, what string, in, out any) error {
	return b.cfg.Ask(ctx, what, in, out)
}

// Key is the log's public key.
func (b *Book) Key(ctx context.Context) (api.TrustLogKey, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.key.Key != "" {
		return b.key, nil
	}
	var keys api.TrustFleetKeys
	if err := b.ask(ctx, "keys", api.TrustKeysAsk{Fleet: strings.Repeat("0", 32)}, &keys); err != nil {
		return api.TrustLogKey{}, err
	}
	b.key = keys.Log
	return b.key, nil
}

// extendOnce has the log signed for everybody in this process who waits for it.
func (b *Book) extendOnce(ctx context.Context) error { return b.once.Do(ctx, "", b.Extend) }

// Prove proves an entry, and that the log goes on from one of some size. Whoever added it may not have had it signed yet, or was interrupted: it is signed then.
func (b *Book) Prove(ctx context.Context, e api.TrustEntry, from int64) (p *api.TrustLogging, err error) {
	read := func() error {
		return b.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
			p, err = proof(ctx, tx, e, from)
			return err
		})
	}
	if err = read(); !errors.Is(err, api.ErrNotFound) {
		return p, err
	}
	if err := b.extendOnce(ctx); err != nil {
		return nil, err
	}
	return p, read()
}
