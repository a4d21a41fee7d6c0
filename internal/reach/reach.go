// Package reach decides who may open a connection to a device, and which of those that are open must end. Each decision is one of the
// database's: several processes of the api role give the same answers.
package reach

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/publicurl"
	"github.com/roadstead-io/roadstead/internal/fleet"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbers 0285 and 0321; see [db.DB.Migrate].
func Migrations() fs.FS { return db.Folder(migrations) }

// Bounds of what is open at the same time, unless the vpn role is told lower ones.
const (
	mostPerUser   = 1000
	mostPerDevice = 1000
)

const (
	seenEvery = 10 * time.Second // how exactly it is kept when a connection was spoken of
	tidyEvery = 10 * time.Second
	lostAfter = time.Minute // one of which nobody speaks is gone with the process that had it
)

// Config is what the package works with.
type Config struct {
	DB       *db.DB
	Accounts *account.Accounts
	Site     api.Site
	Log      *slog.Logger
	// Only makes of a chore one that a single process of the server does; nil: there is one process.
	Only func(name string, period time.Duration, chore func(ctx context.Context) error) func(ctx context.Context) error
}

// Reach is the connections to devices.
type Reach struct {
	cfg Config

	mu      sync.Mutex           // covers refused
	refused map[refusal]struct{} // told of in this minute
	since   time.Time
}

// New makes it; it starts nothing.
func New(cfg Config) *Reach { return &Reach{cfg: cfg, refused: map[refusal]struct{}{}} }

// target is a device that somebody wants to reach.
type target struct {
	id, fleet, organization int64
}

func find(ctx context.Context, tx *db.Tx, where string, arg any) (t target, err error) {
	err = tx.QueryRowContext(ctx, `SELECT d.id, d.belongs_to__application, f.organization FROM device d
		JOIN application f ON f.id = d.belongs_to__application WHERE d.is_frozen = 0 AND `+where, arg).Scan(&t.id, &t.fleet, &t.organization)
	if errors.Is(err, sql.ErrNoRows) {
		return t, api.ErrNotFound
	}
	if err != nil {
		return t, fmt.Errorf("reach: device: %w", err)
	}
	return t, nil
}

// opened is one connection as it is decided about and written down.
type opened struct {
	permit  string
	kind    string
	uuid    api.DeviceUUID
	target  target
	port    int
	by      access.Caller // Nobody: a visitor whom nobody asked who they are
	proof   account.Proof
	support bool
	serial  int64 // of a public address
	token   bool  // which its token opened
	visitor int64 // row of whom nobody asked who they are; 0: they are known
	until   *time.Time
}

// Permit decides about one connection, and writes down that it is open.
func (r *Reach) Permit(ctx context.Context, ask api.ReachRequest) (api.ReachPermit, error) {
	if err := check(ask); err != nil {
		return api.ReachPermit{}, err
	}
	var o opened
	err := r.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		if ask.Kind == api.ReachURL {
			o, err = r.visit(ctx, tx, ask)
		} else {
			o, err = r.enter(ctx, tx, ask)
		}
		return err
	})
	if err != nil {
		r.tell(ctx, o, err)
		return api.ReachPermit{}, err
	}
	o.permit = rand.Text()
	err = r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if err := o.count(ctx, tx, ask); err != nil {
			return err
		}
		if o.by.User == 0 {
			var err error
			if o.visitor, err = came(ctx, tx, o); err != nil {
				return err
			}
		}
		if err := o.insert(ctx, tx); err != nil {
			return err
		}
		if o.by.User == 0 {
			return nil
		}
		return audit.Record(ctx, tx, o.by, o.entry("open", detail(ask.Detail)))
	})
	if err != nil {
		return api.ReachPermit{}, err
	}
	if o.by.Key != 0 {
		r.cfg.Accounts.Used(o.by, needs(o.kind, o.port)&^access.Read)
	}
	r.cfg.Accounts.UsedFrom(o.by)
	return api.ReachPermit{
		Permit: o.permit, Device: o.target.id, UUID: o.uuid, Fleet: o.target.fleet, Port: o.port, User: o.by.User, Username: o.by.Name,
		Support: o.support, ByToken: o.token, Until: o.until,
	}, nil
}

func check(ask api.ReachRequest) error {
	switch {
	case !ask.UUID.Valid():
		return api.Errorf(api.Invalid, "uuid: that is none of a device")
	case len(ask.Detail) > 16:
		return api.Errorf(api.Invalid, "detail: too many")
	}
	switch ask.Kind {
	case api.ReachURL:
		return nil
	case api.ReachSSH:
		if ask.Port != api.PortSSH {
			return api.Errorf(api.Invalid, "port: SSH is on %d", api.PortSSH)
		}
	case api.ReachTunnel:
		if ask.Port < 1 || ask.Port > 65535 {
			return api.Errorf(api.Invalid, "port: %d is none", ask.Port)
		}
	default:
		return api.Errorf(api.Invalid, "kind: %q is none", ask.Kind)
	}
	return nil
}

