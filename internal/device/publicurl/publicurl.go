// Package publicurl owns the public addresses of devices: whether one is on, to which port it leads, and who may open it.
package publicurl

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the table of this package, number 0286; see [db.DB.Migrate].
func Migrations() fs.FS { return db.Folder(migrations) }

const (
	maxNetworks = 100 // of one address
	tokenPrefix = "rdu_"
)

// Address is the public address of a device.
type Address struct {
	Device, Fleet, Organization int64

	UUID   api.DeviceUUID
	Port   int
	Login  bool // who opens it logs in
	Serial int64
	Until  *time.Time

	token sql.NullString
	allow string
}

// Token reports whether it has a token.
func (a Address) Token() bool { return a.token.Valid }

// Opens reports whether a text is the token of the address.
func (a Address) Opens(hasher token.Hasher, text string) bool {
	return a.token.Valid && text != "" && hmac.Equal([]byte(hasher.Token(text)), []byte(a.token.String))
}

// From reports whether it may be opened from an IP address.
func (a Address) From(address string) bool {
	return access.Caller{Networks: a.allow}.Comes(access.API, address) == nil
}

const columns = `d.id, d.uuid, d.belongs_to__application, f.organization, d.is_web_accessible, coalesce(p.port, 80), coalesce(p.is_login_required, 0),
	p.token_hash, coalesce(p.allow, ''), p.until, coalesce(p.serial, 0)
	FROM device d JOIN application f ON f.id = d.belongs_to__application LEFT JOIN device_public_url p ON p.device = d.id`

func scan(row *sql.Row) (a Address, on bool, err error) {
	var until sql.NullString
	err = row.Scan(&a.Device, &a.UUID, &a.Fleet, &a.Organization, &on, &a.Port, &a.Login, &a.token, &a.allow, &until, &a.Serial)
	if errors.Is(err, sql.ErrNoRows) {
		return a, false, api.ErrNotFound
	}
	if err != nil {
		return a, false, fmt.Errorf("public address: %w", err)
	}
	if until.Valid {
		at, err := db.ParseTime(until.String)
		if err != nil {
			return a, false, fmt.Errorf("public address: %w", err)
		}
		a.Until = &at
	}
	return a, on, nil
}

// Find gives the address of a device. One that is off, or over, is not found, like one of a device that is not there.
func Find(ctx context.Context, tx *db.Tx, uuid api.DeviceUUID) (Address, error) {
	a, on, err := scan(tx.QueryRowContext(ctx, `SELECT `+columns+` WHERE d.uuid = ? AND d.is_frozen = 0`, uuid))
	if err == nil && (!on || a.over(tx.Now)) {
		err = api.ErrNotFound
	}
	return a, err
}

func (a Address) over(now time.Time) bool { return a.Until != nil && !a.Until.After(now) }

func (a Address) shown(on bool, site api.Site, now time.Time) api.PublicURL {
	return api.PublicURL{
		Enabled: on && !a.over(now), URL: URL(site, a.UUID), Port: a.Port, Login: a.Login, HasToken: a.token.Valid,
		Allow: append([]string{}, strings.Fields(a.allow)...), Until: a.Until,
	}
}

// URL is the public address of a device as people type it.
func URL(site api.Site, uuid api.DeviceUUID) string { return site.URL(string(uuid) + ".devices") }

// seen finds the address of a device, on or off, for somebody with a verb there.
func seen(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID, need access.Verbs) (a Address, on bool, err error) {
	if a, on, err = scan(tx.QueryRowContext(ctx, `SELECT `+columns+` WHERE d.uuid = ?`, uuid)); err != nil {
		return a, on, err
	}
	have, err := rights.DeviceVerbs(ctx, tx, by, a.Device)
	if err != nil {
		return a, on, err
	}
	if need != access.Read && have.Has(access.Read) { // what outlives a support grant is not for those who came with one
		if have, err = rights.OwnDeviceVerbs(ctx, tx, by, a.Device); err != nil {
			return a, on, err
		}
		have |= access.Read
	}
	return a, on, rights.Needs(have, need)
}

// Show tells of the address of a device to whoever sees the device.
func Show(ctx context.Context, tx *db.Tx, by access.Caller, site api.Site, uuid api.DeviceUUID) (api.PublicURL, error) {
	a, on, err := seen(ctx, tx, by, uuid, access.Read)
	return a.shown(on, site, tx.Now), err
}

