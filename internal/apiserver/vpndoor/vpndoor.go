// Package vpndoor is the routes of the control channel: those by which the vpn role asks who may come in and tells who is there, that by
// which a device has its key certified, and those by which people switch the channel and look at it.
package vpndoor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/channel"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Config is what the routes work with.
type Config struct {
	DB      *db.DB
	Channel *channel.Channel
	// RootCA is who vouches for the server, in PEM.
	RootCA []byte
	// SSH certifies the host key of a device, and says whom it is to believe that people may enter. Nil: there is no SSH.
	SSH func(ctx context.Context, by access.Caller, uuid api.DeviceUUID, hostKey string) (userCA, hostCertificate string, err error)
}

type routes struct{ Config }

// Routes lists them.
func Routes(cfg Config) []route.Route {
	s := &routes{cfg}
	vpn, itself := []string{api.RoleVPN}, []access.Kind{access.Device}
	return []route.Route{
		{Method: "POST", Path: "/internal/channel/login", Handle: s.login, Roles: vpn},
		{Method: "POST", Path: "/internal/channel/sessions", Handle: s.sessions, Roles: vpn},

		{Method: "POST", Path: "/device/v3/channel", Handle: s.certify, Who: itself, Keyed: true},

		{Method: "GET", Path: "/channel/v1/device/{uuid}", Handle: s.deviceStatus, Who: route.People},
		{Method: "PUT", Path: "/channel/v1/device/{uuid}", Handle: s.switchDevice, Who: route.People, Verb: access.Devices},
		{Method: "POST", Path: "/channel/v1/device/{uuid}/reset", Handle: s.reset, Who: route.People, Verb: access.Devices | access.Keys},
		{Method: "GET", Path: "/channel/v1/fleet/{id}", Handle: s.fleetMode, Who: route.People},
		{Method: "PUT", Path: "/channel/v1/fleet/{id}", Handle: s.switchFleet, Who: route.People, Verb: access.Settings},
	}
}

func (s *routes) login(w http.ResponseWriter, r *http.Request) error {
	var ask api.ChannelLogin
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	made, err := s.Channel.Login(r.Context(), ask, web.RequestID(r.Context()))
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, made)
}

func (s *routes) sessions(w http.ResponseWriter, r *http.Request) error {
	var report api.ChannelReport
	if err := web.Decode(r, &report); err != nil {
		return err
	}
	answer, err := s.Channel.Report(r.Context(), report)
	if err != nil {
		return err
	}
	if answer.Cut == nil {
		answer.Cut = []string{}
	}
	return web.WriteJSON(w, http.StatusOK, answer)
}

// certify certifies the key that a device made for the channel.
func (s *routes) certify(w http.ResponseWriter, r *http.Request) error {
	var ask api.ChannelCertify
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	by := access.From(r.Context())
	uuid := api.DeviceUUID(strings.TrimPrefix(by.Name, api.DeviceRegistryUser("")))
	cert, err := s.Channel.Certify(r.Context(), by, uuid, ask)
	if err != nil {
		return err
	}
	site := s.Channel.Site()
	made := api.ChannelIdentity{
		Certificate: cert.Certificate, ExpiresAt: cert.ExpiresAt, CA: string(s.RootCA), Host: site.Host, Port: site.Port,
	}
	if s.SSH != nil && ask.SSHHostKey != "" {
		if made.SSHUserCA, made.SSHHostCertificate, err = s.SSH(r.Context(), by, uuid, ask.SSHHostKey); err != nil {
			return err
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, made)
}

func (s *routes) deviceStatus(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) (api.ChannelStatus, error) {
		return s.Channel.Status(ctx, tx, by, r.PathValue("uuid"))
	})
}

// switchDevice answers with what the channel is now.
func (s *routes) switchDevice(w http.ResponseWriter, r *http.Request) error {
	var ask api.ChannelSwitch
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	by, uuid := access.From(r.Context()), r.PathValue("uuid")
	var status api.ChannelStatus
	return route.Write(r.Context(), s.DB, func(tx *db.Tx) (err error) {
		if err := s.Channel.SwitchDevice(r.Context(), tx, by, uuid, ask); err != nil {
			return err
		}
		status, err = s.Channel.Status(r.Context(), tx, by, uuid)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, status) })
}

func (s *routes) reset(w http.ResponseWriter, r *http.Request) error {
	return route.Write(r.Context(), s.DB, func(tx *db.Tx) error {
		return s.Channel.Reset(r.Context(), tx, access.From(r.Context()), r.PathValue("uuid"))
	}, route.Done(w))
}

const textFleetID = "the id of a fleet is a number"

func (s *routes) fleetMode(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, textFleetID)
	if err != nil {
		return err
	}
	return route.Read(w, r, s.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) (api.ChannelMode, error) {
		return s.Channel.FleetMode(ctx, tx, by, id)
	})
}

func (s *routes) switchFleet(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, textFleetID)
	if err != nil {
		return err
	}
	var ask api.ChannelSwitch
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	by := access.From(r.Context())
	var mode api.ChannelMode
	return route.Write(r.Context(), s.DB, func(tx *db.Tx) (err error) {
		if err := s.Channel.SwitchFleet(r.Context(), tx, by, id, ask); err != nil {
			return err
		}
		mode, err = s.Channel.FleetMode(r.Context(), tx, by, id)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, mode) })
}

// signTime bounds one question to the signer.
const signTime = 10 * time.Second

// Signer asks the signer for certificates of devices; nil without one.
func Signer(signer *pki.Peer) func(context.Context, api.ChannelCertificateRequest) (api.ChannelCertificate, error) {
	if signer == nil {
		return nil
	}
	return func(ctx context.Context, ask api.ChannelCertificateRequest) (made api.ChannelCertificate, err error) {
		ctx, cancel := context.WithTimeout(ctx, signTime)
		defer cancel()
		body, err := json.Marshal(ask)
		if err != nil {
			return made, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, signer.URL+"/v1/channel-certificate", bytes.NewReader(body))
		if err != nil {
			return made, err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header["Idempotency-Key"] = nil // to sign again is harmless
		res, err := signer.HTTP.Do(req)
		if err != nil {
			return made, err
		}
		defer func() { _ = res.Body.Close() }()
		data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		if err != nil {
			return made, err
		}
		if res.StatusCode != http.StatusOK {
			return made, fmt.Errorf("the signer refuses: %s: %.300s", res.Status, data)
		}
		return made, json.Unmarshal(data, &made)
	}
}
