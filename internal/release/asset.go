package release

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/blob"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// An asset is a file that people hang on a release: a licence list, an installer, a firmware. Its row names the blob; bytes that
// no row names any more go at once where this package hears of it, and otherwise when the store is swept.

const maxAssets = 10 // of one release, as balena's clients expect

// FileRules says what the file columns of this package take.
func FileRules() map[string]blob.Rule { return map[string]blob.Rule{"release_asset.asset": {}} }

func (r *Releases) asset() *odata.Resource {
	return &odata.Resource{
		Name:     "release_asset",
		Synonyms: []string{"release__has__asset_key"},
		Columns: []odata.Column{
			id(),
			{
				Name: "release", Type: odata.ForeignKey, To: "release",
				Reverse: []string{"release_asset", "release__has__asset_key"},
			},
			{Name: "asset_key", Type: odata.String, MaxLen: 255},
			{Name: "asset", Type: odata.WebResource, Null: true},
		},
		Keys:       [][]string{{"release", "asset_key"}},
		UniqueText: map[string]string{"release,asset_key": `"release" and "asset_key" must be unique.`},
		Rules:      tagRules("release", "asset_key", "asset"),
		Before:     []odata.Hook{r.beforeAsset},
	}
}

func (r *Releases) beforeAsset(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if err := checkAssetKey(c); err != nil {
		return err
	}
	if c.Op == odata.Create {
		if err := fewAssets(ctx, tx, c); err != nil {
			return err
		}
		return r.roomFor(ctx, tx, c, `SELECT a.organization FROM "release" r JOIN application a ON a.id = r.belongs_to__application
			WHERE r.id = ?`, c.Values["release"])
	}
	if _, moved := c.Values["release"]; moved {
		return api.Errorf(api.Invalid, "An asset stays with its release.")
	}
	if _, replaced := c.Values["asset"]; !replaced && c.Op == odata.Update {
		return nil
	}
	next, isFile := c.Values["asset"].(odata.File)
	if isFile && len(c.IDs) > 1 {
		return api.Errorf(api.Invalid, "A file goes to one asset at a time.") // its bytes would be gone with the first of them
	}
	for _, id := range c.IDs {
		if err := r.roomFor(ctx, tx, c, `SELECT a.organization FROM release_asset s JOIN "release" r ON r.id = s."release"
			JOIN application a ON a.id = r.belongs_to__application WHERE s.id = ?`, id); err != nil {
			return err
		}
		// The same file may be written again, by a commit of its upload that is repeated.
		if err := r.dropFiles(ctx, tx, next.Ref, `SELECT id, asset FROM release_asset WHERE id = ?`, id); err != nil {
			return fmt.Errorf("asset %d: %w", id, err)
		}
	}
	return nil
}

func checkAssetKey(c *odata.Change) error {
	key, given := c.Values["asset_key"].(string)
	if !given && c.Op != odata.Create {
		return nil
	}
	odd := func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }
	if strings.TrimSpace(key) == "" || strings.ContainsFunc(key, odd) {
		return api.Errorf(api.Invalid, `"asset_key" must be a text without control characters.`)
	}
	return nil
}

// fewAssets bounds the assets of a release.
func fewAssets(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	release, ok := c.Values["release"].(int64)
	if !ok {
		return api.Errorf(api.Invalid, "It is necessary that each release asset is of exactly one release")
	}
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM release_asset WHERE "release" = ?`, release).Scan(&n); err != nil {
		return fmt.Errorf("release %d: assets: %w", release, err)
	}
	if n >= maxAssets {
		return api.Errorf(api.Invalid, "It is necessary that each release has at most %d release assets", maxAssets)
	}
	return nil
}

// roomFor keeps one organization from filling the disk of all. The query finds the organization.
func (r *Releases) roomFor(ctx context.Context, tx *db.Tx, c *odata.Change, query string, arg any) error {
	next, ok := c.Values["asset"].(odata.File)
	if !ok {
		return nil
	}
	var organization int64
	if err := tx.QueryRowContext(ctx, query, arg).Scan(&organization); err != nil {
		return fmt.Errorf("organization of an asset: %w", err)
	}
	total := next.Size
	err := eachFile(ctx, tx, func(id int64, file odata.File) {
		if !slices.Contains(c.IDs, id) {
			total += file.Size
		}
	}, `
SELECT s.id, s.asset FROM release_asset s JOIN "release" r ON r.id = s."release"
JOIN application a ON a.id = r.belongs_to__application
WHERE a.organization = ? AND s.asset IS NOT NULL`, organization)
	if err != nil {
		return fmt.Errorf("assets of organization %d: %w", organization, err)
	}
	if total > r.cfg.MaxFiles {
		return api.Errorf(api.TooLarge, "The assets of an organization can have at most %d bytes together; delete some first.",
			r.cfg.MaxFiles)
	}
	return nil
}

// dropFiles has the bytes of some assets forgotten once the transaction is durable, except one's.
func (r *Releases) dropFiles(ctx context.Context, tx *db.Tx, except, query string, args ...any) error {
	if r.cfg.DropFile == nil {
		return nil
	}
	return eachFile(ctx, tx, func(_ int64, file odata.File) {
		if file.Ref != "" && file.Ref != except {
			tx.OnCommit(func() { r.cfg.DropFile(file.Ref) })
		}
	}, query, args...)
}

// eachFile gives the id and the file of every row that a query finds.
func eachFile(ctx context.Context, tx *db.Tx, do func(id int64, file odata.File), query string, args ...any) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	for rows.Next() {
		var id int64
		var text sql.NullString
		if err := rows.Scan(&id, &text); err != nil {
			return err
		}
		var file odata.File
		if text.Valid && json.Unmarshal([]byte(text.String), &file) == nil {
			do(id, file)
		}
	}
	return rows.Err()
}
