// Package record is the routes of the api role about the audit log: its export, its keys and its checkpoints, for people and for the
// operator; and how it asks the signer.
package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/audit/watch"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// exportsAtOnce bounds the exports of people that one process writes; whoever comes beyond them is told to come back.
const exportsAtOnce = 4

// askAgain is how often it is asked whether somebody who exports would still be let in.
const askAgain = time.Second

// lineTime is how long a reader may take for one piece of an export.
const lineTime = time.Minute

// Config says what the routes work with.
type Config struct {
	DB   *db.DB
	Log  *audit.Log
	Site string
	// Again says who somebody is now who was let in before, or api.ErrUnauthorized.
	Again func(ctx context.Context, tx *db.Tx, by access.Caller) (access.Caller, error)
}

type routes struct {
	Config
	exports exports
}

// exports are the people who export just now: each once, so that one who reads slowly keeps nobody else from it.
type exports struct {
	mu   sync.Mutex // covers busy
	busy map[int64]bool
}

// begin lets a person export, or says why not. end must be called when it is over.
func (e *exports) begin(user int64) (end func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.busy[user]:
		return nil, api.Errorf(api.RateLimited, "you export the audit log already")
	case len(e.busy) >= exportsAtOnce:
		return nil, api.Errorf(api.Unavailable, "others export the audit log; try again later")
	}
	if e.busy == nil {
		e.busy = map[int64]bool{}
	}
	e.busy[user] = true
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.busy, user)
	}, nil
}

// Routes lists the routes.
func Routes(cfg Config) []route.Route {
	s := &routes{Config: cfg}
	admin := []string{api.RoleAdmin}
	return []route.Route{
		{Method: "GET", Path: "/audit/v1/keys", Handle: s.keys, Who: route.Anybody},
		{Method: "GET", Path: "/audit/v1/export", Handle: s.export, Who: route.Users, Stream: true},
		{Method: "POST", Path: "/internal/v1/audit/export", Handle: s.exportAll, Roles: admin, Stream: true},
		{Method: "POST", Path: "/internal/v1/audit/checkpoint", Handle: s.checkpoint, Roles: admin},
		{Method: "POST", Path: "/internal/v1/users/support/list", Handle: s.supportStaff, Roles: admin},
	}
}

// keys tells everybody with which keys checkpoints are signed.
func (s *routes) keys(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.DB, func(ctx context.Context, tx *db.Tx, _ access.Caller) ([]api.AuditKey, error) {
		return audit.Keys(ctx, tx)
	})
}

// export gives a person the log: what they may read, and links in place of the rest.
func (s *routes) export(w http.ResponseWriter, r *http.Request) error {
	by := access.From(r.Context())
	end, err := s.exports.begin(by.User)
	if err != nil {
		w.Header().Set("Retry-After", "5")
		return err
	}
	defer end()
	ctx, done := s.while(r.Context(), w, by)
	defer done()
	return s.write(w, r.WithContext(ctx), watch.View(by))
}

// while gives a context that ends when somebody would not be let in any more, and with it whatever is just being written to them. done must
// be called.
func (s *routes) while(ctx context.Context, w http.ResponseWriter, by access.Caller) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(askAgain)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := s.DB.Read(ctx, func(tx *db.Tx) error {
				_, err := s.Again(ctx, tx, by)
				return err
			})
			if errors.Is(err, api.ErrUnauthorized) {
				cancel()
				_ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)) // ends a write that waits
				return
			}
		}
	})
	return ctx, func() { cancel(); watching.Wait() }
}

// exportAll gives the operator all of it.
func (s *routes) exportAll(w http.ResponseWriter, r *http.Request) error {
	err := s.DB.WriteOne(r.Context(), func(tx *db.Tx) error {
		return audit.Record(r.Context(), tx, access.From(r.Context()), audit.Entry{Act: "audit.export", Kind: "server", Name: s.Site})
	})
	if err != nil {
		return err
	}
	return s.write(w, r, nil)
}

func (s *routes) write(w http.ResponseWriter, r *http.Request, view audit.View) error {
	after := int64(0)
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			return api.Errorf(api.Invalid, "after: is not the number of an entry")
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	to := &patient{ctx: r.Context(), w: w, rc: http.NewResponseController(w)}
	err := audit.Export(r.Context(), s.DB, to, s.Site, after, view)
	if err != nil && to.began { // the client sees it by the missing end
		return errors.Join(http.ErrAbortHandler, err)
	}
	return err
}

// patient writes to a reader who may be slow but not dead.
type patient struct {
	ctx   context.Context
	w     io.Writer
	rc    *http.ResponseController
	began bool
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.rc.SetWriteDeadline(time.Now().Add(lineTime)) // not supported in some tests
	if err := p.ctx.Err(); err != nil {                 // asked after that: whoever ends it sets a deadline of its own
		return 0, err
	}
	p.began = true
	return p.w.Write(b)
}

// checkpoint has the log signed now.
func (s *routes) checkpoint(w http.ResponseWriter, r *http.Request) error {
	if err := s.Log.Checkpoint(r.Context()); err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, "ok")
}

// supportStaff lists who gives support.
func (s *routes) supportStaff(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.DB, func(ctx context.Context, tx *db.Tx, _ access.Caller) ([]api.User, error) {
		return rights.SupportStaff(ctx, tx)
	})
}

// Signer is how the log asks the signer for checkpoints; nil when there is no signer.
func Signer(signer *pki.Peer) func(context.Context, api.AuditExtension) (api.AuditSigned, error) {
	if signer == nil {
		return nil
	}
	return func(ctx context.Context, ext api.AuditExtension) (signed api.AuditSigned, err error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		body, err := json.Marshal(ext)
		if err != nil {
			return signed, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, signer.URL+"/v1/audit-checkpoint", bytes.NewReader(body))
		if err != nil {
			return signed, err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header["Idempotency-Key"] = nil // to ask again is harmless
		res, err := signer.HTTP.Do(req)
		if err != nil {
			return signed, err
		}
		defer func() { _ = res.Body.Close() }()
		data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		if err != nil {
			return signed, err
		}
		if res.StatusCode != http.StatusOK {
			return signed, fmt.Errorf("the signer refuses: %s: %.300s", res.Status, data)
		}
		return signed, json.Unmarshal(data, &signed)
	}
}
