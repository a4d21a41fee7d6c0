package signin_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/factor"
	passwords "github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/signin"
)

// above stands for the tables of the packages above, which account reads.
const above = `-- +goose Up
CREATE TABLE application (id INTEGER PRIMARY KEY, actor INTEGER NOT NULL UNIQUE REFERENCES actor (id),
	organization INTEGER NOT NULL REFERENCES organization (id), slug TEXT, is_accessible_by_support_until__date TEXT,
	is_closed_to_support INTEGER NOT NULL DEFAULT 0);
CREATE TABLE device (id INTEGER PRIMARY KEY, actor INTEGER NOT NULL UNIQUE REFERENCES actor (id), uuid TEXT NOT NULL UNIQUE,
	belongs_to__application INTEGER REFERENCES application (id), is_frozen INTEGER NOT NULL DEFAULT 0,
	is_accessible_by_support_until__date TEXT);
`

const pepper = "0123456789abcdef0123456789abcdef"

var site = api.Site{Domain: "roadstead.test", Port: 443}

// fixture is a database with accounts and sign-ins on it, a provider, and a clock that only the test moves.
type fixture struct {
	testing.TB
	ctx      context.Context
	db       *db.DB
	accounts *account.Accounts
	signin   *signin.SignIn
	provider *liar

	mu  sync.Mutex // covers what follows
	now time.Time

	letters []string
}

func newFixture(t testing.TB, change ...func(p *signin.Provider)) *fixture {
	t.Helper()
	f := &fixture{TB: t, ctx: t.Context(), provider: newLiar(t), now: time.Now().UTC().Truncate(time.Second)}
	f.db = dbtest.Open(t, f.clock, audit.Migrations(), account.Migrations(), factor.Migrations(), dbtest.Schema("0010_above.sql", above), signin.Migrations())
	var err error
	f.accounts, err = account.New(account.Config{DB: f.db, Pepper: []byte(pepper), Now: f.clock, SecondFactor: factor.Enrolled, PasswordCost: passwords.Cost{Memory: 64, Passes: 1}, Notify: func(_ context.Context, tx *db.Tx, n account.Notice) error {
		tx.OnCommit(func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.letters = append(f.letters, n.Kind+" to "+n.To+": "+n.Data["identity"])
		})
		return nil
	}})
	f.must(err)
	p := signin.Provider{
		Name: "corp", Label: "Corp", Kind: signin.OpenID, Issuer: f.provider.URL, ClientID: clientID, Secret: clientSecret,
		AllowPrivate: []string{"127.0.0.1"},
	}
	for _, c := range change {
		c(&p)
	}
	f.signin, err = signin.New(signin.Config{
		DB: f.db, Accounts: f.accounts, Site: site, Pepper: []byte(pepper), Providers: []signin.Provider{p}, Now: f.clock,
	})
	f.must(err)
	return f
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) pass(d time.Duration) {
	f.mu.Lock()
	f.now = f.now.Add(d)
	now := f.now
	f.mu.Unlock()
	f.provider.say(func() { f.provider.now = now })
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

const password = "correct horse battery"

// user makes a user and logs in.
func (f *fixture) user(name string) (token string, by access.Caller) {
	f.Helper()
	_, err := f.accounts.CreateUser(f.ctx, api.NewUser{Email: name + "@example.com", Username: name, Password: password})
	f.must(err)
	return f.login(name)
}

func (f *fixture) login(name string) (token string, by access.Caller) {
	f.Helper()
	token, err := f.accounts.Login(f.ctx, api.Login{Username: name, Password: password}, account.From{Address: "192.0.2.1"})
	f.must(err)
	by, err = f.who(token)
	f.must(err)
	return token, by
}

func (f *fixture) who(token string) (by access.Caller, err error) {
	err = f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
		by, err = f.accounts.Authenticate(f.ctx, tx, token)
		return err
	})
	return by, err
}

func (f *fixture) number(query string, args ...any) (n int) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) error { return tx.QueryRowContext(f.ctx, query, args...).Scan(&n) }))
	return n
}

func (f *fixture) exec(query string, args ...any) {
	f.Helper()
	f.must(f.db.Write(f.ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, query, args...)
		return err
	}))
}

