// Package devicessh owns who may enter devices over SSH, and who did: permissions that certificates are signed for, the sessions that
// devices report, and their recordings. A right that ends ends the sessions that hang on it: devices ask while somebody is in.
package devicessh

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbered 0290, 0320 and 0322; see [db.DB.Migrate].
func Migrations() fs.FS { return db.Folder(migrations) }

const (
	tokenDomain = "device SSH session\x00"
	// late is how long after its end a certificate's permission is still found: who began to connect in time is let in.
	late = time.Minute
	// seenEvery is how often it is written down that a session goes on.
	seenEvery = 15 * time.Second
	// lostAfter is how long a session may go unmentioned: its device is gone, and it counts as ended.
	lostAfter = time.Minute
	// keep is how long sessions and recordings are kept; the audit log keeps who was in for as long as it does everything.
	keep = 90 * 24 * time.Hour
	// recordingWithin is how long after its end a session's recording is taken.
	recordingWithin = 10 * time.Minute

	mostOpen   = 64 // sessions of one device at a time
	mostListed = 200
	sweepEvery = 30 * time.Second
)

// Config is what the package works with.
type Config struct {
	DB       *db.DB
	Accounts *account.Accounts
	Log      *slog.Logger
	// Only runs a chore in one process of the role; nil: there is only one.
	Only func(name string, period time.Duration, chore func(ctx context.Context) error) func(ctx context.Context) error
}

// SSH is the running part of the package.
type SSH struct{ cfg Config }

// New makes it; it starts nothing.
func New(cfg Config) *SSH {
	if cfg.Only == nil {
		cfg.Only = func(_ string, _ time.Duration, chore func(context.Context) error) func(context.Context) error {
			return chore
		}
	}
	return &SSH{cfg}
}

// place is a device as far as entering it goes.
type place struct {
	id, fleet, organization int64
	uuid                    string
	frozen                  bool
	deviceGrant, fleetGrant sql.NullString // until when support is let in
	closed                  bool           // to support, for good
}

func placeOf(ctx context.Context, tx *db.Tx, where string, arg any) (p place, err error) {
	err = tx.QueryRowContext(ctx, `SELECT d.id, d.uuid, d.is_frozen = 1, d.is_accessible_by_support_until__date,
			f.id, f.organization, f.is_accessible_by_support_until__date, f.is_closed_to_support = 1
		FROM device d JOIN application f ON f.id = d.belongs_to__application WHERE `+where, arg).
		Scan(&p.id, &p.uuid, &p.frozen, &p.deviceGrant, &p.fleet, &p.organization, &p.fleetGrant, &p.closed)
	if errors.Is(err, sql.ErrNoRows) {
		return p, api.ErrNotFound
	}
	if err != nil {
		return p, fmt.Errorf("device: %w", err)
	}
	return p, nil
}

// entry is how somebody may enter a device.
type entry struct {
	support bool      // by a support grant and nothing else
	until   time.Time // the grant's end; zero: there is none
	forward bool      // whether ports may be forwarded: by right of one's own. A grant lets in, and nothing through
}

// mayEnter says how a person may enter a device. What they may not see is not found.
func mayEnter(ctx context.Context, tx *db.Tx, by access.Caller, p place) (e entry, err error) {
	verbs, err := rights.DeviceVerbs(ctx, tx, by, p.id)
	if err != nil {
		return e, err
	}
	if err := rights.Needs(verbs, access.Shell); err != nil {
		return e, err
	}
	if p.frozen {
		return e, api.Errorf(api.Forbidden, "the device is frozen")
	}
	var staff bool
	if by.Key == 0 {
		if err := tx.QueryRowContext(ctx, `SELECT is_support_staff = 1 FROM "user" WHERE id = ?`, by.User).Scan(&staff); err != nil {
			return e, fmt.Errorf("enter device: %w", err)
		}
	}
	if !staff {
		return entry{forward: true}, nil
	}
	own, err := rights.OwnVerbs(ctx, tx, by, p.fleet)
	if err != nil || own.Has(access.Shell) {
		return entry{forward: true}, err
	}
	e.support = true
	for _, text := range []sql.NullString{p.deviceGrant, p.fleetGrant} {
		if !text.Valid {
			continue
		}
		until, err := db.ParseTime(text.String)
		if err != nil {
			return e, fmt.Errorf("support grant: %w", err)
		}
		if until.After(e.until) {
			e.until = until
		}
	}
	if p.closed || !e.until.After(tx.Now) { // the verbs say the same
		return e, api.ErrNotFound
	}
	return e, nil
}

