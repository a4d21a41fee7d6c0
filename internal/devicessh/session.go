package devicessh

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// word is what a device may say of a session: no more than a list of names.
var word = pattern.New(`[^A-Za-z0-9_.,/ -]`)

// commands are those that a device tells of, cut and made plain text on any terminal, as they are kept.
func commands(told api.SSHProgress) (text string, count int) {
	out := make([]string, 0, api.MaxSSHCommands)
	for _, one := range told.Commands[:min(len(told.Commands), api.MaxSSHCommands)] {
		out = append(out, escape(one))
	}
	if len(out) == 0 {
		return "", 0
	}
	data, err := json.Marshal(out)
	if err != nil {
		return "", 0 // texts do not fail
	}
	return string(data), min(max(told.CommandCount, len(out)), 1_000_000)
}

// escape writes what is no printable character as Go does, and cuts what is too long.
func escape(text string) string {
	var b strings.Builder
	for _, r := range text {
		part := string(r)
		if !strconv.IsPrint(r) || r == '\\' {
			quoted := strconv.QuoteRune(r)
			part = quoted[1 : len(quoted)-1]
		}
		if b.Len()+len(part) > api.MaxSSHCommand {
			return b.String() + "…"
		}
		b.WriteString(part)
	}
	return b.String()
}

// commandsOf reads what commands wrote.
func commandsOf(text string) (out []string) {
	if text != "" {
		_ = json.Unmarshal([]byte(text), &out) // we wrote it
	}
	return out
}

func tame(text string) string {
	text = word.ReplaceAllString(text, "?")
	return text[:min(len(text), 200)]
}

// Still says which of a device's open sessions must end, and why: their holder has not what they showed any more, or may not enter any
// more. It gives those, too, of which it is to be written down that they go on; see [SSH.Seen].
func (s *SSH) Still(ctx context.Context, tx *db.Tx, by access.Caller, list []api.SSHProgress) (answer api.SSHStill, stale []api.SSHProgress, err error) {
	p, err := placeOf(ctx, tx, `d.id = ?`, by.Device)
	if err != nil {
		return answer, nil, err
	}
	return s.still(ctx, tx, p, list)
}

func (s *SSH) still(ctx context.Context, tx *db.Tx, p place, list []api.SSHProgress) (answer api.SSHStill, stale []api.SSHProgress, err error) {
	if len(list) > mostOpen {
		return answer, nil, api.Errorf(api.TooLarge, "a device has at most %d SSH sessions", mostOpen)
	}
	for _, one := range list {
		v, err := s.told(ctx, tx, one.Session, one.Token)
		why := ""
		switch {
		case errors.Is(err, api.ErrNotFound) || err == nil && (v.ended || v.device != p.id):
			why = "the server does not know this session any more"
		case err != nil:
			return answer, nil, err
		case v.toEnd:
			why = "somebody ended it"
		default:
			if why, err = s.why(ctx, tx, v, p); err != nil {
				return answer, nil, err
			}
		}
		if why != "" {
			if answer.Why == nil {
				answer.Why = map[int64]string{}
			}
			answer.End, answer.Why[one.Session] = append(answer.End, one.Session), why
			continue
		}
		if tx.Now.Sub(v.seen) >= seenEvery || v.kind != tame(one.Kind) || len(one.Commands) > 0 {
			stale = append(stale, one)
		}
	}
	return answer, stale, nil
}

// why says why the holder of a session may not be in any more; "" when they may.
func (s *SSH) why(ctx context.Context, tx *db.Tx, v session, p place) (string, error) {
	person, holds, err := s.holds(ctx, tx, v.proof, v.user)
	if err != nil {
		return "", err
	}
	if !holds {
		return "the SSH key, the login or the API key that it was begun with ended", nil
	}
	switch _, err = mayEnter(ctx, tx, person, p); {
	case err == nil:
		return "", nil
	case !errors.Is(err, api.ErrNotFound) && !errors.Is(err, api.ErrForbidden):
		return "", err
	case p.frozen:
		return "the device is frozen", nil
	case v.support:
		return "the support grant ended", nil
	}
	return "the right to be here ended", nil
}

