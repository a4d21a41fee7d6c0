package signin_test

import (
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/signin"
)

// Somebody who is the last administrator of one organization stays that, and leaves and enters the others all the same.
func TestALastAdministratorHoldsNothingElseUp(t *testing.T) {
	f := newFixture(t, func(p *signin.Provider) {
		p.Organizations = []signin.Mapping{
			{Claim: "groups", Value: "crew", Organization: "harbour"},
			{Claim: "groups", Value: "captains", Organization: "harbour", Role: "administrator"},
			{Claim: "groups", Value: "pilots", Organization: "lagoon"},
			{Claim: "groups", Value: "guards", Organization: "mole"},
		}
	})
	_, carol := f.user("harbour")
	f.user("lagoon")
	f.user("mole")
	_, alice := f.user("alice")
	f.groups("captains", "pilots")
	f.must(f.link(alice))
	f.exec(`DELETE FROM organization_membership WHERE "user" = ? AND is_member_of__organization = (SELECT id FROM organization WHERE handle = 'harbour')`, carol.User)
	f.groups("crew", "guards")
	_, err := f.signIn()
	f.must(err)
	for org, want := range map[string]string{"harbour": "administrator", "lagoon": "", "mole": "member"} {
		if got := f.role(alice.User, org); got != want {
			t.Errorf("in %s: got %q, want %q", org, got, want)
		}
	}
}

// An organization that asks its members for a second factor gets nobody by claim who has none.
func TestNoMemberByClaimWithoutTheSecondFactor(t *testing.T) {
	f := newFixture(t, func(p *signin.Provider) {
		p.Organizations = []signin.Mapping{
			{Claim: "groups", Value: "crew", Organization: "harbour", Role: "administrator"},
			{Claim: "groups", Value: "crew", Organization: "lagoon"},
		}
	})
	f.user("harbour")
	f.user("lagoon")
	_, alice := f.user("alice")
	f.exec(`UPDATE organization SET is_requiring_two_factor = 1 WHERE handle = 'harbour'`)
	f.groups("crew")
	f.must(f.link(alice))
	token, err := f.signIn()
	f.must(err)
	if _, err := f.who(token); err != nil {
		t.Errorf("the session: %v", err)
	}
	if got := f.role(alice.User, "harbour"); got != "" {
		t.Errorf("without a second factor alice is %s", got)
	}
	if got := f.role(alice.User, "lagoon"); got != "member" {
		t.Errorf("in the organization that asks for none alice is %q", got)
	}
	if n := f.number(`SELECT count(*) FROM audit_entry WHERE act = 'member.add' AND result = 'refused' AND about_user = ?`, alice.User); n != 2 {
		t.Errorf("%d refusals are recorded, want 2", n)
	}
	f.exec(`INSERT INTO totp ("user", created_at, is_confirmed, seed) VALUES (?, '2026-01-01T00:00:00.000Z', 1, 'x')`, alice.User)
	_, err = f.signIn()
	f.must(err)
	if got := f.role(alice.User, "harbour"); got != "administrator" {
		t.Errorf("with a second factor alice is %q", got)
	}
}

// Who is refused although the provider vouches for them is in the audit log, with the reason.
func TestRefusedSignInsAreRecorded(t *testing.T) {
	f := newFixture(t, func(p *signin.Provider) { p.SignUp.Domains = []string{"example.com"} })
	_, alice := f.user("alice")
	f.must(f.link(alice))
	refusals := func(about int64) int {
		return f.number(`SELECT count(*) FROM audit_entry WHERE act = 'session.open' AND result = 'refused' AND coalesce(about_user, 0) = ?`, about)
	}
	f.exec(`UPDATE "user" SET is_disabled = 1 WHERE id = ?`, alice.User)
	if _, err := f.signIn(); !errors.Is(err, api.ErrForbidden) || refusals(alice.User) != 1 {
		t.Errorf("a disabled user: %v, recorded %d times", err, refusals(alice.User))
	}
	f.provider.say(func() {
		f.provider.claims = map[string]any{"sub": "mallory", "email": "alice@example.com", "email_verified": true}
	})
	if _, err := f.signIn(); !errors.Is(err, api.ErrConflict) || refusals(0) != 1 {
		t.Errorf("somebody else's address: %v, recorded %d times", err, refusals(0))
	}
}

