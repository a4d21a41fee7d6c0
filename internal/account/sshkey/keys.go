package sshkey

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

const most = 100 // of one user

// Keys is the SSH keys that people have put there.
type Keys struct {
	accounts *account.Accounts
	log      *slog.Logger
}

// New makes it; it starts nothing.
func New(accounts *account.Accounts, log *slog.Logger) *Keys { return &Keys{accounts, log} }

// Resource is the SSH keys of people: each sees and changes their own. A key belongs to one account: it says who somebody is.
func (k *Keys) Resource() *odata.Resource {
	const long, own = "user__has__public_key", "user eq @user"
	return &odata.Resource{
		Name: long, Synonyms: []string{"user_public_key"},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "user", Type: odata.ForeignKey, To: "user", Reverse: []string{long, "user_public_key"}},
			{Name: "title", Type: odata.String, MaxLen: 255},
			{Name: "public_key", Type: odata.String, MaxLen: MaxLen},
			{Name: "fingerprint", Type: odata.String, Null: true},    // ours, as are the next
			{Name: "last_used_at", Type: odata.Date, Null: true},     // for git
			{Name: "last_used_from", Type: odata.String, Null: true}, // an address
		},
		Keys:       [][]string{{"user", "public_key"}},
		UniqueText: map[string]string{"user,public_key": `"user" and "public_key" must be unique.`, "fingerprint": `"public_key" must be unique.`},
		Rules: map[access.Kind]odata.Rule{
			access.User: {Read: own, Create: own, Update: own, Delete: own, Write: []string{"user", "title", "public_key"}},
		},
		Before: []odata.Hook{rights.FreshFor(long), k.before},
	}
}

// before lets in what is an SSH public key and nothing more: the text goes into the authorized_keys of devices. Whoever adds one
// has logged in lately, see [rights.FreshFor]: it lets in for as long as it is there, and a stolen token shall not leave one behind.
func (k *Keys) before(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	text, given := c.Values["public_key"].(string)
	if c.Op == odata.Delete || c.Op == odata.Update && given {
		k.accounts.Revoked(tx, "ssh", c.IDs...)
	}
	if c.Op == odata.Delete {
		return nil
	}
	if title, ok := c.Values["title"].(string); ok || c.Op == odata.Create {
		if strings.TrimSpace(title) == "" {
			return api.Errorf(api.Invalid, "A public key needs a title.")
		}
		if strings.ContainsFunc(title, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return api.Errorf(api.Invalid, "The title of a public key has no control characters.")
		}
	}
	if given || c.Op == odata.Create {
		key, err := Parse(text)
		if err != nil {
			return err
		}
		c.Values["public_key"], c.Values["fingerprint"] = key.Line, key.Fingerprint
	}
	if c.Op != odata.Create {
		return nil
	}
	var n int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM user__has__public_key WHERE "user" = ?`, c.Values["user"]).Scan(&n)
	if err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	if n >= most {
		return api.Errorf(api.Invalid, "A user has at most %d public keys.", most)
	}
	user, _ := c.Values["user"].(int64)
	title, _ := c.Values["title"].(string)
	return k.accounts.Warn(ctx, tx, user, "key created", c.Caller, map[string]string{"key": title + " (SSH)"})
}

// Prepare gives keys of before their fingerprint. Of those that were there twice, under two accounts or two comments, the oldest stays: who had
// it first is whom it stands for, and somebody else's claim to it is not to be told from a false one. It is done at every start, before
// the first request.
func (k *Keys) Prepare(ctx context.Context, tx *db.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT id, "user", title, public_key FROM user__has__public_key WHERE fingerprint IS NULL ORDER BY id`)
	if err != nil {
		return fmt.Errorf("public keys: %w", err)
	}
	defer func() { _ = rows.Close() }()
	type row struct {
		id, user    int64
		title, line string
	}
	var found []row
	for rows.Next() {
		var one row
		if err := rows.Scan(&one.id, &one.user, &one.title, &one.line); err != nil {
			return fmt.Errorf("public keys: %w", err)
		}
		found = append(found, one)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("public keys: %w", err)
	}
	for _, one := range found {
		sum := Fingerprint(one.line)
		if sum == "" {
			continue // it lets nobody in anywhere
		}
		res, err := tx.ExecContext(ctx, `UPDATE user__has__public_key SET fingerprint = ?1 WHERE id = ?2
			AND NOT EXISTS (SELECT 1 FROM user__has__public_key o WHERE o.fingerprint = ?1)`, sum, one.id)
		if err != nil {
			return fmt.Errorf("public keys: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			if err != nil {
				return fmt.Errorf("public keys: %w", err)
			}
			continue
		}
		k.log.WarnContext(ctx, "an SSH key belonged to two accounts, or was there twice; the oldest stays", "removed", one.id, "user", one.user, "title", one.title, "fingerprint", sum)
		if _, err := tx.ExecContext(ctx, `DELETE FROM user__has__public_key WHERE id = ?`, one.id); err != nil {
			return fmt.Errorf("public keys: %w", err)
		}
		k.accounts.Revoked(tx, "ssh", one.id)
		err = audit.Record(ctx, tx, access.Itself(), audit.Entry{
			Act: "ssh_key.drop", Kind: "user__has__public_key", ID: one.id, Name: one.title, User: one.user, Detail: map[string]any{"fingerprint": sum},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Of gives a user's SSH public keys, oldest first; of a disabled user, none. It checks no right.
func Of(ctx context.Context, tx *db.Tx, user int64) ([]string, error) {
	keys, err := db.Column[string](ctx, tx, `SELECT k.public_key FROM user__has__public_key k
		JOIN "user" u ON u.id = k."user" AND u.is_disabled = 0 WHERE k."user" = ? ORDER BY k.id`, user)
	if err != nil {
		return nil, fmt.Errorf("public keys of user %d: %w", user, err)
	}
	return keys, nil
}

// Drop removes all SSH keys of a user. It checks no right, and records nothing.
func Drop(ctx context.Context, tx *db.Tx, accounts *account.Accounts, user int64) error {
	ids, err := db.Column[int64](ctx, tx, `DELETE FROM user__has__public_key WHERE "user" = ? RETURNING id`, user)
	if err != nil {
		return fmt.Errorf("remove public keys of user %d: %w", user, err)
	}
	accounts.Revoked(tx, "ssh", ids...)
	return nil
}
