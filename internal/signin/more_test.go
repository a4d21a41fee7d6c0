package signin_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/signin"
)

// role is a user's role in an organization: administrator, member or "".
func (f *fixture) role(user int64, handle string) (name string) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(f.ctx, `SELECT coalesce((SELECT r.name FROM organization_membership m
			JOIN organization o ON o.id = m.is_member_of__organization
			JOIN organization_membership_role r ON r.id = m.organization_membership_role
			WHERE m."user" = ? AND o.handle = ?), '')`, user, handle).Scan(&name)
	}))
	return name
}

func (f *fixture) groups(list ...any) {
	f.provider.say(func() { f.provider.claims = map[string]any{"sub": "u-1", "groups": list} })
}

func TestOrganizationsByClaim(t *testing.T) {
	f := newFixture(t, func(p *signin.Provider) {
		p.Organizations = []signin.Mapping{
			{Claim: "groups", Value: "crew", Organization: "harbour"},
			{Claim: "groups", Value: "captains", Organization: "harbour", Role: "administrator"},
			{Claim: "groups", Value: "crew", Organization: "bob"},
			{Claim: "groups", Value: "crew", Organization: "not-there"},
		}
	})
	_, carol := f.user("carol")
	_, alice := f.user("alice")
	_, bob := f.user("bob")
	f.exec(`UPDATE organization SET handle = 'harbour' WHERE handle = 'carol'`)
	sign := func(groups ...any) {
		t.Helper()
		f.groups(groups...)
		_, err := f.signIn()
		f.must(err)
	}
	want := func(what, harbour, bobs string) {
		t.Helper()
		if h, b := f.role(alice.User, "harbour"), f.role(alice.User, "bob"); h != harbour || b != bobs {
			t.Errorf("%s: %q in harbour, %q in bob's; want %q, %q", what, h, b, harbour, bobs)
		}
	}
	// Somebody made alice a member of bob's: that is not the provider's to change.
	f.exec(`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role)
		SELECT '2026-01-01T00:00:00.000Z', ?, id, 2 FROM organization WHERE handle = 'bob'`, alice.User)
	f.groups("crew")
	f.must(f.link(alice))
	want("linked", "member", "member")
	sign("crew", "captains")
	want("promoted", "administrator", "member")
	sign("crew")
	want("back", "member", "member")
	sign()
	want("in no group", "", "member")
	sign("crews", "cre")
	want("in groups of other names", "", "member")
	sign("captains")
	want("captain", "administrator", "member")

	// The last administrator stays, whatever the provider says.
	f.exec(`DELETE FROM organization_membership WHERE "user" = ? AND is_member_of__organization = (SELECT id FROM organization WHERE handle = 'harbour')`, carol.User)
	sign()
	want("the last administrator", "administrator", "member")
	sign("crew")
	want("the last administrator, demoted", "administrator", "member")
	f.exec(`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role)
		SELECT '2026-01-01T00:00:00.000Z', ?, id, 1 FROM organization WHERE handle = 'harbour'`, bob.User)

	// What people changed is theirs from then on.
	f.exec(`UPDATE organization_membership SET organization_membership_role = 2 WHERE "user" = ?
		AND is_member_of__organization = (SELECT id FROM organization WHERE handle = 'harbour')`, alice.User)
	sign("captains")
	want("demoted by hand", "member", "member")
	sign()
	want("and out of the group", "member", "member")

	// Unlinking takes along what linking gave.
	f.exec(`DELETE FROM organization_membership WHERE "user" = ? AND is_member_of__organization = (SELECT id FROM organization WHERE handle = 'harbour')`, alice.User)
	sign("crew")
	want("again", "member", "member")
	f.must(f.unlink(alice, f.identities(alice)[0].ID))
	want("unlinked", "", "member")
	if f.role(alice.User, "alice") != "administrator" {
		t.Error("alice lost her own organization")
	}
	if n := f.number(`SELECT count(*) FROM audit_entry WHERE act IN ('member.add', 'member.change', 'member.remove') AND about_user = ?`, alice.User); n < 6 {
		t.Errorf("%d changes of memberships are recorded", n)
	}
}