// Seen writes down how far sessions have got that [SSH.Still] found to go on.
func (s *SSH) Seen(ctx context.Context, tx *db.Tx, list []api.SSHProgress) error {
	for _, one := range list {
		_, err := tx.ExecContext(ctx, `UPDATE device_ssh_session SET seen_at = ?, kind = ?, target = ?, bytes_in = ?, bytes_out = ? WHERE id = ? AND ended_at IS NULL`,
			tx.NowText(), tame(one.Kind), tame(one.Target), max(0, one.BytesIn), max(0, one.BytesOut), one.Session)
		if err != nil {
			return fmt.Errorf("SSH session: %w", err)
		}
		if text, count := commands(one); count > 0 {
			if _, err := tx.ExecContext(ctx, `UPDATE device_ssh_session SET commands = ?, command_count = ? WHERE id = ? AND ended_at IS NULL`, text, count, one.Session); err != nil {
				return fmt.Errorf("SSH session: %w", err)
			}
		}
	}
	return nil
}

// End writes down that a session ended. Whoever has its token tells of it, the gateway or a device: one that was deleted meanwhile has no key any
// more. What is told once stays.
func (s *SSH) End(ctx context.Context, tx *db.Tx, by access.Caller, told api.SSHProgress) error {
	v, err := s.told(ctx, tx, told.Session, told.Token)
	if err != nil || v.ended {
		return err
	}
	var code sql.NullInt64
	if told.Exit != nil {
		code = sql.NullInt64{Int64: int64(*told.Exit), Valid: true}
	}
	text, count := commands(told)
	_, err = tx.ExecContext(ctx, `UPDATE device_ssh_session SET seen_at = ?1, ended_at = ?1, kind = ?2, target = ?3, bytes_in = ?4, bytes_out = ?5, exit_code = ?6,
		why = ?7, commands = ?8, command_count = ?9 WHERE id = ?10`,
		tx.NowText(), tame(told.Kind), tame(told.Target), max(0, told.BytesIn), max(0, told.BytesOut), code, tame(told.Why), text, count, v.id)
	if err != nil {
		return fmt.Errorf("end SSH session: %w", err)
	}
	v.commands, v.count = text, count
	if by.Kind == access.Service {
		return s.recordEnd(ctx, tx, by, v, told)
	}
	// Whoever has the token is the device, whether or not it has its key still.
	device := access.Caller{Kind: access.Device, Device: v.device, Fleet: v.fleet, Name: api.DeviceRegistryUser(api.DeviceUUID(v.uuid)), Address: by.Address, Request: by.Request}
	return s.recordEnd(ctx, tx, device, v, told)
}

func (s *SSH) recordEnd(ctx context.Context, tx *db.Tx, by access.Caller, v session, told api.SSHProgress) error {
	detail := map[string]any{
		"session": v.id, "user": v.name, "kind": tame(told.Kind), "target": tame(told.Target), "bytes_in": told.BytesIn, "bytes_out": told.BytesOut, "why": tame(told.Why),
	}
	if told.Exit != nil {
		detail["exit"] = *told.Exit
	}
	if v.count > 0 {
		detail["commands"], detail["command_count"] = commandsOf(v.commands), v.count
	}
	return audit.Record(ctx, tx, by, audit.Entry{
		Act: "device.ssh_end", Kind: "device", ID: v.device, Name: v.uuid, Organization: v.org, Fleet: v.fleet, User: v.user, Support: v.support, Detail: detail,
	})
}

// MayRecord says whether a recording of a session is taken now.
func (s *SSH) MayRecord(ctx context.Context, tx *db.Tx, id int64, token string) error {
	v, err := s.told(ctx, tx, id, token)
	if err != nil {
		return err
	}
	if !v.recorded || v.ended && tx.Now.Sub(v.endedAt) > recordingWithin {
		return api.Errorf(api.Forbidden, "no recording of this session is taken")
	}
	return nil
}

// Record keeps the recording of a session. A second one changes nothing.
func (s *SSH) Record(ctx context.Context, tx *db.Tx, id int64, token string, data []byte) error {
	if err := s.MayRecord(ctx, tx, id, token); err != nil {
		return err
	}
	text := strings.ReplaceAll(strings.ToValidUTF8(string(data), "�"), "\x00", "")
	if _, err := tx.ExecContext(ctx, `INSERT INTO device_ssh_recording (session, data) VALUES (?, ?) ON CONFLICT (session) DO NOTHING`, id, text); err != nil {
		return fmt.Errorf("recording: %w", err)
	}
	return nil
}

