package logbook

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// hashes reads stored hashes of the tree, in a transaction.
type hashes struct {
	ctx context.Context //nolint:containedctx // of the transaction
	tx  *db.Tx
}

// ReadHashes gives some of them.
func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make(map[int64]tlog.Hash, len(indexes))
	for part := range slices.Chunk(indexes, 200) {
		in, args := db.In(part)
		rows, err := h.tx.QueryContext(h.ctx, `SELECT number, hash FROM trust_hash WHERE number IN `+in, args...)
		if err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
		for rows.Next() {
			var n int64
			var text string
			if err := rows.Scan(&n, &text); err != nil {
				return nil, errors.Join(err, rows.Close())
			}
			if found[n], err = parseHash(text); err != nil {
				return nil, errors.Join(err, rows.Close())
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
	}
	list := make([]tlog.Hash, len(indexes))
	for i, n := range indexes {
		hash, ok := found[n]
		if !ok {
			return nil, fmt.Errorf("log: hash %d is missing", n)
		}
		list[i] = hash
	}
	return list, nil
}

func parseHash(text string) (h tlog.Hash, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != tlog.HashSize {
		return h, fmt.Errorf("log: %.70q is no hash", text)
	}
	copy(h[:], raw)
	return h, nil
}

// leaf is one entry with the bytes that are hashed; nil: only the hash is known.
type leaf struct {
	hash        tlog.Hash
	fleet, name string
	entry       []byte
}

func leafOf(e api.TrustEntry) (leaf, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return leaf{}, err
	}
	return leaf{hash: tlog.RecordHash(data), fleet: e.Fleet, name: e.Name, entry: data}, nil
}

// logSize counts the leaves, and keeps others from adding some until the transaction ends.
func logSize(ctx context.Context, tx *db.Tx) (size int64, err error) {
	if _, err := tx.ExecContext(ctx, `UPDATE trust_log SET serial = serial + 1 WHERE id = 1`); err != nil {
		return 0, fmt.Errorf("log: %w", err)
	}
	return leaves(ctx, tx)
}