func TestLoginByCode(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	_, bob := f.user("bob")
	cli := account.From{Address: "198.51.100.7", UserAgent: "roadstead"}
	begin := func() api.DeviceCode {
		t.Helper()
		code, err := f.signin.NewDevice(f.ctx, "roadstead on a server", cli)
		f.must(err)
		return code
	}
	take := func(code string) api.DeviceToken {
		t.Helper()
		answer, err := f.signin.TakeDevice(f.ctx, code, cli)
		f.must(err)
		return answer
	}
	want := func(what string, got api.DeviceToken, e string) {
		t.Helper()
		if got.Error != e || (got.AccessToken == "") != (e != "") {
			t.Errorf("%s: %+v, want %q", what, got, e)
		}
	}
	code := begin()
	if !regexp.MustCompile(`^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$`).MatchString(code.UserCode) || code.Interval != 5 || code.ExpiresIn != 600 ||
		code.VerificationURI != "https://dashboard.roadstead.test/device" || code.VerificationURIComplete != code.VerificationURI+"?code="+code.UserCode {
		t.Errorf("the code: %+v", code)
	}
	if n := f.number(`SELECT count(*) FROM device_login WHERE device_hash = ? OR user_hash = ?`, code.DeviceCode, code.UserCode); n != 0 {
		t.Error("a code is kept in clear")
	}
	want("at first", take(code.DeviceCode), api.DevicePending)
	want("at once again", take(code.DeviceCode), api.DeviceSlowDown)
	f.pass(6 * time.Second)
	want("6 s later, when 10 are asked for", take(code.DeviceCode), api.DeviceSlowDown)
	f.pass(20 * time.Second)
	want("much later", take(code.DeviceCode), api.DevicePending)
	want("with the user's code", take(code.UserCode), api.DeviceExpired)
	want("a guess", take("guess"), api.DeviceExpired)

	shown, err := f.signin.LookUpDevice(f.ctx, alice, strings.ToLower(strings.ReplaceAll(code.UserCode, "-", " ")))
	f.must(err)
	if shown.Client != "roadstead on a server" || shown.Address != cli.Address {
		t.Errorf("who waits: %+v", shown)
	}
	key := alice
	key.Session, key.Key = 0, 1
	if err := f.signin.AnswerDevice(f.ctx, key, api.DeviceApproval{UserCode: code.UserCode}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("an API key approves: %v", err)
	}
	f.must(f.signin.AnswerDevice(f.ctx, alice, api.DeviceApproval{UserCode: code.UserCode}))
	if err := f.signin.AnswerDevice(f.ctx, bob, api.DeviceApproval{UserCode: code.UserCode}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("approved twice: %v", err)
	}
	f.pass(20 * time.Second)
	var all sync.WaitGroup
	var got sync.Map
	for i := range 10 { // of ten that ask at once, one gets it
		all.Go(func() {
			if a, err := f.signin.TakeDevice(context.WithoutCancel(f.ctx), code.DeviceCode, cli); err == nil && a.AccessToken != "" {
				got.Store(i, a.AccessToken)
			}
		})
	}
	all.Wait()
	tokens := []string{}
	got.Range(func(_, v any) bool { tokens = append(tokens, v.(string)); return true })
	if len(tokens) != 1 {
		t.Fatalf("%d sessions were opened", len(tokens))
	}
	by, err := f.who(tokens[0])
	if err != nil || by.User != alice.User || by.Session == alice.Session {
		t.Errorf("the session: %+v, %v", by, err)
	}
	if n := f.number(`SELECT count(*) FROM audit_entry WHERE act = 'device_login.approve' AND by_user = ?`, alice.User); n != 1 {
		t.Errorf("the approval is recorded %d times", n)
	}

	code = begin()
	f.must(f.signin.AnswerDevice(f.ctx, bob, api.DeviceApproval{UserCode: code.UserCode, Deny: true}))
	want("denied", take(code.DeviceCode), api.DeviceDenied)
	want("denied, once more", take(code.DeviceCode), api.DeviceExpired)

	// An approval ends with the session that gave it.
	code = begin()
	f.must(f.signin.AnswerDevice(f.ctx, bob, api.DeviceApproval{UserCode: code.UserCode}))
	f.must(f.db.Write(f.ctx, func(tx *db.Tx) error { return f.accounts.EndSession(f.ctx, tx, bob, 0) }))
	want("approved by a session that has ended", take(code.DeviceCode), api.DeviceDenied)

	code = begin()
	f.pass(11 * time.Minute)
	want("after 11 minutes", take(code.DeviceCode), api.DeviceExpired)
	if err := f.signin.AnswerDevice(f.ctx, alice, api.DeviceApproval{UserCode: code.UserCode}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("approved too late: %v", err)
	}
	code = begin()
	f.pass(9 * time.Minute)
	if err := f.signin.AnswerDevice(f.ctx, alice, api.DeviceApproval{UserCode: code.UserCode}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("approved 20 minutes after the login: %v", err)
	}
	want("which did nothing", take(code.DeviceCode), api.DevicePending)
}

