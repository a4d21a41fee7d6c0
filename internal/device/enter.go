package device

import (
	"context"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
)

// enterNeeds is the verb that lets a person into the operating system of a fleet's devices.
const enterNeeds = access.Shell

// PublicKeys gives the SSH keys of a user, one a line, to a device that the user may enter and to the user. For everybody else
// there are none; nobody learns which users there are.
func (d *Devices) PublicKeys(ctx context.Context, tx *db.Tx, by access.Caller, username string) (string, error) {
	var id int64
	err := tx.QueryRowContext(ctx, `SELECT id FROM "user" WHERE username = ?`, username).Scan(&id)
	if noRows(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("public keys: %w", err)
	}
	switch by.Kind {
	case access.User, access.ScopedKey:
		if by.User != id {
			return "", nil
		}
	case access.Device:
		may, err := account.DeviceVerbs(ctx, tx, access.Caller{Kind: access.User, User: id}, by.Device)
		if err != nil {
			return "", fmt.Errorf("public keys: %w", err)
		}
		if !may.Has(enterNeeds) {
			return "", nil
		}
	default:
		return "", nil
	}
	keys, err := account.PublicKeys(ctx, tx, id)
	if err != nil {
		return "", fmt.Errorf("public keys: %w", err)
	}
	return strings.Join(keys, "\n"), nil
}

// MayEnter says whether a person may enter the operating system of a device: nil when they may.
func (d *Devices) MayEnter(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID) error {
	var id int64
	err := tx.QueryRowContext(ctx, `SELECT id FROM device WHERE uuid = ? AND is_frozen = 0`, uuid).Scan(&id)
	if noRows(err) {
		return api.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("enter device: %w", err)
	}
	may, err := account.DeviceVerbs(ctx, tx, by, id)
	if err != nil {
		return fmt.Errorf("enter device: %w", err)
	}
	return account.Needs(may, enterNeeds)
}
