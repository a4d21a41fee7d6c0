package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/ledger"
)

// due reports whether it is time for a checkpoint: there is something to sign, and either the last one is some time ago or much came since.
func (l *Log) due(ctx context.Context, since time.Duration) (due bool, err error) {
	if l.cfg.Sign == nil {
		return false, nil
	}
	var head, signed int64
	err = l.cfg.DB.ReadOne(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT seq, coalesce((SELECT max(seq) FROM audit_checkpoint), 0) FROM audit_chain WHERE id = 1`).
			Scan(&head, &signed)
	})
	if err != nil {
		return false, fmt.Errorf("look for unsigned entries: %w", err)
	}
	return head > signed && (since >= signEvery || head-signed >= signAfter && since >= signPause), nil
}

// CheckpointOnce has the chain signed up to its end.
func (l *Log) CheckpointOnce(ctx context.Context) error {
	if l.cfg.Sign == nil {
		return nil
	}
	for {
		ext, more, err := l.extension(ctx)
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		if len(ext.Digests) == 0 {
			return nil
		}
		signed, err := l.cfg.Sign(ctx, ext)
		if err != nil {
			return fmt.Errorf("checkpoint after entry %d: %w", ext.After.Seq, err)
		}
		if err := l.keepCheckpoint(ctx, signed); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		if !more && signed.Checkpoint.Seq >= ext.After.Seq+int64(len(ext.Digests)) {
			return nil
		}
		if signed.Checkpoint.Seq <= ext.After.Seq {
			return fmt.Errorf("checkpoint: the signer does not go on after entry %d", signed.Checkpoint.Seq)
		}
	}
}

// extension is what the signer needs to go on from the last checkpoint.
func (l *Log) extension(ctx context.Context) (ext api.AuditExtension, more bool, err error) {
	err = l.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		ext = api.AuditExtension{}
		err := tx.QueryRowContext(ctx, `SELECT seq, hash FROM audit_checkpoint ORDER BY seq DESC LIMIT 1`).Scan(&ext.After.Seq, &ext.After.Hash)
		if errors.Is(err, sql.ErrNoRows) { // the first one goes over the whole chain
			err = tx.QueryRowContext(ctx, `SELECT first_seq, first_hash FROM audit_chain WHERE id = 1`).Scan(&ext.After.Seq, &ext.After.Hash)
		}
		if err != nil {
			return err
		}
		list, err := entries(ctx, tx, `WHERE seq > ? ORDER BY seq LIMIT ?`, ext.After.Seq, api.MaxAuditDigests)
		for i := range list {
			ext.Digests = append(ext.Digests, ledger.Digest(&list[i].AuditEntry).String())
		}
		more = len(list) == api.MaxAuditDigests
		return err
	})
	return ext, more, err
}

// keepCheckpoint stores what the signer said.
func (l *Log) keepCheckpoint(ctx context.Context, s api.AuditSigned) error {
	c := s.Checkpoint
	return l.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var hash string
		err := tx.QueryRowContext(ctx, `SELECT hash FROM audit_entry WHERE seq = ?`, c.Seq).Scan(&hash)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("the signer has signed entry %d, which this database does not have: it is an older copy of the log", c.Seq)
		case err != nil:
			return err
		case hash != c.Hash:
			return fmt.Errorf("the signer has signed another entry %d than the one in this database: the log was changed", c.Seq)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO audit_signer (id, created_at, public_key) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING`,
			s.Key.ID, tx.NowText(), s.Key.Public); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO audit_checkpoint (seq, site, hash, signed_at, signed_by, signature) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (seq) DO NOTHING`, c.Seq, c.Site, c.Hash, c.At, c.Key, c.Signature)
		return err
	})
}

// Keys are the public keys that checkpoints were signed with.
func Keys(ctx context.Context, tx *db.Tx) ([]api.AuditKey, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, public_key FROM audit_signer ORDER BY created_at, id`)
	if err != nil {
		return nil, fmt.Errorf("audit keys: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	keys := []api.AuditKey{}
	for rows.Next() {
		var k api.AuditKey
		if err := rows.Scan(&k.ID, &k.Public); err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, rows.Err()
}

// checkpoints are those after an entry, up to another.
func checkpoints(ctx context.Context, tx *db.Tx, after, upTo int64) ([]api.AuditCheckpoint, error) {
	rows, err := tx.QueryContext(ctx, `SELECT site, seq, hash, signed_at, signed_by, signature FROM audit_checkpoint
		WHERE seq > ? AND seq <= ? ORDER BY seq`, after, upTo)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	var out []api.AuditCheckpoint
	for rows.Next() {
		var c api.AuditCheckpoint
		if err := rows.Scan(&c.Site, &c.Seq, &c.Hash, &c.At, &c.Key, &c.Signature); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, rows.Err()
}

// RetainOnce removes the entries whose time is over, from the beginning of the chain up to the last checkpoint that covers only such ones.
// The chain then begins after that checkpoint, and what is left is verified from there. The removal is an entry itself.
func (l *Log) RetainOnce(ctx context.Context) error {
	if l.cfg.Keep <= 0 {
		return nil
	}
	for {
		var removed int64
		err := l.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
			removed, err = retain(ctx, tx, db.FormatTime(tx.Now.Add(-l.cfg.Keep)))
			return err
		})
		if err != nil {
			return fmt.Errorf("remove old entries: %w", err)
		}
		if removed == 0 {
			return nil
		}
	}
}

// retain removes some entries older than a time.
func retain(ctx context.Context, tx *db.Tx, before string) (removed int64, err error) {
	var first int64
	if err := tx.QueryRowContext(ctx, `SELECT first_seq FROM audit_chain WHERE id = 1`).Scan(&first); err != nil {
		return 0, err
	}
	// The first entry to stay; it is looked for among a bounded number, so that one transaction does not remove a year.
	var stays sql.NullInt64
	if err := tx.QueryRowContext(ctx, `SELECT min(seq) FROM audit_entry WHERE seq > ? AND seq <= ? AND created_at >= ?`,
		first, first+10*removeAtOnce, before).Scan(&stays); err != nil {
		return 0, err
	}
	upTo := first + 10*removeAtOnce
	if stays.Valid {
		upTo = stays.Int64 - 1
	}
	var seq int64
	var hash string
	err = tx.QueryRowContext(ctx, `SELECT seq, hash FROM audit_checkpoint WHERE seq > ? AND seq <= ? ORDER BY seq DESC LIMIT 1`, first, upTo).
		Scan(&seq, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var stored string // the checkpoint's hash is the anchor, but never of a chain that is not the one signed
	if err := tx.QueryRowContext(ctx, `SELECT hash FROM audit_entry WHERE seq = ?`, seq).Scan(&stored); err != nil || stored != hash {
		return 0, errors.Join(err, fmt.Errorf("entry %d is not the one that was signed: nothing is removed from a log that was changed", seq))
	}
	if _, err := tx.ExecContext(ctx, `UPDATE audit_chain SET first_seq = ?, first_hash = ? WHERE id = 1`, seq, hash); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM audit_entry WHERE seq <= ?`, seq); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM audit_checkpoint WHERE seq < ?`, seq); err != nil {
		return 0, err
	}
	return seq - first, Record(ctx, tx, access.Itself(), Entry{Act: ledger.ActRemove, Kind: "audit_entry", ID: seq,
		Detail: map[string]any{"from": first + 1, "to": seq, "older_than": before}})
}
