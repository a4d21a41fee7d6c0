// Package sshdoor is the routes about SSH into devices: people ask for certificates and read who was in, devices ask whom to let in and
// tell of it, and the gateway asks for those who come through it.
package sshdoor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/devicessh"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	signTime = 10 * time.Second
	// tokenHeader is with what a device sends a recording.
	tokenHeader = "Roadstead-Session"
)

// Config is what the routes work with.
type Config struct {
	DB       *db.DB
	Accounts *account.Accounts
	SSH      *devicessh.SSH
	Signer   *pki.Peer   // nil: there is none, and so are no certificates
	Site     api.SSHSite // the gateway
}

// Door is the routes.
type Door struct {
	cfg Config

	mu    sync.Mutex // covers known
	known api.SSHAuthorities
}

// New makes them.
func New(cfg Config) *Door { return &Door{cfg: cfg} }

// Routes lists them.
func (d *Door) Routes() []route.Route {
	itself, gateway := []access.Kind{access.Device}, []string{api.RoleVPN}
	return []route.Route{
		{Method: "GET", Path: "/ssh/v1/authorities", Handle: d.authorities, Who: route.Anybody},
		{Method: "POST", Path: "/ssh/v1/certificate", Handle: d.certificate, Who: route.People, Verb: access.Shell, Channel: access.Tunnel},
		{Method: "GET", Path: "/ssh/v1/device/{uuid}/way", Handle: d.way, Who: route.People, Verb: access.Shell, Channel: access.Tunnel},
		{Method: "GET", Path: "/ssh/v1/device/{uuid}/host-key", Handle: d.hostKey, Who: route.People, Verb: access.Shell},
		{Method: "DELETE", Path: "/ssh/v1/device/{uuid}/host-key", Handle: d.forgetHostKey, Who: route.People, Verb: access.Shell},
		{Method: "GET", Path: "/ssh/v1/device/{uuid}/sessions", Handle: d.sessions, Who: route.People, Verb: access.Shell},
		{Method: "GET", Path: "/ssh/v1/session/{id}/recording", Handle: d.recording, Who: route.People, Verb: access.Shell},
		{Method: "POST", Path: "/ssh/v1/session/{id}/end", Handle: d.order, Who: route.People, Verb: access.Shell},

		{Method: "POST", Path: "/device/v3/ssh/key", Handle: d.key, Who: itself},
		{Method: "POST", Path: "/device/v3/ssh/begin", Handle: d.begin, Who: itself},
		{Method: "POST", Path: "/device/v3/ssh/still", Handle: d.still, Who: itself},
		// A device that was deleted while somebody was in has no key any more; it has the token of the session.
		{Method: "POST", Path: "/device/v3/ssh/end", Handle: d.end, Who: route.Anybody},
		{Method: "PUT", Path: "/device/v3/ssh/session/{id}/recording", Handle: d.takeRecording, Who: route.Anybody},

		{Method: "POST", Path: "/internal/ssh/key", Handle: d.gatewayKey, Roles: gateway},
		{Method: "POST", Path: "/internal/ssh/certificate", Handle: d.gatewayCertificate, Roles: gateway},
		{Method: "POST", Path: "/internal/ssh/host", Handle: d.gatewayHost, Roles: gateway},
		{Method: "POST", Path: "/internal/ssh/host-key", Handle: d.sawHostKey, Roles: gateway},
		// Of sessions in devices whose SSH server is none of ours.
		{Method: "POST", Path: "/internal/ssh/begin", Handle: d.gatewayBegin, Roles: gateway},
		{Method: "POST", Path: "/internal/ssh/still", Handle: d.gatewayStill, Roles: gateway},
		{Method: "POST", Path: "/internal/ssh/end", Handle: d.end, Roles: gateway},
	}
}

