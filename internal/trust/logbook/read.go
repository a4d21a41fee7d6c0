package logbook

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tlog"
)

// signedLog is the log as it is signed.
func signedLog(ctx context.Context, tx *db.Tx) (size int64, checkpoint string, err error) {
	err = tx.QueryRowContext(ctx, `SELECT signed, checkpoint FROM trust_log WHERE id = 1`).Scan(&size, &checkpoint)
	if err != nil {
		return 0, "", fmt.Errorf("log: %w", err)
	}
	return size, checkpoint, witnessed(ctx, tx, size, &checkpoint)
}

// Checkpoint is the newest checkpoint.
func (b *Book) Checkpoint(ctx context.Context) (out api.TrustCheckpoint, err error) {
	if out.Key, err = b.Key(ctx); err != nil {
		return out, err
	}
	err = b.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		var size int64
		if size, out.Checkpoint, err = signedLog(ctx, tx); err != nil {
			return err
		}
		if size == 0 {
			return api.Errorf(api.NotFound, "The log is empty.")
		}
		out.Witnesses, err = db.Column[string](ctx, tx, `SELECT name FROM trust_cosignature WHERE size = ? ORDER BY name`, size)
		return err
	})
	return out, err
}

// Leaves gives some leaves of the log, from start to before end. Of fleets that the caller may not read there is only the hash.
func (b *Book) Leaves(ctx context.Context, tx *db.Tx, by access.Caller, start, end int64) ([]api.TrustLeaf, error) {
	if start < 0 || end < start || end-start > api.MaxTrustEntries {
		return nil, api.Errorf(api.Invalid, "start, end: a range of at most %d leaves", api.MaxTrustEntries)
	}
	rows, err := tx.QueryContext(ctx, `SELECT number, hash, fleet, created_at, entry FROM trust_leaf WHERE number >= ? AND number < ?
		AND number < (SELECT signed FROM trust_log WHERE id = 1) ORDER BY number`, start, end)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	list := []api.TrustLeaf{}
	var fleets, added []string
	for rows.Next() {
		var l api.TrustLeaf
		var fleet, at string
		var entry sql.NullString
		if err := rows.Scan(&l.Index, &l.Hash, &fleet, &at, &entry); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		if entry.Valid {
			l.Entry = []byte(entry.String)
		}
		list, fleets, added = append(list, l), append(fleets, fleet), append(added, at)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	seen := map[string]string{}
	for i := range list {
		since, known := seen[fleets[i]]
		if !known {
			if since, err = reads(ctx, tx, by, fleets[i]); err != nil {
				return nil, err
			}
			seen[fleets[i]] = since
		}
		if since == "" || added[i] < since {
			list[i].Entry = nil
		}
	}
	return list, nil
}

// reads says since when a caller reads a fleet; "": not at all. Who makes a fleet may give it the uuid of one that was deleted, whose entries are
// none of theirs.
func reads(ctx context.Context, tx *db.Tx, by access.Caller, uuid string) (since string, err error) {
	var id int64
	err = tx.QueryRowContext(ctx, `SELECT id, created_at FROM application WHERE uuid = ?`, uuid).Scan(&id, &since)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("log: %w", err)
	}
	may, err := rights.FleetVerbs(ctx, tx, by, id)
	if err != nil || !may.Has(access.Read) {
		return "", err
	}
	return since, nil
}

// Inclusion proves that a leaf is in the log of some size.
func (b *Book) Inclusion(ctx context.Context, tx *db.Tx, index, size int64) (out api.TrustLogging, err error) {
	if err := within(ctx, tx, "size", size); err != nil {
		return out, err
	}
	out.Index = index
	out.Inclusion, err = tlog.ProveInclusion(size, index, hashes{ctx, tx})
	return out, err
}

// Consistency proves that the log of one size goes on from that of another.
func (b *Book) Consistency(ctx context.Context, tx *db.Tx, from, to int64) (out api.TrustLogging, err error) {
	if err := within(ctx, tx, "to", to); err != nil {
		return out, err
	}
	out.Inclusion = [][]byte{}
	out.Consistency, err = tlog.ProveConsistency(from, to, hashes{ctx, tx})
	return out, err
}

func within(ctx context.Context, tx *db.Tx, field string, size int64) error {
	signed, _, err := signedLog(ctx, tx)
	if err == nil && (size < 0 || size > signed) {
		err = api.Errorf(api.Invalid, "%s: the log has %d signed leaves", field, signed)
	}
	return err
}
