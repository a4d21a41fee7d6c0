// Package order signs what devices are told to do: a device that checks what it runs obeys only what its fleet's director has signed, for it, for just that, once, and
// for minutes.
package order

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Lives of commands. They are signed when a device is told, or asks what waits for it, not when somebody wants them: what waits at the server has none yet.
const (
	commandLife = 15 * time.Minute // of one that is told at once: a device's clock need not be exact
	waitingLife = time.Hour        // of one that a device asked for, at most: it may have others to do first, and asks anew for what took longer
)

// Config is what the package works with.
type Config struct {
	DB  *db.DB
	Log *slog.Logger
	On  bool // new devices get a root of trust
	// Ask asks the signer: POST /v1/trust/<what>. Nil: there is none, and nothing is signed.
	Ask func(ctx context.Context, what string, in, out any) error
}

// Desk signs orders.
type Desk struct{ cfg Config }

// New makes it.
func New(cfg Config) *Desk { return &Desk{cfg} }

// Verifier is a device that checks what it is told.
type Verifier struct {
	UUID  api.DeviceUUID
	fleet string
	Said  bool // that it checks
}

// Verifying gives a device that may check what it is told; false: it does not, or this server has no signer. One that has not said yet whether it
// checks (its first report may be lost, or on its way) may, if this server gives devices a root of trust.
func (d *Desk) Verifying(ctx context.Context, tx *db.Tx, device int64) (v Verifier, ok bool, err error) {
	if d.cfg.Ask == nil {
		return v, false, nil
	}
	err = tx.QueryRowContext(ctx, `SELECT d.uuid, f.uuid, t.device IS NOT NULL FROM device d LEFT JOIN device_trust t ON t.device = d.id
		JOIN application f ON f.id = d.belongs_to__application WHERE d.id = ?`, device).Scan(&v.UUID, &v.fleet, &v.Said)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !v.Said && !d.cfg.On {
		return v, false, nil
	}
	if err != nil {
		return v, false, fmt.Errorf("trust of device %d: %w", device, err)
	}
	return v, true, nil
}

func (v Verifier) command(o order, service, nonce string, expires time.Time) api.TrustCommand {
	return api.TrustCommand{Type: "command", Fleet: v.fleet, Device: v.UUID, Verb: o.verb, Service: service, Force: o.force, Digest: o.digest, Nonce: nonce,
		Expires: expires.UTC().Truncate(time.Second)}
}

// unsigned says what becomes of an order that could not be signed: a device that is known to check is not told at all, another one without.
func (d *Desk) unsigned(ctx context.Context, v Verifier, err error) error {
	if err == nil || v.Said {
		return err
	}
	d.cfg.Log.WarnContext(ctx, "a device that never said whether it checks is told without a signed command", "device", v.UUID, "error", err)
	return nil
}

// signCommands has commands signed.
func (d *Desk) signCommands(ctx context.Context, list []api.TrustCommand) ([][]byte, error) {
	var out []api.TrustSigned
	if err := d.cfg.Ask(ctx, "command", list, &out); err != nil {
		return nil, err
	}
	if len(out) != len(list) {
		return nil, errors.New("trust: the signer has answered about others")
	}
	signed := make([][]byte, len(out))
	for i, s := range out {
		if s.Refused != "" {
			return nil, fmt.Errorf("trust: the signer refuses a command: %s", s.Refused)
		}
		signed[i] = s.Data
	}
	return signed, nil
}

// SignActions adds to what waits for a device the commands by which it believes it. An action that is given again has the same nonce: the
// device does it once.
func (d *Desk) SignActions(ctx context.Context, device int64, actions []api.QueuedAction) error {
	var list []api.TrustCommand
	var at []int
	var v Verifier
	err := d.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		list, at = nil, nil
		var ok bool
		if v, ok, err = d.Verifying(ctx, tx, device); err != nil || !ok {
			return err
		}
		for i, a := range actions {
			if !a.Verb.NeedsCommand(a.Force) || a.Expires <= 0 {
				continue
			}
			var created string
			if err := tx.QueryRowContext(ctx, `SELECT created_at FROM device_action WHERE id = ?`, a.ID).Scan(&created); err != nil {
				return fmt.Errorf("action %d: %w", a.ID, err)
			}
			sum := sha256.Sum256([]byte("action " + strconv.FormatInt(a.ID, 10) + " " + created + " " + string(v.UUID)))
			expires := tx.Now.Add(min(time.Duration(a.Expires)*time.Second+commandLife, waitingLife))
			o := order{verb: a.Verb, force: a.Force}
			if a.Verb == api.ActHostConfig {
				if o.digest, err = networkDigest(a.Network); err != nil {
					continue // the device says what is wrong
				}
			}
			list, at = append(list, v.command(o, a.Service, hex.EncodeToString(sum[:16]), expires)), append(at, i)
		}
		return nil
	})
	if err != nil || len(list) == 0 {
		return err
	}
	signed, err := d.signCommands(ctx, list)
	for i, data := range signed {
		actions[at[i]].Command = data
	}
	return d.unsigned(ctx, v, err)
}