// Whose an e-mail address is: what the provider says of another address, or of Google's accounts elsewhere, is not said of this one.
func TestWhoseAnAddressIs(t *testing.T) {
	type said = map[string]any
	for what, tt := range map[string]struct {
		change      func(p *signin.Provider)
		token, info said
		in          bool
	}{
		"verified elsewhere":           {nil, said{"email": "ann@example.com"}, said{"email": "ann@evil.example.org", "email_verified": true}, false},
		"verified before":              {nil, said{"email_verified": true}, said{"email": "ann@example.com"}, false},
		"verified, said when asked":    {nil, said{"email": "ann@example.com"}, said{"email": "ann@example.com", "email_verified": true}, true},
		"all when asked":               {nil, nil, said{"email": "ann@example.com", "email_verified": true}, true},
		"anybody, not verified":        {anybody, said{"email": "ann@example.com", "email_verified": false}, nil, false},
		"anybody, verified as a text":  {anybody, said{"email": "ann@example.com", "email_verified": "true"}, nil, false},
		"anybody, nothing said":        {anybody, said{"email": "ann@example.com"}, nil, true},
		"anybody, verified":            {anybody, said{"email": "ann@example.com", "email_verified": true}, nil, true},
		"Google, not of the workspace": {google, said{"email": "ann@example.com", "email_verified": true}, nil, false},
		"Google, of the workspace":     {google, said{"email": "ann@example.com", "email_verified": true, "hd": "example.com"}, nil, true},
	} {
		f := newFixture(t, func(p *signin.Provider) {
			p.SignUp.Domains = []string{"example.com"}
			if tt.change != nil {
				tt.change(p)
			}
		})
		f.provider.say(func() {
			f.provider.claims = said{"sub": "s"}
			for k, v := range tt.token {
				f.provider.claims[k] = v
			}
			f.provider.info = tt.info
		})
		if token, err := f.signIn(); (err == nil) != tt.in || (token != "") != tt.in {
			t.Errorf("%s: let in %v (%v), want %v", what, token != "", err, tt.in)
		}
	}
}

func anybody(p *signin.Provider) { p.SignUp = signin.SignUp{Anybody: true} }
func google(p *signin.Provider)  { p.Kind = signin.Google }

// What a database does not take, or a reader takes for something else, comes from outside and changes nothing.
func TestOddTexts(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	f.provider.say(func() {
		f.provider.claims = map[string]any{"sub": "u-1", "name": "ann\x00\u202eevil\n", "email": "x\x00"}
	})
	f.must(f.link(alice))
	if got := f.identities(alice)[0].Label; got != "x" {
		t.Errorf("the label: got %q", got)
	}
	if _, err := f.signIn(); err != nil {
		t.Errorf("the sign-in: %v", err)
	}
	f.provider.say(func() { f.provider.claims = map[string]any{"sub": "u\x00-1"} })
	if _, err := f.signIn(); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("an odd subject: %v, want unauthorized", err)
	}
	code, err := f.signin.NewDevice(f.ctx, "roadstead\x00 \u202eon a\xff server\r\n", from)
	f.must(err)
	w, err := f.signin.LookUpDevice(f.ctx, alice, code.UserCode)
	f.must(err)
	if w.Client != "roadstead on a server" {
		t.Errorf("who waits: got %q", w.Client)
	}
}

// An identity at a provider that the operator has taken away is no way in: the last other one stays.
func TestAProviderThatIsGoneIsNoWayIn(t *testing.T) {
	f := newFixture(t, func(p *signin.Provider) { p.SignUp.Anybody = true })
	f.provider.say(func() {
		f.provider.claims = map[string]any{"sub": "z", "email": "ann@example.com", "email_verified": true}
	})
	token, err := f.signIn()
	f.must(err)
	ann, err := f.who(token)
	f.must(err)
	here := f.identities(ann)[0].ID
	f.exec(`INSERT INTO user_identity (created_at, "user", issuer, subject, provider, label) VALUES ('2026-01-01T00:00:00.000Z', ?, 'https://gone.example.com', 'z', 'gone', 'z')`, ann.User)
	if err := f.unlink(ann, here); !errors.Is(err, api.ErrConflict) {
		t.Errorf("the only way in that is left: got %v, want a conflict", err)
	}
	f.must(f.unlink(ann, f.identities(ann)[1].ID))
}

// Somebody whom the provider knows since this morning is signed in, and asked once more before what needs a fresh login.
func TestASessionIsAsFreshAsTheProof(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	f.must(f.link(alice))
	fresh := func(proved any) error {
		t.Helper()
		f.provider.say(func() { f.provider.claims = map[string]any{"sub": "u-1", "auth_time": proved} })
		token, err := f.signIn()
		f.must(err)
		by, err := f.who(token)
		f.must(err)
		_, err = f.signin.Start(f.ctx, by, "corp", api.StartSignIn{Purpose: api.SignInLink})
		return err
	}
	for what, tt := range map[string]struct {
		at   any
		want error
	}{
		"just now": {f.clock().Unix(), nil}, "ten minutes ago": {f.clock().Add(-10 * time.Minute).Unix(), nil},
		"an hour ago": {f.clock().Add(-time.Hour).Unix(), api.ErrUnauthorized}, "a year ago": {f.clock().AddDate(-1, 0, 0).Unix(), api.ErrUnauthorized},
		"tomorrow": {f.clock().AddDate(0, 0, 1).Unix(), nil}, "not said": {nil, nil}, "said as a text": {"yesterday", nil},
	} {
		if err := fresh(tt.at); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", what, err, tt.want)
		}
	}
	for ask, want := range map[bool]string{false: "", true: "login"} {
		started, err := f.signin.Start(f.ctx, access.Nobody(), "corp", api.StartSignIn{Purpose: api.SignInLogin, Fresh: ask})
		f.must(err)
		u, err := url.Parse(started.URL)
		f.must(err)
		if got := u.Query().Get("prompt"); got != want {
			t.Errorf("fresh %v: the provider is asked with prompt %q, want %q", ask, got, want)
		}
	}
}
