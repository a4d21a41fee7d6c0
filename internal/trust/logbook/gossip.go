package logbook

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const maxEvidence = 1000 // checkpoints that do not fit; of more only the first are kept

// Gossip takes a checkpoint that somebody believes. One that this log's key has signed, and that does not fit the log, is kept.
func (b *Book) Gossip(ctx context.Context, by access.Caller, text string) error {
	key, err := b.Key(ctx)
	if err != nil {
		return err
	}
	c, _, err := tlog.Open(text, key)
	if err != nil {
		return api.Errorf(api.Invalid, "checkpoint: %v", err)
	}
	why, err := b.misfit(ctx, c)
	if err != nil || why == "" {
		return err
	}
	if err := b.keepEvidence(ctx, by, text, why); err != nil {
		return err
	}
	return api.Errorf(api.Conflict, "checkpoint: %s", why)
}

// misfit says how a checkpoint does not fit the log; "": it does.
func (b *Book) misfit(ctx context.Context, c tlog.Checkpoint) (why string, err error) {
	fits := func() error {
		return b.cfg.DB.Read(ctx, func(tx *db.Tx) error {
			size, _, err := signedLog(ctx, tx)
			if err != nil {
				return err
			}
			if why = ""; c.Size > size {
				why = fmt.Sprintf("the log has %d leaves, the checkpoint is about %d", size, c.Size)
				return nil
			}
			root, err := tlog.Root(c.Size, hashes{ctx, tx})
			if err == nil && root != c.Root {
				why = fmt.Sprintf("of %d leaves the log's root is %s, the checkpoint's %s", c.Size, root, c.Root)
			}
			return err
		})
	}
	if err = fits(); err != nil || why == "" {
		return why, err
	}
	// This database may be an older copy, and know less than what was signed.
	var out api.TrustExtended
	if err := b.ask(ctx, "log", api.TrustExtension{}, &out); err != nil {
		return "", err
	}
	if whole, err := b.keepCheckpoint(ctx, out); err != nil {
		return "", err
	} else if !whole {
		if err := b.extendOnce(ctx); err != nil {
			return "", err
		}
	}
	return why, fits()
}

func (b *Book) keepEvidence(ctx context.Context, by access.Caller, text, why string) error {
	b.cfg.Log.ErrorContext(ctx, "somebody believes another history of the transparency log", "by", by.Name, "why", why, "checkpoint", text)
	return b.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var kept int64
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM trust_evidence`).Scan(&kept); err != nil || kept >= maxEvidence {
			return err
		}
		var id any
		if by.Device != 0 {
			id = by.Device
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO trust_evidence (created_at, device, checkpoint, why, sha256) VALUES (?, ?, ?, ?, ?) ON CONFLICT (sha256) DO NOTHING`,
			tx.NowText(), id, text, why, tuf.Digest([]byte(text)))
		if err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		e := audit.Entry{Act: "trust.fork", Kind: "server", Detail: map[string]any{"why": why}}
		if by.Device != 0 {
			e.Kind, e.ID, e.Fleet = "device", by.Device, by.Fleet
			if err := tx.QueryRowContext(ctx, `SELECT uuid FROM device WHERE id = ?`, by.Device).Scan(&e.Name); err != nil {
				return fmt.Errorf("evidence: %w", err)
			}
			if err := tx.QueryRowContext(ctx, `SELECT organization FROM application WHERE id = ?`, by.Fleet).Scan(&e.Organization); err != nil {
				return fmt.Errorf("evidence: %w", err)
			}
		}
		return audit.Record(ctx, tx, by, e)
	})
}