var from = account.From{Address: "192.0.2.9", UserAgent: "a browser"}

// start begins a sign-in and says yes at the provider.
func (f *fixture) start(by access.Caller, purpose string) api.FinishSignIn {
	f.Helper()
	started, err := f.signin.Start(f.ctx, by, "corp", api.StartSignIn{Purpose: purpose})
	f.must(err)
	code, _ := f.provider.agree(started.URL)
	return api.FinishSignIn{State: started.State, Binding: started.Binding, Code: code}
}

func (f *fixture) signIn() (string, error) {
	f.Helper()
	return f.signin.Finish(f.ctx, access.Nobody(), "corp", f.start(access.Nobody(), api.SignInLogin), from)
}

func (f *fixture) link(by access.Caller) error {
	f.Helper()
	_, err := f.signin.Finish(f.ctx, by, "corp", f.start(by, api.SignInLink), from)
	return err
}

func (f *fixture) unlink(by access.Caller, id int64) error {
	return f.db.Write(f.ctx, func(tx *db.Tx) error { return f.signin.Unlink(f.ctx, tx, by, id) })
}

func (f *fixture) identities(by access.Caller) (list []api.Identity) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
		list, err = f.signin.Identities(f.ctx, tx, by)
		return err
	}))
	return list
}

func TestLinkSignInUnlink(t *testing.T) {
	f := newFixture(t)
	if token, err := f.signIn(); !errors.Is(err, api.ErrForbidden) || token != "" {
		t.Fatalf("somebody whom nobody knows: %q, %v, want forbidden", token, err)
	}
	if n := f.number(`SELECT count(*) FROM audit_entry WHERE act = 'session.open' AND result = 'refused'`); n != 1 {
		t.Errorf("%d refusals are recorded, want 1", n)
	}
	_, alice := f.user("alice")
	f.must(f.link(alice))
	token, err := f.signIn()
	f.must(err)
	if by, err := f.who(token); err != nil || by.User != alice.User || by.Session == alice.Session {
		t.Errorf("signed in as %+v, %v", by, err)
	}
	list := f.identities(alice)
	if len(list) != 1 || list[0].Issuer != f.provider.URL || list[0].Subject != "u-1" || list[0].LastUsedAt == nil {
		t.Fatalf("identities: %+v", list)
	}
	// The same provider's account cannot be another user's way in.
	_, bob := f.user("bob")
	if err := f.link(bob); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a second user links it: %v, want a conflict", err)
	}
	if err := f.unlink(bob, list[0].ID); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("another user unlinks it: %v, want not found", err)
	}
	f.must(f.unlink(alice, list[0].ID))
	if _, err := f.signIn(); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("after unlinking: %v, want forbidden", err)
	}
	// What it had opened ends with it; the session that unlinked it stays.
	if _, err := f.who(token); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a session that the identity had opened: %v, want unauthorized", err)
	}
	if n := f.number(`SELECT count(*) FROM session WHERE id = ?`, alice.Session); n != 1 {
		t.Error("the session that unlinked it has ended")
	}
	if got := fmt.Sprint(f.letters); len(f.letters) != 3 || !strings.HasPrefix(f.letters[0], "identity linked to alice@example.com: ") ||
		!strings.Contains(f.letters[0], " at Corp") || !strings.HasPrefix(f.letters[1], "new sign in to") || !strings.HasPrefix(f.letters[2], "identity unlinked to alice@example.com: ") {
		t.Errorf("letters: got %s", got)
	}
	for _, act := range []string{"identity.link", "identity.use", "identity.unlink"} {
		if n := f.number(`SELECT count(*) FROM audit_entry WHERE act = ? AND about_user = ? AND result = 'done'`, act, alice.User); n != 1 {
			t.Errorf("%s is recorded %d times", act, n)
		}
	}
}

