package audit

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/ledger"
)

// How the log is kept.
const (
	sealEvery    = 300 * time.Millisecond // how often unsealed entries are looked for
	sealLate     = 2 * time.Second        // an entry that waits longer is sealed by any process, not only by the one whose chore it is
	sealAtOnce   = 256                    // entries of one transaction
	signEvery    = time.Minute            // a checkpoint for the entries since the last one …
	signAfter    = 1000                   // … and sooner for so many
	signPause    = 5 * time.Second        // but never more often
	retainEvery  = time.Hour
	removeAtOnce = 1000
)

// Config says what a log works with.
type Config struct {
	DB  *db.DB
	Log *slog.Logger // nil: slog's default
	// Only makes of a chore one that a single process does, see job.Leases; nil: every process does it, which is harmless.
	Only func(name string, period time.Duration, chore func(context.Context) error) func(context.Context) error
	// Sign asks the signer for a checkpoint; nil: there is no signer, and none is made.
	Sign func(ctx context.Context, ext api.AuditExtension) (api.AuditSigned, error)
	Site string // domain of the server
	// Keep is how long entries are kept; 0: for ever. They are removed only when a checkpoint covers them.
	Keep time.Duration
}

// Log is the part of the audit log that runs: it seals entries, has them signed, and removes those whose time is over.
type Log struct {
	cfg  Config
	seal func(context.Context) error
	sign func(context.Context) error
	keep func(context.Context) error
	ask  chan chan error // for a checkpoint, now
}

// New makes the log; it starts nothing.
func New(cfg Config) *Log {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	l := &Log{cfg: cfg, ask: make(chan chan error)}
	only := cfg.Only
	if only == nil {
		only = func(_ string, _ time.Duration, chore func(context.Context) error) func(context.Context) error {
			return chore
		}
	}
	l.seal = only("audit seal", sealEvery, l.SealOnce)
	l.sign = only("audit checkpoint", signEvery, l.CheckpointOnce)
	l.keep = only("audit retention", retainEvery, l.RetainOnce)
	return l
}

// Run keeps the log until the context ends. What was committed before is sealed before it returns.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(sealEvery)
	defer tick.Stop()
	var signed, retained, complained time.Time
	complain := func(err error) {
		if err != nil && ctx.Err() == nil && time.Since(complained) > time.Minute { // whatever it is, it comes again every moment
			l.cfg.Log.ErrorContext(ctx, "audit log", "error", err)
			complained = time.Now()
		}
	}
	for {
		complain(l.sealDue(ctx))
		due, err := l.due(ctx, time.Since(signed))
		complain(err)
		if due {
			signed = time.Now()
			complain(l.sign(ctx))
		}
		if l.cfg.Keep > 0 && time.Since(retained) > retainEvery {
			retained = time.Now()
			complain(l.keep(ctx))
		}
		select {
		case <-tick.C:
		case answer := <-l.ask:
			answer <- errors.Join(l.SealOnce(ctx), l.CheckpointOnce(ctx))
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := l.SealOnce(last); err != nil {
				l.cfg.Log.WarnContext(last, "entries of the audit log wait for the next start to be sealed", "error", err)
			}
			return nil
		}
	}
}