func leaves(ctx context.Context, tx *db.Tx) (n int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT coalesce(max(number) + 1, 0) FROM trust_leaf`).Scan(&n)
	if err != nil {
		err = fmt.Errorf("log: %w", err)
	}
	return n, err
}

// Append adds entries to the log. The same entry is there once. Who added some has them signed after the transaction: Extend.
func Append(ctx context.Context, tx *db.Tx, entries []api.TrustEntry) error {
	if len(entries) == 0 {
		return nil
	}
	size, err := logSize(ctx, tx)
	if err != nil {
		return err
	}
	for _, e := range entries {
		l, err := leafOf(e)
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		var at int64
		err = tx.QueryRowContext(ctx, `SELECT number FROM trust_leaf WHERE hash = ? LIMIT 1`, hex.EncodeToString(l.hash[:])).Scan(&at)
		if err == nil {
			continue
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("log: %w", err)
		}
		if err := addLeaf(ctx, tx, size, l); err != nil {
			return err
		}
		size++
	}
	return nil
}

// addLeaf adds one at the end.
func addLeaf(ctx context.Context, tx *db.Tx, number int64, l leaf) error {
	stored, err := tlog.StoredHashesForRecordHash(number, l.hash, hashes{ctx, tx})
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	var entry any
	if l.entry != nil {
		entry = string(l.entry)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO trust_leaf (number, created_at, hash, fleet, name, entry) VALUES (?, ?, ?, ?, ?, ?)`,
		number, tx.NowText(), hex.EncodeToString(l.hash[:]), l.fleet, l.name, entry); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	at := tlog.StoredHashIndex(0, number)
	var args []any
	for i, h := range stored {
		args = append(args, at+int64(i), hex.EncodeToString(h[:]))
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO trust_hash (number, hash) VALUES `+db.Rows(`(?, ?)`, len(stored)), args...); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}

// readLeaves gives the hashes of some leaves in order.
func readLeaves(ctx context.Context, tx *db.Tx, from int64, limit int) ([]string, error) {
	return db.Column[string](ctx, tx, `SELECT hash FROM trust_leaf WHERE number >= ? ORDER BY number LIMIT ?`, from, limit)
}

// Extend has the signer sign the leaves that were added.
func (b *Book) Extend(ctx context.Context) error {
	for {
		var ask api.TrustExtension
		var more bool
		err := b.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
			ask = api.TrustExtension{}
			if err := tx.QueryRowContext(ctx, `SELECT signed FROM trust_log WHERE id = 1`).Scan(&ask.Size); err != nil {
				return err
			}
			ask.Leaves, err = readLeaves(ctx, tx, ask.Size, api.MaxTrustLeaves)
			more = len(ask.Leaves) == api.MaxTrustLeaves
			return err
		})
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		if len(ask.Leaves) == 0 {
			return nil
		}
		var out api.TrustExtended
		err = b.ask(ctx, "log", ask, &out)
		if errors.Is(err, api.ErrConflict) { // the signer has signed others: this database is an older copy of the one that it signed for
			if err := b.recoverLog(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		if whole, err := b.keepCheckpoint(ctx, out); err != nil || whole && !more {
			return err
		}
	}
}

// keepCheckpoint stores what the signer said, as far as this database has the leaves; false: it lacks some.
func (b *Book) keepCheckpoint(ctx context.Context, out api.TrustExtended) (whole bool, err error) {
	err = b.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		whole = true
		size, err := leaves(ctx, tx)
		if err != nil {
			return err
		}
		if size < out.Size {
			whole = false
			return nil
		}
		_, err = tx.ExecContext(ctx, `UPDATE trust_log SET signed = ?, checkpoint = ? WHERE id = 1 AND signed < ?`, out.Size, out.Checkpoint, out.Size)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("log: %w", err)
	}
	if !whole {
		return false, b.recoverLog(ctx)
	}
	return true, nil
}

// recoverLog takes over the leaves that the signer has signed and this database does not have: it is an older copy. What was added to it
// since stands behind them. Of a leaf that got lost only the hash is known.
func (b *Book) recoverLog(ctx context.Context) error {
	var signed int64
	if err := b.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT signed FROM trust_log WHERE id = 1`).Scan(&signed)
	}); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	var theirs []tlog.Hash
	var now api.TrustExtended
	if err := b.ask(ctx, "log", api.TrustExtension{}, &now); err != nil {
		return fmt.Errorf("recover the log: %w", err)
	}
	fresh := now.Size < signed
	for from := signed; !fresh; {
		var out api.TrustLeaves
		if err := b.ask(ctx, "log-leaves", api.TrustLeavesAsk{From: from}, &out); err != nil {
			return fmt.Errorf("recover the log: %w", err)
		}
		for _, text := range out.Leaves {
			h, err := parseHash(text)
			if err != nil {
				return err
			}
			theirs = append(theirs, h)
		}
		if from += int64(len(out.Leaves)); from >= out.Size || len(out.Leaves) == 0 {
			break
		}
	}
	return b.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if fresh { // the signer has another log now, which takes all leaves again
			_, err := tx.ExecContext(ctx, `UPDATE trust_log SET signed = 0, checkpoint = '' WHERE id = 1 AND signed = ?`, signed)
			return err
		}
		return replaceLeaves(ctx, tx, signed, theirs)
	})
}