// Set changes the address of a device. A token that it makes is in the answer, and nowhere else ever.
func Set(ctx context.Context, tx *db.Tx, by access.Caller, hasher token.Hasher, site api.Site, uuid api.DeviceUUID, c api.PublicURLChange) (api.PublicURL, error) {
	a, on, err := seen(ctx, tx, by, uuid, access.Devices)
	if err != nil {
		return api.PublicURL{}, err
	}
	made, err := a.change(c, hasher, tx.Now)
	if err != nil {
		return api.PublicURL{}, err
	}
	if c.Enabled != nil {
		on = *c.Enabled
	}
	a.Serial++
	if _, err := tx.ExecContext(ctx, `UPDATE device SET is_web_accessible = ?, modified_at = ? WHERE id = ?`, on, tx.NowText(), a.Device); err != nil {
		return api.PublicURL{}, fmt.Errorf("public address: %w", err)
	}
	var until any
	if a.Until != nil {
		until = db.FormatTime(*a.Until)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO device_public_url (device, port, is_login_required, token_hash, allow, until, serial)
		VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device) DO UPDATE SET port = excluded.port, is_login_required = excluded.is_login_required,
			token_hash = excluded.token_hash, allow = excluded.allow, until = excluded.until, serial = excluded.serial`,
		a.Device, a.Port, a.Login, a.token, a.allow, until, a.Serial)
	if err != nil {
		return api.PublicURL{}, fmt.Errorf("public address: %w", err)
	}
	shown := a.shown(on, site, tx.Now)
	err = audit.Record(ctx, tx, by, audit.Entry{
		Act: "device.url", Kind: "device", ID: a.Device, Name: string(uuid), Organization: a.Organization, Fleet: a.Fleet,
		Detail: map[string]any{"enabled": shown.Enabled, "port": a.Port, "login": a.Login, "token": a.token.Valid, "allow": shown.Allow, "until": until},
	})
	shown.Token = made
	return shown, err
}

// change puts what is given in place of what there is, and gives the token if it made one.
func (a *Address) change(c api.PublicURLChange, hasher token.Hasher, now time.Time) (made string, err error) {
	if c.Port != nil {
		switch a.Port = *c.Port; {
		case a.Port < 1 || a.Port > 65535:
			return "", api.Errorf(api.Invalid, "port: %d is none", a.Port)
		case a.Port == api.PortSSH || a.Port == api.PortDevice:
			return "", api.Errorf(api.Invalid, "port: %d is the agent's own, and is never public", a.Port)
		}
	}
	if c.Login != nil {
		a.Login = *c.Login
	}
	if c.Token != nil {
		a.token = sql.NullString{}
		if *c.Token {
			made = token.New(tokenPrefix)
			a.token = sql.NullString{String: hasher.Token(made), Valid: true}
		}
	}
	if c.Allow != nil {
		if len(*c.Allow) > maxNetworks {
			return "", api.Errorf(api.Invalid, "allow: at most %d networks", maxNetworks)
		}
		if a.allow, err = access.ParseNetworks(*c.Allow); err != nil {
			return "", api.Errorf(api.Invalid, "allow: %v", err)
		}
	}
	switch {
	case c.Until != nil && !c.Until.After(now):
		return "", api.Errorf(api.Invalid, "until: that has passed")
	case c.Until != nil:
		at := c.Until.UTC()
		a.Until = &at
	case c.Enabled != nil:
		a.Until = nil
	}
	return made, nil
}

// Switched is told of devices whose is_web_accessible somebody sets: what was open ends, and a former end is no longer one.
func Switched(ctx context.Context, tx *db.Tx, devices []int64) error {
	these, args := db.In(devices)
	_, err := tx.ExecContext(ctx, `UPDATE device_public_url SET serial = serial + 1, until = NULL WHERE device IN `+these, args...)
	if err != nil {
		return fmt.Errorf("public address: %w", err)
	}
	return nil
}

// EndOnce switches the addresses off whose time is over. That they are was decided by the clock already; this says it in the device's row.
func EndOnce(ctx context.Context, tx *db.Tx) error {
	over, err := db.Column[int64](ctx, tx, `SELECT device FROM device_public_url WHERE until <= ? ORDER BY device LIMIT 1000`, tx.NowText())
	if err != nil || len(over) == 0 {
		return err
	}
	these, args := db.In(over)
	if _, err := tx.ExecContext(ctx, `UPDATE device SET is_web_accessible = 0 WHERE id IN `+these, args...); err != nil {
		return fmt.Errorf("public address: %w", err)
	}
	return Switched(ctx, tx, over)
}