// sign has the signer do something.
func (d *Door) sign(ctx context.Context, method, path string, in, out any) error {
	if d.cfg.Signer == nil {
		return api.Errorf(api.Unavailable, "there is no signer")
	}
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, d.cfg.Signer.URL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header["Idempotency-Key"] = nil // to ask again is harmless
	res, err := d.cfg.Signer.HTTP.Do(req)
	if err != nil {
		return errors.Join(api.Errorf(api.Unavailable, "the signer does not answer"), err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return errors.Join(api.Errorf(api.Unavailable, "the signer's answer was cut off"), err)
	}
	if res.StatusCode != http.StatusOK {
		var text string
		if json.Unmarshal(data, &text) != nil {
			text = res.Status
		}
		if res.StatusCode == http.StatusBadRequest { // what is wrong is what we were asked for
			return api.Errorf(api.Invalid, "%.300s", text)
		}
		return fmt.Errorf("the signer refuses: %s: %.300s", res.Status, text)
	}
	return json.Unmarshal(data, out)
}

// Authorities are the public keys of the two SSH authorities.
func (d *Door) Authorities(ctx context.Context) (api.SSHAuthorities, error) {
	d.mu.Lock()
	known := d.known
	d.mu.Unlock()
	if known.Users != "" {
		return known, nil
	}
	if err := d.sign(ctx, http.MethodGet, "/v1/ssh-authorities", struct{}{}, &known); err != nil {
		return known, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known = known
	return known, nil
}

// Host has the key certified that a device serves SSH with, and says whose certificates it is to let in. Its caller has found out that it
// is this device who asks.
func (d *Door) Host(ctx context.Context, _ access.Caller, device api.DeviceUUID, publicKey string) (users, certificate string, err error) {
	var made api.SSHCertificate
	err = d.sign(ctx, http.MethodPost, "/v1/ssh-host-certificate", api.SSHHostAsk{PublicKey: publicKey, Device: string(device)}, &made)
	return made.Users, made.Certificate, err
}

// authorities is GET /ssh/v1/authorities: what a client trusts instead of the first key that it sees.
func (d *Door) authorities(w http.ResponseWriter, r *http.Request) error {
	known, err := d.Authorities(r.Context())
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, struct {
		api.SSHAuthorities
		Gateway api.SSHSite `json:"gateway"`
	}{known, d.cfg.Site})
}

// open gives a permission and has the certificate for it signed.
func (d *Door) open(ctx context.Context, by access.Caller, ask api.SSHCertificateAsk) (made api.SSHCertificate, err error) {
	var what api.SSHUserAsk
	if err := d.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		what, err = d.cfg.SSH.Open(ctx, tx, by, ask)
		return err
	}); err != nil {
		return made, err
	}
	if what.Own != nil { // whose device asks for the key itself
		return api.SSHCertificate{Until: what.Until, Own: what.Own}, nil
	}
	err = d.sign(ctx, http.MethodPost, "/v1/ssh-user-certificate", what, &made)
	return made, err
}

func (d *Door) certificate(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHCertificateAsk
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	made, err := d.open(r.Context(), access.From(r.Context()), ask)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, made)
}

// way is GET /ssh/v1/device/{uuid}/way: how the caller may enter a device.
func (d *Door) way(w http.ResponseWriter, r *http.Request) error {
	var way api.SSHWay
	err := d.cfg.DB.Read(r.Context(), func(tx *db.Tx) (err error) {
		way, err = d.cfg.SSH.Way(r.Context(), tx, access.From(r.Context()), api.DeviceUUID(r.PathValue("uuid")))
		return err
	})
	if err != nil {
		return err
	}
	if way.Way == api.SSHByGateway {
		known, err := d.Authorities(r.Context())
		if err != nil {
			return err
		}
		way.Hosts, way.Gateway = known.Hosts, d.cfg.Site
	}
	return web.WriteJSON(w, http.StatusOK, way)
}

func (d *Door) hostKey(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, d.cfg.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) (api.SSHHostKey, error) {
		return d.cfg.SSH.HostKey(ctx, tx, by, api.DeviceUUID(r.PathValue("uuid")))
	})
}

func (d *Door) forgetHostKey(w http.ResponseWriter, r *http.Request) error {
	return route.Write(r.Context(), d.cfg.DB, func(tx *db.Tx) error {
		return d.cfg.SSH.ForgetHostKey(r.Context(), tx, access.From(r.Context()), api.DeviceUUID(r.PathValue("uuid")))
	}, route.Done(w))
}

func (d *Door) sawHostKey(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHSawHostKey
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	return route.Write(r.Context(), d.cfg.DB, func(tx *db.Tx) (err error) {
		ask.PublicKey, err = d.cfg.SSH.SawHostKey(r.Context(), tx, api.DeviceUUID(ask.Device), ask.PublicKey)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, ask) })
}

func (d *Door) sessions(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, d.cfg.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.SSHSession, error) {
		return d.cfg.SSH.Sessions(ctx, tx, by, api.DeviceUUID(r.PathValue("uuid")))
	})
}

func (d *Door) recording(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "That is no SSH session.")
	if err != nil {
		return err
	}
	var data string
	return route.Write(r.Context(), d.cfg.DB, func(tx *db.Tx) (err error) {
		data, err = d.cfg.SSH.Recording(r.Context(), tx, access.From(r.Context()), id)
		return err
	}, func() error {
		w.Header().Set("Cache-Control", "no-store")
		return web.WriteText(w, http.StatusOK, data)
	})
}

// order is POST /ssh/v1/session/{id}/end: somebody wants it to end.
func (d *Door) order(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "That is no SSH session.")
	if err != nil {
		return err
	}
	return route.Write(r.Context(), d.cfg.DB, func(tx *db.Tx) error { return d.cfg.SSH.Order(r.Context(), tx, access.From(r.Context()), id) }, route.Done(w))
}

func (d *Door) key(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHKeyAsk
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	if err := devicessh.CheckFingerprint(ask.Fingerprint); err != nil {
		return err
	}
	return route.Read(w, r, d.cfg.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) (api.SSHKeyAnswer, error) {
		return d.cfg.SSH.Key(ctx, tx, by, ask.Fingerprint)
	})
}

func (d *Door) begin(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHBegin
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	if ask.Grant == "" {
		if err := devicessh.CheckFingerprint(ask.Fingerprint); err != nil {
			return err
		}
	}
	return d.begun(w, r, func(tx *db.Tx, by access.Caller) (api.SSHBegun, error) {
		return d.cfg.SSH.Begin(r.Context(), tx, by, ask)
	})
}