// Way says how a person may enter a device. Support staff come with an uploaded key, through the gateway, and so does everybody where the
// device's SSH server is none of ours.
func (s *SSH) Way(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID) (way api.SSHWay, err error) {
	p, err := placeOf(ctx, tx, `d.uuid = ?`, string(uuid))
	if err != nil {
		return way, err
	}
	e, err := mayEnter(ctx, tx, by, p)
	if err != nil {
		return way, err
	}
	way = api.SSHWay{Way: api.SSHByCertificate, Support: e.support, User: by.Name}
	if way.OwnServer, err = ownServer(ctx, tx, p.id); err != nil {
		return way, err
	}
	if e.support || way.OwnServer {
		way.Way = api.SSHByGateway
	}
	return way, nil
}

// Open gives a person a permission to enter a device for some minutes, which a certificate for a key is then signed with.
func (s *SSH) Open(ctx context.Context, tx *db.Tx, by access.Caller, ask api.SSHCertificateAsk) (out api.SSHUserAsk, err error) {
	p, err := placeOf(ctx, tx, `d.uuid = ?`, string(ask.Device))
	if err != nil {
		return out, err
	}
	e, err := mayEnter(ctx, tx, by, p)
	if err != nil {
		return out, err
	}
	if e.support && by.SSHKey == 0 {
		return out, api.Errorf(api.Forbidden, "support staff enter a device with their SSH key, through the gateway, in no other way")
	}
	if ask.Forward && !e.forward {
		return out, api.Errorf(api.Forbidden, "support staff enter a device; they forward no ports through it")
	}
	own, err := ownServer(ctx, tx, p.id)
	if err != nil {
		return out, err
	}
	if own && by.SSHKey == 0 {
		return out, api.Errorf(api.Conflict, "the device's SSH server knows no certificates: it is entered through the gateway, with an uploaded SSH key")
	}
	proof, err := account.ProofOf(ctx, tx, by)
	if err != nil {
		return out, err
	}
	out = api.SSHUserAsk{
		PublicKey: ask.PublicKey, Device: p.uuid, Grant: rand.Text(), User: by.Name, Forward: ask.Forward,
		Until: tx.Now.Add(api.SSHUserCertificateLife).UTC().Truncate(time.Second),
	}
	if e.support && e.until.Before(out.Until) {
		out.Until = e.until.UTC().Truncate(time.Second)
	}
	if !out.Until.After(tx.Now) {
		return out, api.ErrNotFound // within the grant's last second
	}
	key := ""
	if own {
		key, out.Own = ask.PublicKey, &api.SSHOwnServer{User: by.Name, Grant: out.Grant}
		if out.Own.HostKey, _, err = hostKey(ctx, tx, p.id); err != nil {
			return out, err
		}
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO device_ssh_grant (created_at, name, device, "user", proof_key, proof_login, proof_ssh, address, until, public_key)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		tx.NowText(), out.Grant, p.id, by.User, proof.Key, proof.Login, proof.SSH, by.Address, db.FormatTime(out.Until), key)
	if err != nil {
		return out, fmt.Errorf("open device: %w", err)
	}
	return out, audit.Record(ctx, tx, by, audit.Entry{
		Act: "device.ssh_certificate", Kind: "device", ID: p.id, Name: p.uuid, Organization: p.organization, Fleet: p.fleet, User: by.User, Support: e.support,
		Detail: map[string]any{"until": out.Until.Format(time.RFC3339), "forward": out.Forward, "own_server": own},
	})
}

