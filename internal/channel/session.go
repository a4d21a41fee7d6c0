package channel

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

var instanceName = pattern.New(`^[A-Za-z0-9._-]{1,64}$`)

// atOnce is how many rows one statement writes or asks for.
const atOnce = 100

// Report takes what an instance says of its sessions and answers which of them it is to end: those whose device or key is gone, has moved,
// is here anew, or is not wanted. It may be repeated.
func (c *Channel) Report(ctx context.Context, r api.ChannelReport) (answer api.ChannelAnswer, err error) {
	if err := checkReport(r); err != nil {
		return answer, err
	}
	idle := !r.Full && len(r.Up) == 0 && len(r.Down) == 0
	if idle {
		var seen bool
		err = c.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
			var known bool
			if known, seen, err = instance(ctx, tx, r); err != nil || !known {
				answer.Again = !known
				return err
			}
			answer.Cut, err = c.cut(ctx, tx, r.Instance)
			return err
		})
		if err != nil {
			return answer, fmt.Errorf("channel sessions: %w", err)
		}
		if seen || answer.Again {
			return answer, nil
		}
	}
	err = c.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		answer = api.ChannelAnswer{}
		known, _, err := instance(ctx, tx, r)
		if err != nil {
			return err
		}
		if answer.Again = !known && (!r.Full || r.After != ""); answer.Again {
			return nil
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO channel_instance (name, boot, seen_at) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET boot = excluded.boot, seen_at = excluded.seen_at`, r.Instance, r.Boot, tx.NowText())
		if err != nil {
			return err
		}
		if !idle {
			if err := take(ctx, tx, r); err != nil {
				return err
			}
		}
		answer.Cut, err = c.cut(ctx, tx, r.Instance)
		return err
	})
	if err != nil {
		return answer, fmt.Errorf("channel sessions: %w", err)
	}
	return answer, nil
}

func checkReport(r api.ChannelReport) error {
	if !instanceName.MatchString(r.Instance) || !instanceName.MatchString(r.Boot) {
		return api.Errorf(api.Invalid, "instance and boot are names")
	}
	if len(r.Up) > api.MaxChannelReport || len(r.Down) > api.MaxChannelReport {
		return api.Errorf(api.Invalid, "a report has at most %d sessions", api.MaxChannelReport)
	}
	if len(r.After) > maxName || len(r.To) > maxName || !r.Full && r.After+r.To != "" || r.To != "" && r.To <= r.After {
		return api.Errorf(api.Invalid, "after and to are the bounds of a part of a full report")
	}
	for _, u := range r.Up {
		_, err := netip.ParseAddr(u.Address)
		switch {
		case u.Session <= r.After && r.Full || r.To != "" && u.Session > r.To:
			return api.Errorf(api.Invalid, "session %.40s is not of this part of the report", u.Session)
		case u.Session == "" || len(u.Session) > maxName || !api.DeviceUUID(u.UUID).Valid():
			return api.Errorf(api.Invalid, "a session needs a name and a device")
		case err != nil:
			return api.Errorf(api.Invalid, "session %s: %.40q is no address", u.Session, u.Address)
		case u.Identity != api.IdentityCertificate && u.Identity != api.IdentityKey:
			return api.Errorf(api.Invalid, "session %s: %.40q is no kind of identity", u.Session, u.Identity)
		}
	}
	return nil
}

// instance says whether the process that reports is the one that is known, and whether that was written down a moment ago.
func instance(ctx context.Context, tx *db.Tx, r api.ChannelReport) (known, fresh bool, err error) {
	var boot, at string
	err = tx.QueryRowContext(ctx, `SELECT boot, seen_at FROM channel_instance WHERE name = ?`, r.Instance).Scan(&boot, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return false, false, nil
	}
	return boot == r.Boot, at > db.FormatTime(tx.Now.Add(-seenEvery)), err
}

// held is a session as it is in the database.
type held struct {
	device  int64
	session string
}

// take writes down what has changed, for the sessions and for their devices.
func take(ctx context.Context, tx *db.Tx, r api.ChannelReport) error {
	have, err := sessions(ctx, tx, r)
	if err != nil {
		return err
	}
	touched := map[int64]bool{}
	var begun []api.ChannelUp
	still := map[string]bool{}
	for _, u := range r.Up {
		if _, known := have[u.Session]; !known && !still[u.Session] {
			begun = append(begun, u)
		}
		still[u.Session] = true
	}
	ended := map[string]bool{}
	for _, d := range r.Down {
		if _, known := have[d.Session]; known {
			ended[d.Session] = true
		}
		begun = slices.DeleteFunc(begun, func(u api.ChannelUp) bool { return u.Session == d.Session })
	}
	if r.Full {
		for name := range have {
			if !still[name] {
				ended[name] = true
			}
		}
	}
	for part := range slices.Chunk(slices.Sorted(maps.Keys(ended)), atOnce) {
		in, args := db.In(part)
		if _, err := tx.ExecContext(ctx, `DELETE FROM channel_session WHERE session IN `+in, args...); err != nil {
			return err
		}
	}
	for name := range ended {
		touched[have[name].device] = true
	}
	for part := range slices.Chunk(begun, atOnce) {
		if err := begin(ctx, tx, r.Instance, part, touched); err != nil {
			return err
		}
	}
	return connect(ctx, tx, touched)
}

// sessions are those of an instance that a report is about: all of its part, when it is full.
func sessions(ctx context.Context, tx *db.Tx, r api.ChannelReport) (map[string]held, error) {
	out := map[string]held{}
	if r.Full {
		if r.To == "" {
			return out, find(ctx, tx, out, `instance = ? AND session > ?`, r.Instance, r.After)
		}
		return out, find(ctx, tx, out, `instance = ? AND session > ? AND session <= ?`, r.Instance, r.After, r.To)
	}
	names := make([]string, 0, len(r.Up)+len(r.Down))
	for _, u := range r.Up {
		names = append(names, u.Session)
	}
	for _, d := range r.Down {
		names = append(names, d.Session)
	}
	for part := range slices.Chunk(names, atOnce) {
		in, args := db.In(part)
		if err := find(ctx, tx, out, `instance = ? AND session IN `+in, append([]any{r.Instance}, args...)...); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func find(ctx context.Context, tx *db.Tx, out map[string]held, which string, args ...any) error {
	rows, err := tx.QueryContext(ctx, `SELECT device, session FROM channel_session WHERE `+which, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var h held
		if err := rows.Scan(&h.device, &h.session); err != nil {
			return err
		}
		out[h.session] = h
	}
	return rows.Err()
}

// begin writes new sessions, in their order: of a device's the last one counts. A device that is gone leaves a session that is to be cut.
func begin(ctx context.Context, tx *db.Tx, instance string, up []api.ChannelUp, touched map[int64]bool) error {
	uuids := make([]string, 0, len(up))
	for _, u := range up {
		uuids = append(uuids, u.UUID)
	}
	in, args := db.In(uuids)
	rows, err := tx.QueryContext(ctx, `SELECT id, uuid, belongs_to__application FROM device WHERE uuid IN `+in, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	type row struct{ device, fleet int64 }
	known := map[string]row{}
	for rows.Next() {
		var r row
		var uuid string
		if err := rows.Scan(&r.device, &uuid, &r.fleet); err != nil {
			return err
		}
		known[uuid] = r
	}
	if err := rows.Err(); err != nil {
		return err
	}
	values := make([]any, 0, 9*len(up))
	for _, u := range up {
		r := known[u.UUID]
		if r.device != 0 {
			touched[r.device] = true
		}
		since, err := time.Parse(time.RFC3339, u.Since)
		if err != nil || since.After(tx.Now) {
			since = tx.Now
		}
		values = append(values, u.Session, instance, r.device, r.fleet, u.Key, u.Identity, u.Address, short(u.From), db.FormatTime(since))
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO channel_session (session, instance, device, application, api_key, identity, address, came_from, since)
		VALUES `+db.Rows(`(?, ?, ?, ?, ?, ?, ?, ?, ?)`, len(up))+` ON CONFLICT (session) DO NOTHING`, values...)
	return err
}