// owners says on which fleets a person may see who was in their devices: by right of their own, which no grant to support is.
func owners(ctx context.Context, tx *db.Tx, by access.Caller) func(fleet int64) (bool, error) {
	known := map[int64]bool{}
	return func(fleet int64) (bool, error) {
		may, ok := known[fleet]
		if ok {
			return may, nil
		}
		verbs, err := rights.OwnVerbs(ctx, tx, by, fleet)
		if err != nil {
			return false, err
		}
		known[fleet] = verbs.Has(access.Read | access.Shell)
		return known[fleet], nil
	}
}

// Sessions lists who was, or is, in a device, newest first. A device that is gone has its sessions still.
func (s *SSH) Sessions(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID) ([]api.SSHSession, error) {
	mine := owners(ctx, tx, by)
	there := false
	p, err := placeOf(ctx, tx, `d.uuid = ?`, string(uuid))
	switch {
	case err == nil:
		if there, err = mine(p.fleet); err != nil {
			return nil, err
		}
	case !errors.Is(err, api.ErrNotFound):
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT s.id, s.application, s.device_uuid, s.user_name, s.is_support = 1, s.let_in_by, s.kind, s.target, s.address, s.created_at,
			s.ended_at, s.bytes_in, s.bytes_out, s.exit_code, s.why, s.commands, s.command_count, EXISTS (SELECT 1 FROM device_ssh_recording r WHERE r.session = s.id)
		FROM device_ssh_session s WHERE s.device_uuid = ? ORDER BY s.id DESC LIMIT ?`, string(uuid), mostListed)
	if err != nil {
		return nil, fmt.Errorf("SSH sessions: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	type row struct {
		api.SSHSession
		fleet int64
	}
	var all []row
	for rows.Next() {
		var one row
		var ended sql.NullString
		var code sql.NullInt64
		var ran string
		if err := rows.Scan(&one.ID, &one.fleet, &one.Device, &one.User, &one.Support, &one.By, &one.Kind, &one.Target, &one.From, &one.BeganAt, &ended,
			&one.BytesIn, &one.BytesOut, &code, &one.Why, &ran, &one.CommandCount, &one.Recording); err != nil {
			return nil, fmt.Errorf("SSH sessions: %w", err)
		}
		one.EndedAt, one.Commands = ended.String, commandsOf(ran)
		if code.Valid {
			exit := int(code.Int64)
			one.Exit = &exit
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("SSH sessions: %w", err)
	}
	out := []api.SSHSession{}
	for _, one := range all {
		may, err := mine(one.fleet)
		if err != nil {
			return nil, err
		}
		if may {
			out = append(out, one.SSHSession)
		}
	}
	if !there && len(out) == 0 {
		return nil, api.ErrNotFound
	}
	return out, nil
}

// Recording gives what a session showed. That somebody looked is in the audit log.
func (s *SSH) Recording(ctx context.Context, tx *db.Tx, by access.Caller, id int64) (data string, err error) {
	var e audit.Entry
	var name string
	err = tx.QueryRowContext(ctx, `SELECT r.data, s.device, s.device_uuid, s.application, s.organization, s."user", s.user_name, s.is_support = 1
		FROM device_ssh_session s JOIN device_ssh_recording r ON r.session = s.id WHERE s.id = ?`, id).
		Scan(&data, &e.ID, &e.Name, &e.Fleet, &e.Organization, &e.User, &name, &e.Support)
	if errors.Is(err, sql.ErrNoRows) {
		return "", api.ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("recording: %w", err)
	}
	may, err := owners(ctx, tx, by)(e.Fleet)
	if err != nil {
		return "", err
	}
	if !may {
		return "", api.ErrNotFound
	}
	e.Act, e.Kind, e.Detail = "device.ssh_recording", "device", map[string]any{"session": id, "user": name}
	return data, audit.Record(ctx, tx, by, e)
}

// Order has an open session ended, for those who may enter the device by right of their own: the device is told when it next asks, within a
// second or so. A second order changes nothing.
func (s *SSH) Order(ctx context.Context, tx *db.Tx, by access.Caller, id int64) error {
	e := audit.Entry{Act: "device.ssh_cut", Kind: "device"}
	var name string
	var ended sql.NullString
	err := tx.QueryRowContext(ctx, `SELECT device, device_uuid, application, organization, "user", user_name, is_support = 1, ended_at FROM device_ssh_session WHERE id = ?`, id).
		Scan(&e.ID, &e.Name, &e.Fleet, &e.Organization, &e.User, &name, &e.Support, &ended)
	if errors.Is(err, sql.ErrNoRows) {
		return api.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("end SSH session: %w", err)
	}
	may, err := owners(ctx, tx, by)(e.Fleet)
	if err != nil {
		return err
	}
	if !may {
		return api.ErrNotFound
	}
	if ended.Valid {
		return api.Errorf(api.Conflict, "The session has ended already.")
	}
	changed, err := tx.ExecContext(ctx, `UPDATE device_ssh_session SET is_to_end = 1 WHERE id = ? AND is_to_end = 0`, id)
	if err != nil {
		return fmt.Errorf("end SSH session: %w", err)
	}
	if n, err := changed.RowsAffected(); err != nil || n == 0 {
		return err
	}
	e.Detail = map[string]any{"session": id, "user": name}
	return audit.Record(ctx, tx, by, e)
}

// Run ends sessions of devices that went silent, and forgets what is old, until the context ends.
func (s *SSH) Run(ctx context.Context) error {
	chore := s.cfg.Only("device SSH sessions", sweepEvery, s.Sweep)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := chore(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.ErrorContext(ctx, "look after SSH sessions of devices", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Sweep does that once.
func (s *SSH) Sweep(ctx context.Context) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		lost, err := db.Column[int64](ctx, tx, `SELECT id FROM device_ssh_session WHERE ended_at IS NULL AND seen_at < ? ORDER BY id LIMIT 1000`,
			db.FormatTime(tx.Now.Add(-lostAfter)))
		if err != nil {
			return fmt.Errorf("lost SSH sessions: %w", err)
		}
		for _, id := range lost {
			if err := s.lose(ctx, tx, id); err != nil {
				return err
			}
		}
		for query, before := range map[string]time.Time{
			`DELETE FROM device_ssh_grant WHERE until < ?`:                                 tx.Now.Add(-2 * late),
			`DELETE FROM device_ssh_session WHERE created_at < ? AND ended_at IS NOT NULL`: tx.Now.Add(-keep),
		} {
			if _, err := tx.ExecContext(ctx, query, db.FormatTime(before)); err != nil {
				return fmt.Errorf("old SSH sessions: %w", err)
			}
		}
		return nil
	})
}

// lose ends a session that its device says nothing more of.
func (s *SSH) lose(ctx context.Context, tx *db.Tx, id int64) error {
	var v session
	told := api.SSHProgress{Why: "the device went silent"}
	err := tx.QueryRowContext(ctx, `UPDATE device_ssh_session SET ended_at = ?, why = ? WHERE id = ? AND ended_at IS NULL
		RETURNING id, device, device_uuid, application, organization, "user", user_name, is_support = 1, kind, target, bytes_in, bytes_out, commands, command_count`, tx.NowText(), told.Why, id).
		Scan(&v.id, &v.device, &v.uuid, &v.fleet, &v.org, &v.user, &v.name, &v.support, &told.Kind, &told.Target, &told.BytesIn, &told.BytesOut,
			&v.commands, &v.count)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lost SSH session: %w", err)
	}
	return s.recordEnd(ctx, tx, access.Itself(), v, told)
}

// Fingerprints of keys of the caller's that are looked up have this form.
var fingerprint = pattern.New(`^SHA256:[A-Za-z0-9+/]{43}$`)

// CheckFingerprint refuses what is none.
func CheckFingerprint(text string) error {
	if !fingerprint.MatchString(text) {
		return api.Errorf(api.Invalid, "fingerprint: is not SHA256:… of a key")
	}
	return nil
}
