package device

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/publicurl"
	"github.com/roadstead-io/roadstead/internal/device/report"
	"github.com/roadstead-io/roadstead/internal/device/version"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// The texts below are matched by balena's clients and their tests.
const (
	textUUID    = "Device UUID must be a 32 or 62 character long lower case hex string."
	textNewline = "Device name cannot contain any newline characters."
	textNoFleet = "Application doesn't exist or you have no access to it."
	textOnline  = "Devices must be offline in order to be deactivated."
	textPin     = "It is necessary that each device that is pinned on a release, belongs to an application that owns the release, " +
		"and that the release has a status that is equal to \"success\"."
)

func (d *Devices) beforeWrite(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	switch c.Op {
	case odata.Create:
		return d.beforeCreate(ctx, tx, c)
	case odata.Update:
		return d.beforeUpdate(ctx, tx, c)
	default:
		for _, id := range c.IDs {
			if err := recordEnd(ctx, tx, c.Caller, id); err != nil {
				return err
			}
			d.revoked(tx, "device", id)
		}
		return nil
	}
}

func (d *Devices) beforeCreate(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if _, ok := c.Values["uuid"]; !ok {
		raw := make([]byte, 16)
		_, _ = rand.Read(raw) // never fails, see crypto/rand
		c.Values["uuid"] = hex.EncodeToString(raw)
	}
	for column, text := range map[string]string{
		"belongs_to__application": "A device needs a fleet (belongs_to__application).",
		"is_of__device_type":      "A device needs a device type (is_of__device_type).",
	} {
		if _, ok := c.Values[column].(int64); !ok {
			return api.Errorf(api.Invalid, "%s", text)
		}
	}
	if name, ok := c.Values["device_name"].(string); !ok || name == "" {
		c.Values["device_name"] = inventName()
	}
	if err := checkColumns(c); err != nil {
		return err
	}
	delete(c.Values, "is_active") // begins with the first contact
	if err := sayOnline(tx, c); err != nil {
		return err
	}
	if err := fleet.CheckArch(ctx, tx, c.Values["belongs_to__application"].(int64), c.Values["is_of__device_type"].(int64)); err != nil {
		return err
	}
	actor, err := account.NewActor(ctx, tx)
	if err != nil {
		return err
	}
	c.Values["actor"] = actor
	c.Values["created_at"], c.Values["modified_at"] = tx.NowText(), tx.NowText()
	return nil
}

// checkColumns checks the values of single columns.
func checkColumns(c *odata.Change) error {
	if c.Caller.Kind == access.Device {
		for column, v := range c.Values {
			if s, ok := v.(string); ok {
				c.Values[column] = report.Plain(s)
			}
		}
	}
	if v, ok := c.Values["uuid"]; ok {
		if s, _ := v.(string); !api.DeviceUUID(s).Valid() {
			return api.Errorf(api.Invalid, textUUID)
		}
	}
	if v, ok := c.Values["device_name"]; ok {
		s, _ := v.(string)
		if s == "" {
			return api.Errorf(api.Invalid, "A device needs a name.")
		}
		if err := checkName(s); err != nil {
			return err
		}
	}
	for _, column := range []string{"custom_latitude", "custom_longitude"} { // degrees, as text; an empty one clears it
		if s, ok := c.Values[column].(string); ok && s != "" {
			if f, err := strconv.ParseFloat(s, 64); err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
				return api.Errorf(api.Invalid, "%q is not a number", column)
			}
		}
	}
	if v, ok := c.Values["os_version"].(string); ok {
		if _, given := c.Values["os_variant"]; !given {
			if variant := version.Variant(v); variant != "" {
				c.Values["os_variant"] = variant
			}
		}
	}
	return nil
}

