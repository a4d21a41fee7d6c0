package logbook

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tlog"
)

// Everybody may witness the log, and nobody may keep others from it: a user brings a few witnesses, a checkpoint takes those that the server has known for
// longest, and the operator may remove one.
const (
	maxWitnesses   = 20   // of one checkpoint
	maxBrought     = 2    // by one user, those that were removed among them
	maxKnown       = 5000 // by all
	maxWitnessText = 300  // bytes of a name
)

// Cosign takes the signature of a witness under a checkpoint of this log.
func (b *Book) Cosign(ctx context.Context, by access.Caller, ask api.TrustCosignature) error {
	if len(ask.Witness) > maxWitnessText {
		return api.Errorf(api.TooLarge, "witness: at most %d bytes", maxWitnessText)
	}
	witness, err := tlog.ParseWitness(ask.Witness)
	if err != nil {
		return api.Errorf(api.Invalid, "witness: %v", err)
	}
	key, err := b.Key(ctx)
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
	if err := b.Gossip(ctx, by, ask.Checkpoint); err != nil {
		return err
	}
	line := ""
	for l := range strings.Lines(ask.Checkpoint) {
		if strings.HasPrefix(l, "\u2014 "+witness.Name()+" ") {
			line = strings.TrimSuffix(l, "\n")
		}
	}
	return b.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		id, err := known(ctx, tx, by, ask.Witness)
		if err != nil {
			return err
		}
		if err := room(ctx, tx, c.Size, id, ask.Witness); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO trust_cosignature (created_at, size, name, line) VALUES (?, ?, ?, ?)
			ON CONFLICT (size, name) DO UPDATE SET line = excluded.line`, tx.NowText(), c.Size, ask.Witness, line)
		if err != nil {
			return fmt.Errorf("cosignature: %w", err)
		}
		return nil
	})
}

// known finds a witness, or makes it known: as one of the few that a user may bring.
func known(ctx context.Context, tx *db.Tx, by access.Caller, name string) (id int64, err error) {
	var removed sql.NullString
	err = tx.QueryRowContext(ctx, `SELECT id, removed_at FROM trust_witness WHERE name = ?`, name).Scan(&id, &removed)
	switch {
	case err == nil && removed.Valid:
		return 0, api.Errorf(api.Forbidden, "witness: the operator of this server has removed it")
	case err == nil:
		return id, nil
	case !errors.Is(err, sql.ErrNoRows):
		return 0, fmt.Errorf("cosignature: %w", err)
	}
	own, err := db.Column[string](ctx, tx, `SELECT name FROM trust_witness WHERE brought_by = ? ORDER BY id LIMIT ?`, by.User, maxBrought)
	if err != nil {
		return 0, fmt.Errorf("cosignature: %w", err)
	}
	if len(own) >= maxBrought {
		return 0, api.Errorf(api.TooLarge, "witness: a user brings %d at most, and you have brought %s; the operator removes one", maxBrought, strings.Join(own, ", "))
	}
	var all int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM trust_witness`).Scan(&all); err != nil {
		return 0, fmt.Errorf("cosignature: %w", err)
	}
	if all >= maxKnown {
		return 0, api.Errorf(api.TooLarge, "witness: this server knows %d; the operator removes some", maxKnown)
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO trust_witness (created_at, name, brought_by) VALUES (?, ?, ?) RETURNING id`, tx.NowText(), name, by.User).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("cosignature: %w", err)
	}
	return id, audit.Record(ctx, tx, by, audit.Entry{Act: "trust.witness.add", Kind: "server", Name: name})
}

// room makes room under a checkpoint for a witness: where there is none, the one goes that is known for the shortest time.
func room(ctx context.Context, tx *db.Tx, size, id int64, name string) error {
	var many int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM trust_cosignature WHERE size = ? AND name <> ?`, size, name).Scan(&many); err != nil {
		return fmt.Errorf("cosignature: %w", err)
	}
	if many < maxWitnesses {
		return nil
	}
	var youngest, place int64
	err := tx.QueryRowContext(ctx, `SELECT w.id, c.id FROM trust_cosignature c JOIN trust_witness w ON w.name = c.name WHERE c.size = ? ORDER BY w.id DESC LIMIT 1`, size).Scan(&youngest, &place)
	if err != nil {
		return fmt.Errorf("cosignature: %w", err)
	}
	if youngest <= id {
		return api.Errorf(api.TooLarge, "witness: a checkpoint takes %d, and there are as many that this server has known for longer; the operator removes one", maxWitnesses)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM trust_cosignature WHERE id = ?`, place); err != nil {
		return fmt.Errorf("cosignature: %w", err)
	}
	return nil
}

// Witnesses lists all that the server knows, for its operator.
func (b *Book) Witnesses(ctx context.Context, tx *db.Tx) ([]api.TrustWitness, error) {
	rows, err := tx.QueryContext(ctx, `SELECT w.name, coalesce(u.username, ''), w.created_at, coalesce(w.removed_at, ''), (SELECT coalesce(max(c.size), 0) FROM trust_cosignature c WHERE c.name = w.name)
		FROM trust_witness w LEFT JOIN "user" u ON u.id = w.brought_by ORDER BY w.id`)
	if err != nil {
		return nil, fmt.Errorf("witnesses: %w", err)
	}
	defer func() { _ = rows.Close() }()
	list := []api.TrustWitness{}
	for rows.Next() {
		var w api.TrustWitness
		if err := rows.Scan(&w.Name, &w.By, &w.Since, &w.Removed, &w.Signed); err != nil {
			return nil, fmt.Errorf("witnesses: %w", err)
		}
		list = append(list, w)
	}
	return list, rows.Err()
}

// RemoveWitness takes a witness and its signatures away, for the operator: by its whole name, or what stands before its first "+". It does not come back.
func (b *Book) RemoveWitness(ctx context.Context, tx *db.Tx, by access.Caller, name string) (whole string, err error) {
	names, err := db.Column[string](ctx, tx, `SELECT name FROM trust_witness WHERE removed_at IS NULL AND (name = ? OR name >= ? AND name < ?) ORDER BY id LIMIT 2`, name, name+"+", name+",")
	switch {
	case err != nil:
		return "", fmt.Errorf("remove a witness: %w", err)
	case len(names) == 0:
		return "", api.Errorf(api.NotFound, "there is no witness %.80q", name)
	case len(names) > 1:
		return "", api.Errorf(api.Conflict, "there are several witnesses %.80q; name one whole, as the list does", name)
	}
	if _, err := tx.ExecContext(ctx, `UPDATE trust_witness SET removed_at = ? WHERE name = ?`, tx.NowText(), names[0]); err != nil {
		return "", fmt.Errorf("remove a witness: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM trust_cosignature WHERE name = ?`, names[0]); err != nil {
		return "", fmt.Errorf("remove a witness: %w", err)
	}
	return names[0], audit.Record(ctx, tx, by, audit.Entry{Act: "trust.witness.remove", Kind: "server", Name: names[0]})
}
