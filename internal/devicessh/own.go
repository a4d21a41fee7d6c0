package devicessh

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// A device with balenaOS has an SSH server of its own. It knows no certificates: when somebody comes it asks for the public keys of the person
// whose name they gave. So the gateway makes a key for one session, and while that permission lasts the device is given it as one of the
// person's. No certificate vouches for such a device: its first host key is remembered, and no other passes for it until that is forgotten.

// ownServer says whether a device's SSH server is none of ours: one of ours has had its host key certified with its channel.
func ownServer(ctx context.Context, tx *db.Tx, device int64) (own bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT NOT EXISTS (SELECT 1 FROM channel_identity WHERE device = ?)`, device).Scan(&own)
	if err != nil {
		return false, fmt.Errorf("SSH server of device: %w", err)
	}
	return own, nil
}

// hostKey is the remembered host key of a device, "" when there is none.
func hostKey(ctx context.Context, tx *db.Tx, device int64) (key, since string, err error) {
	err = tx.QueryRowContext(ctx, `SELECT public_key, created_at FROM device_ssh_host_key WHERE device = ?`, device).Scan(&key, &since)
	if errors.Is(err, sql.ErrNoRows) {
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("SSH host key: %w", err)
	}
	return key, since, nil
}

// GatewayKeys are the keys with which the gateway may enter, just now and for the person of that name, the device that asks.
func (s *SSH) GatewayKeys(ctx context.Context, tx *db.Tx, by access.Caller, username string) (keys []string, err error) {
	if by.Kind != access.Device {
		return nil, nil
	}
	rows, err := tx.QueryContext(ctx, `SELECT g.public_key, g."user", g.proof_key, g.proof_login, g.proof_ssh FROM device_ssh_grant g JOIN "user" u ON u.id = g."user"
		WHERE g.device = ? AND u.username = ? AND g.until > ? AND g.public_key <> '' ORDER BY g.id DESC LIMIT ?`, by.Device, username, tx.NowText(), mostOpen)
	if err != nil {
		return nil, fmt.Errorf("keys of the gateway: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	var all []session
	for rows.Next() {
		var v session
		var key string
		if err := rows.Scan(&key, &v.user, &v.proof.Key, &v.proof.Login, &v.proof.SSH); err != nil {
			return nil, fmt.Errorf("keys of the gateway: %w", err)
		}
		all, keys = append(all, v), append(keys, key)
	}
	if err := rows.Err(); err != nil || len(all) == 0 {
		return nil, err
	}
	p, err := placeOf(ctx, tx, `d.id = ?`, by.Device)
	if err != nil {
		return nil, err
	}
	var good []string
	for i, v := range all {
		why, err := s.why(ctx, tx, v, p)
		if err != nil {
			return nil, err
		}
		if why == "" {
			good = append(good, keys[i])
		}
	}
	return good, nil
}

// SawHostKey remembers the host key that the gateway was shown by a device, if it is the first. It gives the one that is remembered.
func (s *SSH) SawHostKey(ctx context.Context, tx *db.Tx, uuid api.DeviceUUID, line string) (known string, err error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)) //nolint:dogsled // only the key counts
	if err != nil {
		return "", api.Errorf(api.Invalid, "public_key: is none of SSH")
	}
	line = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	p, err := placeOfOwn(ctx, tx, uuid)
	if err != nil {
		return "", err
	}
	result, err := tx.ExecContext(ctx, `INSERT INTO device_ssh_host_key (device, created_at, public_key) VALUES (?, ?, ?) ON CONFLICT (device) DO NOTHING`, p.id, tx.NowText(), line)
	if err != nil {
		return "", fmt.Errorf("SSH host key: %w", err)
	}
	if known, _, err = hostKey(ctx, tx, p.id); err != nil {
		return "", err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return known, err
	}
	return known, audit.Record(ctx, tx, access.Itself(), p.hostKeyEntry("device.ssh_host_key", known))
}

func (p place) hostKeyEntry(act, line string) audit.Entry {
	return audit.Entry{Act: act, Kind: "device", ID: p.id, Name: p.uuid, Organization: p.organization, Fleet: p.fleet, Detail: map[string]any{"fingerprint": fingerprintOf(line)}}
}

func fingerprintOf(line string) string {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)) //nolint:dogsled // only the key counts
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(key)
}

// HostKey says how a device is known over SSH, to whoever may enter it.
func (s *SSH) HostKey(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID) (out api.SSHHostKey, err error) {
	p, err := placeOf(ctx, tx, `d.uuid = ?`, string(uuid))
	if err != nil {
		return out, err
	}
	if _, err := mayEnter(ctx, tx, by, p); err != nil {
		return out, err
	}
	own, err := ownServer(ctx, tx, p.id)
	if err != nil {
		return out, err
	}
	if !own {
		return api.SSHHostKey{Kind: api.HostKeyCertified}, nil
	}
	out.Kind = api.HostKeyUnseen
	if out.PublicKey, out.Since, err = hostKey(ctx, tx, p.id); err == nil && out.PublicKey != "" {
		out.Kind, out.Fingerprint = api.HostKeyRemembered, fingerprintOf(out.PublicKey)
	}
	return out, err
}

// ForgetHostKey has the next host key of a device count as its first. It is for those who may enter it by right of their own.
func (s *SSH) ForgetHostKey(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID) error {
	p, err := placeOf(ctx, tx, `d.uuid = ?`, string(uuid))
	if err != nil {
		return err
	}
	verbs, err := rights.DeviceVerbs(ctx, tx, by, p.id)
	if err != nil {
		return err
	}
	if err := rights.Needs(verbs, access.Shell); err != nil {
		return err
	}
	own, err := rights.OwnVerbs(ctx, tx, by, p.fleet)
	if err != nil {
		return err
	}
	if !own.Has(access.Shell) {
		return api.Errorf(api.Forbidden, "support staff forget no host key")
	}
	key, _, err := hostKey(ctx, tx, p.id)
	if err != nil {
		return err
	}
	if key == "" {
		return api.Errorf(api.NotFound, "no host key of this device is remembered")
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM device_ssh_host_key WHERE device = ?`, p.id); err != nil {
		return fmt.Errorf("forget SSH host key: %w", err)
	}
	return audit.Record(ctx, tx, by, p.hostKeyEntry("device.ssh_host_key_forget", key))
}