// Somebody with an account types codes until one fits.
func TestCodesAreNotGuessed(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	_, bob := f.user("bob")
	code, err := f.signin.NewDevice(f.ctx, "x", from)
	f.must(err)
	refused := 0
	for range 30 {
		_, err := f.signin.LookUpDevice(f.ctx, alice, "BBBB-BBBB")
		switch {
		case errors.Is(err, api.ErrRateLimited):
			refused++
		case !errors.Is(err, api.ErrNotFound):
			t.Fatal(err)
		}
	}
	if refused != 20 {
		t.Errorf("%d of 30 guesses were refused unlooked at, want 20", refused)
	}
	if err := f.signin.AnswerDevice(f.ctx, alice, api.DeviceApproval{UserCode: code.UserCode}); !errors.Is(err, api.ErrRateLimited) {
		t.Errorf("the right code then: %v", err)
	}
	if _, err := f.signin.LookUpDevice(f.ctx, bob, code.UserCode); err != nil {
		t.Errorf("another user: %v", err)
	}
	f.pass(10*time.Minute + time.Second)
	if _, err := f.signin.LookUpDevice(f.ctx, alice, "BBBB-BBBB"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("ten minutes later: %v", err)
	}
	limited := false
	for range 30 {
		_, err := f.signin.NewDevice(f.ctx, "x", from)
		limited = limited || errors.Is(err, api.ErrRateLimited)
	}
	if !limited {
		t.Error("one address has 30 codes at a time")
	}
	f.pass(2 * time.Hour)
	f.must(f.signin.RunOnce(f.ctx))
	if n := f.number(`SELECT (SELECT count(*) FROM device_login) + (SELECT count(*) FROM device_login_miss)`); n != 0 {
		t.Errorf("%d rows are left of what is over", n)
	}
}

// A session opens another only while it is fresh, and the other is no fresher.
func TestDelegate(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	delegate := func(by access.Caller) (token string, err error) {
		err = f.db.Write(f.ctx, func(tx *db.Tx) (err error) {
			token, err = f.accounts.Delegate(f.ctx, tx, by, from)
			return err
		})
		return token, err
	}
	f.pass(15 * time.Minute)
	token, err := delegate(alice)
	f.must(err)
	second, err := f.who(token)
	f.must(err)
	if second.User != alice.User || second.Session == alice.Session {
		t.Errorf("the second session: %+v", second)
	}
	f.pass(6 * time.Minute)
	for _, by := range []access.Caller{alice, second} {
		if _, err := delegate(by); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("21 minutes after the login: %v", err)
		}
	}
	alice.Session = 0
	if _, err := delegate(alice); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("an API key: %v", err)
	}
}