// Checkpoint seals what there is and has it signed now.
func (l *Log) Checkpoint(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case l.ask <- answer:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sealDue looks for unsealed entries, which costs one look at an index, and seals them if that is this process' chore, or if nobody did.
func (l *Log) sealDue(ctx context.Context) error {
	oldest, err := l.oldest(ctx)
	switch {
	case err != nil || oldest.IsZero():
		return err
	case time.Since(oldest) > sealLate:
		return l.SealOnce(ctx)
	default:
		return l.seal(ctx)
	}
}

// oldest is when the first unsealed entry was written; zero: there is none.
func (l *Log) oldest(ctx context.Context) (at time.Time, err error) {
	err = l.cfg.DB.ReadOne(ctx, func(tx *db.Tx) error {
		var text string
		err := tx.QueryRowContext(ctx, `SELECT created_at FROM audit_entry WHERE seq IS NULL ORDER BY id LIMIT 1`).Scan(&text)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err == nil {
			at, err = db.ParseTime(text)
		}
		return err
	})
	if err != nil {
		return at, fmt.Errorf("look for unsealed entries: %w", err)
	}
	return at, nil
}

// SealOnce seals all entries that are committed. Two processes that do it at once do it one after the other.
func (l *Log) SealOnce(ctx context.Context) error {
	for {
		var ids []int64
		err := l.cfg.DB.ReadOne(ctx, func(tx *db.Tx) (err error) { // outside of the transaction: nobody who writes an entry is in its way
			ids, err = db.Column[int64](ctx, tx, `SELECT id FROM audit_entry WHERE seq IS NULL ORDER BY id LIMIT ?`, sealAtOnce)
			return err
		})
		if err == nil && len(ids) > 0 {
			err = l.cfg.DB.Write(ctx, func(tx *db.Tx) error { return sealThese(ctx, tx, ids) })
		}
		if err != nil {
			return fmt.Errorf("seal: %w", err)
		}
		if len(ids) < sealAtOnce {
			return nil
		}
	}
}

// sealThese seals the entries among these that are still unsealed.
func sealThese(ctx context.Context, tx *db.Tx, ids []int64) error {
	var seq int64
	var said string
	if err := tx.QueryRowContext(ctx, `SELECT seq, hash FROM audit_chain WHERE id = 1`).Scan(&seq, &said); err != nil {
		return err
	}
	hash, err := ledger.ParseHash(said)
	if err != nil {
		return err
	}
	list, args := db.In(ids)
	entries, err := entries(ctx, tx, `WHERE id IN `+list+` AND seq IS NULL ORDER BY id`, args...)
	if err != nil || len(entries) == 0 {
		return err
	}
	rows := make([][]any, len(entries))
	for i := range entries {
		e := &entries[i]
		var salt [16]byte
		_, _ = rand.Read(salt[:]) // never fails, see crypto/rand
		seq++
		e.Salt = hex.EncodeToString(salt[:])
		hash = ledger.Next(hash, seq, ledger.Digest(&e.AuditEntry))
		rows[i] = []any{e.id, seq, e.Salt, hash.String()}
	}
	values, args := db.Values(`(CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS TEXT), CAST(? AS TEXT))`, rows)
	if _, err = tx.ExecContext(ctx, `WITH v (id, seq, salt, hash) AS (VALUES `+values+`)
		UPDATE audit_entry SET seq = v.seq, salt = v.salt, hash = v.hash FROM v WHERE audit_entry.id = v.id`, args...); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE audit_chain SET seq = ?, hash = ? WHERE id = 1`, seq, hash.String())
	return err
}

// entry is an entry as it stands in the database.
type entry struct {
	api.AuditEntry
	id   int64
	seen bool // whoever asks may read it
}

const columns = `id, coalesce(seq, 0), coalesce(salt, ''), coalesce(hash, ''), created_at, act, result, thing, thing_id, thing_name, organization,
	application, about_user, is_support, coalesce(detail, ''), by_kind, by_user, by_key, by_session, by_name, address, request`

// scan reads the columns.
func (e *entry) scan(row interface{ Scan(into ...any) error }, more ...any) error {
	return row.Scan(append([]any{&e.id, &e.Seq, &e.Salt, &e.Hash, &e.At, &e.Act, &e.Result, &e.Kind, &e.ThingID, &e.Name, &e.Organization,
		&e.Fleet, &e.User, &e.Support, &e.Detail, &e.ByKind, &e.ByUser, &e.ByKey, &e.BySession, &e.ByName, &e.Address, &e.Request}, more...)...)
}

func entries(ctx context.Context, tx *db.Tx, which string, args ...any) ([]entry, error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+columns+` FROM audit_entry `+which, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	var out []entry
	for rows.Next() {
		var e entry
		if err := e.scan(rows); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, rows.Err()
}