// needs is what somebody has on a device who may open a connection of a kind to a port.
func needs(kind string, port int) access.Verbs {
	switch {
	case kind == api.ReachURL:
		return access.Read
	case port == api.PortDevice:
		return access.Read | access.Shell | access.Actions
	}
	return access.Read | access.Shell
}

// enter decides about a tunnel or SSH.
func (r *Reach) enter(ctx context.Context, tx *db.Tx, ask api.ReachRequest) (o opened, err error) {
	o = opened{kind: ask.Kind, uuid: ask.UUID, port: ask.Port, by: access.Nobody()}
	var ends time.Time
	switch {
	case ask.Fingerprint != "" && ask.Kind == api.ReachSSH:
		o.by, err = r.cfg.Accounts.BySSHKey(ctx, tx, ask.Fingerprint)
	case ask.Credential != "":
		o.by, ends, err = r.cfg.Accounts.AuthenticateUntil(ctx, tx, ask.Credential)
	default:
		err = api.ErrUnauthorized
	}
	if err != nil {
		return o, err
	}
	o.by.Address = ask.From
	if o.by.Kind == access.HalfUser {
		return o, api.ErrUnauthorized
	}
	if err := o.by.Comes(access.Tunnel, ask.From); err != nil {
		return o, err
	}
	if o.target, err = find(ctx, tx, `d.uuid = ?`, ask.UUID); err != nil {
		return o, err
	}
	if o.support, err = may(ctx, tx, o.by, o.kind, o.target, o.port); err != nil {
		return o, err
	}
	if o.proof, err = account.ProofOf(ctx, tx, o.by); err != nil {
		return o, err
	}
	o.until, err = ending(ctx, tx, o.target, o.support, ends)
	return o, err
}

// may decides about somebody who is known, now: at the beginning, and again every second. What they may not even see is not found.
func may(ctx context.Context, tx *db.Tx, by access.Caller, kind string, t target, port int) (support bool, err error) {
	if by.Kind != access.User && by.Kind != access.ScopedKey {
		return false, api.ErrNotFound // devices, and keys of fleets, reach no device
	}
	have, err := rights.DeviceVerbs(ctx, tx, by, t.id)
	if err != nil {
		return false, err
	}
	need := needs(kind, port)
	if err := rights.Needs(have, need); err != nil {
		return false, err
	}
	own, err := rights.OwnDeviceVerbs(ctx, tx, by, t.id)
	if err != nil {
		return false, err
	}
	if support = !own.Has(need); support && (kind != api.ReachSSH || by.SSHKey == 0) {
		if kind != api.ReachURL {
			return false, api.Errorf(api.Forbidden, "support staff enter a device with their SSH key, in no other way")
		}
		return false, api.ErrNotFound
	}
	if kind != api.ReachTunnel {
		return support, nil
	}
	open, err := portOpen(ctx, tx, t, port)
	if err == nil && !open {
		err = api.Errorf(api.Forbidden, "port %d of this device is not open to tunnels, see the variable %s of the fleet or the device", port, fleet.TunnelPorts)
	}
	return support, err
}

// ending is when a permit ends by itself: with the credential, or with the grant to support.
func ending(ctx context.Context, tx *db.Tx, t target, support bool, ends time.Time) (*time.Time, error) {
	if support {
		var text sql.NullString
		err := tx.QueryRowContext(ctx, `SELECT max(u) FROM (SELECT is_accessible_by_support_until__date AS u FROM device WHERE id = ?
			UNION ALL SELECT is_accessible_by_support_until__date FROM application WHERE id = ?) AS g`, t.id, t.fleet).Scan(&text)
		if err != nil {
			return nil, fmt.Errorf("reach: grant: %w", err)
		}
		if at, err := db.ParseTime(text.String); err == nil && (ends.IsZero() || at.Before(ends)) {
			ends = at
		}
	}
	if ends.IsZero() {
		return nil, nil //nolint:nilnil // no end is known
	}
	return &ends, nil
}