// An identity is issuer and subject. Somebody with alice's e-mail address, verified or not, is not alice.
func TestAnAddressIsNoIdentity(t *testing.T) {
	f := newFixture(t, func(p *signin.Provider) { p.SignUp.Domains = []string{"example.com"} })
	_, alice := f.user("alice")
	f.provider.say(func() {
		f.provider.claims = map[string]any{"sub": "mallory", "email": "alice@example.com", "email_verified": true, "preferred_username": "alice"}
	})
	if token, err := f.signIn(); !errors.Is(err, api.ErrConflict) || token != "" {
		t.Errorf("alice's address: %q, %v, want a conflict", token, err)
	}
	if len(f.identities(alice)) != 0 {
		t.Error("it was linked")
	}
	// And the same subject at another issuer is another.
	f.provider.say(func() { f.provider.claims = map[string]any{"sub": "u-1"} })
	f.exec(`INSERT INTO user_identity (created_at, "user", issuer, subject, provider, label) VALUES ('2026-01-01T00:00:00.000Z', ?, ?, 'u-1', 'x', 'x')`,
		alice.User, "https://elsewhere.example.com")
	if _, err := f.signIn(); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("the subject of another issuer: %v, want forbidden", err)
	}
}

func TestSignUp(t *testing.T) {
	f := newFixture(t, func(p *signin.Provider) { p.SignUp.Domains = []string{"example.com"} })
	for what, claims := range map[string]map[string]any{
		"not verified":       {"sub": "a", "email": "ann@example.com", "email_verified": false},
		"verified as a text": {"sub": "b", "email": "ann@example.com", "email_verified": "true"},
		"nothing said":       {"sub": "c", "email": "ann@example.com"},
		"another domain":     {"sub": "d", "email": "ann@example.org", "email_verified": true},
		"a domain within":    {"sub": "e", "email": "ann@example.com.evil.test", "email_verified": true},
		"two at signs":       {"sub": "g", "email": "ann@evil.test@example.com", "email_verified": true},
		"no address":         {"sub": "f", "email_verified": true},
	} {
		f.provider.say(func() { f.provider.claims = claims })
		if token, err := f.signIn(); err == nil || token != "" {
			t.Errorf("%s: was let in", what)
		}
	}
	if n := f.number(`SELECT count(*) FROM "user"`); n != 0 {
		t.Fatalf("%d users were made", n)
	}
	f.provider.say(func() {
		f.provider.claims = map[string]any{"sub": "z", "email": "Ann@Example.com", "email_verified": true, "preferred_username": "Ann B."}
	})
	token, err := f.signIn()
	f.must(err)
	by, err := f.who(token)
	f.must(err)
	if by.Name != "ann_b" {
		t.Errorf("the user is called %q", by.Name)
	}
	// This is the only way in, and there is no password that opens another.
	if err := f.unlink(by, f.identities(by)[0].ID); !errors.Is(err, api.ErrConflict) {
		t.Errorf("the only way in was unlinked: %v", err)
	}
	for _, guess := range []string{"", "none", "correct horse battery"} {
		if _, err := f.accounts.Login(f.ctx, api.Login{Username: "ann_b", Password: guess}, from); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("a login with the password %q: %v", guess, err)
		}
	}
	// With a password the other way in may go.
	_, err = f.accounts.SetPassword(f.ctx, "ann_b", password)
	f.must(err)
	_, by = f.login("ann_b")
	f.must(f.unlink(by, f.identities(by)[0].ID))
}

