// Package gitdoor is the routes on which the git role asks who may use the repository of a fleet, and the tickets on which it goes on
// for them. The role itself knows no user: it says which SSH key signed, or hands on the token that it was sent.
package gitdoor

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/gitsource"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Config is what the routes work with.
type Config struct {
	DB       *db.DB
	Accounts *account.Accounts
	// Authenticate says whose the token in a request is, on the channel git.
	Authenticate func(r *http.Request) (access.Caller, error)
	// Sources says whether a claim on a delivery of a source holds for a user, and which release was opened with it.
	Sources *gitsource.Sources
}

// Door is the routes.
type Door struct{ cfg Config }

// New makes them.
func New(cfg Config) *Door { return &Door{cfg} }

// Routes lists them.
func (d *Door) Routes() []route.Route {
	git := []string{api.RoleGit}
	return []route.Route{
		{Method: "POST", Path: "/internal/v1/git/key", Handle: d.key, Roles: git},
		{Method: "POST", Path: "/internal/v1/git/open", Handle: d.open, Roles: git},
		{Method: "POST", Path: "/internal/v1/git/tickets", Handle: d.renew, Roles: git},
		{Method: "POST", Path: "/internal/v1/git/fleets", Handle: d.fleets, Roles: git},
	}
}

const (
	// ticketLife is how long a ticket holds that nobody renews: as long as the api role may be away. A right that ends ends its
	// use before, see [Door.renew] and release.Heartbeat.
	ticketLife = 10 * time.Minute
	scheme     = "Ticket"
	domain     = "git ticket\x00"
	maxTickets = 1000
	maxFleets  = 10_000
)

// ticket is what a ticket says.
type ticket struct {
	User    int64  `json:"u"`
	Key     int64  `json:"k,omitempty"`
	Login   string `json:"l,omitempty"`
	SSH     int64  `json:"s,omitempty"`
	Claim   string `json:"c,omitempty"` // on a delivery of a source, in place of what a person showed
	Fleet   int64  `json:"f"`
	Address string `json:"a,omitempty"`
	Until   int64  `json:"e"`
}

func (t ticket) proof() (p account.Proof) {
	p.Key.Int64, p.Key.Valid = t.Key, t.Key != 0
	p.Login.String, p.Login.Valid = t.Login, t.Login != ""
	p.SSH.Int64, p.SSH.Valid = t.SSH, t.SSH != 0
	return p
}

// write signs a ticket from now on.
func (d *Door) write(t ticket, now time.Time) (string, error) {
	t.Until = now.Add(ticketLife).Unix()
	data, err := json.Marshal(t)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(data)
	return text + "." + base64.RawURLEncoding.EncodeToString(d.cfg.Accounts.Hasher().MAC(domain, text)), nil
}

// read takes a ticket that we wrote and that has not lapsed.
func (d *Door) read(text string, now time.Time) (t ticket, err error) {
	data, sum, _ := strings.Cut(text, ".")
	given, err := base64.RawURLEncoding.DecodeString(sum)
	if err != nil || !hmac.Equal(given, d.cfg.Accounts.Hasher().MAC(domain, data)) {
		return t, api.ErrUnauthorized
	}
	plain, err := base64.RawURLEncoding.DecodeString(data)
	if err != nil || json.Unmarshal(plain, &t) != nil || t.Until < now.Unix() {
		return t, api.ErrUnauthorized
	}
	return t, nil
}

// holder says who a ticket stands for now; a proof that is gone, or a right on the fleet that is, is api.ErrUnauthorized.
func (d *Door) holder(ctx context.Context, tx *db.Tx, text string) (by access.Caller, t ticket, err error) {
	if t, err = d.read(text, tx.Now); err != nil {
		return access.Nobody(), t, err
	}
	proof, holds := t.proof(), false
	switch {
	case t.Claim != "":
		by, holds, err = d.cfg.Sources.Holds(ctx, tx, t.Claim, t.User)
	case proof == (account.Proof{}):
	default:
		by, holds, err = d.cfg.Accounts.Holds(ctx, tx, proof, t.User)
	}
	if err != nil {
		return access.Nobody(), t, err
	}
	if !holds {
		return access.Nobody(), t, api.ErrUnauthorized
	}
	verbs, err := rights.FleetVerbs(ctx, tx, by, t.Fleet)
	if err != nil {
		return access.Nobody(), t, err
	}
	if !verbs.Has(access.Releases) {
		return access.Nobody(), t, api.ErrUnauthorized
	}
	by.Address = t.Address
	return by, t, nil
}

// Ticketed reports whether a request comes with a ticket, and gives it.
func Ticketed(r *http.Request) (string, bool) {
	return strings.CutPrefix(r.Header.Get("Authorization"), scheme+" ")
}

// Holder says who may open a build with a ticket, and of which fleet.
func (d *Door) Holder(ctx context.Context, tx *db.Tx, text string) (by access.Caller, fleet int64, opened func(release int64) error, err error) {
	by, t, err := d.holder(ctx, tx, text)
	if errors.Is(err, api.ErrUnauthorized) {
		err = api.Errorf(api.Unauthorized, "the right to push ended")
	}
	return by, t.Fleet, func(release int64) error {
		if t.Claim == "" {
			return nil
		}
		return d.cfg.Sources.Opened(ctx, tx, t.Claim, release)
	}, err
}

