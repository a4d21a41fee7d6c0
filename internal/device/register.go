package device

import (
	"context"
	"fmt"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/batch"
	"github.com/roadstead-io/roadstead/internal/device/report"
	"github.com/roadstead-io/roadstead/internal/device/version"
	"github.com/roadstead-io/roadstead/internal/fleet"
)

// registerAtOnce is how many devices one transaction registers at most.
const registerAtOnce = 16

// registration is one device's, and what is known of it so far.
type registration struct {
	by   access.Caller
	req  api.Register
	typ  fleet.DeviceType
	made api.Registered

	actor int64
}

// Register makes a device: its row, its actor, its key and its installs, in one transaction. The caller holds a provisioning
// key of the fleet or is a user who may use it. Devices that come at the same time share the transaction.
//
// It may be repeated: the same device (same uuid, same key, same fleet) gets the same answer, and no further use of the
// provisioning key is counted, for the first answer may have been lost. Anybody else who brings a uuid that exists is refused.
func (d *Devices) Register(ctx context.Context, by access.Caller, req api.Register) (api.Registered, error) {
	if err := checkRegister(req); err != nil {
		return api.Registered{}, err
	}
	r := &registration{by: by, req: req}
	if err := d.registrations.Do(ctx, r); err != nil {
		return api.Registered{}, err
	}
	return r.made, nil
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

// registerAll registers devices in one transaction. Of several that bring the same uuid each sees the ones before it.
func (d *Devices) registerAll(ctx context.Context, all []*batch.Ask[*registration]) error {
	ctx = d.cfg.DB.Brief(ctx)
	return d.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		for rest := all; len(rest) > 0; {
			var now, later []*batch.Ask[*registration]
			seen := map[api.DeviceUUID]bool{}
			for _, a := range rest {
				if uuid := a.Of.req.UUID; !seen[uuid] {
					a.Err, a.Of.made, seen[uuid] = nil, api.Registered{}, true
					now = append(now, a)
				} else {
					later = append(later, a)
				}
			}
			if err := d.register(ctx, tx, now); err != nil {
				return fmt.Errorf("register: %w", err)
			}
			rest = later
		}
		return nil
	})
}

// register registers devices with different uuids.
func (d *Devices) register(ctx context.Context, tx *db.Tx, all []*batch.Ask[*registration]) error {
	for _, a := range all {
		switch ok, err := mayUseFleet(ctx, tx, a.Of.by, a.Of.req.Application, registerNeeds); {
		case err != nil:
			return err
		case !ok && a.Of.by.User != 0:
			a.Err = api.Errorf(api.NotFound, textNoFleet)
		case !ok:
			a.Err = api.Errorf(api.Forbidden, "this key may not register a device into that fleet")
		}
	}
	for _, check := range []func(context.Context, *db.Tx, []*batch.Ask[*registration]) error{d.repeated, fit, useKeys} {
		if all = open(all); len(all) == 0 {
			return nil
		}
		if err := check(ctx, tx, all); err != nil {
			return err
		}
	}
	if all = open(all); len(all) == 0 {
		return nil
	}
	return d.insert(ctx, tx, all)
}

// open gives those that are still to be made.
func open(all []*batch.Ask[*registration]) []*batch.Ask[*registration] {
	var out []*batch.Ask[*registration]
	for _, a := range all {
		if a.Err == nil && a.Of.made.ID == 0 {
			out = append(out, a)
		}
	}
	return out
}

// repeated looks for the devices among those that exist: made when the request is its own repeat, Conflict when it is not.
func (d *Devices) repeated(ctx context.Context, tx *db.Tx, all []*batch.Ask[*registration]) error {
	byUUID := map[api.DeviceUUID]*batch.Ask[*registration]{}
	uuids := make([]string, len(all))
	for i, a := range all {
		uuids[i] = string(a.Of.req.UUID)
		byUUID[a.Of.req.UUID] = a
	}
	list, args := db.In(uuids)
	rows, err := tx.QueryContext(ctx, `SELECT uuid, id, actor, belongs_to__application FROM device WHERE uuid IN `+list, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var uuid api.DeviceUUID
		var id, actor, in int64
		if err := rows.Scan(&uuid, &id, &actor, &in); err != nil {
			return err
		}
		a := byUUID[uuid]
		a.Err = api.Errorf(api.Conflict, `"uuid" must be unique.`)
		if in != a.Of.req.Application || a.Of.req.APIKey == "" {
			continue
		}
		holds, err := d.cfg.Accounts.KeyHolds(ctx, tx, actor, a.Of.req.APIKey)
		if err != nil {
			return err
		}
		if holds {
			a.Err, a.Of.made = nil, api.Registered{ID: id, UUID: uuid, APIKey: a.Of.req.APIKey}
		}
	}
	return rows.Err()
}

