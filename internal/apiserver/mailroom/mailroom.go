// Package mailroom is where the api role's letters leave from: it hands the notices of the accounts to the outbox in the words of their
// letters, and serves the routes that letters lead to and that tell the operator how they fare.
package mailroom

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/letter"
	"github.com/roadstead-io/roadstead/internal/account/reset"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/mail"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Room is the way out.
type Room struct {
	db     *db.DB
	log    *slog.Logger
	server mail.Server
	outbox *mail.Outbox // nil: no mail is sent
}

// Open makes the outbox, if there is a mail server. pepper is the secret that the key of sealed letters is made of.
func Open(d *db.DB, log *slog.Logger, server mail.Server, site api.Site, pepper []byte) (*Room, error) {
	r := &Room{db: d, log: log, server: server}
	if !server.On() {
		return r, nil
	}
	letters, err := letter.New(site)
	if err != nil {
		return nil, err
	}
	r.outbox, err = mail.New(mail.Config{DB: d, Server: server, Hello: site.Domain, Secret: pepper, Log: log, Render: letters.Render})
	return r, err
}

// Run sends letters until the context ends.
func (r *Room) Run(ctx context.Context) error {
	if r.outbox == nil {
		return nil
	}
	return r.outbox.Run(ctx)
}

// Notify is what the accounts send their notices with; nil without a mail server.
func (r *Room) Notify() func(ctx context.Context, tx *db.Tx, n account.Notice) error {
	if r.outbox == nil {
		return nil
	}
	return r.notify
}

// notify posts a notice. One that somebody has sent to others is refused when it cannot go out. A warning is not worth the act that it
// tells of: it is left out, and the log says so.
func (r *Room) notify(ctx context.Context, tx *db.Tx, n account.Notice) error {
	l := mail.Letter{To: n.To, Kind: n.Kind, Until: n.Until, Data: make(map[string]string, len(n.Data))}
	for name, value := range n.Data {
		l.Data[name] = oneLine(value)
	}
	if n.By != 0 {
		l.By = fmt.Sprintf("user %d", n.By)
	}
	err := r.outbox.Post(ctx, tx, l)
	var known *api.Error
	refused := !letter.Known(n.Kind) || errors.As(err, &known)
	if err == nil || n.By != 0 || !refused {
		return err
	}
	r.log.ErrorContext(ctx, "a letter was left out", "kind", n.Kind, "error", err)
	return nil
}

// oneLine makes a name that somebody chose fit for a letter.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s, "")
	if len(s) > 1000 {
		s = strings.ToValidUTF8(s[:1000], "")
	}
	return strings.Join(strings.FieldsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f || c == 0x85 || c == 0x2028 || c == 0x2029 }), " ")
}

// Routes lists the routes about letters.
func (r *Room) Routes(resets *reset.Resets) []route.Route {
	return []route.Route{
		{Method: "POST", Path: "/user/v1/password/forgot", Handle: forgot(resets), Who: route.Anybody},
		{Method: "POST", Path: "/user/v1/password/reset", Handle: choose(resets), Who: route.Anybody},
		{Method: "POST", Path: "/internal/v1/mail", Handle: r.status, Roles: []string{api.RoleAdmin}},
		{Method: "POST", Path: "/internal/v1/mail/test", Handle: r.test, Roles: []string{api.RoleAdmin}},
	}
}

// forgot answers the same whoever the address is of, and before anybody has looked.
func forgot(resets *reset.Resets) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		var req api.ForgotPassword
		if err := web.Decode(r, &req); err != nil {
			return err
		}
		if err := resets.Forgot(r.Context(), req.Email, route.From(r)); err != nil {
			return err
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
}

// choose sets another password, with the link of a letter.
func choose(resets *reset.Resets) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		var req api.ResetPassword
		if err := web.Decode(r, &req); err != nil {
			return err
		}
		if err := resets.Set(r.Context(), req.Token, req.Password, route.From(r)); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}
}

func (r *Room) status(w http.ResponseWriter, req *http.Request) error {
	var out api.MailStatus
	err := r.db.Read(req.Context(), func(tx *db.Tx) (err error) {
		out, err = mail.Look(req.Context(), tx, r.server)
		return err
	})
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

// test has a letter sent that says nothing, so that an operator sees whether one arrives.
func (r *Room) test(w http.ResponseWriter, req *http.Request) error {
	var want api.TestLetter
	if err := web.Decode(req, &want); err != nil {
		return err
	}
	if r.outbox == nil {
		return api.Errorf(api.Invalid, "no mail server is configured: see --smtp")
	}
	return route.Write(req.Context(), r.db, func(tx *db.Tx) error {
		return r.outbox.Post(req.Context(), tx, mail.Letter{To: want.To, Kind: "test"})
	}, func() error {
		w.WriteHeader(http.StatusAccepted)
		return nil
	})
}
