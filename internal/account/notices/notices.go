// Package notices has letters sent about what people do to resources of the API, where those whom it concerns should hear of it.
package notices

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// mostNamed is of how many rows of one write letters tell.
const mostNamed = 100

// what finds the name and the organization of a thing that can be opened to support.
var what = map[string]string{
	"application": `SELECT f.slug, f.organization FROM application f WHERE f.id IN `,
	"device":      `SELECT d.uuid, f.organization FROM device d JOIN application f ON f.id = d.belongs_to__application WHERE d.id IN `,
}

// Resources hangs the letters on the resources of a model.
func Resources(m odata.Model, a *account.Accounts) {
	for _, r := range m.Resources {
		if query := what[r.Name]; query != "" {
			r.After = append(r.After, opened(a, r.Name, query))
		}
	}
}

// opened tells the administrators of an organization, and whoever did it, that something of theirs is open to support: one letter for
// all that one write opened.
func opened(a *account.Accounts, kind, query string) odata.Hook {
	return func(ctx context.Context, tx *db.Tx, c *odata.Change) error {
		text, ok := c.Values[rights.SupportColumn].(string)
		if !ok || text <= tx.NowText() || len(c.IDs) == 0 || c.Caller.Kind != access.User && c.Caller.Kind != access.ScopedKey {
			return nil
		}
		until, err := db.ParseTime(text)
		if err != nil {
			return err
		}
		first, count, err := owners(ctx, tx, query, c.IDs[:min(len(c.IDs), mostNamed)])
		if err != nil {
			return err
		}
		for organization, name := range first {
			name = kind + " " + name
			if n := count[organization]; n > 1 {
				name += fmt.Sprintf(" and %d more", n-1)
			}
			n := account.Notice{Kind: "support grant opened", Data: map[string]string{
				"what": name, "by": c.Caller.Name, "until": until.UTC().Format("2 January 2006 15:04 UTC"),
			}}
			if err := a.TellAdministrators(ctx, tx, organization, n); err != nil {
				return err
			}
			administers, err := rights.Administers(ctx, tx, access.Caller{Kind: access.User, User: c.Caller.User}, organization)
			if err != nil {
				return err
			}
			if !administers {
				if err := a.Warn(ctx, tx, c.Caller.User, n.Kind, c.Caller, n.Data); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// owners gives of each organization the first thing that is opened, and how many are.
func owners(ctx context.Context, tx *db.Tx, query string, ids []int64) (first map[int64]string, count map[int64]int, err error) {
	these, args := db.In(ids)
	rows, err := tx.QueryContext(ctx, query+these+` ORDER BY 2, 1`, args...)
	if err != nil {
		return nil, nil, fmt.Errorf("letters about support: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	first, count = map[int64]string{}, map[int64]int{}
	for rows.Next() {
		var name string
		var organization int64
		if err := rows.Scan(&name, &organization); err != nil {
			return nil, nil, fmt.Errorf("letters about support: %w", err)
		}
		if count[organization]++; count[organization] == 1 {
			first[organization] = name
		}
	}
	return first, count, rows.Err()
}