func (d *Devices) beforeUpdate(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	for _, column := range []string{"uuid", "is_of__device_type"} {
		if _, ok := c.Values[column]; ok && c.Caller.Kind != access.System {
			return api.Errorf(api.Forbidden, "the %s of a device cannot be changed", column)
		}
	}
	if err := checkColumns(c); err != nil {
		return err
	}
	c.Values["modified_at"] = tx.NowText()
	if err := sayOnline(tx, c); err != nil {
		return err
	}
	if err := checkHosts(ctx, tx, c); err != nil {
		return err
	}
	if v, ok := c.Values["is_active"].(bool); ok && !v {
		if err := checkOffline(ctx, tx, c.IDs); err != nil {
			return err
		}
	}
	if given(c, "is_web_accessible") {
		if err := publicurl.Switched(ctx, tx, c.IDs); err != nil {
			return err
		}
	}
	if given(c, rights.SupportColumn) {
		for _, id := range c.IDs {
			d.revoked(tx, "device", id) // support may have its log open
		}
	}
	if to, ok := c.Values["belongs_to__application"]; ok {
		if err := d.beforeMove(ctx, tx, c, to); err != nil {
			return err
		}
	}
	return nil
}

func checkOffline(ctx context.Context, tx *db.Tx, ids []int64) error {
	for _, id := range ids {
		var online bool
		err := tx.QueryRowContext(ctx, `SELECT coalesce(heartbeat_until >= ?, 1 = 0) OR said_online = 1 OR is_connected_to_vpn = 1
			FROM device WHERE id = ?`, tx.NowText(), id).Scan(&online)
		if err != nil {
			return fmt.Errorf("device: deactivate: %w", err)
		}
		if online {
			return api.Errorf(api.Invalid, textOnline)
		}
	}
	return nil
}

// beforeMove readies devices for another fleet: what was installed for the old one is gone, the pin too unless one is given.
func (d *Devices) beforeMove(ctx context.Context, tx *db.Tx, c *odata.Change, to any) error {
	target, ok := to.(int64)
	if !ok {
		return api.Errorf(api.Invalid, "A device cannot be without a fleet.")
	}
	if ok, err := mayUseFleet(ctx, tx, c.Caller, target, access.Devices); err != nil {
		return err
	} else if !ok {
		return api.Errorf(api.NotFound, textNoFleet)
	}
	moving := false
	for _, id := range c.IDs {
		moved, err := d.move(ctx, tx, c.Caller, id, target)
		if err != nil {
			return err
		}
		moving = moving || moved
	}
	if _, given := c.Values["is_pinned_on__release"]; moving && !given {
		c.Values["is_pinned_on__release"] = nil
	}
	return nil
}

// move readies one device; false when it is in that fleet already.
func (d *Devices) move(ctx context.Context, tx *db.Tx, by access.Caller, id, target int64) (bool, error) {
	var from, deviceType, fromOrg, toOrg int64
	err := tx.QueryRowContext(ctx, `SELECT d.belongs_to__application, d.is_of__device_type, f.organization, t.organization
		FROM device d JOIN application f ON f.id = d.belongs_to__application, application t WHERE d.id = ? AND t.id = ?`, id, target).
		Scan(&from, &deviceType, &fromOrg, &toOrg)
	if err != nil {
		return false, fmt.Errorf("device: move: %w", err)
	}
	if from == target {
		return false, nil
	}
	if err := rights.MayGiveAway(ctx, tx, by, fromOrg, toOrg); err != nil {
		return false, err
	}
	if err := bringsKeys(ctx, tx, by, from, target); err != nil {
		return false, err
	}
	if err := fleet.CheckArch(ctx, tx, target, deviceType); err != nil {
		return false, err
	}
	if d.cfg.Moving != nil {
		if err := d.cfg.Moving(ctx, tx, id, from, target); err != nil {
			return false, err
		}
	}
	queries := []string{
		`UPDATE image_install SET status = 'deleted', download_progress = NULL WHERE device = ?`,
		`DELETE FROM service_install WHERE device = ?`,
		`UPDATE device SET is_pinned_on__release = NULL, is_running__release = NULL, update_status = NULL,
			report_serial = report_serial + 1 WHERE id = ?`,
	}
	for _, q := range queries {
		if _, err := tx.ExecContext(ctx, q, id); err != nil {
			return false, fmt.Errorf("device: move: %w", err)
		}
	}
	if fromOrg != toOrg { // what it said so far is not for the new organization, and it was the former one that opened it to support
		if _, err := tx.ExecContext(ctx, `UPDATE device SET log_since = ?, is_accessible_by_support_until__date = NULL WHERE id = ?`,
			tx.NowText(), id); err != nil {
			return false, fmt.Errorf("device: move: %w", err)
		}
	}
	d.revoked(tx, "device", id) // whoever follows its log may have no right in the new fleet
	return true, nil
}

