package signin

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/oauth2"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/throttle"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Start begins a sign-in. Linking is for a session whose user proved lately to be there, and only that session can finish it.
func (s *SignIn) Start(ctx context.Context, by access.Caller, name string, req api.StartSignIn) (api.StartedSignIn, error) {
	var started api.StartedSignIn
	p, err := s.provider(name)
	if err != nil {
		return started, err
	}
	if req.Redirect != "" && req.Redirect != Callback(s.cfg.Site, name) {
		return started, api.Errorf(api.Invalid, "redirect: only %s is sent anything", Callback(s.cfg.Site, name))
	}
	binding := random()
	a := attempt{
		Provider: name, Purpose: req.Purpose, Fresh: req.Fresh, Nonce: random(), Verifier: oauth2.GenerateVerifier(),
		Binding: s.hash("sign-in binding", binding), Expires: s.cfg.Now().Add(stateLife).Unix(),
		redirect: Callback(s.cfg.Site, name),
	}
	switch req.Purpose {
	case api.SignInLogin:
	case api.SignInLink:
		if by.Kind != access.User {
			return started, api.ErrUnauthorized
		}
		err := s.cfg.DB.Read(ctx, func(tx *db.Tx) error { return rights.RequireFresh(ctx, tx, by) })
		if err != nil {
			return started, err
		}
		a.User, a.Session = by.User, by.Session
	default:
		return started, api.Errorf(api.Invalid, "purpose: %q is neither %s nor %s", req.Purpose, api.SignInLogin, api.SignInLink)
	}
	if a.state, err = s.sealed(a); err != nil {
		return started, err
	}
	if started.URL, err = p.address(ctx, a); err != nil {
		return started, err
	}
	started.State, started.Binding = a.state, binding
	return started, nil
}

// Finish ends a sign-in: a session's token for somebody who is known, or, when linking, "".
func (s *SignIn) Finish(ctx context.Context, by access.Caller, name string, req api.FinishSignIn, from account.From) (token string, err error) {
	p, err := s.provider(name)
	if err != nil {
		return "", err
	}
	a, err := s.opened(name, req.State, req.Binding)
	if err != nil {
		return "", err
	}
	if a.Purpose == api.SignInLink && (by.Kind != access.User || by.User != a.User || by.Session != a.Session) {
		return "", api.Errorf(api.Unauthorized, "the session that began to link the provider is another, or has ended")
	}
	leave, ok := p.waiting.enter(throttle.Network(from.Address)) // before anything is written: states cost nothing
	if !ok {
		return "", p.tooMany()
	}
	defer leave()
	if err := s.burn(ctx, a); err != nil {
		return "", err
	}
	switch {
	case req.Error != "":
		return "", api.Errorf(api.Forbidden, "%s did not let you in: %s", p.label(), word(req.Error))
	case req.Code == "" || len(req.Code) > 4096:
		return "", api.Errorf(api.Invalid, "code: not given")
	}
	who, err := p.redeem(ctx, a, req.Code, req.Issuer)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "a sign-in failed", "provider", name, "error", err)
		return "", err
	}
	who.label = clip(who.label)
	if a.Purpose == api.SignInLink {
		err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error { return s.link(ctx, tx, by, p, who) })
		return "", err
	}
	by.Address, from.Proved = from.Address, who.at
	return s.login(ctx, by, p, who, from)
}

// tooMany refuses one more sign-in that would have to wait for the provider.
func (p Provider) tooMany() error {
	return api.Errorf(api.Unavailable, "too many people sign in with %s at once; try again", p.label())
}