// Claimed gives a ticket to the git role itself, for a delivery that it claimed, in the name of whoever the source builds for.
func (d *Door) Claimed(ctx context.Context, tx *db.Tx, by access.Caller, id int64, claim string) (answer api.GitOpen, err error) {
	fl, err := fleet.Find(ctx, tx, by, id)
	if err != nil {
		return answer, err
	}
	answer = api.GitOpen{User: by.Name, Fleet: fl.ForBuilder()}
	answer.Ticket, err = d.write(ticket{User: by.User, Claim: claim, Fleet: fl.ID}, tx.Now)
	return answer, err
}

// key is POST /internal/v1/git/key.
func (d *Door) key(w http.ResponseWriter, r *http.Request) error {
	var ask api.GitKey
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var by access.Caller
	err := d.cfg.DB.Read(r.Context(), func(tx *db.Tx) (err error) {
		by, err = d.cfg.Accounts.BySSHKey(r.Context(), tx, ask.Fingerprint)
		return err
	})
	if errors.Is(err, api.ErrUnauthorized) {
		return api.Errorf(api.NotFound, "this key is nobody's")
	}
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, api.GitKey{Fingerprint: ask.Fingerprint, User: by.Name})
}

// open is POST /internal/v1/git/open.
func (d *Door) open(w http.ResponseWriter, r *http.Request) error {
	var ask api.GitOpenRequest
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	by, err := d.who(r, ask)
	if err != nil {
		return err
	}
	var answer api.GitOpen
	err = d.cfg.DB.Read(r.Context(), func(tx *db.Tx) (err error) {
		answer, err = d.let(r.Context(), tx, by, ask.Path)
		return err
	})
	if err != nil {
		return err
	}
	d.cfg.Accounts.UsedFrom(by)
	d.cfg.Accounts.Used(by, access.Releases)
	return web.WriteJSON(w, http.StatusOK, answer)
}

// who is the person behind a request of the role.
func (d *Door) who(r *http.Request, ask api.GitOpenRequest) (by access.Caller, err error) {
	if ask.Fingerprint == "" {
		if by, err = d.cfg.Authenticate(r); err != nil {
			return by, err
		}
		by.Address = route.From(r).Address
	} else {
		err = d.cfg.DB.Read(r.Context(), func(tx *db.Tx) error {
			by, err = d.cfg.Accounts.BySSHKey(r.Context(), tx, ask.Fingerprint)
			return err
		})
		if err != nil {
			return by, err
		}
		by.Address = ask.Address
	}
	switch by.Kind {
	case access.User, access.ScopedKey:
		return by, nil
	case access.Anonymous, access.HalfUser, access.Provisioning:
		return by, api.ErrUnauthorized
	default:
		return by, api.Errorf(api.Forbidden, "Only people can use the repository of a fleet.")
	}
}

// let gives a ticket to who may make releases of a fleet. Its source is for nobody else: it may hold what an image does not.
func (d *Door) let(ctx context.Context, tx *db.Tx, by access.Caller, slug string) (answer api.GitOpen, err error) {
	fl, err := fleet.FindBySlug(ctx, tx, by, slug)
	if err != nil {
		return answer, err
	}
	verbs, err := rights.FleetVerbs(ctx, tx, by, fl.ID)
	if err != nil {
		return answer, err
	}
	if !verbs.Has(access.Releases) {
		return answer, api.Errorf(api.Forbidden,
			"%s may see %s, but neither push to it nor clone it: that takes the verb releases, which developers of a fleet have.", by.Name, fl.Slug)
	}
	proof, err := account.ProofOf(ctx, tx, by)
	if err != nil {
		return answer, err
	}
	if answer.Branch, err = fleet.GitBranch(ctx, tx, fl.ID); err != nil {
		return answer, err
	}
	answer.User = by.Name
	answer.Fleet = fl.ForBuilder()
	answer.Ticket, err = d.write(ticket{
		User: by.User, Key: proof.Key.Int64, Login: proof.Login.String, SSH: proof.SSH.Int64, Fleet: fl.ID, Address: by.Address,
	}, tx.Now)
	return answer, err
}

// renew is POST /internal/v1/git/tickets.
func (d *Door) renew(w http.ResponseWriter, r *http.Request) error {
	var ask api.GitTickets
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	if len(ask.Tickets) > maxTickets {
		return api.Errorf(api.TooLarge, "at most %d tickets at a time", maxTickets)
	}
	answer := api.GitTickets{Tickets: make([]string, len(ask.Tickets))}
	err := d.cfg.DB.Read(r.Context(), func(tx *db.Tx) error {
		for i, text := range ask.Tickets {
			_, t, err := d.holder(r.Context(), tx, text)
			if errors.Is(err, api.ErrUnauthorized) {
				answer.Tickets[i] = "" // the transaction may be run again
				continue
			}
			if err != nil {
				return err
			}
			if answer.Tickets[i], err = d.write(t, tx.Now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, answer)
}

// fleets is POST /internal/v1/git/fleets.
func (d *Door) fleets(w http.ResponseWriter, r *http.Request) error {
	var ask api.GitFleets
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	if len(ask.IDs) > maxFleets {
		return api.Errorf(api.TooLarge, "at most %d fleets at a time", maxFleets)
	}
	answer := api.GitFleets{IDs: []int64{}}
	err := d.cfg.DB.Read(r.Context(), func(tx *db.Tx) error {
		found, err := fleet.There(r.Context(), tx, ask.IDs)
		answer.IDs = append([]int64{}, found...)
		return err
	})
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, answer)
}