// Key says whether the owner of an SSH key may enter the device that asks. A key that may not is like one that is nobody's.
func (s *SSH) Key(ctx context.Context, tx *db.Tx, by access.Caller, fingerprint string) (out api.SSHKeyAnswer, err error) {
	p, err := placeOf(ctx, tx, `d.id = ?`, by.Device)
	if err != nil {
		return out, err
	}
	person, err := s.cfg.Accounts.BySSHKey(ctx, tx, fingerprint)
	if errors.Is(err, api.ErrUnauthorized) {
		return out, api.ErrNotFound
	}
	if err != nil {
		return out, err
	}
	e, err := mayEnter(ctx, tx, person, p)
	if errors.Is(err, api.ErrForbidden) {
		return out, api.ErrNotFound
	}
	if err != nil {
		return out, err
	}
	return api.SSHKeyAnswer{User: person.Name, Until: e.until, Forward: e.forward}, nil
}

// Begin writes down that a device has let somebody in, and says what the device needs to tell of it later.
func (s *SSH) Begin(ctx context.Context, tx *db.Tx, by access.Caller, ask api.SSHBegin) (out api.SSHBegun, err error) {
	p, err := placeOf(ctx, tx, `d.id = ?`, by.Device)
	if err != nil {
		return out, err
	}
	return s.begin(ctx, tx, by, p, ask, false)
}

// begin does that; atGateway: the gateway says so, and not the device.
func (s *SSH) begin(ctx context.Context, tx *db.Tx, by access.Caller, p place, ask api.SSHBegin, atGateway bool) (out api.SSHBegun, err error) {
	var open int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM device_ssh_session WHERE device_uuid = ? AND ended_at IS NULL`, p.uuid).Scan(&open); err != nil {
		return out, fmt.Errorf("begin SSH session: %w", err)
	}
	if open >= mostOpen {
		return out, api.Errorf(api.RateLimited, "the device has %d SSH sessions already", open)
	}
	person, proof, address, err := s.entrant(ctx, tx, p, ask)
	if err != nil {
		return out, err
	}
	e, err := mayEnter(ctx, tx, person, p)
	if err != nil {
		return out, err
	}
	way := "key"
	if ask.Grant != "" && !atGateway {
		way = "certificate"
	}
	out = api.SSHBegun{Token: rand.Text(), User: person.Name, Until: e.until}
	if !atGateway { // which records nothing
		if out.Record, err = records(ctx, tx, p); err != nil {
			return out, err
		}
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO device_ssh_session (created_at, device, device_uuid, application, organization, "user", user_name, proof_key,
			proof_login, proof_ssh, is_support, let_in_by, address, kind, target, seen_at, token, is_recorded)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', '', ?, ?, ?) RETURNING id`,
		tx.NowText(), p.id, p.uuid, p.fleet, p.organization, person.User, person.Name, proof.Key, proof.Login, proof.SSH, e.support, way, address,
		tx.NowText(), s.hash(out.Token), out.Record).Scan(&out.Session)
	if err != nil {
		return out, fmt.Errorf("begin SSH session: %w", err)
	}
	return out, audit.Record(ctx, tx, by, audit.Entry{
		Act: "device.ssh_begin", Kind: "device", ID: p.id, Name: p.uuid, Organization: p.organization, Fleet: p.fleet, User: person.User, Support: e.support,
		Detail: map[string]any{"session": out.Session, "user": person.Name, "by": way, "from": address, "recorded": out.Record},
	})
}