// What a provider, or somebody in its place, may answer; none of it opens a session.
func TestAnswersThatAreRefused(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	f.must(f.link(alice))
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.must(err)
	der, err := x509.MarshalPKIXPublicKey(f.provider.key.Public())
	f.must(err)
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	p := f.provider
	with := func(name string, value any) func(map[string]any) string {
		return func(c map[string]any) string {
			c[name] = value
			if value == nil {
				delete(c, name)
			}
			return sign(p, jose.ES256, p.key, p.kid, c)
		}
	}
	for what, token := range map[string]func(map[string]any) string{
		"another audience":       with("aud", "another"),
		"no audience":            with("aud", nil),
		"two audiences":          with("aud", []string{clientID, "another"}),
		"for another party":      with("azp", "another"),
		"another issuer":         with("iss", "https://elsewhere.example.com"),
		"no issuer":              with("iss", nil),
		"another nonce":          with("nonce", "x"),
		"no nonce":               with("nonce", nil),
		"expired":                with("exp", f.clock().Add(-time.Minute).Unix()),
		"no expiry":              with("exp", nil),
		"no subject":             with("sub", nil),
		"a long subject":         with("sub", strings.Repeat("x", 300)),
		"wrong at_hash":          with("at_hash", "x"),
		"not yet":                with("nbf", f.clock().Add(time.Hour).Unix()),
		"alg none":               unsigned,
		"signed by another":      func(c map[string]any) string { return sign(p, jose.ES256, other, p.kid, c) },
		"HS256 with our secret":  func(c map[string]any) string { return sign(p, jose.HS256, []byte(clientSecret+clientSecret), "", c) },
		"HS256 with the key":     func(c map[string]any) string { return sign(p, jose.HS256, public, p.kid, c) },
		"RS256 with another key": func(c map[string]any) string { return sign(p, jose.RS256, rsaKey(t), p.kid, c) },
		"an unknown key":         func(c map[string]any) string { return sign(p, jose.ES256, other, "nobody's", c) },
		"nothing":                func(map[string]any) string { return "" },
		"not a token":            func(map[string]any) string { return "a.b.c" },
		"a long text":            func(map[string]any) string { return strings.Repeat("x", 100_000) },
		"cut short":              func(c map[string]any) string { s := sign(p, jose.ES256, p.key, p.kid, c); return s[:len(s)-8] },
	} {
		p.say(func() { p.token = token })
		if got, err := f.signIn(); !errors.Is(err, api.ErrUnauthorized) || got != "" {
			t.Errorf("%s: %q, %v, want unauthorized", what, got, err)
		}
	}
	p.say(func() { p.token = nil; p.infoSub = "somebody else" })
	if got, err := f.signIn(); !errors.Is(err, api.ErrUnauthorized) || got != "" {
		t.Errorf("user info of somebody else: %q, %v", got, err)
	}
	p.say(func() { p.infoSub = "" })
	if _, err := f.signIn(); err != nil {
		t.Errorf("the honest answer at last: %v", err)
	}
	if n := f.number(`SELECT count(*) FROM session`); n != 2 {
		t.Errorf("%d sessions, want alice's own and the last one", n)
	}
}

// States: not ours, of another browser, too old, used, of another session; codes: used, of another sign-in, without PKCE's other half.
func TestStatesAndCodesThatAreRefused(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	f.must(f.link(alice))
	finish := func(by access.Caller, req api.FinishSignIn) error {
		token, err := f.signin.Finish(f.ctx, by, "corp", req, from)
		if err != nil && token != "" {
			t.Errorf("an error and a token")
		}
		return err
	}
	refused := func(what string, by access.Caller, change func(req *api.FinishSignIn)) {
		t.Helper()
		req := f.start(access.Nobody(), api.SignInLogin)
		change(&req)
		if err := finish(by, req); !errors.Is(err, api.ErrUnauthorized) && !errors.Is(err, api.ErrInvalid) && !errors.Is(err, api.ErrForbidden) {
			t.Errorf("%s: %v, want a refusal", what, err)
		}
	}
	nobody := access.Nobody()
	theirs := f.start(nobody, api.SignInLogin)
	refused("no state", nobody, func(r *api.FinishSignIn) { r.State = "" })
	refused("a state of nobody's", nobody, func(r *api.FinishSignIn) { r.State = strings.Repeat("A", 200) })
	refused("a changed state", nobody, func(r *api.FinishSignIn) { r.State = r.State[:len(r.State)-4] + "AAAA" })
	refused("no binding", nobody, func(r *api.FinishSignIn) { r.Binding = "" })
	refused("no code", nobody, func(r *api.FinishSignIn) { r.Code = "" })
	refused("a wrong code", nobody, func(r *api.FinishSignIn) { r.Code = "guess" })
	refused("an error of the provider's", nobody, func(r *api.FinishSignIn) { r.Error = "access_denied" })
	refused("another's issuer", nobody, func(r *api.FinishSignIn) { r.Issuer = "https://elsewhere.example.com" })
	// Login CSRF: somebody has a victim's browser finish the sign-in that he began himself.
	refused("the state and code of another browser", nobody, func(r *api.FinishSignIn) { r.State, r.Code = theirs.State, theirs.Code })
	// A stolen code in a sign-in of one's own: PKCE's other half is not known to who has only the code.
	refused("the code of another sign-in", nobody, func(r *api.FinishSignIn) { r.Code = theirs.Code })

	req := f.start(nobody, api.SignInLogin)
	f.pass(11 * time.Minute)
	if err := finish(nobody, req); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("after 11 minutes: %v", err)
	}
	req = f.start(nobody, api.SignInLogin)
	f.must(finish(nobody, req))
	code, _ := f.provider.agree("http://x/?" + "response_type=code&code_challenge_method=S256&code_challenge=x&nonce=0123456789012345&state=x&client_id=" + clientID)
	req.Code = code
	if err := finish(nobody, req); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a state for the second time: %v", err)
	}
	if asks := f.provider.tokenAsks; asks == 0 {
		t.Error("the provider was never asked; this test shows nothing")
	}
	// At once from many sides: one gets in.
	req = f.start(nobody, api.SignInLogin)
	var all sync.WaitGroup
	var won sync.Map
	for i := range 20 {
		all.Go(func() {
			if finish(nobody, req) == nil {
				won.Store(i, true)
			}
		})
	}
	all.Wait()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("one state was used %d times", n)
	}
}

