package trust

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/tlog"
)

const maxText = 300 // bytes of one field of a rejection

// Resource declares what devices say of their checks. A device without a row says nothing: it is unverified.
func (t *Trust) Resource() *odata.Resource {
	person := odata.Rule{Read: access.On(access.Read, "device")}
	const refused = "Devices say this themselves, at /trust/v1/device/UUID/report."
	text := func(name string) odata.Column { return odata.Column{Name: name, Type: odata.String, Null: true} }
	return &odata.Resource{
		Name: "device_trust",
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer}, {Name: "created_at", Type: odata.Date},
			{Name: "device", Type: odata.ForeignKey, To: "device", Reverse: []string{"device_trust"}},
			{Name: "state", Type: odata.String}, text("commit"), {Name: "counter", Type: odata.Integer, Null: true}, text("sha256"), text("approval"), text("held_by"),
			text("rejected"), text("rejection_reason"), text("rejection_key"), text("rejection_expected"), text("rejection_got"),
			{Name: "seen_at", Type: odata.Date},
		},
		Rules: map[access.Kind]odata.Rule{
			access.User: person, access.ScopedKey: person, access.Device: {Read: "device eq @device"},
			access.FleetKey: {Read: access.Along("{}belongs_to__application eq @fleet", "device")},
		},
		Refused: map[odata.Op]string{odata.Create: refused, odata.Update: refused, odata.Delete: refused},
	}
}

// said is what is kept of a report, and compared with the one before.
type said struct{ state, what, reason string }

func checkReport(r *api.TrustReport) error {
	switch r.State {
	case api.TrustVerified, api.TrustRejected, api.TrustWaiting:
	default:
		return api.Errorf(api.Invalid, "state: %.40q is none that a device reports", r.State)
	}
	switch {
	case r.Commit != "" && !commitForm.MatchString(r.Commit):
		return api.Errorf(api.Invalid, "commit: %.60q is none", r.Commit)
	case r.SHA256 != "" && !digestForm.MatchString(r.SHA256):
		return api.Errorf(api.Invalid, "sha256: %.70q is none", r.SHA256)
	case r.Fleet != "" && !fleetForm.MatchString(r.Fleet):
		return api.Errorf(api.Invalid, "fleet: %.40q is no uuid", r.Fleet)
	case r.Counter < 0:
		return api.Errorf(api.Invalid, "counter: below 0")
	case len(r.Checkpoint) > tlog.MaxCheckpoint:
		return api.Errorf(api.TooLarge, "checkpoint: at most %d bytes", tlog.MaxCheckpoint)
	case r.State == api.TrustRejected && (r.Rejection == nil || r.Rejection.What == ""):
		return api.Errorf(api.Invalid, "rejection: what is refused, and why, is not said")
	}
	switch r.Approval {
	case "", api.ApprovalBuilder, api.ApprovalBoth, api.ApprovalOwner:
	default:
		return api.Errorf(api.Invalid, "approval: %.40q is none", r.Approval)
	}
	switch r.HeldBy {
	case "", api.HeldByServer, api.HeldByOwner:
	default:
		return api.Errorf(api.Invalid, "held_by: %.40q holds no root", r.HeldBy)
	}
	return checkVersions(r.Versions)
}

// Report takes what a device says of its checks. That it refuses something, and that it does no more, is in the audit log.
func (t *Trust) Report(ctx context.Context, by access.Caller, uuid api.DeviceUUID, r api.TrustReport) error {
	if err := checkReport(&r); err != nil {
		return err
	}
	versions, err := json.Marshal(r.Versions)
	if err != nil {
		return err
	}
	no := api.TrustRejection{}
	if r.Rejection != nil {
		no = *r.Rejection
	}
	err = t.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		p, err := readPlace(ctx, tx, by, uuid)
		if err != nil {
			return err
		}
		var before said
		err = tx.QueryRowContext(ctx, `SELECT state, coalesce(rejected, ''), coalesce(rejection_reason, '') FROM device_trust WHERE device = ?`, p.device).
			Scan(&before.state, &before.what, &before.reason)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("report of device %s: %w", uuid, err)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO device_trust (created_at, device, state, "commit", counter, sha256, approval, held_by, rejected, rejection_reason,
				rejection_key, rejection_expected, rejection_got, checkpoint, versions, seen_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (device) DO UPDATE SET state = excluded.state, "commit" = excluded."commit", counter = excluded.counter, sha256 = excluded.sha256,
				approval = excluded.approval, held_by = excluded.held_by, rejected = excluded.rejected, rejection_reason = excluded.rejection_reason,
				rejection_key = excluded.rejection_key, rejection_expected = excluded.rejection_expected, rejection_got = excluded.rejection_got,
				checkpoint = excluded.checkpoint, versions = excluded.versions, seen_at = excluded.seen_at`,
			tx.NowText(), p.device, r.State, null(r.Commit), r.Counter, null(r.SHA256), null(string(r.Approval)), null(r.HeldBy),
			null(no.What), null(no.Reason), null(no.Key), null(no.Expected), null(no.Got), whole(r.Checkpoint), string(versions), tx.NowText())
		if err != nil {
			return fmt.Errorf("report of device %s: %w", uuid, err)
		}
		if r.Fleet != "" {
			if err := arrived(ctx, tx, p, r.Fleet); err != nil {
				return err
			}
		}
		return recordReport(ctx, tx, by, p, uuid, before, said{r.State, cut(no.What), cut(no.Reason)}, no)
	})
	if err != nil || r.Checkpoint == "" {
		return err
	}
	if err := t.Book.Gossip(ctx, by, r.Checkpoint); err != nil && api.AsError(err).Code == api.Internal {
		return err
	}
	return nil
}

// null makes an empty text NULL, and bounds what a device says.
func null(s string) any {
	if s = cut(s); s == "" {
		return nil
	}
	return s
}

// whole is a checkpoint, whose size was looked at; one that has other characters than those of signed notes is none.
func whole(checkpoint string) any {
	if checkpoint == "" || strings.ContainsFunc(checkpoint, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		return nil
	}
	return checkpoint
}

// cut makes one line of what a device says, which steers nobody's terminal.
func cut(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

func recordReport(ctx context.Context, tx *db.Tx, by access.Caller, p place, uuid api.DeviceUUID, before, after said, no api.TrustRejection) error {
	act := ""
	switch {
	case after.state == api.TrustRejected && after != before:
		act = "device.trust.reject"
	case before.state == api.TrustRejected && after.state == api.TrustVerified:
		act = "device.trust.accept"
	}
	if act == "" {
		return nil
	}
	e := audit.Entry{Act: act, Kind: "device", ID: p.device, Name: string(uuid), Fleet: p.fleet}
	if err := tx.QueryRowContext(ctx, `SELECT organization FROM application WHERE id = ?`, p.fleet).Scan(&e.Organization); err != nil {
		return fmt.Errorf("report of device %s: %w", uuid, err)
	}
	if after.state == api.TrustRejected {
		e.Detail = map[string]any{"what": after.what, "reason": after.reason, "key": cut(no.Key), "expected": cut(no.Expected), "got": cut(no.Got)}
	} else {
		e.Detail = map[string]any{"what": before.what, "reason": before.reason}
	}
	return audit.Record(ctx, tx, by, e)
}