// entrant is whom a device has let in, what they showed, and where they came from as far as is known.
func (s *SSH) entrant(ctx context.Context, tx *db.Tx, p place, ask api.SSHBegin) (person access.Caller, proof account.Proof, address string, err error) {
	if ask.Grant == "" {
		if person, err = s.cfg.Accounts.BySSHKey(ctx, tx, ask.Fingerprint); err != nil {
			return person, proof, "", notFoundFor(err)
		}
		proof, err = account.ProofOf(ctx, tx, person)
		return person, proof, "", err
	}
	var user int64
	err = tx.QueryRowContext(ctx, `SELECT "user", proof_key, proof_login, proof_ssh, address FROM device_ssh_grant WHERE name = ? AND device = ? AND until > ?`,
		ask.Grant, p.id, db.FormatTime(tx.Now.Add(-late))).Scan(&user, &proof.Key, &proof.Login, &proof.SSH, &address)
	if errors.Is(err, sql.ErrNoRows) {
		return person, proof, "", api.ErrNotFound
	}
	if err != nil {
		return person, proof, "", fmt.Errorf("SSH grant: %w", err)
	}
	person, holds, err := s.holds(ctx, tx, proof, user)
	if err == nil && !holds {
		err = api.ErrNotFound
	}
	return person, proof, address, err
}

// holds says who a proof stands for; one that shows nothing stands for nobody.
func (s *SSH) holds(ctx context.Context, tx *db.Tx, proof account.Proof, user int64) (access.Caller, bool, error) {
	if proof == (account.Proof{}) {
		return access.Nobody(), false, nil
	}
	return s.cfg.Accounts.Holds(ctx, tx, proof, user)
}

// notFoundFor is the refusal to a device: whoever may not enter it is nobody to it.
func notFoundFor(err error) error {
	if errors.Is(err, api.ErrUnauthorized) || errors.Is(err, api.ErrForbidden) {
		return api.ErrNotFound
	}
	return err
}

// records says whether sessions on a device are recorded: a variable of the device says it before one of its fleet.
func records(ctx context.Context, tx *db.Tx, p place) (on bool, err error) {
	var value string
	err = tx.QueryRowContext(ctx, `SELECT value FROM (
			SELECT 0 AS place, value FROM device_config_variable WHERE device = ? AND name = ?
			UNION ALL SELECT 1, value FROM application_config_variable WHERE application = ? AND name = ?) v ORDER BY place LIMIT 1`,
		p.id, fleet.SSHRecord, p.fleet, fleet.SSHRecord).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("recording: %w", err)
	}
	return value == "true" || value == "1", nil
}

func (s *SSH) hash(token string) string {
	return hex.EncodeToString(s.cfg.Accounts.Hasher().MAC(tokenDomain, token))
}

// session is a row as far as it decides.
type session struct {
	id, device, user int64
	proof            account.Proof
	seen             time.Time
	ended, toEnd     bool
	endedAt          time.Time
	recorded         bool
	uuid             string
	fleet, org       int64
	name, kind       string
	support          bool
	commands         string // as they are kept
	count            int
}

// told finds the session that a token tells of.
func (s *SSH) told(ctx context.Context, tx *db.Tx, id int64, token string) (v session, err error) {
	var hash, seen string
	var ended sql.NullString
	err = tx.QueryRowContext(ctx, `SELECT id, device, "user", proof_key, proof_login, proof_ssh, seen_at, ended_at, is_recorded = 1, is_to_end = 1, token, device_uuid,
			application, organization, user_name, kind, is_support = 1 FROM device_ssh_session WHERE id = ?`, id).
		Scan(&v.id, &v.device, &v.user, &v.proof.Key, &v.proof.Login, &v.proof.SSH, &seen, &ended, &v.recorded, &v.toEnd, &hash, &v.uuid, &v.fleet, &v.org, &v.name, &v.kind, &v.support)
	if errors.Is(err, sql.ErrNoRows) {
		return v, api.ErrNotFound
	}
	if err != nil {
		return v, fmt.Errorf("SSH session: %w", err)
	}
	if !hmac.Equal([]byte(hash), []byte(s.hash(token))) {
		return v, api.ErrNotFound
	}
	if v.seen, err = db.ParseTime(seen); err != nil {
		return v, fmt.Errorf("SSH session: %w", err)
	}
	if v.ended = ended.Valid; v.ended {
		if v.endedAt, err = db.ParseTime(ended.String); err != nil {
			return v, fmt.Errorf("SSH session: %w", err)
		}
	}
	return v, nil
}