// Header is the signed command that a request to a device's own API carries; "": it carries none, as the device checks nothing, or the
// request changes nothing.
func (d *Desk) Header(ctx context.Context, device int64, method, path string, body []byte) (string, error) {
	o, ok := orderOf(method, path, body)
	if !ok || !o.verb.NeedsCommand(o.force) {
		return "", nil
	}
	var c api.TrustCommand
	var v Verifier
	err := d.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		c = api.TrustCommand{}
		var ok bool
		if v, ok, err = d.Verifying(ctx, tx, device); err != nil || !ok {
			return err
		}
		service, err := o.serviceName(ctx, tx, device)
		if err != nil {
			return err
		}
		c = v.command(o, service, rand.Text(), tx.Now.Add(commandLife))
		return nil
	})
	if err != nil || c.Verb == "" {
		return "", err
	}
	signed, err := d.signCommands(ctx, []api.TrustCommand{c})
	if err != nil {
		return "", d.unsigned(ctx, v, err)
	}
	return base64.StdEncoding.EncodeToString(signed[0]), nil
}

// order is what a request to a device's own API has done.
type order struct {
	verb    api.ActionVerb
	force   bool
	service string // name
	image   int64  // or the image of it
	digest  string // of what is set
}

// requests are those whose verb is their own, by method and path.
var requests = map[string]api.ActionVerb{
	"PATCH /v1/device/host-config": api.ActHostConfig, "POST /v1/regenerate-api-key": api.ActRenewKey,
	"GET /v2/cleanup-volumes": api.ActCleanVolumes, "HEAD /v2/cleanup-volumes": api.ActCleanVolumes, // a device reads HEAD as GET
}

// networkDigest is the digest of what a host configuration is changed to.
func networkDigest(network json.RawMessage) (string, error) {
	var val map[string]any
	if err := json.Unmarshal(network, &val); err != nil || val == nil {
		return "", errors.New("network is no object")
	}
	return tuf.CanonicalDigest(val)
}

var orderForm = pattern.New(`^/(?:v1/(update|reboot|shutdown|restart|purge)|v1/apps/[0-9]+/(stop|start)|v2/applications/[0-9]+/(restart-service|stop-service|start-service|restart|purge))/?$`)

// orderOf reads a request as the device's agent does.
func orderOf(method, path string, body []byte) (o order, ok bool) {
	path, query, _ := strings.Cut(path, "?")
	if o.verb = requests[method+" "+path]; o.verb == "" {
		m := orderForm.FindStringSubmatch(path)
		if method != "POST" || m == nil {
			return o, false
		}
		o.verb = api.ActionVerb(m[1] + m[3])
		switch m[2] {
		case "stop":
			o.verb = api.ActStopService
		case "start":
			o.verb = api.ActStartService
		}
	}
	var said struct {
		Force   any             `json:"force"`
		Service string          `json:"serviceName"`
		Image   any             `json:"imageId"`
		Network json.RawMessage `json:"network"`
	}
	_ = json.Unmarshal(body, &said) // what cannot be read the device refuses
	text := fmt.Sprint(said.Force)
	o.force = text == "true" || text == "1" || strings.Contains("&"+query+"&", "&force=true&") || strings.Contains("&"+query+"&", "&force=1&")
	if o.verb == api.ActHostConfig {
		var err error
		if o.digest, err = networkDigest(said.Network); err != nil {
			return o, false // the device says what is wrong
		}
	}
	if o.verb.OfService() {
		o.service = said.Service
		if n, ok := said.Image.(float64); ok {
			o.image = int64(n)
		}
	}
	return o, true
}

// serviceName finds the service that an order is about: by its name, by an image of it, or the only one of what the device should run.
func (o order) serviceName(ctx context.Context, tx *db.Tx, device int64) (string, error) {
	if !o.verb.OfService() || o.service != "" {
		return o.service, nil
	}
	query, args := `SELECT DISTINCT s.service_name FROM device d JOIN application f ON f.id = d.belongs_to__application
		JOIN release_image ri ON ri.is_part_of__release = coalesce(d.is_pinned_on__release, f.should_be_running__release)
		JOIN image i ON i.id = ri.image JOIN service s ON s.id = i.is_a_build_of__service WHERE d.id = ?`, []any{device}
	if o.image != 0 {
		query, args = query+` AND i.id = ?`, append(args, o.image)
	}
	names, err := db.Column[string](ctx, tx, query, args...)
	if err != nil {
		return "", fmt.Errorf("service of an order: %w", err)
	}
	if len(names) != 1 {
		return "", nil // the device says what is wrong
	}
	return names[0], nil
}
