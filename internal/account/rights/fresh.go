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

// freshLogin is how long ago somebody must have proved who they are, at most, for what decides about people.
const freshLogin = 20 * time.Minute

// RequireFresh holds for a session whose user proved lately who they are, and for the server itself. A key never passes: whoever
// finds one shall not get further with it than it goes.
func RequireFresh(ctx context.Context, tx *db.Tx, by access.Caller) error {
	if by.Kind == access.System || by.Kind == access.Service {
		return nil
	}
	if by.Session == 0 {
		return api.Errorf(api.Forbidden, "an API key may not do this; log in, and do it in the session")
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
	if tx.Now.Sub(at) > freshLogin {
		return api.Errorf(api.Unauthorized, "Fresh authentication token required")
	}
	return nil
}

// FreshFor is a hook that asks for a fresh session before some kinds of writes.
func FreshFor(ops ...odata.Op) odata.Hook {
	return func(ctx context.Context, tx *db.Tx, c *odata.Change) error {
		if !slices.Contains(ops, c.Op) {
			return nil
		}
		return RequireFresh(ctx, tx, c.Caller)
	}
}

// RequireFreshLogin is [RequireFresh] for who makes named keys: a key may not make more of its kind.
func RequireFreshLogin(ctx context.Context, tx *db.Tx, by access.Caller) error {
	if by.Session == 0 {
		return api.Errorf(api.Forbidden, "an API key may not make further user keys; log in with your password")
	}
	return RequireFresh(ctx, tx, by)
}