// connect tells devices what has become of their sessions: the newest one is a device's, and without any it is not connected.
func connect(ctx context.Context, tx *db.Tx, touched map[int64]bool) error {
	for part := range slices.Chunk(slices.Sorted(maps.Keys(touched)), atOnce) {
		now := map[int64]device.Connection{}
		for _, id := range part {
			now[id] = device.Connection{Device: id}
		}
		in, args := db.In(part)
		rows, err := tx.QueryContext(ctx, `SELECT device, address, identity FROM channel_session WHERE device IN `+in+` ORDER BY id`, args...)
		if err != nil {
			return err
		}
		for rows.Next() {
			var d device.Connection
			if err := rows.Scan(&d.Device, &d.Address, &d.Identity); err != nil {
				return errors.Join(err, rows.Close())
			}
			now[d.Device] = d
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		all := make([]device.Connection, 0, len(part))
		for _, id := range part {
			all = append(all, now[id])
		}
		if err := device.Connected(ctx, tx, all); err != nil {
			return err
		}
	}
	return nil
}

// cut lists the sessions of an instance that are to end.
func (c *Channel) cut(ctx context.Context, tx *db.Tx, instance string) ([]string, error) {
	gone, err := db.Column[string](ctx, tx, `SELECT s.session FROM channel_session s WHERE s.instance = ? AND (
			NOT EXISTS (SELECT 1 FROM device d JOIN api_key k ON k.is_of__actor = d.actor AND k.id = s.api_key
				WHERE d.id = s.device AND d.belongs_to__application = s.application AND d.is_frozen = 0
					AND (k.expiry_date IS NULL OR k.expiry_date > ?))
			OR EXISTS (SELECT 1 FROM channel_session n WHERE n.device = s.device AND n.id > s.id)
			OR s.identity = 'key' AND EXISTS (SELECT 1 FROM channel_identity i WHERE i.device = s.device))`, instance, tx.NowText())
	if err != nil {
		return nil, err
	}
	off, err := c.unwanted(ctx, tx, instance)
	if err != nil {
		return nil, err
	}
	all := append(gone, off...)
	slices.Sort(all)
	return slices.Compact(all), nil
}

// ExpireOnce ends the sessions of instances that were silent too long. One that had none had nothing to say.
func (c *Channel) ExpireOnce(ctx context.Context) error {
	query := `SELECT name FROM channel_instance i WHERE seen_at < ? AND EXISTS (SELECT 1 FROM channel_session s WHERE s.instance = i.name)`
	silent := func(ctx context.Context, tx *db.Tx) ([]string, error) {
		return db.Column[string](ctx, tx, query, db.FormatTime(tx.Now.Add(-silence)))
	}
	var names []string
	err := c.cfg.DB.ReadOne(ctx, func(tx *db.Tx) (err error) {
		names, err = silent(ctx, tx)
		return err
	})
	if err != nil || len(names) == 0 {
		return err
	}
	return c.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		names, err := silent(ctx, tx)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := take(ctx, tx, api.ChannelReport{Instance: name, Full: true}); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM channel_instance WHERE name = ?`, name); err != nil {
				return err
			}
			c.cfg.Log.WarnContext(ctx, "an instance of the control channel is silent; its devices count as not connected", "instance", name)
		}
		return nil
	})
}