// gatewayBegin is POST /internal/ssh/begin.
func (d *Door) gatewayBegin(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHGatewayBegin
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	return d.begun(w, r, func(tx *db.Tx, by access.Caller) (api.SSHBegun, error) {
		return d.cfg.SSH.BeginAtGateway(r.Context(), tx, by, api.DeviceUUID(ask.Device), ask.Grant)
	})
}

// begun writes down that a session began, and answers with its token.
func (d *Door) begun(w http.ResponseWriter, r *http.Request, begin func(tx *db.Tx, by access.Caller) (api.SSHBegun, error)) error {
	var begun api.SSHBegun
	return route.Write(r.Context(), d.cfg.DB, func(tx *db.Tx) (err error) {
		begun, err = begin(tx, access.From(r.Context()))
		return err
	}, func() error {
		w.Header().Set("Cache-Control", "no-store")
		return web.WriteJSON(w, http.StatusOK, begun)
	})
}

func (d *Door) still(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHStill
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	return d.goesOn(w, r, func(tx *db.Tx) (api.SSHStill, []api.SSHProgress, error) {
		return d.cfg.SSH.Still(r.Context(), tx, access.From(r.Context()), ask.Sessions)
	})
}

// gatewayStill is POST /internal/ssh/still.
func (d *Door) gatewayStill(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHGatewayStill
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	return d.goesOn(w, r, func(tx *db.Tx) (api.SSHStill, []api.SSHProgress, error) {
		return d.cfg.SSH.StillAtGateway(r.Context(), tx, api.DeviceUUID(ask.Device), ask.SSHProgress)
	})
}

// goesOn answers which sessions may go on, and writes that down when it is time to.
func (d *Door) goesOn(w http.ResponseWriter, r *http.Request, still func(tx *db.Tx) (api.SSHStill, []api.SSHProgress, error)) error {
	answer := api.SSHStill{}
	var stale []api.SSHProgress
	err := d.cfg.DB.Read(r.Context(), func(tx *db.Tx) (err error) {
		answer, stale, err = still(tx)
		return err
	})
	if err == nil && len(stale) > 0 {
		err = d.cfg.DB.Write(r.Context(), func(tx *db.Tx) error { return d.cfg.SSH.Seen(r.Context(), tx, stale) })
	}
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, answer)
}

func (d *Door) end(w http.ResponseWriter, r *http.Request) error {
	var told api.SSHProgress
	if err := web.Decode(r, &told); err != nil {
		return err
	}
	return route.Write(r.Context(), d.cfg.DB, func(tx *db.Tx) error {
		return d.cfg.SSH.End(r.Context(), tx, access.From(r.Context()), told)
	}, route.Done(w))
}

func (d *Door) takeRecording(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "That is no SSH session.")
	if err != nil {
		return err
	}
	token := r.Header.Get(tokenHeader)
	err = d.cfg.DB.Read(r.Context(), func(tx *db.Tx) error { return d.cfg.SSH.MayRecord(r.Context(), tx, id, token) })
	if err != nil {
		return err // before anything is read
	}
	data, err := web.ReadBody(r, api.MaxSSHRecording+64<<10)
	if err != nil {
		return err
	}
	return route.Write(r.Context(), d.cfg.DB, func(tx *db.Tx) error { return d.cfg.SSH.Record(r.Context(), tx, id, token, data) }, route.Done(w))
}

// owner says whose key came to the gateway, for something or only by name.
func (d *Door) owner(r *http.Request, fingerprint string) (by access.Caller, err error) {
	if err := devicessh.CheckFingerprint(fingerprint); err != nil {
		return by, err
	}
	err = d.cfg.DB.Read(r.Context(), func(tx *db.Tx) error {
		by, err = d.cfg.Accounts.BySSHKey(r.Context(), tx, fingerprint)
		return err
	})
	if errors.Is(err, api.ErrUnauthorized) {
		err = api.Errorf(api.NotFound, "this key is nobody's")
	}
	return by, err
}

func (d *Door) gatewayKey(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHGatewayKey
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	by, err := d.owner(r, ask.Fingerprint)
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, api.SSHGatewayKey{Fingerprint: ask.Fingerprint, User: by.Name})
}

func (d *Door) gatewayCertificate(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHGatewayAsk
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	by, err := d.owner(r, ask.Fingerprint)
	if err != nil {
		return err
	}
	by.Address = ask.From
	made, err := d.open(r.Context(), by, api.SSHCertificateAsk{Device: api.DeviceUUID(ask.Device), PublicKey: ask.PublicKey, Forward: ask.Forward})
	if err != nil {
		return err
	}
	d.cfg.Accounts.UsedFrom(by)
	return web.WriteJSON(w, http.StatusOK, made)
}

func (d *Door) gatewayHost(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHHostAsk
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var made api.SSHCertificate
	if err := d.sign(r.Context(), http.MethodPost, "/v1/ssh-host-certificate", api.SSHHostAsk{PublicKey: ask.PublicKey, Gateway: true}, &made); err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, made)
}
