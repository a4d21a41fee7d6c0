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
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/trust"
	"github.com/roadstead-io/roadstead/internal/trust/overview"
	"github.com/roadstead-io/roadstead/internal/web"
)

type routes struct {
	trust *trust.Trust
	db    *db.DB
}

// Routes lists them.
func Routes(t *trust.Trust, d *db.DB) []route.Route {
	s := &routes{t, d}
	itself := []access.Kind{access.Device}
	readers := []access.Kind{access.User, access.ScopedKey, access.Device, access.FleetKey}
	return []route.Route{
		{Method: "GET", Path: "/trust/v1/fleets", Handle: s.fleets, Who: route.People},
		{Method: "GET", Path: "/trust/v1/fleets/{fleet}", Handle: s.status, Who: route.People},
		{Method: "POST", Path: "/trust/v1/fleets/{fleet}/upload", Handle: s.upload, Who: route.People, Verb: access.Releases},
		{Method: "POST", Path: "/trust/v1/fleets/{fleet}/withdraw", Handle: s.withdraw, Who: route.People, Verb: access.Releases},
		{Method: "GET", Path: "/trust/v1/fleets/{fleet}/proofs/{commit}", Handle: s.proof, Who: route.People},
		{Method: "POST", Path: "/trust/v1/device/{uuid}/report", Handle: s.report, Who: itself, Keyed: true},
		{Method: "GET", Path: "/trust/v1/log/checkpoint", Handle: s.checkpoint, Who: readers},
		{Method: "POST", Path: "/trust/v1/log/checkpoint", Handle: s.gossip, Who: readers},
		{Method: "POST", Path: "/trust/v1/log/cosignature", Handle: s.cosign, Who: route.People},
		{Method: "POST", Path: "/internal/v1/witnesses/list", Handle: s.witnesses, Roles: []string{api.RoleAdmin}},
		{Method: "POST", Path: "/internal/v1/witnesses/remove", Handle: s.removeWitness, Roles: []string{api.RoleAdmin}},
		{Method: "GET", Path: "/trust/v1/log/entries", Handle: s.entries, Who: route.People},
		{Method: "GET", Path: "/trust/v1/log/inclusion", Handle: s.inclusion, Who: readers},
		{Method: "GET", Path: "/trust/v1/log/consistency", Handle: s.consistency, Who: readers},
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
	return write(w, data)
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
	return write(w, data)
}

// write answers with the bytes that were signed, and no other.
func write(w http.ResponseWriter, data []byte) error {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(data) // a client that did not wait is its own business
	return nil
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

func (s *routes) fleets(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.db, overview.Fleets)
}

func (s *routes) status(w http.ResponseWriter, r *http.Request) error {
	out, err := s.trust.Status(r.Context(), access.From(r.Context()), r.PathValue("fleet"))
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

// maxUpload bounds what an owner uploads at once.
const maxUpload = 16 << 20

func (s *routes) upload(w http.ResponseWriter, r *http.Request) error {
	body, err := web.ReadBody(r, maxUpload)
	if err != nil {
		return err
	}
	var up api.TrustUpload
	if err := json.Unmarshal(body, &up); err != nil {
		return api.Errorf(api.Invalid, "the body is no upload: %v", err)
	}
	out, err := s.trust.Upload(r.Context(), access.From(r.Context()), r.PathValue("fleet"), up)
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

func (s *routes) withdraw(w http.ResponseWriter, r *http.Request) error {
	var ask api.TrustWithdrawal
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	out, err := s.trust.Withdraw(r.Context(), access.From(r.Context()), r.PathValue("fleet"), ask)
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

func (s *routes) report(w http.ResponseWriter, r *http.Request) error {
	var said api.TrustReport
	if err := web.Decode(r, &said); err != nil {
		return err
	}
	if err := s.trust.Report(r.Context(), access.From(r.Context()), api.DeviceUUID(r.PathValue("uuid")), said); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *routes) proof(w http.ResponseWriter, r *http.Request) error {
	numbers, err := numbersOf(r, "from")
	if err != nil {
		return err
	}
	whose := r.URL.Query().Get("by")
	if whose == "" {
		whose = api.TrustBuilder
	}
	out, err := s.trust.Proof(r.Context(), access.From(r.Context()), r.PathValue("fleet"), r.PathValue("commit"), whose, numbers[0])
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

func (s *routes) checkpoint(w http.ResponseWriter, r *http.Request) error {
	out, err := s.trust.Book.Checkpoint(r.Context())
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

func (s *routes) gossip(w http.ResponseWriter, r *http.Request) error {
	var said api.TrustCheckpoint
	if err := web.Decode(r, &said); err != nil {
		return err
	}
	if err := s.trust.Book.Gossip(r.Context(), access.From(r.Context()), said.Checkpoint); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *routes) cosign(w http.ResponseWriter, r *http.Request) error {
	var said api.TrustCosignature
	if err := web.Decode(r, &said); err != nil {
		return err
	}
	if err := s.trust.Book.Cosign(r.Context(), access.From(r.Context()), said); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *routes) witnesses(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, _ access.Caller) ([]api.TrustWitness, error) {
		return s.trust.Book.Witnesses(ctx, tx)
	})
}

func (s *routes) removeWitness(w http.ResponseWriter, r *http.Request) error {
	var ask, done api.TrustWitness
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		done.Name, err = s.trust.Book.RemoveWitness(r.Context(), tx, access.From(r.Context()), ask.Name)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, done) })
}

func (s *routes) entries(w http.ResponseWriter, r *http.Request) error {
	n, err := numbersOf(r, "start", "end")
	if err != nil {
		return err
	}
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.TrustLeaf, error) {
		return s.trust.Book.Leaves(ctx, tx, by, n[0], n[1])
	})
}

func (s *routes) inclusion(w http.ResponseWriter, r *http.Request) error {
	n, err := numbersOf(r, "index", "size")
	if err != nil {
		return err
	}
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, _ access.Caller) (api.TrustLogging, error) {
		return s.trust.Book.Inclusion(ctx, tx, n[0], n[1])
	})
}

func (s *routes) consistency(w http.ResponseWriter, r *http.Request) error {
	n, err := numbersOf(r, "from", "to")
	if err != nil {
		return err
	}
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, _ access.Caller) (api.TrustLogging, error) {
		return s.trust.Book.Consistency(ctx, tx, n[0], n[1])
	})
}

// numbersOf reads numbers of the query; one that is not given is 0.
func numbersOf(r *http.Request, names ...string) ([]int64, error) {
	list := make([]int64, len(names))
	for i, name := range names {
		text := r.URL.Query().Get(name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return nil, api.Errorf(api.Invalid, "%s: %.40q is no number", name, text)
		}
		list[i] = n
	}
	return list, nil
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
