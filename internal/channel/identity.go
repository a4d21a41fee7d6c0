package channel

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// certificates is how many of one device hold at the same time.
const certificates = 5

const (
	maxPublicKey = 4 << 10
	leastRSA     = 2048
	mostRSA      = 4096
)

const textOtherKey = "this device was given a certificate for another key; if that key is lost, somebody who may manage the device's keys " +
	"resets it: roadstead device vpn reset"

// Certify has the signer certify the key that a device has made for itself. From then on the device's API key alone does not get it into the
// channel: a second key is certified only after [Channel.Reset], for whoever stole the API key could ask for one too. The same key may come
// again, which renews its certificate.
func (c *Channel) Certify(ctx context.Context, by access.Caller, uuid api.DeviceUUID, ask api.ChannelCertify) (made api.ChannelCertificate, err error) {
	if !c.cfg.Site.On() || c.cfg.Sign == nil {
		return made, api.Errorf(api.NotFound, "this server has no control channel")
	}
	sum, err := publicKey(ask.PublicKey)
	if err != nil {
		return made, err
	}
	var known bool
	if err := c.cfg.DB.ReadOne(ctx, func(tx *db.Tx) (err error) { known, err = same(ctx, tx, by.Device, sum); return err }); err != nil {
		return made, err
	}
	if made, err = c.cfg.Sign(ctx, api.ChannelCertificateRequest{UUID: string(uuid), PublicKey: ask.PublicKey}); err != nil {
		c.cfg.Log.ErrorContext(ctx, "the signer gave no certificate", "uuid", uuid, "error", err)
		return made, api.Errorf(api.Unavailable, "the signer gave no certificate")
	}
	err = c.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if known, err = same(ctx, tx, by.Device, sum); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO channel_identity (device, key_sha256, certified_at, expires_at) VALUES (?, ?, ?, ?)
			ON CONFLICT (device) DO UPDATE SET certified_at = excluded.certified_at, expires_at = excluded.expires_at`,
			by.Device, sum, tx.NowText(), made.ExpiresAt)
		if err != nil {
			return err
		}
		if err := keep(ctx, tx, by.Device, made); err != nil || known {
			return err
		}
		e := audit.Entry{Act: "channel.certify", Kind: "device", ID: by.Device, Name: string(uuid), Detail: map[string]any{"key_sha256": sum}}
		if err := belongs(ctx, tx, &e); err != nil {
			return err
		}
		return audit.Record(ctx, tx, by, e)
	})
	if err != nil {
		return api.ChannelCertificate{}, fmt.Errorf("certify device %d: %w", by.Device, err)
	}
	return made, nil
}

// keep remembers a certificate, and the few before it that may be in use still.
func keep(ctx context.Context, tx *db.Tx, device int64, made api.ChannelCertificate) error {
	block, _ := pem.Decode([]byte(made.Certificate))
	expires, err := time.Parse(time.RFC3339, made.ExpiresAt)
	if block == nil || err != nil {
		return fmt.Errorf("the signer's certificate cannot be read: until %q", made.ExpiresAt)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO channel_certificate (sha256, device, created_at, expires_at) VALUES (?, ?, ?, ?)`,
		sumOf(block.Bytes), device, tx.NowText(), db.FormatTime(expires))
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM channel_certificate WHERE device = ? AND sha256 NOT IN
		(SELECT sha256 FROM channel_certificate WHERE device = ? ORDER BY created_at DESC, expires_at DESC LIMIT ?)`, device, device, certificates)
	return err
}

// publicKey reads a key and gives the sum by which it is known.
func publicKey(text string) (sum string, err error) {
	if len(text) > maxPublicKey {
		return "", api.Errorf(api.Invalid, "public_key: longer than %d bytes", maxPublicKey)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" {
		return "", api.Errorf(api.Invalid, "public_key: no public key in PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", api.Errorf(api.Invalid, "public_key: %v", err)
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return "", api.Errorf(api.Invalid, "public_key: the curve is too small")
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < leastRSA || bits > mostRSA {
			return "", api.Errorf(api.Invalid, "public_key: an RSA key has %d to %d bits, not %d", leastRSA, mostRSA, bits)
		}
	default:
		return "", api.Errorf(api.Invalid, "public_key: neither ECDSA, Ed25519 nor RSA")
	}
	return sumOf(block.Bytes), nil
}

// same reports whether a device was given a certificate for this very key; another one is refused.
func same(ctx context.Context, tx *db.Tx, device int64, sum string) (bool, error) {
	var known string
	err := tx.QueryRowContext(ctx, `SELECT key_sha256 FROM channel_identity WHERE device = ?`, device).Scan(&known)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	case known != sum:
		return false, api.Errorf(api.Conflict, textOtherKey)
	}
	return true, nil
}

// belongs fills in who may read an entry about a device.
func belongs(ctx context.Context, tx *db.Tx, e *audit.Entry) error {
	return tx.QueryRowContext(ctx, `SELECT f.id, f.organization FROM device d JOIN application f ON f.id = d.belongs_to__application
		WHERE d.id = ?`, e.ID).Scan(&e.Fleet, &e.Organization)
}

// Reset makes a device one that has no certificate: it may come with its key alone, and have another one certified. Whoever does that could as
// well give the device a new API key, and must be allowed to.
func (c *Channel) Reset(ctx context.Context, tx *db.Tx, by access.Caller, uuid string) error {
	o, err := deviceOf(ctx, tx, by, uuid, 0)
	if err != nil {
		return err
	}
	may, err := rights.OwnVerbs(ctx, tx, by, o.fleet) // by no support grant: what it opens stays open when the grant has ended
	if err != nil {
		return fmt.Errorf("reset the channel of device %s: %w", uuid, err)
	}
	if err := rights.Needs(may|access.Read, access.Devices|access.Keys); err != nil {
		return err
	}
	for _, table := range []string{"channel_identity", "channel_certificate"} {
		if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE device = ?`, o.id); err != nil {
			return fmt.Errorf("reset the channel of device %s: %w", uuid, err)
		}
	}
	// It may have knocked all the time, and is not to wait for what it did without its key.
	if _, err := tx.ExecContext(ctx, `DELETE FROM channel_refusal WHERE counter = 'pair' AND key LIKE ?`, "% "+strconv.FormatInt(o.id, 10)); err != nil {
		return fmt.Errorf("reset the channel of device %s: %w", uuid, err)
	}
	return audit.Record(ctx, tx, by, audit.Entry{
		Act: "channel.reset", Kind: "device", ID: o.id, Name: uuid, Fleet: o.fleet, Organization: o.org,
	})
}