// hub speaks GitHub's documented endpoints, as a GitHub Enterprise Server has them.
type hub struct {
	*httptest.Server
	mu     sync.Mutex // covers what follows
	answer any
	user   map[string]any
	emails []map[string]any
	orgs   []map[string]any
	asked  url.Values
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{
		answer: map[string]any{"access_token": "gho_x", "scope": "user:email,read:org", "token_type": "bearer"},
		user:   map[string]any{"login": "octocat", "id": 583231, "email": nil, "type": "User"},
		emails: []map[string]any{{"email": "octocat@example.com", "primary": true, "verified": true, "visibility": "public"}},
		orgs:   []map[string]any{{"login": "harbour-crew", "id": 1}},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login/oauth/access_token", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		_ = r.ParseForm()
		h.asked = r.PostForm
		if r.Header.Get("Accept") != "application/json" || r.PostForm.Get("client_secret") != clientSecret {
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
		_ = json.NewEncoder(w).Encode(h.answer)
	})
	get := func(path string, what func() any) {
		mux.HandleFunc("GET /api/v3"+path, func(w http.ResponseWriter, r *http.Request) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if r.Header.Get("Authorization") != "Bearer gho_x" {
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = w.Write([]byte(`{"message":"Bad credentials"}`))
				return
			}
			_ = json.NewEncoder(w).Encode(what())
		})
	}
	get("/user", func() any { return h.user })
	get("/user/emails", func() any { return h.emails })
	get("/user/orgs", func() any { return h.orgs })
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h
}

func TestGitHub(t *testing.T) {
	h := newHub(t)
	f := newFixture(t, func(p *signin.Provider) {
		p.Kind, p.Issuer = signin.GitHub, h.URL
		p.SignUp.Domains = []string{"example.com"}
		p.Organizations = []signin.Mapping{{Claim: "organizations", Value: "harbour-crew", Organization: "harbour"}}
	})
	f.user("carol")
	f.exec(`UPDATE organization SET handle = 'harbour' WHERE handle = 'carol'`)
	sign := func() (string, error) {
		t.Helper()
		started, err := f.signin.Start(f.ctx, access.Nobody(), "corp", api.StartSignIn{Purpose: api.SignInLogin})
		f.must(err)
		u, err := url.Parse(started.URL)
		f.must(err)
		q := u.Query()
		if u.Path != "/login/oauth/authorize" || q.Get("scope") != "user:email read:org" || q.Get("code_challenge_method") != "S256" ||
			q.Get("state") != started.State || q.Get("redirect_uri") != "https://dashboard.roadstead.test/login/callback/corp" {
			t.Errorf("the browser is sent to %s", started.URL)
		}
		return f.signin.Finish(f.ctx, access.Nobody(), "corp", api.FinishSignIn{State: started.State, Binding: started.Binding, Code: "c"}, from)
	}
	token, err := sign()
	f.must(err)
	by, err := f.who(token)
	f.must(err)
	list := f.identities(by)
	if by.Name != "octocat" || len(list) != 1 || list[0].Issuer != h.URL || list[0].Subject != "583231" || f.role(by.User, "harbour") != "member" {
		t.Errorf("signed in as %s with %+v, %q in harbour", by.Name, list, f.role(by.User, "harbour"))
	}
	if h.asked.Get("code") != "c" || h.asked.Get("code_verifier") == "" || h.asked.Get("redirect_uri") == "" {
		t.Errorf("the code was redeemed with %v", h.asked)
	}
	// The name can change and go to somebody else; the number is who it is.
	h.mu.Lock()
	h.user["login"] = "renamed"
	h.mu.Unlock()
	token, err = sign()
	f.must(err)
	if again, err := f.who(token); err != nil || again.User != by.User {
		t.Errorf("after the renaming: %+v, %v", again, err)
	}
	h.mu.Lock()
	h.user = map[string]any{"login": "octocat", "id": 99}
	h.emails = []map[string]any{{"email": "other@example.com", "primary": true, "verified": false}, {"email": "x@example.com", "primary": false, "verified": true}}
	h.mu.Unlock()
	if _, err := sign(); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("another account of that name, without a verified address: %v", err)
	}
	for what, tt := range map[string]struct {
		answer any
		want   error
	}{
		"bad code":           {map[string]any{"error": "bad_verification_code", "error_description": "The code passed is incorrect or expired."}, api.ErrUnauthorized},
		"wrong credentials":  {map[string]any{"error": "incorrect_client_credentials"}, api.ErrUnauthorized},
		"redirect mismatch":  {map[string]any{"error": "redirect_uri_mismatch"}, api.ErrUnauthorized},
		"no token":           {map[string]any{}, api.ErrUnavailable},
		"another token type": {map[string]any{"access_token": "gho_x", "token_type": "mac"}, api.ErrUnavailable},
		"a token of nobody":  {map[string]any{"access_token": "gho_y", "token_type": "bearer"}, api.ErrUnavailable},
		"not an object":      {"x", api.ErrUnavailable},
	} {
		h.mu.Lock()
		h.answer = tt.answer
		h.mu.Unlock()
		if token, err := sign(); !errors.Is(err, tt.want) || token != "" {
			t.Errorf("%s: %q, %v, want %v", what, token, err, tt.want)
		}
	}
	h.mu.Lock()
	h.answer, h.user = map[string]any{"access_token": "gho_x", "token_type": "bearer"}, map[string]any{"login": "nobody"}
	h.mu.Unlock()
	if _, err := sign(); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a user without a number: %v", err)
	}
}

func TestProvidersFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("secret", "s3cret\n")
	write("empty", "\n")
	const good = "providers:\n- {name: g, kind: google, client_id: a, client_secret_file: secret, hosted_domain: example.com}\n" +
		"- {name: hub, label: GitHub, kind: github, client_id: b, client_secret_file: secret}\n" +
		"- {name: own, kind: oidc, issuer: 'http://idp.lan:8080', client_id: c, allow_private: [idp.lan, 10.0.0.0/8],\n" +
		"   sign_up: {domains: [example.com]}, organizations: [{claim: groups, value: x, organization: acme, role: administrator}]}\n"
	list, err := signin.ReadFile(write("good.yaml", good))
	if err != nil || len(list) != 3 || list[0].Secret != "s3cret" || list[1].Secret != "s3cret" || list[2].Secret != "" {
		t.Fatalf("%+v, %v", list, err)
	}
	asJSON := write("role.json", "")
	data, _ := json.Marshal(list)
	write("role.json", string(data))
	if again, err := signin.Load(asJSON); err != nil || len(again) != 3 || again[0].Secret != "s3cret" || again[2].SignUp.Domains[0] != "example.com" {
		t.Errorf("what a role is given: %+v, %v", again, err)
	}
	if none, err := signin.Load(filepath.Join(dir, "none")); err != nil || none != nil {
		t.Errorf("no file: %v, %v", none, err)
	}
	for want, text := range map[string]string{
		"clientid":                "providers: [{name: a, kind: google, clientid: a}]",
		"field secret not found":  "providers: [{name: a, kind: google, client_id: a, secret: x}]",
		"name:":                   "providers: [{name: 'A b', kind: google, client_id: a}]",
		"kind:":                   "providers: [{name: a, kind: saml, client_id: a}]",
		"issuer: not given":       "providers: [{name: a, kind: oidc, client_id: a}]",
		"does not begin with":     "providers: [{name: a, kind: oidc, issuer: 'http://idp.example.com', client_id: a}]",
		"client_id: not given":    "providers: [{name: a, kind: google}]",
		"GitHub wants a secret":   "providers: [{name: a, kind: github, client_id: a}]",
		"client_secret_file":      "providers: [{name: a, kind: google, client_id: a, client_secret_file: missing}]",
		"is empty":                "providers: [{name: a, kind: google, client_id: a, client_secret_file: empty}]",
		"there are two providers": "providers: [{name: a, kind: google, client_id: a}, {name: a, kind: google, client_id: a}]",
		"allow_private":           "providers: [{name: a, kind: oidc, issuer: 'https://x.lan', client_id: a, allow_private: ['http://x']}]",
		"sign_up.domains[0]":      "providers: [{name: a, kind: google, client_id: a, sign_up: {domains: ['*']}}]",
		"organizations[0]":        "providers: [{name: a, kind: google, client_id: a, organizations: [{claim: x}]}]",
		"neither member nor":      "providers: [{name: a, kind: google, client_id: a, organizations: [{claim: x, value: y, organization: z, role: king}]}]",
		"holds no certificate":    "providers: [{name: a, kind: google, client_id: a, ca_file: secret}]",
	} {
		if _, err := signin.ReadFile(write("bad.yaml", text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot %v, want it to speak of %q", text, err, want)
		}
	}
}
