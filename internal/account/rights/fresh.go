package rights

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// freshFor is how long ago somebody must have proved who they are, at most, for what decides about people.
const freshFor = 20 * time.Minute

// Login is what is asked of a person beside a credential that holds. A key can lie about anywhere; a session is one in which somebody
// proved who they are.
type Login int

// The kinds of login.
const (
	NoLogin    Login = iota // none: a key does
	AnyLogin                // a session, however old; no key, however whole
	FreshLogin              // a session whose user proved lately who they are
)

// Require refuses a caller without the login.
func (l Login) Require(ctx context.Context, tx *db.Tx, by access.Caller) error {
	switch {
	case l == NoLogin:
		return nil
	case l == FreshLogin:
		return RequireFresh(ctx, tx, by)
	case by.Session == 0 && by.Kind != access.System && by.Kind != access.Service:
		return errKey
	}
	return nil
}

var errKey = api.Errorf(api.Forbidden, "an API key may not do this; log in, and do it in the session")

// RequireFresh holds for a session whose user proved lately who they are, and for the server itself. A key never passes: whoever
// finds one shall not get further with it than it goes.
func RequireFresh(ctx context.Context, tx *db.Tx, by access.Caller) error {
	if by.Kind == access.System || by.Kind == access.Service {
		return nil
	}
	if by.Session == 0 {
		return errKey
	}
	var text string
	err := tx.QueryRowContext(ctx, `SELECT authenticated_at FROM session WHERE id = ? AND awaits = ''`, by.Session).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return api.ErrUnauthorized
	}
	if err != nil {
		return fmt.Errorf("fresh authentication: %w", err)
	}
	at, err := db.ParseTime(text)
	if err != nil {
		return err
	}
	if tx.Now.Sub(at) > freshFor {
		return api.Errorf(api.Unauthorized, "Fresh authentication token required")
	}
	return nil
}

// all stands for every write of a kind.
var all = []string{}

// signIn are the columns of an organization that say how its members sign in, and how long their keys live.
var signIn = []string{"is_forbidding_passwords", "is_requiring_two_factor", "max_key_days"}

// freshWrites are the writes that decide about people, and so ask for a fresh session: of a resource, by kind, all, or those that give one
// of some columns. The hook of each resource enforces it; the manual and what is said of a key are made of it.
var freshWrites = map[string]map[odata.Op][]string{
	"organization":                {odata.Create: signIn, odata.Update: signIn, odata.Delete: all},
	"organization_membership":     {odata.Create: all, odata.Update: all, odata.Delete: all},
	"organization_invite":         {odata.Create: all},
	"team":                        {odata.Delete: all},
	"team_membership":             {odata.Create: all, odata.Delete: all},
	"team_application_access":     {odata.Create: all, odata.Update: all, odata.Delete: all},
	"application_membership_role": {odata.Update: {"verbs"}},
	"user_application_membership": {odata.Create: all, odata.Update: all, odata.Delete: all},
	"application_invite":          {odata.Create: all},
	"application":                 {odata.Update: {"organization"}},
	"user__has__public_key":       {odata.Create: all, odata.Update: {"public_key"}},
}

// FreshWrite says whether a kind of write to a resource asks for a fresh session: always, or when it gives one of some columns.
func FreshWrite(resource string, op odata.Op) (always bool, columns []string) {
	columns, asks := freshWrites[resource][op]
	return asks && len(columns) == 0, columns
}

// FreshFor is the hook that asks for a fresh session before the writes to a resource that need one, see [FreshWrite].
func FreshFor(resource string) odata.Hook {
	return func(ctx context.Context, tx *db.Tx, c *odata.Change) error {
		always, columns := FreshWrite(resource, c.Op)
		given := slices.ContainsFunc(columns, func(name string) bool { _, ok := c.Values[name]; return ok })
		if !always && !given {
			return nil
		}
		return RequireFresh(ctx, tx, c.Caller)
	}
}
