// Package audit owns the record of security-relevant acts: who did what to which thing, from where, and what came of it. An entry is
// written in the transaction of its act, so that an act that cannot be recorded does not happen.
//
// Entries are then sealed into a chain, which the signer signs from time to time: see [Log] and package ledger.
//
// Entries name things by number and by name and refer to no row: what they tell of may be gone when they are read.
package audit

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbered 0084 to 0089 and 0140; see [db.DB.Migrate].
func Migrations() fs.FS {
	return db.Folder(migrations)
}

// Result is what came of an act.
type Result string

// The results.
const (
	Done    Result = "done"
	Refused Result = "refused" // who asked may not, or did not prove who they are
)

// Entry is one act.
type Entry struct {
	Act    string // what was done, a noun and a verb: "session.open", "key.create", "device.delete"
	Result Result // "" means Done

	Kind string // of the thing: "user", "api_key", "device", …; resources by their name on the wire
	ID   int64  // its id; 0 when it has none
	Name string // as people know it: a user name, a slug, a uuid

	Organization int64 // whose administrators may read of it; 0: nobody's
	Fleet        int64 // whose administrators may read of it, too; 0: none
	User         int64 // whom it is about, who may read of it; 0: nobody
	Support      bool  // it was done under a support grant

	Detail map[string]any // more, by name; never a secret
}

const (
	maxText   = 500      // bytes of one text that came from outside
	maxDetail = 16 << 10 // bytes of all details of one entry
)

// Record writes an entry in the transaction of its act. by is who did it; its address and request say from where.
func Record(ctx context.Context, tx *db.Tx, by access.Caller, e Entry) error {
	return RecordAll(ctx, tx, []By{{by, e}})
}

// By is an entry and who did what it tells of.
type By struct {
	Caller access.Caller
	Entry
}

const atOnce = 32 // entries of one statement

// RecordAll writes several entries in the transaction of their acts, in few statements.
func RecordAll(ctx context.Context, tx *db.Tx, all []By) error {
	for part := range slices.Chunk(all, atOnce) {
		args := make([]any, 0, 18*len(part))
		for _, r := range part {
			row, err := values(tx, r.Caller, r.Entry)
			if err != nil {
				return fmt.Errorf("audit %s: %w", r.Act, err)
			}
			args = append(args, row...)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO audit_entry (created_at, act, result, thing, thing_id, thing_name, organization, application,
			about_user, is_support, detail, by_kind, by_user, by_key, by_session, by_name, address, request)
			VALUES `+db.Rows(`(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, len(part)), args...)
		if err != nil {
			return fmt.Errorf("audit %s: %w", part[0].Act, err)
		}
	}
	return nil
}

func values(tx *db.Tx, by access.Caller, e Entry) ([]any, error) {
	if e.Result == "" {
		e.Result = Done
	}
	var detail any
	if len(e.Detail) > 0 {
		text, err := json.Marshal(short(e.Detail))
		if err != nil {
			return nil, err
		}
		if len(text) > maxDetail {
			text = []byte(`{"cut":true}`)
		}
		detail = string(text)
	}
	return []any{tx.NowText(), e.Act, string(e.Result), e.Kind, e.ID, clip(e.Name), e.Organization, e.Fleet,
		e.User, e.Support, detail, string(by.Kind), by.User, by.Key, by.Session, clip(by.Name), clip(by.Address), clip(by.Request)}, nil
}

// short cuts the texts of details one by one: a long one must not hide what else was done.
func short(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, value := range v {
			out[name] = short(value)
		}
		return out
	case string:
		if len(v) > maxText {
			return clip(v) + "…"
		}
	}
	return v
}

// clip cuts a text and keeps it valid.
func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
}
