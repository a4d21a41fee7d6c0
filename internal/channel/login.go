package channel

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Bounds of what a device shows.
const (
	maxKey         = 4096
	maxCertificate = 16 << 10
	maxName        = 64
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
	why       string // it is not let in; "" when it is
	count     bool   // the refusal counts: somebody showed what is wrong
	device    int64  // 0: there is none of that uuid
	fleet     int64
	org       int64
	identity  string
	by        access.Caller
	slot      sql.NullInt64
	lastFrom  sql.NullString // the network that it came in from last
	forgive   bool           // there were refusals before
	throttled bool
}

func (c *Channel) look(ctx context.Context, tx *db.Tx, ask api.ChannelLogin) (l look, err error) {
	l = look{count: true, identity: api.IdentityKey}
	if !api.DeviceUUID(ask.UUID).Valid() {
		l.why = "it gives no uuid"
		return l, c.held(ctx, tx, ask, &l)
	}
	var keySum sql.NullString
	err = tx.QueryRowContext(ctx, `SELECT d.id, d.belongs_to__application, f.organization, s.number, s.last_from, i.key_sha256
		FROM device d JOIN application f ON f.id = d.belongs_to__application
		LEFT JOIN channel_slot s ON s.device = d.id LEFT JOIN channel_identity i ON i.device = d.id WHERE d.uuid = ?`, ask.UUID).
		Scan(&l.device, &l.fleet, &l.org, &l.slot, &l.lastFrom, &keySum)
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
	if l.why = c.certificateOf(ask, keySum, &l, tx.Now); l.why != "" {
		return l, nil
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

// certificateOf checks the certificate of a device. TLS has proved that whoever shows it has its key.
func (c *Channel) certificateOf(ask api.ChannelLogin, keySum sql.NullString, l *look, now time.Time) (why string) {
	if ask.Certificate == "" {
		if keySum.Valid {
			return "it was given a certificate and does not show it"
		}
		return ""
	}
	cert, err := c.readCertificate(ask.Certificate, now)
	switch {
	case err != nil:
		return "its certificate does not hold: " + err.Error()
	case cert.Subject.CommonName != ask.UUID:
		return "the certificate is another device's"
	case !keySum.Valid: // of before a reset: it proves nothing any more
		return ""
	case sumOf(cert.RawSubjectPublicKeyInfo) != keySum.String:
		return "its certificate is not for the key that it was last given one for"
	}
	l.identity = api.IdentityCertificate
	return ""
}

func (c *Channel) readCertificate(text string, now time.Time) (*x509.Certificate, error) {
	if len(text) > maxCertificate {
		return nil, errors.New("too long")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if c.cfg.Authority == nil {
		return nil, errors.New("this server gives none")
	}
	_, err = cert.Verify(x509.VerifyOptions{Roots: c.cfg.Authority, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return cert, err
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