// replaceLeaves puts the signer's leaves in the place of ours, from a number on, and ours behind them.
func replaceLeaves(ctx context.Context, tx *db.Tx, from int64, theirs []tlog.Hash) error {
	size, err := logSize(ctx, tx)
	if err != nil {
		return err
	}
	ours, err := leavesFrom(ctx, tx, from)
	if err != nil {
		return err
	}
	same := 0
	for same < len(ours) && same < len(theirs) && ours[same].hash == theirs[same] {
		same++
	}
	if same == len(theirs) || from > size {
		return nil // somebody else has done it
	}
	from += int64(same)
	ours, theirs = ours[same:], theirs[same:]
	if _, err := tx.ExecContext(ctx, `DELETE FROM trust_leaf WHERE number >= ?`, from); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM trust_hash WHERE number >= ?`, tlog.StoredHashIndex(0, from)); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	known := map[tlog.Hash]leaf{}
	for _, l := range ours {
		known[l.hash] = l
	}
	for _, h := range theirs {
		l, ok := known[h]
		if !ok {
			l = leaf{hash: h}
		}
		delete(known, h)
		if err := addLeaf(ctx, tx, from, l); err != nil {
			return err
		}
		from++
	}
	for _, l := range ours {
		if _, ok := known[l.hash]; !ok {
			continue
		}
		if err := addLeaf(ctx, tx, from, l); err != nil {
			return err
		}
		from++
	}
	return nil
}

func leavesFrom(ctx context.Context, tx *db.Tx, from int64) ([]leaf, error) {
	rows, err := tx.QueryContext(ctx, `SELECT hash, fleet, name, entry FROM trust_leaf WHERE number >= ? ORDER BY number`, from)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var list []leaf
	for rows.Next() {
		var l leaf
		var hash string
		var entry sql.NullString
		if err := rows.Scan(&hash, &l.fleet, &l.name, &entry); err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
		if l.hash, err = parseHash(hash); err != nil {
			return nil, err
		}
		if entry.Valid {
			l.entry = []byte(entry.String)
		}
		list = append(list, l)
	}
	return list, rows.Err()
}

// proof proves that an entry stands in the log as it is signed, and that the log is the one of a size that was believed before.
func proof(ctx context.Context, tx *db.Tx, e api.TrustEntry, from int64) (*api.TrustLogging, error) {
	l, err := leafOf(e)
	if err != nil {
		return nil, err
	}
	out := &api.TrustLogging{Entry: l.entry}
	var signed int64
	err = tx.QueryRowContext(ctx, `SELECT signed, checkpoint FROM trust_log WHERE id = 1`).Scan(&signed, &out.Checkpoint)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	err = tx.QueryRowContext(ctx, `SELECT number FROM trust_leaf WHERE hash = ? ORDER BY number LIMIT 1`, hex.EncodeToString(l.hash[:])).Scan(&out.Index)
	if errors.Is(err, sql.ErrNoRows) || err == nil && out.Index >= signed {
		return nil, api.Errorf(api.NotFound, "the log does not have it, or not signed yet")
	}
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	included, err := tlog.ProveRecord(signed, out.Index, hashes{ctx, tx})
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	out.Inclusion = bytesOf(included)
	out.Consistency, err = consistency(ctx, tx, from, signed)
	if err != nil {
		return nil, err
	}
	return out, witnessed(ctx, tx, signed, &out.Checkpoint)
}

func consistency(ctx context.Context, tx *db.Tx, from, to int64) ([][]byte, error) {
	if from <= 0 || from >= to {
		return nil, nil
	}
	p, err := tlog.ProveTree(to, from, hashes{ctx, tx})
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return bytesOf(p), nil
}

func bytesOf(list []tlog.Hash) [][]byte {
	out := make([][]byte, len(list))
	for i, h := range list {
		out[i] = slices.Clone(h[:])
	}
	return out
}

// witnessed adds the signatures of witnesses to a checkpoint.
func witnessed(ctx context.Context, tx *db.Tx, size int64, checkpoint *string) error {
	lines, err := db.Column[string](ctx, tx, `SELECT line FROM trust_cosignature WHERE size = ? ORDER BY name`, size)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	for _, line := range lines {
		*checkpoint += line + "\n"
	}
	return nil
}