// count refuses one more where there are enough.
func (o opened) count(ctx context.Context, tx *db.Tx, ask api.ReachRequest) error {
	ofUser, ofDevice := bound(ask.PerUser, mostPerUser), bound(ask.PerDevice, mostPerDevice)
	var device, user int
	err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM reach_permit WHERE device = ? AND seen_at > ?),
		(SELECT count(*) FROM reach_permit WHERE "user" = ? AND seen_at > ?)`,
		o.target.id, alive(tx), o.by.User, alive(tx)).Scan(&device, &user)
	if err != nil {
		return fmt.Errorf("reach: count: %w", err)
	}
	if device >= ofDevice {
		return api.Errorf(api.RateLimited, "%d connections to this device are open; that is all there can be", device)
	}
	if o.by.User != 0 && user >= ofUser {
		return api.Errorf(api.RateLimited, "you have %d connections to devices open; that is all there can be", user)
	}
	return nil
}

func bound(asked, most int) int {
	if asked > 0 && asked < most {
		return asked
	}
	return most
}

func alive(tx *db.Tx) string { return db.FormatTime(tx.Now.Add(-lostAfter)) }

func (o opened) insert(ctx context.Context, tx *db.Tx) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO reach_permit (permit, kind, created_at, seen_at, device, uuid, application, organization, port, "user",
			username, api_key, login, ssh_key, address, is_support, serial, visitor)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		o.permit, o.kind, tx.NowText(), tx.NowText(), o.target.id, o.uuid, o.target.fleet, o.target.organization, o.port, o.by.User,
		o.by.Name, o.proof.Key, o.proof.Login, o.proof.SSH, o.by.Address, o.support, o.serial, o.visitor)
	if err != nil {
		return fmt.Errorf("reach: %w", err)
	}
	return nil
}

// entry tells the audit log of a connection: "tunnel.open", "ssh.close".
func (o opened) entry(verb string, more map[string]any) audit.Entry {
	more["permit"], more["port"] = o.permit, o.port
	return audit.Entry{
		Act: o.kind + "." + verb, Kind: "device", ID: o.target.id, Name: string(o.uuid), Organization: o.target.organization, Fleet: o.target.fleet,
		Support: o.support, Detail: more,
	}
}

func detail(given map[string]string) map[string]any {
	out := map[string]any{}
	for name, value := range given {
		out[name] = value
	}
	return out
}

// refusal is of whom and what the audit log is told once a minute, so that knocking does not fill it.
type refusal struct {
	kind        string
	actor, what int64
}

// tell tells the audit log of a refusal to somebody who is known: to whoever looks after the device when they see it and may not enter it,
// and to whoever looks after a device that tries to reach another. An entry that cannot be written is not worth an answer of its own.
func (r *Reach) tell(ctx context.Context, o opened, why error) {
	if o.by.Actor == 0 || o.kind == api.ReachURL {
		return
	}
	e := o.entry("open", map[string]any{})
	e.Result = audit.Refused
	switch {
	case o.by.Kind == access.Device:
		e.Organization, e.Fleet, e.ID = 0, o.by.Fleet, 0
	case !errors.Is(why, api.ErrForbidden) || o.target.id == 0:
		return
	}
	if !r.first(refusal{o.kind, o.by.Actor, o.target.id}) {
		return
	}
	_ = r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if e.Organization == 0 {
			if err := tx.QueryRowContext(ctx, `SELECT organization FROM application WHERE id = ?`, e.Fleet).Scan(&e.Organization); err != nil {
				return err
			}
		}
		return audit.Record(ctx, tx, o.by, e)
	})
}

func (r *Reach) first(one refusal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.since) > time.Minute || len(r.refused) > 10_000 {
		clear(r.refused)
		r.since = time.Now()
	}
	_, told := r.refused[one]
	r.refused[one] = struct{}{}
	return !told
}

// visit decides about opening a public address.
func (r *Reach) visit(ctx context.Context, tx *db.Tx, ask api.ReachRequest) (o opened, err error) {
	o = opened{kind: ask.Kind, uuid: ask.UUID, by: access.Nobody()}
	address, err := publicurl.Find(ctx, tx, ask.UUID)
	if err != nil {
		return o, err
	}
	if !address.From(ask.From) {
		return o, api.ErrNotFound
	}
	o.target, o.port = target{address.Device, address.Fleet, address.Organization}, address.Port
	o.serial, o.until, o.by.Address = address.Serial, address.Until, ask.From
	o.token = address.Opens(r.cfg.Accounts.Hasher(), ask.Token)
	if !address.Login && !address.Token() || o.token {
		return o, nil
	}
	if address.Login && ask.Visit != "" {
		if o.by, o.proof, err = r.visitor(ctx, tx, ask.Visit, ask.UUID, domainVisit, ""); err == nil {
			o.by.Address = ask.From
			_, err = may(ctx, tx, o.by, o.kind, o.target, o.port)
		}
		if err == nil || !errors.Is(err, api.ErrUnauthorized) {
			return o, err
		}
	}
	how := api.VisitLogin
	if !address.Login {
		how = api.VisitToken
	}
	return o, api.Errorf(api.Unauthorized, "%s", how)
}

// sorted gives permits in one order, whichever process writes.
func sorted(ended []api.ReachEnded) []api.ReachEnded {
	out := slices.Clone(ended)
	slices.SortFunc(out, func(a, b api.ReachEnded) int {
		if a.Permit < b.Permit {
			return -1
		}
		return 1
	})
	return out
}
