// Package trustdoor is the routes about what devices check before they run anything: the metadata of fleets, what their owners upload, the
// transparency log, and the way by which devices ask and report.
package trustdoor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/trust"
	"github.com/roadstead-io/roadstead/internal/web"
)

type routes struct{ trust *trust.Trust }

// Routes lists them.
func Routes(t *trust.Trust) []route.Route {
	s := &routes{t}
	itself := []access.Kind{access.Device}
	readers := []access.Kind{access.User, access.ScopedKey, access.Device, access.FleetKey}
	return []route.Route{
		{Method: "GET", Path: "/trust/v1/fleets/{fleet}/keys", Handle: s.keys, Who: route.People},
		{Method: "GET", Path: "/trust/v1/fleets/{fleet}/metadata/{file}", Handle: s.file, Who: readers},
		{Method: "GET", Path: "/trust/v1/fleets/{fleet}/targets/releases/{document}", Handle: s.document, Who: readers},
		{Method: "POST", Path: "/trust/v1/device/{uuid}/bundle", Handle: s.bundle, Who: itself, Keyed: true},
	}
}

func (s *routes) keys(w http.ResponseWriter, r *http.Request) error {
	keys, err := s.trust.Keys(r.Context(), access.From(r.Context()), r.PathValue("fleet"))
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, keys)
}

func (s *routes) file(w http.ResponseWriter, r *http.Request) error {
	data, err := s.trust.File(r.Context(), access.From(r.Context()), r.PathValue("fleet"), r.PathValue("file"))
	if err != nil {
		return err
	}
	return web.WriteRawJSON(w, http.StatusOK, data)
}

func (s *routes) document(w http.ResponseWriter, r *http.Request) error {
	commit, ok := bytes.CutSuffix([]byte(r.PathValue("document")), []byte(".json"))
	if !ok {
		return api.ErrNotFound
	}
	data, err := s.trust.Document(r.Context(), access.From(r.Context()), r.PathValue("fleet"), string(commit))
	if err != nil {
		return err
	}
	return web.WriteRawJSON(w, http.StatusOK, data)
}

func (s *routes) bundle(w http.ResponseWriter, r *http.Request) error {
	var have api.TrustHave
	if err := web.Decode(r, &have); err != nil {
		return err
	}
	out, err := s.trust.Bundle(r.Context(), access.From(r.Context()), api.DeviceUUID(r.PathValue("uuid")), have)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, out)
}

// Bounds of one question to the signer.
const (
	askTime   = 20 * time.Second
	maxAnswer = 32 << 20
)

// Signer asks the signer; nil without one.
func Signer(signer *pki.Peer) func(ctx context.Context, what string, in, out any) error {
	if signer == nil {
		return nil
	}
	return func(ctx context.Context, what string, in, out any) error {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, signer.URL+"/v1/trust/"+what, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := signer.HTTP.Do(req)
		if err != nil {
			return fmt.Errorf("%w: %w", api.Errorf(api.Unavailable, "the signer does not answer; try again"), err)
		}
		defer func() { _ = res.Body.Close() }()
		data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		switch {
		case err != nil:
			return fmt.Errorf("%w: %w", api.Errorf(api.Unavailable, "the signer's answer was cut off; try again"), err)
		case res.StatusCode == http.StatusConflict:
			return fmt.Errorf("the signer: %w", api.Errorf(api.Conflict, "%.300s", data))
		case res.StatusCode != http.StatusOK:
			return fmt.Errorf("the signer refuses: %s: %.300s", res.Status, data)
		}
		return json.Unmarshal(data, out)
	}
}
