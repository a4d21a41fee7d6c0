package action

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/audit/watch"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/nudge"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

const (
	needs        = access.Actions
	maxLines     = 1000
	usualLines   = 100
	namedDevices = 20 // of one request have an entry of their own in the audit log; of more there is one for all
	rowsAtOnce   = 200
)

var serviceRule = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$`)

// check completes what is wanted, and names the field that is wrong.
func check(want *api.NewAction) error {
	switch {
	case !slices.Contains(api.ActionVerbs(), want.Verb):
		return api.Errorf(api.Invalid, "verb: %.50q is no action", want.Verb)
	case want.Verb.OfService() && !serviceRule.MatchString(want.Service):
		return api.Errorf(api.Invalid, "service: %.100q is not the name of a service", want.Service)
	case !want.Verb.OfService() && want.Service != "":
		return api.Errorf(api.Invalid, "service: %s is not about one service", want.Verb)
	case want.Force && !want.Verb.Forces():
		return api.Errorf(api.Invalid, "force: %s needs none", want.Verb)
	case want.Lines < 0 || want.Lines > maxLines || want.Lines > 0 && want.Verb != api.ActJournal:
		return api.Errorf(api.Invalid, "lines: not 1 to %d, or not of a journal", maxLines)
	case (want.Verb == api.ActHostConfig) != (len(want.Network) > 0):
		return api.Errorf(api.Invalid, "network: is what %s sets, and nothing else has it", api.ActHostConfig)
	case want.Expires < 0 || want.Expires > int64(maxLife/time.Second):
		return api.Errorf(api.Invalid, "expires: not 1 second to 30 days")
	case (len(want.Devices) == 0) == (want.Fleet == ""):
		return api.Errorf(api.Invalid, "devices: give devices, or a fleet")
	case len(want.Devices) > api.MaxActionTargets:
		return api.Errorf(api.TooLarge, "devices: at most %d", api.MaxActionTargets)
	}
	for _, uuid := range want.Devices {
		if !uuid.Valid() {
			return api.Errorf(api.Invalid, "devices: %.70q is not the uuid of a device", uuid)
		}
	}
	if want.Verb == api.ActHostConfig {
		if _, err := readNetwork(want.Network); err != nil {
			return err
		}
	}
	if want.Verb == api.ActJournal && want.Lines == 0 {
		want.Lines = usualLines
	}
	if want.Expires == 0 {
		want.Expires = int64(defaultLife / time.Second)
	}
	return nil
}

// target is a device that something is to be done on.
type target struct {
	id, fleet int64
	uuid      api.DeviceUUID
	name      string
	connected bool
	open      int
}

// Create has something done on devices. What the caller may not see is refused as not there. Devices whose channel is up are told as soon as
// the transaction is durable, by this process.
func (a *Actions) Create(ctx context.Context, tx *db.Tx, by access.Caller, want api.NewAction) (out api.ActionsMade, err error) {
	out = api.ActionsMade{Actions: []api.Action{}, Refused: []api.ActionRefused{}}
	if by.Kind != access.User && by.Kind != access.ScopedKey {
		return out, api.ErrUnauthorized
	}
	if err := check(&want); err != nil {
		return out, err
	}
	found, err := a.targets(ctx, tx, by, want)
	if err != nil {
		return out, err
	}
	var chosen []target
	for i, t := range found {
		if t.id == 0 {
			out.Refused = append(out.Refused, api.ActionRefused{UUID: t.uuid, Code: api.NotFound, Message: "There is no such device."})
			continue
		}
		if err := a.refusal(ctx, tx, by, &found[i], want); err != nil {
			coded := api.AsError(err)
			if coded.Code == api.Internal {
				return out, err
			}
			r := api.ActionRefused{UUID: t.uuid, Name: t.name, Code: coded.Code, Message: coded.Text}
			if coded.Code == api.NotFound {
				r.Name, r.Message = "", "There is no such device."
				if want.Fleet != "" {
					continue
				}
			}
			out.Refused = append(out.Refused, r)
			continue
		}
		chosen = append(chosen, t)
	}
	if len(chosen) == 0 && len(out.Refused) == 1 {
		return out, api.Errorf(out.Refused[0].Code, "%s", out.Refused[0].Message)
	}
	if len(chosen) == 0 && len(out.Refused) == 0 {
		return out, api.Errorf(api.NotFound, "The fleet has no device.")
	}
	if err := a.insert(ctx, tx, by, want, chosen, &out); err != nil {
		return out, fmt.Errorf("tell devices: %w", err)
	}
	return out, record(ctx, tx, by, want, chosen)
}

// targets finds the devices that are meant; one that is not there has no id.
func (a *Actions) targets(ctx context.Context, tx *db.Tx, by access.Caller, want api.NewAction) ([]target, error) {
	const columns = `SELECT d.id, d.belongs_to__application, d.uuid, d.device_name, d.is_connected_to_vpn,
		(SELECT count(*) FROM device_action a WHERE a.device = d.id AND a.state IN ` + openList + `)
		FROM device d WHERE d.is_frozen = 0 AND `
	var list []target
	read := func(where string, args ...any) error {
		rows, err := tx.QueryContext(ctx, columns+where+` ORDER BY d.id`, args...)
		if err != nil {
			return fmt.Errorf("find devices: %w", err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var t target
			if err := rows.Scan(&t.id, &t.fleet, &t.uuid, &t.name, &t.connected, &t.open); err != nil {
				return fmt.Errorf("find devices: %w", err)
			}
			t.connected = t.connected && a.cfg.Caller != nil
			list = append(list, t)
		}
		return rows.Err()
	}
	if want.Fleet != "" {
		fl, err := fleet.FindBySlug(ctx, tx, by, want.Fleet)
		if err != nil {
			return nil, err
		}
		if err := read(`d.belongs_to__application = ?`, fl.ID); err != nil {
			return nil, err
		}
		if len(list) > api.MaxActionTargets {
			return nil, api.Errorf(api.TooLarge, "The fleet has %d devices; an action is for %d at most.", len(list), api.MaxActionTargets)
		}
		return list, nil
	}
	named := slices.Compact(slices.Sorted(slices.Values(want.Devices)))
	for part := range slices.Chunk(named, rowsAtOnce) {
		in, args := db.In(part)
		if err := read(`d.uuid IN `+in, args...); err != nil {
			return nil, err
		}
	}
	for _, uuid := range named {
		if !slices.ContainsFunc(list, func(t target) bool { return t.uuid == uuid }) {
			list = append(list, target{uuid: uuid})
		}
	}
	return list, nil
}

// refusal says why nothing is done on a device; nil: something is.
func (a *Actions) refusal(ctx context.Context, tx *db.Tx, by access.Caller, t *target, want api.NewAction) error {
	may, err := rights.DeviceVerbs(ctx, tx, by, t.id)
	if err != nil {
		return err
	}
	if err := rights.Needs(may, needs); err != nil {
		return err
	}
	switch {
	case !t.connected && want.NoQueue:
		return api.Errorf(api.Conflict, "The device is not connected, and the action was not to wait for it.")
	case t.open >= api.MaxActionsOpen:
		return api.Errorf(api.RateLimited, "%d actions wait for the device already; cancel one first.", t.open)
	}
	return nil
}

// insert writes the rows.
func (a *Actions) insert(ctx context.Context, tx *db.Tx, by access.Caller, want api.NewAction, chosen []target, out *api.ActionsMade) error {
	expires := tx.Now.Add(time.Duration(want.Expires) * time.Second)
	var service, user, network any
	if len(want.Network) > 0 {
		network = string(want.Network)
	}
	if want.Service != "" {
		service = want.Service
	}
	if by.User != 0 {
		user = by.User
	}
	var waiting, ready []int64
	for part := range slices.Chunk(chosen, rowsAtOnce) {
		byID := map[int64]target{}
		var values [][]any
		for _, t := range part {
			byID[t.id] = t
			values = append(values, []any{tx.NowText(), t.id, user, string(want.Verb), service, number(want.Force), want.Lines, number(!want.NoQueue),
				db.FormatTime(expires), network})
			if !t.connected {
				waiting = append(waiting, t.id)
			}
		}
		list, args := db.Values(`(CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS BIGINT),
			CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS TEXT), CAST(? AS TEXT))`, values)
		rows, err := tx.QueryContext(ctx, `INSERT INTO device_action (created_at, device, is_made_by__user, verb, service_name, is_forced, lines, is_queued,
				expires_at, network, try_at, state)
			SELECT DISTINCT column1, column2, column3, column4, column5, column6, column7, column8, column9, column10, column1, 'queued' FROM (VALUES `+list+`) AS b
			WHERE 1 = 1 RETURNING id, device`, args...)
		if err != nil {
			return err
		}
		err = func() error {
			defer func() { _ = rows.Close() }()
			for rows.Next() {
				var id, dev int64
				if err := rows.Scan(&id, &dev); err != nil {
					return err
				}
				t := byID[dev]
				out.Actions = append(out.Actions, api.Action{ID: id, Device: dev, UUID: t.uuid, Name: t.name, Verb: want.Verb, Service: want.Service,
					Force: want.Force, State: api.ActionQueued, CreatedAt: tx.Now, ExpiresAt: expires, Connected: t.connected})
				if t.connected {
					ready = append(ready, id)
				}
			}
			return rows.Err()
		}()
		if err != nil {
			return err
		}
	}
	if len(ready) > 0 {
		tx.OnCommit(func() { a.hand(ready...) })
	}
	return nudge.Touch(ctx, tx, waiting)
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// record writes down who has what done, before it is.
func record(ctx context.Context, tx *db.Tx, by access.Caller, want api.NewAction, chosen []target) error {
	fleets := make([]int64, len(chosen))
	for i, t := range chosen {
		fleets[i] = t.fleet
	}
	owners, err := fleet.Organizations(ctx, tx, slices.Compact(slices.Sorted(slices.Values(fleets))))
	if err != nil {
		return err
	}
	detail := func(more map[string]any) map[string]any {
		d := map[string]any{"verb": want.Verb}
		if want.Service != "" {
			d["service"] = want.Service
		}
		if want.Force {
			d["force"] = true
		}
		if n, err := readNetwork(want.Network); len(want.Network) > 0 && err == nil {
			n.record(d)
		}
		for k, v := range more {
			d[k] = v
		}
		return d
	}
	var entries []audit.By
	if len(chosen) <= namedDevices {
		for _, t := range chosen {
			entries = append(entries, audit.By{Caller: by, Entry: audit.Entry{Act: "device.act", Kind: "device", ID: t.id, Name: string(t.uuid),
				Fleet: t.fleet, Organization: owners[t.fleet], Detail: detail(nil)}})
		}
	} else {
		many := map[int64]int{}
		for _, f := range fleets {
			many[f]++
		}
		for f, n := range many {
			entries = append(entries, audit.By{Caller: by, Entry: audit.Entry{Act: "device.act", Kind: "application", ID: f, Fleet: f,
				Organization: owners[f], Detail: detail(map[string]any{"devices": n})}})
		}
	}
	for i := range entries {
		if err := watch.Support(ctx, tx, by, &entries[i].Entry); err != nil {
			return err
		}
	}
	return audit.RecordAll(ctx, tx, entries)
}

// one finds an action on a device on which the caller may act, and says where it is. To those who may not see the device there is none.
func one(ctx context.Context, tx *db.Tx, by access.Caller, id int64) (state api.ActionState, t target, result sql.NullString, err error) {
	missing := api.Errorf(api.NotFound, "There is no action %d.", id)
	err = tx.QueryRowContext(ctx, `SELECT a.state, d.id, d.belongs_to__application, d.uuid, a.result FROM device_action a JOIN device d ON d.id = a.device
		WHERE a.id = ?`, id).Scan(&state, &t.id, &t.fleet, &t.uuid, &result)
	if errors.Is(err, sql.ErrNoRows) {
		return state, t, result, missing
	}
	if err != nil {
		return state, t, result, fmt.Errorf("action %d: %w", id, err)
	}
	may, err := rights.DeviceVerbs(ctx, tx, by, t.id)
	if err == nil {
		err = rights.Needs(may, needs)
	}
	if errors.Is(err, api.ErrNotFound) {
		err = missing
	}
	return state, t, result, err
}

// Cancel takes an action back that the device has not got yet.
func (a *Actions) Cancel(ctx context.Context, tx *db.Tx, by access.Caller, id int64) error {
	state, t, _, err := one(ctx, tx, by, id)
	if err != nil {
		return err
	}
	switch {
	case state == api.ActionSent:
		return api.Errorf(api.Conflict, "The device has the action already.")
	case !state.Open():
		return api.Errorf(api.Conflict, "The action is %s.", state)
	}
	taken, err := tx.ExecContext(ctx, `UPDATE device_action SET state = 'cancelled', ended_at = ?, network = NULL WHERE id = ? AND state = 'queued'`, tx.NowText(), id)
	if err != nil {
		return fmt.Errorf("cancel action %d: %w", id, err)
	}
	if n, err := taken.RowsAffected(); err != nil || n == 0 {
		return api.Errorf(api.Conflict, "The device has the action already.")
	}
	owners, err := fleet.Organizations(ctx, tx, []int64{t.fleet})
	if err != nil {
		return err
	}
	e := audit.Entry{Act: "device.act.cancel", Kind: "device", ID: t.id, Name: string(t.uuid), Fleet: t.fleet, Organization: owners[t.fleet],
		Detail: map[string]any{"action": id}}
	if err := watch.Support(ctx, tx, by, &e); err != nil {
		return err
	}
	return audit.Record(ctx, tx, by, e)
}

// Result is what the device answered, for those who may act on it: a piece of a journal holds more than they see who only read.
func (a *Actions) Result(ctx context.Context, tx *db.Tx, by access.Caller, id int64) (json.RawMessage, error) {
	_, _, result, err := one(ctx, tx, by, id)
	if err == nil && !result.Valid {
		err = api.Errorf(api.NotFound, "The action has no result.")
	}
	return json.RawMessage(result.String), err
}
