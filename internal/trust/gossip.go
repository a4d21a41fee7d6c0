package trust

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const (
	maxWitnesses = 20   // of one checkpoint
	maxEvidence  = 1000 // checkpoints that do not fit; of more only the first are kept
)

// LogKey is the log's public key.
func (t *Trust) LogKey(ctx context.Context) (api.TrustLogKey, error) {
	t.logMu.Lock()
	defer t.logMu.Unlock()
	if t.logKey.Key != "" {
		return t.logKey, nil
	}
	var keys api.TrustFleetKeys
	if err := t.ask(ctx, "keys", api.TrustKeysAsk{Fleet: strings.Repeat("0", 32)}, &keys); err != nil {
		return api.TrustLogKey{}, err
	}
	t.logKey = keys.Log
	return t.logKey, nil
}

// signedLog is the log as it is signed.
func signedLog(ctx context.Context, tx *db.Tx) (size int64, checkpoint string, err error) {
	err = tx.QueryRowContext(ctx, `SELECT signed, checkpoint FROM trust_log WHERE id = 1`).Scan(&size, &checkpoint)
	if err != nil {
		return 0, "", fmt.Errorf("log: %w", err)
	}
	return size, checkpoint, witnessed(ctx, tx, size, &checkpoint)
}

// Checkpoint is the newest checkpoint.
func (t *Trust) Checkpoint(ctx context.Context) (out api.TrustCheckpoint, err error) {
	if out.Key, err = t.LogKey(ctx); err != nil {
		return out, err
	}
	err = t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
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
func (t *Trust) Leaves(ctx context.Context, tx *db.Tx, by access.Caller, start, end int64) ([]api.TrustLeaf, error) {
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
func (t *Trust) Inclusion(ctx context.Context, tx *db.Tx, index, size int64) (out api.TrustLogging, err error) {
	if err := within(ctx, tx, "size", size); err != nil {
		return out, err
	}
	out.Index = index
	out.Inclusion, err = tlog.ProveInclusion(size, index, hashes{ctx, tx})
	return out, err
}

// Consistency proves that the log of one size goes on from that of another.
func (t *Trust) Consistency(ctx context.Context, tx *db.Tx, from, to int64) (out api.TrustLogging, err error) {
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

// Proof proves the newest listing of a release, by the builder or the owner.
func (t *Trust) Proof(ctx context.Context, by access.Caller, name, commit, whose string, from int64) (*api.TrustLogging, error) {
	if whose != api.TrustBuilder && whose != api.TrustOwner || from < 0 || !commitForm.MatchString(commit) {
		return nil, api.Errorf(api.Invalid, "by: builder or owner; from: a size; and a commit")
	}
	var e api.TrustEntry
	err := t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		f, err := find(ctx, tx, by, name, 0)
		if err != nil {
			return err
		}
		d, err := readDocument(ctx, tx, `d.application = ? AND d."commit" = ?`, f.id, commit)
		if err != nil {
			return err
		}
		path, err := tuf.ReleasePath(commit)
		if err != nil || d == nil {
			return errors.Join(api.ErrNotFound, err)
		}
		role := tuf.BinRole(whose, path)
		files, err := readFiles(ctx, tx, f.id, ` AND f.role = ?`, role)
		if err != nil || files[role] == nil {
			return errors.Join(api.ErrNotFound, err)
		}
		bin, err := tuf.ReadBin(role, files[role].data)
		if err != nil {
			return err
		}
		l, ok := bin.Listed[path]
		if !ok {
			return api.ErrNotFound
		}
		e = d.entry(f.uuid, whose, l.Counter)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t.proofOf(ctx, e, from)
}

// Gossip takes a checkpoint that somebody believes. One that this log's key has signed, and that does not fit the log, is kept.
func (t *Trust) Gossip(ctx context.Context, by access.Caller, text string) error {
	key, err := t.LogKey(ctx)
	if err != nil {
		return err
	}
	c, _, err := tlog.Open(text, key)
	if err != nil {
		return api.Errorf(api.Invalid, "checkpoint: %v", err)
	}
	why, err := t.misfit(ctx, c)
	if err != nil || why == "" {
		return err
	}
	if err := t.keepEvidence(ctx, by, text, why); err != nil {
		return err
	}
	return api.Errorf(api.Conflict, "checkpoint: %s", why)
}

// misfit says how a checkpoint does not fit the log; "": it does.
func (t *Trust) misfit(ctx context.Context, c tlog.Checkpoint) (why string, err error) {
	fits := func() error {
		return t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
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
	if err := t.ask(ctx, "log", api.TrustExtension{}, &out); err != nil {
		return "", err
	}
	if whole, err := t.keepCheckpoint(ctx, out); err != nil {
		return "", err
	} else if !whole {
		if err := t.extendOnce(ctx); err != nil {
			return "", err
		}
	}
	return why, fits()
}

func (t *Trust) keepEvidence(ctx context.Context, by access.Caller, text, why string) error {
	t.cfg.Log.ErrorContext(ctx, "somebody believes another history of the transparency log", "by", by.Name, "why", why, "checkpoint", text)
	return t.cfg.DB.Write(ctx, func(tx *db.Tx) error {
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

// Cosign takes the signature of a witness under a checkpoint of this log.
func (t *Trust) Cosign(ctx context.Context, by access.Caller, ask api.TrustCosignature) error {
	witness, err := tlog.ParseWitness(ask.Witness)
	if err != nil {
		return api.Errorf(api.Invalid, "witness: %v", err)
	}
	key, err := t.LogKey(ctx)
	if err != nil {
		return err
	}
	c, cosigned, err := tlog.Open(ask.Checkpoint, key, witness)
	if err != nil {
		return api.Errorf(api.Invalid, "checkpoint: %v", err)
	}
	if len(cosigned) != 1 {
		return api.Errorf(api.Invalid, "checkpoint: the witness has not signed it")
	}
	if err := t.Gossip(ctx, by, ask.Checkpoint); err != nil {
		return err
	}
	line := ""
	for l := range strings.Lines(ask.Checkpoint) {
		if strings.HasPrefix(l, "\u2014 "+witness.Name()+" ") {
			line = strings.TrimSuffix(l, "\n")
		}
	}
	return t.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var many int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM trust_cosignature WHERE size = ?`, c.Size).Scan(&many); err != nil {
			return fmt.Errorf("cosignature: %w", err)
		}
		if many >= maxWitnesses {
			return api.Errorf(api.TooLarge, "witness: a checkpoint takes %d", maxWitnesses)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO trust_cosignature (created_at, size, name, line) VALUES (?, ?, ?, ?)
			ON CONFLICT (size, name) DO UPDATE SET line = excluded.line`, tx.NowText(), c.Size, ask.Witness, line)
		if err != nil {
			return fmt.Errorf("cosignature: %w", err)
		}
		return nil
	})
}