func (d *Devices) afterWrite(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op == odata.Delete {
		return nil
	}
	if c.Op == odata.Create {
		if err := checkHosts(ctx, tx, c); err != nil {
			return err
		}
	}
	for _, id := range c.IDs {
		if err := afterWriteOf(ctx, tx, c, id); err != nil {
			return err
		}
	}
	return nil
}

func afterWriteOf(ctx context.Context, tx *db.Tx, c *odata.Change, id int64) error {
	if given(c, "belongs_to__application", "is_pinned_on__release") {
		if err := checkPin(ctx, tx, id); err != nil {
			return err
		}
	}
	if given(c, "os_version", "supervisor_version") {
		if err := followVersions(ctx, tx, id); err != nil {
			return err
		}
	}
	if given(c, "belongs_to__application", "is_pinned_on__release", "should_be_operated_by__release", "should_be_managed_by__release") {
		if err := installServices(ctx, tx, `d.id = ?`, id); err != nil {
			return err
		}
	}
	if c.Op == odata.Create || given(c, recorded...) {
		return record(ctx, tx, c.Caller, id)
	}
	return nil
}

// given says whether a change gives one of some columns.
func given(c *odata.Change, columns ...string) bool {
	for _, column := range columns {
		if _, ok := c.Values[column]; ok {
			return true
		}
	}
	return false
}

// checkHosts checks the operating system and the supervisor that devices are to have.
func checkHosts(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	for _, id := range c.IDs {
		if release, ok := c.Values["should_be_operated_by__release"].(int64); ok {
			if err := checkHost(ctx, tx, id, release); err != nil {
				return err
			}
		}
		if release, ok := c.Values["should_be_managed_by__release"].(int64); ok {
			if err := checkSupervisor(ctx, tx, id, release); err != nil {
				return err
			}
		}
	}
	return nil
}

// sayOnline turns is_online, which is computed, into what a person says of it. The time of the last heartbeat is the device's own
// affair and stays as it is.
func sayOnline(tx *db.Tx, c *odata.Change) error {
	v, ok := c.Values["is_online"]
	if !ok {
		return nil
	}
	delete(c.Values, "is_online")
	online, ok := truth(v)
	if !ok {
		return api.Errorf(api.Invalid, "\"is_online\" is not a boolean")
	}
	c.Values["said_online"], c.Values["said_online_at"] = online, tx.NowText()
	if online {
		c.Values["is_active"] = true
	}
	return nil
}

// truth reads a boolean in any of the forms that clients send.
func truth(v any) (value, ok bool) {
	switch v {
	case true, int64(1), float64(1), "true", "1":
		return true, true
	case false, int64(0), float64(0), "false", "0":
		return false, true
	}
	return false, false
}

