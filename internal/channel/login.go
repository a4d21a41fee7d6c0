package channel

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Bounds of what a device shows.
const (
	maxKey  = 4096
	maxName = 64 // of a session, and digits of a SHA-256
)

// errRefused is the one answer to whoever is not let in: it does not tell why.
var errRefused = api.Errorf(api.Unauthorized, "not let in")

// Login says who a device is that knocks at the channel, if it may come in. What it shows is checked as on every other way; a device that
// was given a certificate must show it besides, and one that shows one shows its own. Whatever is wrong, the answer is the same, and the
// log has the reason.
func (c *Channel) Login(ctx context.Context, ask api.ChannelLogin, request string) (made api.ChannelDevice, err error) {
	if !c.cfg.Site.On() {
		return made, api.Errorf(api.NotFound, "this server has no control channel")
	}
	network, err := netip.ParsePrefix(ask.Network)
	if err != nil || !network.Addr().Is4() || network.Bits() > maxBits {
		return made, api.Errorf(api.Invalid, "network: %.40q is no IPv4 network for devices", ask.Network)
	}
	if !instanceName.MatchString(ask.Instance) {
		return made, api.Errorf(api.Invalid, "instance: %.40q is no name", ask.Instance)
	}
	var seen look
	err = c.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		seen, err = c.look(ctx, tx, ask)
		return err
	})
	if err != nil {
		return made, fmt.Errorf("channel login: %w", err)
	}
	if seen.why != "" {
		return made, c.refuse(ctx, ask, seen, request)
	}
	seen.by.Address, seen.by.Request = ask.From, request
	c.cfg.Accounts.Used(seen.by, access.Read)
	made = api.ChannelDevice{Device: seen.device, UUID: ask.UUID, Key: seen.by.Key, Identity: seen.identity}
	if !seen.slot.Valid || seen.forgive || seen.lastFrom.String != networkOf(ask.From) {
		if seen.slot.Int64, err = c.settle(ctx, ask, seen, network); err != nil {
			return made, err
		}
	}
	if made.Address, err = addressOf(network, seen.slot.Int64); err != nil {
		return made, err
	}
	return made, nil
}

// look is what the rows say of a device that knocks.
type look struct {
	why      string // it is not let in; "" when it is
	count    bool   // the refusal counts: somebody showed what is wrong
	device   int64  // 0: there is none of that uuid
	fleet    int64
	org      int64
	identity string
	by       access.Caller
	slot     sql.NullInt64
	lastFrom sql.NullString // the network that it came in from last
	forgive  bool           // there were refusals before
}

func (c *Channel) look(ctx context.Context, tx *db.Tx, ask api.ChannelLogin) (l look, err error) {
	l = look{count: true, identity: api.IdentityKey}
	if !api.DeviceUUID(ask.UUID).Valid() {
		l.why = "it gives no uuid"
		return l, c.held(ctx, tx, ask, &l)
	}
	var certified bool
	err = tx.QueryRowContext(ctx, `SELECT d.id, d.belongs_to__application, f.organization, s.number, s.last_from, CASE WHEN i.device IS NULL THEN 0 ELSE 1 END
		FROM device d JOIN application f ON f.id = d.belongs_to__application
		LEFT JOIN channel_slot s ON s.device = d.id LEFT JOIN channel_identity i ON i.device = d.id WHERE d.uuid = ?`, ask.UUID).
		Scan(&l.device, &l.fleet, &l.org, &l.slot, &l.lastFrom, &certified)
	if errors.Is(err, sql.ErrNoRows) {
		l.why, err = "there is no such device", nil
	}
	if err == nil {
		err = c.held(ctx, tx, ask, &l)
	}
	if err != nil || l.why != "" {
		return l, err
	}
	if l.why, err = c.keyOf(ctx, tx, ask, &l); err != nil || l.why != "" {
		return l, err
	}
	if l.why, err = certificateOf(ctx, tx, ask, certified, &l); err != nil || l.why != "" {
		return l, err
	}
	said, err := c.switches(ctx, tx, `d.id = ?`, l.device)
	if err != nil {
		return l, err
	}
	if on, why := said[l.device].On(tx.Now); !on {
		l.why, l.count = "the channel is not wanted: "+why, false
	}
	return l, nil
}

// keyOf checks the key of a device.
func (c *Channel) keyOf(ctx context.Context, tx *db.Tx, ask api.ChannelLogin, l *look) (why string, err error) {
	if ask.Key == "" || len(ask.Key) > maxKey {
		return "its key is empty or too long", nil
	}
	l.by, _, err = c.cfg.Accounts.AuthenticateUntil(ctx, tx, ask.Key)
	switch {
	case errors.Is(err, api.ErrUnauthorized):
		return "there is no such key", nil
	case err != nil:
		return "", err
	case l.by.Kind == access.FrozenDevice && l.by.Device == l.device:
		l.count = false
		return "it is frozen", nil
	case l.by.Kind != access.Device:
		return "the key is none of a device", nil
	case l.by.Device != l.device:
		return "the key is another device's", nil
	case l.by.Comes(access.API, ask.From) != nil:
		return "the key is not for this network, or not for this", nil
	}
	return "", nil
}

// certificateOf checks the certificate of a device. TLS has proved that it holds, and that whoever shows it has its key; here it is asked whose
// it is.
func certificateOf(ctx context.Context, tx *db.Tx, ask api.ChannelLogin, certified bool, l *look) (why string, err error) {
	if ask.Certificate == "" {
		if certified {
			return "it was given a certificate and does not show it", nil
		}
		return "", nil
	}
	if len(ask.Certificate) > maxName {
		return "its certificate is none of ours", nil
	}
	var device int64
	var expires string
	err = tx.QueryRowContext(ctx, `SELECT device, expires_at FROM channel_certificate WHERE sha256 = ?`, ask.Certificate).Scan(&device, &expires)
	known := err == nil
	switch {
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return "", err
	case known && device != l.device:
		return "the certificate is another device's", nil
	case !certified: // one of before a reset proves nothing any more
		return "", nil
	case !known:
		return "its certificate is none that it was given, or not since a reset", nil
	case expires <= tx.NowText():
		return "its certificate has ended", nil
	}
	l.identity = api.IdentityCertificate
	return "", nil
}

func sumOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// settle gives a device its place, remembers where it came from and forgives what was refused before.
func (c *Channel) settle(ctx context.Context, ask api.ChannelLogin, l look, network netip.Prefix) (slot int64, err error) {
	err = c.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if slot, err = place(ctx, tx, l.device, places(network)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE channel_slot SET last_from = ? WHERE device = ?`, networkOf(ask.From), l.device); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM channel_refusal WHERE counter = 'pair' AND key = ?`, pairKey(ask.From, l.device))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("channel login: %w", err)
	}
	return slot, nil
}
