package device

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/sshkey"
	"github.com/roadstead-io/roadstead/internal/audit"
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
	case access.User: // a limited key has nothing to do with the account
		if by.User != id {
			return "", nil
		}
	case access.Device:
		may, err := rights.DeviceVerbs(ctx, tx, access.Caller{Kind: access.User, User: id}, by.Device)
		if err != nil {
			return "", fmt.Errorf("public keys: %w", err)
		}
		if !may.Has(enterNeeds) {
			return "", nil
		}
	default:
		return "", nil
	}
	keys, err := sshkey.Of(ctx, tx, id)
	if err == nil && len(keys) > 0 && by.Kind == access.Device {
		err = recordEnter(ctx, tx, by, id, username)
	}
	if err != nil {
		return "", fmt.Errorf("public keys: %w", err)
	}
	return strings.Join(keys, "\n"), nil
}

// enterAgain is for how long the same person's entering the same device is one entry of the audit log: one login asks more than once.
const enterAgain = time.Minute

// recordEnter writes down that a device lets a person in. It says so itself, by asking for the person's keys.
func recordEnter(ctx context.Context, tx *db.Tx, by access.Caller, user int64, username string) error {
	e := audit.Entry{Act: "device.enter", Kind: "user", ID: user, Name: username, User: user}
	var recent bool
	err := tx.QueryRowContext(ctx, `SELECT f.id, f.organization, EXISTS (SELECT 1 FROM audit_entry x WHERE x.about_user = ? AND x.act = 'device.enter'
			AND x.by_name = ? AND x.created_at > ?)
		FROM device d JOIN application f ON f.id = d.belongs_to__application WHERE d.id = ?`,
		user, by.Name, db.FormatTime(tx.Now.Add(-enterAgain)), by.Device).Scan(&e.Fleet, &e.Organization, &recent)
	if err != nil || recent {
		return err
	}
	person := access.Caller{Kind: access.User, User: user, Staff: true} // of whoever is no staff the answer is no all the same
	if e.Support, err = rights.ByGrant(ctx, tx, person, e.Fleet, enterNeeds); err != nil {
		return err
	}
	return audit.Record(ctx, tx, by, e)
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
	may, err := rights.DeviceVerbs(ctx, tx, by, id)
	if err != nil {
		return fmt.Errorf("enter device: %w", err)
	}
	return rights.Needs(may, enterNeeds)
}
