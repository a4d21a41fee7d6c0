package device

import (
	"context"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
)

// Register makes a device: its row, its actor, its key and its installs, in one transaction. The caller holds a provisioning
// key of the fleet or is a user who may use it.
//
// It may be repeated: the same device (same uuid, same key, same fleet) gets the same answer, and no further use of the
// provisioning key is counted, for the first answer may have been lost. Anybody else who brings a uuid that exists is refused.
func (d *Devices) Register(ctx context.Context, tx *db.Tx, by access.Caller, req api.Register) (api.Registered, error) {
	var none api.Registered
	if err := checkRegister(req); err != nil {
		return none, err
	}
	switch ok, err := mayUseFleet(ctx, tx, by, req.Application); {
	case err != nil:
		return none, fmt.Errorf("register: %w", err)
	case !ok && by.User != 0:
		return none, api.Errorf(api.NotFound, textNoFleet)
	case !ok:
		return none, api.Errorf(api.Forbidden, "this key may not register a device into that fleet")
	}
	if again, done, err := d.registered(ctx, tx, req); done || err != nil {
		return again, err
	}
	typ, err := fleet.FindDeviceType(ctx, tx, req.DeviceType)
	if errors.Is(err, api.ErrNotFound) {
		return none, api.Errorf(api.Invalid, "Unknown device type %q", req.DeviceType)
	}
	if err != nil {
		return none, fmt.Errorf("register: %w", err)
	}
	if err := checkArch(ctx, tx, req.Application, typ.ID); err != nil {
		return none, err
	}
	if by.Kind == access.Provisioning {
		if err := account.UseProvisioningKey(ctx, tx, by.Key); err != nil {
			return none, err
		}
	}
	return d.insert(ctx, tx, by, req, typ.ID)
}

func checkRegister(req api.Register) error {
	switch {
	case req.Application <= 0:
		return api.Errorf(api.Invalid, "Application ID must be a positive integer.")
	case req.DeviceType == "":
		return api.Errorf(api.Invalid, "Device type is required.")
	case req.UUID == "":
		return api.Errorf(api.Invalid, "UUID is required.")
	case !req.UUID.Valid():
		return api.Errorf(api.Invalid, textUUID)
	case len(req.DeviceName) > longestName:
		return api.Errorf(api.Invalid, "\"device_name\" is longer than %d bytes", longestName)
	default:
		return checkName(req.DeviceName)
	}
}

// registered looks for the device among those that exist: done when the request is its own repeat, Conflict when it is not.
func (d *Devices) registered(ctx context.Context, tx *db.Tx, req api.Register) (_ api.Registered, done bool, _ error) {
	var id, actor, in int64
	err := tx.QueryRowContext(ctx, `SELECT id, actor, belongs_to__application FROM device WHERE uuid = ?`, req.UUID).
		Scan(&id, &actor, &in)
	if noRows(err) {
		return api.Registered{}, false, nil
	}
	if err != nil {
		return api.Registered{}, false, fmt.Errorf("register: %w", err)
	}
	if in == req.Application && req.APIKey != "" {
		holds, err := d.cfg.Accounts.KeyHolds(ctx, tx, actor, req.APIKey)
		if err != nil {
			return api.Registered{}, false, fmt.Errorf("register: %w", err)
		}
		if holds {
			return api.Registered{ID: id, UUID: req.UUID, APIKey: req.APIKey}, true, nil
		}
	}
	return api.Registered{}, false, api.Errorf(api.Conflict, `"uuid" must be unique.`)
}

func (d *Devices) insert(ctx context.Context, tx *db.Tx, by access.Caller, req api.Register, typ int64) (api.Registered, error) {
	var none api.Registered
	actor, err := account.NewActor(ctx, tx)
	if err != nil {
		return none, fmt.Errorf("register: %w", err)
	}
	variant := req.OSVariant
	if variant != "dev" && variant != "prod" {
		variant = variantOf(req.OSVersion)
	}
	var user any
	if by.User != 0 {
		user = by.User
	}
	var id int64
	err = tx.QueryRowContext(ctx, `INSERT INTO device (created_at, modified_at, actor, uuid, device_name, is_of__device_type,
			belongs_to__application, belongs_to__user, supervisor_version, os_version, os_variant, mac_address)
		VALUES (?1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, NULLIF(?8, ''), NULLIF(?9, ''), NULLIF(?10, ''), NULLIF(?11, '')) RETURNING id`,
		tx.NowText(), actor, req.UUID, nameFor(req), typ, req.Application, user,
		cut(plain(req.SupervisorVersion), 20), cut(plain(req.OSVersion), 255), variant, cut(plain(req.MACAddress), 900)).Scan(&id)
	if err != nil {
		return none, fmt.Errorf("register: %w", err)
	}
	key, err := d.cfg.Accounts.SetDeviceKey(ctx, tx, actor, req.APIKey)
	if err != nil {
		return none, err
	}
	if err := installServices(ctx, tx, `d.id = ?`, id); err != nil {
		return none, err
	}
	if err := followVersions(ctx, tx, id); err != nil {
		return none, err
	}
	if err := record(ctx, tx, by, id); err != nil {
		return none, err
	}
	return api.Registered{ID: id, UUID: req.UUID, APIKey: key}, nil
}

// cut shortens a text to at most n bytes without breaking a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
