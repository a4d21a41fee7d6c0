package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/member"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

func (f *Fleets) beforeApplication(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if branch, ok := c.Values["git_branch"].(string); ok {
		if err := checkBranch(branch); err != nil {
			return err
		}
	}
	if err := checkAlso(ctx, tx, c); err != nil {
		return err
	}
	switch c.Op {
	case odata.Create:
		return f.beforeCreate(ctx, tx, c)
	case odata.Update:
		return f.beforeUpdate(ctx, tx, c)
	default:
		return f.beforeDelete(ctx, tx, c)
	}
}

func (f *Fleets) beforeCreate(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	name, _ := c.Values["app_name"].(string)
	if err := checkAppName(name); err != nil {
		return err
	}
	org, ok := c.Values["organization"].(int64)
	if !ok {
		return api.Errorf(api.Invalid, "It is necessary that each application belongs to exactly one organization")
	}
	if _, ok := c.Values["is_for__device_type"].(int64); !ok {
		return api.Errorf(api.Invalid, "It is necessary that each application is for exactly one device type")
	}
	if c.Values["should_be_running__release"] != nil {
		return api.Errorf(api.Invalid, "A fleet without releases has no target release.")
	}
	if err := checkClass(c); err != nil {
		return err
	}
	if err := fillUUID(c); err != nil {
		return err
	}
	slug, err := slugOf(ctx, tx, org, name)
	if err != nil {
		return err
	}
	if c.Values["application_type"] == nil {
		var kind int64
		if err := tx.QueryRowContext(ctx, `SELECT id FROM application_type WHERE slug = 'default'`).Scan(&kind); err != nil {
			return fmt.Errorf("fleet: default type: %w", err)
		}
		c.Values["application_type"] = kind
	}
	actor, err := account.NewActor(ctx, tx)
	if err != nil {
		return fmt.Errorf("fleet: actor: %w", err)
	}
	c.Values["slug"], c.Values["actor"], c.Values["created_at"] = slug, actor, tx.NowText()
	return nil
}

func checkClass(c *odata.Change) error {
	class, given := c.Values["is_of__class"]
	if given && class != "fleet" && class != "block" && class != "app" {
		return api.Errorf(api.Invalid,
			`It is necessary that each application has a class that is equal to "fleet" or "block" or "app"`)
	}
	return nil
}

// fillUUID keeps a good uuid that the creator gave, and otherwise makes one.
func fillUUID(c *odata.Change) error {
	given, ok := c.Values["uuid"].(string)
	if !ok {
		c.Values["uuid"] = newUUID()
		return nil
	}
	if !uuid4.MatchString(given) {
		return api.Errorf(api.Invalid, "Application UUID must be a 32 character long lower case UUID version 4.")
	}
	return nil
}

// newUUID makes a random UUID of version 4, written without dashes.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return hex.EncodeToString(b[:])
}

func slugOf(ctx context.Context, tx *db.Tx, org int64, name string) (string, error) {
	var handle string
	if err := tx.QueryRowContext(ctx, `SELECT handle FROM organization WHERE id = $1`, org).Scan(&handle); err != nil {
		return "", fmt.Errorf("fleet: organization %d: %w", org, err)
	}
	return strings.ToLower(handle + "/" + name), nil
}

func (f *Fleets) beforeUpdate(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if _, ok := c.Values["uuid"]; ok {
		return api.Errorf(api.Invalid, "The uuid of an application cannot be changed.")
	}
	if err := checkClass(c); err != nil {
		return err
	}
	if err := f.rename(ctx, tx, c); err != nil {
		return err
	}
	if next, ok := c.Values["is_for__device_type"].(int64); ok {
		for _, id := range c.IDs {
			if err := checkArchitecture(ctx, tx, id, next); err != nil {
				return err
			}
		}
	}
	if release, ok := c.Values["should_be_running__release"].(int64); ok {
		for _, id := range c.IDs {
			if err := checkTarget(ctx, tx, id, release); err != nil {
				return err
			}
		}
	}
	_, closing := c.Values[rights.ClosedColumn]
	if _, given := c.Values[rights.SupportColumn]; given || closing {
		f.cfg.Accounts.Revoked(tx, "fleet", c.IDs...) // support may have a log of it open
	}
	return nil
}

