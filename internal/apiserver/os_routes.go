package apiserver

import (
	"net/http"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/vpndoor"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// The routes of this file are called by the operating system of a device rather than by its supervisor.

// osConfig is GET /os/v1/config: what a device's system services are configured with. Every field that any version of the
// device's program demands is there. An empty OpenVPN configuration keeps that service off, where the server has no control channel. Keys
// for root's SSH are never given out here.
func (s *Server) osConfig(w http.ResponseWriter, _ *http.Request) error {
	type text map[string]string
	openvpn := text{"config": "", "ca": ""}
	if s.cfg.Channel.On() {
		openvpn = text{"config": vpndoor.ClientConfig(s.cfg.Channel), "ca": string(s.rootCA)}
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, map[string]any{
		"services": map[string]text{
			"openvpn": openvpn,
			"ssh":     {"authorized_keys": ""},
		},
		"config":         map[string]any{"overrides": text{}},
		"schema_version": "1.0.0",
	})
}

// publicKeys is GET /auth/v1/public-keys/:username, which a device's SSH server asks when somebody knocks: the keys of that user
// if they may enter the device, one a line, and nothing otherwise. While they come through the gateway, its key for that session is one of them.
// A user gets their own.
func (s *Server) publicKeys(w http.ResponseWriter, r *http.Request) error {
	var keys string
	by, run := access.From(r.Context()), s.db.Read
	if by.Kind == access.Device { // lets somebody in, which is written down
		run = s.db.Write
	}
	err := run(r.Context(), func(tx *db.Tx) (err error) {
		if keys, err = s.devices.PublicKeys(r.Context(), tx, by, r.PathValue("username")); err != nil || keys == "" {
			return err
		}
		more, err := s.deviceSSH.GatewayKeys(r.Context(), tx, by, r.PathValue("username"))
		keys = strings.Join(append(more, keys), "\n")
		return err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteText(w, http.StatusOK, keys)
}

// hostAccess is GET /access/v1/hostos/:uuid: whether the caller may enter the operating system of a device.
func (s *Server) hostAccess(w http.ResponseWriter, r *http.Request) error {
	err := s.db.Read(r.Context(), func(tx *db.Tx) error {
		return s.devices.MayEnter(r.Context(), tx, access.From(r.Context()), deviceUUID(r))
	})
	if err != nil {
		if e := api.AsError(err); e.Code == api.Internal {
			return err
		}
		return api.ErrUnauthorized // the one refusal that its clients know
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