// login opens a session for whoever an identity belongs to.
func (s *SignIn) login(ctx context.Context, by access.Caller, p *provider, who proven, from account.From) (token string, err error) {
	var known int64 // whose identity it is
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		identity, user, err := find(ctx, tx, who)
		if err != nil {
			return err
		}
		known = user
		if identity == 0 {
			if err := p.welcomes(who); err != nil {
				return err
			}
			if identity, user, err = s.signUp(ctx, tx, by, p, who); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `UPDATE user_identity SET last_used_at = ?, label = ? WHERE id = ?`, tx.NowText(), clip(who.label), identity)
		if err != nil {
			return err
		}
		// Memberships first: an organization may ask for a second factor, which the session then waits for.
		if err := s.enrol(ctx, tx, by, p, identity, user, who); err != nil {
			return err
		}
		if token, err = s.cfg.Accounts.SignIn(ctx, tx, user, from); err != nil {
			return err
		}
		return audit.Record(ctx, tx, by, audit.Entry{
			Act: "identity.use", Kind: "user_identity", ID: identity, Name: who.label, User: user, Detail: detail(p, who),
		})
	})
	if err == nil {
		return token, nil
	}
	if errors.Is(err, api.ErrForbidden) || errors.Is(err, api.ErrConflict) {
		err = errors.Join(err, s.recordRefusal(ctx, by, p, who, known, api.AsError(err).Text))
	}
	return "", fmt.Errorf("sign in with %s: %w", p.Name, err)
}

// recordRefusal writes down that somebody proved to be somebody at a provider and was not let in. The transaction of the attempt is undone.
func (s *SignIn) recordRefusal(ctx context.Context, by access.Caller, p *provider, who proven, user int64, why string) error {
	entry := audit.Entry{Act: "session.open", Result: audit.Refused, Kind: "user_identity", Name: who.label, User: user, Detail: detail(p, who)}
	entry.Detail["reason"] = why
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error { return audit.Record(ctx, tx, by, entry) })
}

// find looks an identity up.
func find(ctx context.Context, tx *db.Tx, who proven) (identity, user int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id, "user" FROM user_identity WHERE issuer = ? AND subject = ?`, who.issuer, who.subject).
		Scan(&identity, &user)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, 0, nil
	}
	return identity, user, err
}

// welcomes decides about somebody who has no account here.
func (p *provider) welcomes(who proven) error {
	if p.SignUp.Anybody && who.email != "" && !who.doubted {
		return nil
	}
	_, domain, _ := strings.Cut(strings.ToLower(who.email), "@")
	for _, d := range p.SignUp.Domains {
		if who.verified && strings.EqualFold(d, domain) {
			return nil
		}
	}
	return api.Errorf(api.Forbidden, "nobody here is known as %s at %s; log in with your password and link it on your account's page", who.label, p.label())
}

// signUp makes an account of an identity that is welcome.
func (s *SignIn) signUp(ctx context.Context, tx *db.Tx, by access.Caller, p *provider, who proven) (identity, user int64, err error) {
	wanted := who.username
	if wanted == "" || strings.Contains(wanted, "@") {
		wanted, _, _ = strings.Cut(who.email, "@")
	}
	user, name, err := account.CreateUserOfProvider(ctx, tx, who.email, wanted)
	if err != nil {
		return 0, 0, err
	}
	if identity, err = insert(ctx, tx, p, who, user); err != nil {
		return 0, 0, err
	}
	return identity, user, audit.Record(ctx, tx, by, audit.Entry{
		Act: "user.create", Kind: "user", ID: user, Name: name, User: user, Detail: detail(p, who),
	})
}

func insert(ctx context.Context, tx *db.Tx, p *provider, who proven, user int64) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `INSERT INTO user_identity (created_at, "user", issuer, subject, provider, label)
		VALUES (?, ?, ?, ?, ?, ?) RETURNING id`, tx.NowText(), user, who.issuer, who.subject, p.Name, clip(who.label)).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("new identity: %w", err)
	}
	return id, nil
}

// detail is what the record of an act keeps of an identity.
func detail(p *provider, who proven) map[string]any {
	return map[string]any{"provider": p.Name, "issuer": who.issuer, "subject": who.subject}
}

// clip makes a text that came from outside fit to be kept and shown: not long, and without characters that a database does not take or
// that let it look like another.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most]
	}
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) {
			return -1
		}
		return c
	}, strings.ToValidUTF8(s, ""))
}