// rename checks a new name, and makes the slug follow a new name or organization.
func (f *Fleets) rename(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	name, renamed := c.Values["app_name"]
	org, moved := c.Values["organization"].(int64)
	if !renamed && !moved {
		return nil
	}
	if len(c.IDs) > 1 {
		return api.Errorf(api.Invalid, "Only one fleet at a time can be renamed or moved.")
	}
	for _, id := range c.IDs {
		var oldName string
		var oldOrg int64
		err := tx.QueryRowContext(ctx, `SELECT app_name, organization FROM application WHERE id = $1`, id).Scan(&oldName, &oldOrg)
		if err != nil {
			return fmt.Errorf("rename fleet %d: %w", id, err)
		}
		if renamed {
			oldName, _ = name.(string)
			if err := checkAppName(oldName); err != nil {
				return err
			}
		}
		if moved && oldOrg != org {
			if err := mayMove(ctx, tx, c.Caller, oldOrg, org); err != nil {
				return err
			}
			if err := f.handedOver(ctx, tx, c.Caller, id); err != nil {
				return err
			}
			oldOrg = org
		}
		slug, err := slugOf(ctx, tx, oldOrg, oldName)
		if err != nil {
			return err
		}
		c.Values["slug"] = slug
	}
	return nil
}

func checkArchitecture(ctx context.Context, tx *db.Tx, fleet, deviceType int64) error {
	var same bool
	err := tx.QueryRowContext(ctx, `
SELECT now.is_of__cpu_architecture = next.is_of__cpu_architecture
FROM application a JOIN device_type now ON now.id = a.is_for__device_type, device_type next
WHERE a.id = $1 AND next.id = $2`, fleet, deviceType).Scan(&same)
	if err != nil {
		return fmt.Errorf("fleet %d: device type %d: %w", fleet, deviceType, err)
	}
	if !same {
		return api.Errorf(api.Invalid, "The new default device type should be of the same cpu architecture as the previous one.")
	}
	return nil
}

// beforeDelete removes what fleets have in the tables of other packages; what hangs on them in ours goes by reference.
func (f *Fleets) beforeDelete(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	for _, deleting := range f.cfg.Deleting {
		if err := deleting(ctx, tx, c.IDs); err != nil {
			return err
		}
	}
	for _, id := range c.IDs {
		var actor int64
		if err := tx.QueryRowContext(ctx, `SELECT actor FROM application WHERE id = $1`, id).Scan(&actor); err != nil {
			return fmt.Errorf("delete fleet %d: %w", id, err)
		}
		if err := account.DeleteActor(ctx, tx, actor); err != nil { // and so its provisioning keys
			return fmt.Errorf("delete fleet %d: %w", id, err)
		}
	}
	return nil
}

func (f *Fleets) afterApplication(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op == odata.Create {
		return f.welcomeMaker(ctx, tx, c)
	}
	if c.Op != odata.Update {
		return nil
	}
	_, chosen := c.Values["should_be_running__release"]
	for _, id := range c.IDs {
		if chosen {
			if err := f.targetChanged(ctx, tx, id); err != nil {
				return err
			}
		}
		if c.Values["should_track_latest_release"] == true || chosen {
			if err := f.Track(ctx, tx, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// welcomeMaker makes a member of the organization who made a fleet a developer of it. Administrators have more already.
func (f *Fleets) welcomeMaker(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Caller.Kind != access.User {
		return nil
	}
	have, err := rights.FleetVerbs(ctx, tx, c.Caller, c.IDs[0])
	if err != nil || have.Has(access.Developer.Verbs()) {
		return err
	}
	return member.AddFleetMember(ctx, tx, c.Caller.User, c.IDs[0], int64(access.Developer))
}

// HandleChanged makes the slugs of an organization's fleets follow its handle.
func HandleChanged(ctx context.Context, tx *db.Tx, organization int64, handle string) error {
	_, err := tx.ExecContext(ctx, `UPDATE application SET slug = lower($1 || '/' || app_name) WHERE organization = $2`,
		handle, organization)
	if err != nil {
		return fmt.Errorf("fleet: new handle of organization %d: %w", organization, err)
	}
	return nil
}

func validateService(_ context.Context, _ *db.Tx, c *odata.Change) error {
	if c.Op != odata.Create {
		return nil
	}
	name, _ := c.Values["service_name"].(string)
	return CheckServiceName(name)
}