// Linking is for a fresh session, and the session that began it.
func TestWhoMayLink(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	_, bob := f.user("bob")
	req := f.start(alice, api.SignInLink)
	for who, by := range map[string]access.Caller{"nobody": access.Nobody(), "bob": bob} {
		if _, err := f.signin.Finish(f.ctx, by, "corp", req, from); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("finished by %s: %v", who, err)
		}
	}
	_, second := f.login("alice")
	if _, err := f.signin.Finish(f.ctx, second, "corp", req, from); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("finished by another session of alice's: %v", err)
	}
	key := alice
	key.Session, key.Key = 0, 1
	if _, err := f.signin.Start(f.ctx, key, "corp", api.StartSignIn{Purpose: api.SignInLink}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("begun with an API key: %v", err)
	}
	if _, err := f.signin.Start(f.ctx, access.Nobody(), "corp", api.StartSignIn{Purpose: api.SignInLink}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("begun by nobody: %v", err)
	}
	f.pass(21 * time.Minute)
	if _, err := f.signin.Start(f.ctx, alice, "corp", api.StartSignIn{Purpose: api.SignInLink}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("begun 21 minutes after the login: %v", err)
	}
	if len(f.identities(alice))+len(f.identities(bob)) != 0 {
		t.Error("something was linked")
	}
	// A sign-in that is no linking links nothing, whoever finishes it.
	_, fresh := f.login("alice")
	if _, err := f.signin.Finish(f.ctx, fresh, "corp", f.start(access.Nobody(), api.SignInLogin), from); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a login finished with a session: %v", err)
	}
	if len(f.identities(alice)) != 0 {
		t.Error("a login linked")
	}
}

func TestStartIsBounded(t *testing.T) {
	f := newFixture(t)
	for what, req := range map[string]api.StartSignIn{
		"another's page": {Purpose: api.SignInLogin, Redirect: "https://evil.example.com/"},
		"no purpose":     {},
	} {
		if _, err := f.signin.Start(f.ctx, access.Nobody(), "corp", req); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v, want invalid", what, err)
		}
	}
	if _, err := f.signin.Start(f.ctx, access.Nobody(), "nobody", api.StartSignIn{Purpose: api.SignInLogin}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a provider that is not there: %v", err)
	}
	for range 50 {
		f.start(access.Nobody(), api.SignInLogin)
	}
	if f.provider.docAsks != 1 {
		t.Errorf("the provider was asked %d times what it is", f.provider.docAsks)
	}
	if n := f.number(`SELECT count(*) FROM sign_in_state`); n != 0 {
		t.Errorf("beginnings left %d rows", n)
	}
}