// Status is the channel of one device, for people who see it.
func (c *Channel) Status(ctx context.Context, tx *db.Tx, by access.Caller, uuid string) (s api.ChannelStatus, err error) {
	o, err := deviceOf(ctx, tx, by, uuid, 0)
	if err != nil {
		return s, err
	}
	var address, from, identity, since, event, expires, said, reason sql.NullString
	err = tx.QueryRowContext(ctx, `SELECT d.is_connected_to_vpn, d.last_vpn_event, d.channel_state, d.channel_reason, s.address, s.came_from, s.identity, s.since, i.expires_at FROM device d
		LEFT JOIN channel_session s ON s.id = (SELECT max(x.id) FROM channel_session x WHERE x.device = d.id)
		LEFT JOIN channel_identity i ON i.device = d.id WHERE d.id = ?`, o.id).
		Scan(&s.Connected, &event, &said, &reason, &address, &from, &identity, &since, &expires)
	if err != nil {
		return s, fmt.Errorf("channel of device %s: %w", uuid, err)
	}
	s.UUID, s.Certified, s.ExpiresAt, s.Since = uuid, expires.Valid, expires.String, event.String
	s.Said, s.Reason = said.String, reason.String
	if s.Connected && since.Valid {
		s.Address, s.From, s.Identity, s.Since = address.String, from.String, identity.String, since.String
	}
	s.ChannelMode, err = c.deviceMode(ctx, tx, o.id)
	return s, err
}