func checkPin(ctx context.Context, tx *db.Tx, id int64) error {
	var bad int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM device d JOIN "release" r ON r.id = d.is_pinned_on__release
		WHERE d.id = ? AND (r.belongs_to__application <> d.belongs_to__application OR r.status <> 'success')`, id).Scan(&bad)
	if err != nil {
		return fmt.Errorf("device: pin: %w", err)
	}
	if bad > 0 {
		return api.Errorf(api.Invalid, textPin)
	}
	return nil
}

// Pinned says whether a device is pinned to one of some releases.
func Pinned(ctx context.Context, tx *db.Tx, releases []int64) (bool, error) {
	for _, id := range releases {
		if ok, err := found(tx.QueryRowContext(ctx, `SELECT 1 FROM device WHERE is_pinned_on__release = ? LIMIT 1`, id)); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// bringsKeys refuses to move a device, of which the caller may know a key, to a fleet where they could make none: the key would read that
// fleet from then on, and outlive a support grant. It is asked of the person, whatever the key that they use is limited to.
func bringsKeys(ctx context.Context, tx *db.Tx, by access.Caller, from, to int64) error {
	if by.User == 0 {
		return nil
	}
	person := access.Caller{Kind: access.User, User: by.User}
	here, err := rights.FleetVerbs(ctx, tx, person, from)
	if err != nil {
		return fmt.Errorf("device: move: %w", err)
	}
	there, err := rights.FleetVerbs(ctx, tx, person, to)
	if err != nil {
		return fmt.Errorf("device: move: %w", err)
	}
	if here.Has(access.Keys) && !there.Has(access.Keys) {
		return api.Errorf(api.Forbidden, "A device brings its keys along: to move it you need the verb keys on the fleet that it comes to, too.")
	}
	return nil
}

// registerNeeds is what a person has on a fleet who registers a device into it: the answer holds a key of the device.
const registerNeeds = access.Devices | access.Keys

// mayUseFleet says whether a caller may put devices into a fleet, for which people need some verbs, by right of their own: a device, and its
// key, would outlive a support grant.
func mayUseFleet(ctx context.Context, tx *db.Tx, by access.Caller, fleetID int64, need access.Verbs) (bool, error) {
	switch by.Kind {
	case access.System:
		return true, nil
	case access.Provisioning:
		return by.Fleet == fleetID, nil
	default:
		may, err := rights.OwnVerbs(ctx, tx, by, fleetID)
		return may.Has(need), err
	}
}

func found(row *sql.Row) (bool, error) {
	var one int
	err := row.Scan(&one)
	if noRows(err) {
		return false, nil
	}
	return err == nil, err
}

func noRows(err error) bool { return errors.Is(err, sql.ErrNoRows) }

// FleetTargetChanged gives every device of a fleet the installs of the services that it should now run. Installs of services
// that are no longer in the release stay: variables that people gave hang on them.
func FleetTargetChanged(ctx context.Context, tx *db.Tx, fleetID int64) error {
	return installServices(ctx, tx, `d.belongs_to__application = ? AND d.is_pinned_on__release IS NULL`, fleetID)
}

// installServices gives some devices d the installs of what they should run.
func installServices(ctx context.Context, tx *db.Tx, which string, args ...any) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO service_install (created_at, device, installs__service)
		SELECT DISTINCT CAST(? AS TEXT), d.id, i.is_a_build_of__service
		FROM device d
		JOIN application f ON f.id = d.belongs_to__application
		JOIN release_image ri ON ri.is_part_of__release IN (coalesce(d.is_pinned_on__release, f.should_be_running__release),
			d.should_be_operated_by__release, d.should_be_managed_by__release)
		JOIN image i ON i.id = ri.image
		WHERE `+which+`
		ON CONFLICT (device, installs__service) DO NOTHING`, append([]any{tx.NowText()}, args...)...)
	if err != nil {
		return fmt.Errorf("device: install services: %w", err)
	}
	return nil
}

// FleetHandedOver closes to support the devices of a fleet that goes to another organization: it was another owner who opened them. And
// what they said so far is not for the new one.
func FleetHandedOver(ctx context.Context, tx *db.Tx, fleet int64) error {
	_, err := tx.ExecContext(ctx, `UPDATE device SET is_accessible_by_support_until__date = NULL, log_since = ? WHERE belongs_to__application = ?`,
		tx.NowText(), fleet)
	if err != nil {
		return fmt.Errorf("device: hand over the devices of fleet %d: %w", fleet, err)
	}
	return nil
}

// FleetsDeleting removes the devices of fleets that are about to be deleted, and tells their open streams.
func (d *Devices) FleetsDeleting(ctx context.Context, tx *db.Tx, fleets []int64) error {
	for _, id := range fleets {
		if _, err := tx.ExecContext(ctx, `DELETE FROM device WHERE belongs_to__application = ?`, id); err != nil {
			return fmt.Errorf("device: delete the devices of fleet %d: %w", id, err)
		}
		d.revoked(tx, "fleet", id)
	}
	return nil
}