// placeOfOwn is such a device.
func placeOfOwn(ctx context.Context, tx *db.Tx, uuid api.DeviceUUID) (p place, err error) {
	if p, err = placeOf(ctx, tx, `d.uuid = ?`, string(uuid)); err != nil {
		return p, err
	}
	own, err := ownServer(ctx, tx, p.id)
	if err == nil && !own {
		err = api.Errorf(api.Conflict, "this device has an SSH server of ours, whose host key is certified")
	}
	return p, err
}

// BeginAtGateway writes down that the gateway has entered such a device for somebody, by the permission that it was given for them. The device
// itself tells of nobody.
func (s *SSH) BeginAtGateway(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID, grant string) (out api.SSHBegun, err error) {
	if grant == "" {
		return out, api.Errorf(api.Invalid, "grant: is missing")
	}
	p, err := placeOfOwn(ctx, tx, uuid)
	if err != nil {
		return out, err
	}
	return s.begin(ctx, tx, by, p, api.SSHBegin{Grant: grant}, true)
}

// StillAtGateway is [SSH.Still] for one session that the gateway has open. A device that is gone or has become one of ours lets nobody go on.
func (s *SSH) StillAtGateway(ctx context.Context, tx *db.Tx, uuid api.DeviceUUID, one api.SSHProgress) (answer api.SSHStill, stale []api.SSHProgress, err error) {
	p, err := placeOfOwn(ctx, tx, uuid)
	if errors.Is(err, api.ErrNotFound) || errors.Is(err, api.ErrConflict) {
		return api.SSHStill{End: []int64{one.Session}, Why: map[int64]string{one.Session: "the device is not what it was"}}, nil, nil
	}
	if err != nil {
		return answer, nil, err
	}
	return s.still(ctx, tx, p, []api.SSHProgress{one})
}
