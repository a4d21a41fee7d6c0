package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/ledger"
)

// exportAtOnce is how many entries are read in one transaction: a log of years must not hold one open.
const exportAtOnce = 1000

// View says which entries somebody may read: a condition over audit_entry, written for one transaction. Whoever may read all has none.
type View func(tx *db.Tx) (condition string, args []any)

// Export writes the log after an entry (0: from its beginning) as one line of JSON after the other: a header, each entry, or in place of
// one that the reader may not see its link, each checkpoint after the entry that it signs, and an end.
func Export(ctx context.Context, d *db.DB, to io.Writer, site string, after int64, view View) error {
	w := bufio.NewWriterSize(to, 64<<10)
	out := json.NewEncoder(w)
	header, err := exportHeader(ctx, d, site, after)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := out.Encode(api.AuditLine{Header: &header}); err != nil {
		return err
	}
	end := api.AuditEnd{Seq: header.After.Seq}
	for end.Seq < header.Last {
		page, signed, err := exportPage(ctx, d, end.Seq, header.Last, view)
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		if len(page) == 0 {
			break // what was there is gone, which whoever reads the export must see
		}
		for i := range page {
			e := &page[i]
			line := api.AuditLine{Entry: &e.AuditEntry}
			end.Entries++
			if !e.seen {
				line = api.AuditLine{Link: &api.AuditLink{Seq: e.Seq, Digest: ledger.Digest(&e.AuditEntry).String(), Hash: e.Hash}}
				end.Entries--
				end.Links++
			}
			if err := out.Encode(line); err != nil {
				return err
			}
			for len(signed) > 0 && signed[0].Seq <= e.Seq {
				if err := out.Encode(api.AuditLine{Checkpoint: &signed[0]}); err != nil {
					return err
				}
				signed = signed[1:]
			}
			end.Seq = e.Seq
		}
		for i := range signed { // of entries that are not there
			if err := out.Encode(api.AuditLine{Checkpoint: &signed[i]}); err != nil {
				return err
			}
		}
	}
	if err := out.Encode(api.AuditLine{End: &end}); err != nil {
		return err
	}
	return w.Flush()
}

func exportHeader(ctx context.Context, d *db.DB, site string, after int64) (h api.AuditHeader, err error) {
	err = d.Read(ctx, func(tx *db.Tx) (err error) {
		h = api.AuditHeader{Version: 1, Site: site, ExportedAt: tx.NowText()}
		if h.Keys, err = Keys(ctx, tx); err != nil {
			return err
		}
		err = tx.QueryRowContext(ctx, `SELECT first_seq, first_hash, seq FROM audit_chain WHERE id = 1`).Scan(&h.After.Seq, &h.After.Hash, &h.Last)
		if err != nil || after <= h.After.Seq {
			return err
		}
		if after > h.Last {
			return api.Errorf(api.Invalid, "after: the log ends with entry %d", h.Last)
		}
		h.After.Seq = after
		return tx.QueryRowContext(ctx, `SELECT hash FROM audit_entry WHERE seq = ?`, after).Scan(&h.After.Hash)
	})
	return h, err
}

// exportPage reads the next entries, up to one, and the checkpoints that sign them. The last page has those of entries that should be there.
func exportPage(ctx context.Context, d *db.DB, after, upTo int64, view View) (page []entry, signed []api.AuditCheckpoint, err error) {
	err = d.Read(ctx, func(tx *db.Tx) error {
		page = page[:0]
		condition, args := "TRUE", []any(nil)
		if view != nil {
			condition, args = view(tx)
		}
		rows, err := tx.QueryContext(ctx, `SELECT `+columns+`, CASE WHEN `+condition+` THEN 1 ELSE 0 END FROM audit_entry x
			WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?`, append(args, after, upTo, exportAtOnce)...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }() // Err tells what there is to tell
		for rows.Next() {
			var e entry
			if err := e.scan(rows, &e.seen); err != nil {
				return err
			}
			page = append(page, e)
		}
		if err := rows.Err(); err != nil || len(page) == 0 {
			return err
		}
		last := page[len(page)-1].Seq
		if len(page) < exportAtOnce {
			last = 1 << 62
		}
		signed, err = checkpoints(ctx, tx, after, last)
		return err
	})
	return page, signed, err
}