// Tokens with keys that nobody knows do not become a flood of requests, and a new key of the provider's is found all the same.
func TestKeySetFlood(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	f.must(f.link(alice))
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.must(err)
	before := f.provider.keyAsks
	n := 0
	f.provider.say(func() {
		f.provider.token = func(c map[string]any) string {
			n++
			return sign(f.provider, jose.ES256, other, fmt.Sprint("k", 1000+n), c)
		}
	})
	f.pass(2 * time.Minute)
	for range 100 {
		if _, err := f.signIn(); !errors.Is(err, api.ErrUnauthorized) {
			t.Fatalf("an unknown key: %v", err)
		}
	}
	if asks := f.provider.keyAsks - before; asks > 1 {
		t.Errorf("100 tokens with unknown keys: the keys were asked for %d times, want at most 1", asks)
	}
	f.provider.say(func() { f.provider.token = nil; f.provider.key, f.provider.kid = other, "k2" })
	f.pass(2 * time.Minute)
	if _, err := f.signIn(); err != nil {
		t.Errorf("after the provider changed its key: %v", err)
	}
}

func TestProviderThatIsDownOrLeadsAway(t *testing.T) {
	f := newFixture(t)
	f.provider.say(func() { f.provider.broken = true })
	_, err := f.signin.Start(f.ctx, access.Nobody(), "corp", api.StartSignIn{Purpose: api.SignInLogin})
	if !errors.Is(err, api.ErrUnavailable) || !strings.Contains(api.AsError(err).Text, "Corp") || strings.Contains(api.AsError(err).Text, "inner words") {
		t.Errorf("down: %v", err)
	}
	f.pass(time.Minute)
	f.provider.say(func() { f.provider.broken = false })
	req := f.start(access.Nobody(), api.SignInLogin)
	f.provider.say(func() { f.provider.broken = true })
	if _, err := f.signin.Finish(f.ctx, access.Nobody(), "corp", req, from); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("down while a code is redeemed: %v", err)
	}
	// A provider whose answers lead into the server's network, by redirect or by what it says of itself.
	inner := newLiar(t)
	f.provider.say(func() { f.provider.broken, f.provider.redirect = false, "http://169.254.169.254/latest/meta-data/" })
	req2 := func() error {
		f.pass(2 * time.Hour)
		_, err := f.signin.Start(f.ctx, access.Nobody(), "corp", api.StartSignIn{Purpose: api.SignInLogin})
		return err
	}
	f.pass(30 * time.Hour)
	if err := req2(); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a redirect to the metadata service: %v", err)
	}
	f.provider.say(func() {
		f.provider.redirect = ""
		f.provider.doc = func(doc map[string]any) { doc["token_endpoint"] = "http://10.0.0.1/token" }
	})
	f.pass(30 * time.Hour)
	started, err := f.signin.Start(f.ctx, access.Nobody(), "corp", api.StartSignIn{Purpose: api.SignInLogin})
	f.must(err)
	if _, err := f.signin.Finish(f.ctx, access.Nobody(), "corp", api.FinishSignIn{State: started.State, Binding: started.Binding, Code: "c"}, from); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a token endpoint at a private address: %v", err)
	}
	for field, value := range map[string]string{
		"authorization_endpoint": "javascript:alert(1)", "jwks_uri": "file:///etc/passwd", "token_endpoint": "", "issuer": "https://elsewhere.example.com",
	} {
		f.provider.say(func() { f.provider.doc = func(doc map[string]any) { doc[field] = value } })
		f.pass(30 * time.Hour)
		if err := req2(); !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("%s %q: %v", field, value, err)
		}
	}
	_ = inner
}

// A provider that says it names itself in its answers always does.
func TestIssuerInTheAnswer(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	f.must(f.link(alice))
	f.provider.say(func() {
		f.provider.doc = func(doc map[string]any) { doc["authorization_response_iss_parameter_supported"] = true }
	})
	f.pass(2 * time.Hour)
	for iss, good := range map[string]bool{"": false, "https://elsewhere.example.com": false, f.provider.URL: true} {
		req := f.start(access.Nobody(), api.SignInLogin)
		req.Issuer = iss
		_, err := f.signin.Finish(f.ctx, access.Nobody(), "corp", req, from)
		if (err == nil) != good {
			t.Errorf("iss %q: %v", iss, err)
		}
	}
}