// fit refuses devices of unknown types, those that cannot run what is built for their fleets, and keys that cannot be theirs.
func fit(ctx context.Context, tx *db.Tx, all []*batch.Ask[*registration]) error {
	var names []string
	var fleets []int64
	for _, a := range all {
		if !slices.Contains(names, a.Of.req.DeviceType) {
			names = append(names, a.Of.req.DeviceType)
		}
		if !slices.Contains(fleets, a.Of.req.Application) {
			fleets = append(fleets, a.Of.req.Application)
		}
	}
	types, err := fleet.FindDeviceTypes(ctx, tx, names)
	if err != nil {
		return err
	}
	built, err := fleet.Architectures(ctx, tx, fleets)
	if err != nil {
		return err
	}
	for _, a := range all {
		typ, known := types[a.Of.req.DeviceType]
		archs, exists := built[a.Of.req.Application]
		a.Of.typ = typ
		switch {
		case !known:
			a.Err = api.Errorf(api.Invalid, "Unknown device type %q", a.Of.req.DeviceType)
		case !exists:
			a.Err = api.Errorf(api.NotFound, textNoFleet)
		case !fleet.RunsAny(typ.Arch, archs):
			a.Err = fleet.CannotRun(typ.Arch, archs)
		default:
			a.Err = account.DeviceKey{Token: a.Of.req.APIKey}.Check()
		}
	}
	return nil
}

// useKeys counts the devices against their provisioning keys.
func useKeys(ctx context.Context, tx *db.Tx, all []*batch.Ask[*registration]) error {
	var counted []*batch.Ask[*registration]
	var keys []int64
	for _, a := range all {
		if a.Of.by.Kind == access.Provisioning {
			counted, keys = append(counted, a), append(keys, a.Of.by.Key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	refused, err := account.UseProvisioningKeys(ctx, tx, keys)
	for i, err := range refused {
		counted[i].Err = err
	}
	return err
}

// insert makes the devices.
func (d *Devices) insert(ctx context.Context, tx *db.Tx, all []*batch.Ask[*registration]) error {
	actors, err := account.NewActors(ctx, tx, len(all))
	if err != nil {
		return err
	}
	keys := make([]account.DeviceKey, len(all))
	for i, a := range all {
		a.Of.actor = actors[i]
		keys[i] = account.DeviceKey{Actor: actors[i], Token: a.Of.req.APIKey}
	}
	if err := insertRows(ctx, tx, all); err != nil {
		return err
	}
	if err := d.cfg.Accounts.SetDeviceKeys(ctx, tx, keys); err != nil {
		return err
	}
	ids := make([]int64, len(all))
	for i, a := range all {
		a.Of.made.APIKey, ids[i] = keys[i].Token, a.Of.made.ID
		if _, err := a.Of.versions().follow(ctx, tx, a.Of.made.ID); err != nil {
			return err
		}
	}
	list, args := db.In(ids)
	if err := installServices(ctx, tx, `d.id IN `+list, args...); err != nil {
		return err
	}
	if err := recordNew(ctx, tx, all); err != nil {
		return err
	}
	return auditNew(ctx, tx, all)
}

// auditNew writes down who registered which devices, with which keys.
func auditNew(ctx context.Context, tx *db.Tx, all []*batch.Ask[*registration]) error {
	ids := make([]int64, len(all))
	for i, a := range all {
		ids[i] = a.Of.req.Application
	}
	owners, err := fleet.Organizations(ctx, tx, ids)
	if err != nil {
		return err
	}
	entries := make([]audit.By, len(all))
	for i, a := range all {
		entries[i] = audit.By{Caller: a.Of.by, Entry: audit.Entry{Act: "device.register", Kind: "device", ID: a.Of.made.ID,
			Name: string(a.Of.made.UUID), Fleet: a.Of.req.Application, Organization: owners[a.Of.req.Application]}}
	}
	return audit.RecordAll(ctx, tx, entries)
}

// insertRows makes the devices' own rows.
func insertRows(ctx context.Context, tx *db.Tx, all []*batch.Ask[*registration]) error {
	args := make([]any, 0, 12*len(all))
	byActor := map[int64]*registration{}
	for _, a := range all {
		r := a.Of
		byActor[r.actor] = r
		var user any
		if r.by.User != 0 {
			user = r.by.User
		}
		says := r.versions()
		args = append(args, tx.NowText(), tx.NowText(), r.actor, r.req.UUID, nameFor(r.req), r.typ.ID, r.req.Application, user,
			says.supervisor, says.os, says.variant, report.Cut(report.Plain(r.req.MACAddress), 900))
	}
	rows, err := tx.QueryContext(ctx, `INSERT INTO device (created_at, modified_at, actor, uuid, device_name, is_of__device_type,
			belongs_to__application, belongs_to__user, supervisor_version, os_version, os_variant, mac_address)
		VALUES `+db.Rows(`(?, ?, ?, ?, ?, ?, ?, ?, NULLIF(?, ''), NULLIF(?, ''), NULLIF(?, ''), NULLIF(?, ''))`, len(all))+
		` RETURNING id, actor`, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, actor int64
		if err := rows.Scan(&id, &actor); err != nil {
			return err
		}
		r := byActor[actor]
		r.made.ID, r.made.UUID = id, r.req.UUID
	}
	return rows.Err()
}

// versions is what a device says of itself when it registers.
func (r *registration) versions() versions {
	v := versions{os: report.Cut(report.Plain(r.req.OSVersion), 255), variant: r.req.OSVariant, supervisor: report.Cut(report.Plain(r.req.SupervisorVersion), 20)}
	if v.variant != "dev" && v.variant != "prod" {
		v.variant = version.Variant(r.req.OSVersion)
	}
	return v
}
