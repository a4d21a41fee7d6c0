package account_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/invite"
	"github.com/roadstead-io/roadstead/internal/account/member"
	"github.com/roadstead-io/roadstead/internal/account/operator"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/service"
	"github.com/roadstead-io/roadstead/internal/account/sshkey"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// other makes accounts with a pepper of their own on the same database.
func (f *fixture) other(cfg account.Config) *account.Accounts {
	f.Helper()
	cfg.DB, cfg.Now = f.db, f.clock
	if cfg.Pepper == nil {
		cfg.Pepper = []byte(pepper)
	}
	a, err := account.New(cfg)
	f.must(err)
	return a
}

// signed makes a token with a key of one's own.
func signed(t testing.TB, alg jose.SignatureAlgorithm, key any, payload []byte) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Attack: tokens of another server, of another kind of key, and with the public key of a server as the secret.
func TestForeignAndConfusedTokens(t *testing.T) {
	f := newFixture(t)
	token := f.user("alice")
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	f.must(err)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	f.must(err)
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	f.must(err)
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	foreign, err := f.other(account.Config{Pepper: []byte("another pepper of thirty-two byte")}).
		Login(f.ctx, api.Login{Username: "alice", Password: alicesPassword}, account.From{})
	f.must(err)
	for what, forged := range map[string]string{
		"of another server":            foreign,
		"signed with RSA":              signed(t, jose.RS256, key, payload),
		"a public key as the secret":   signed(t, jose.HS256, public, payload),
		"an empty secret":              signed(t, jose.HS256, make([]byte, 32), payload),
		"the pepper itself":            signed(t, jose.HS256, []byte(pepper), payload),
		"a longer algorithm":           signed(t, jose.HS512, append([]byte(pepper), pepper...), payload),
		"cut in the payload":           strings.Split(token, ".")[0] + "." + strings.Split(token, ".")[1][:20] + "." + strings.Split(token, ".")[2],
		"with something after it":      token + "x",
		"twice":                        token + "." + token,
		"with a newline":               token[:40] + "\n" + token[40:],
		"more than 4096 bytes of dots": strings.Repeat(".", 5000),
	} {
		if _, err := f.authenticate(forged); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("a token %s: got %v", what, err)
		}
	}
}

// Attack: a token that was good once.
func TestTokensThatWereGoodOnce(t *testing.T) {
	f := newFixture(t)
	f.user("alice")
	for what, end := range map[string]func(token string, c access.Caller){
		"logout": func(_ string, c access.Caller) {
			f.write(func(tx *db.Tx) error { return f.accounts.EndSession(f.ctx, tx, c, 0) })
		},
		"refresh": func(_ string, c access.Caller) {
			_, err := f.accounts.Refresh(f.ctx, c, "", account.From{})
			f.must(err)
		},
		"another password": func(_ string, c access.Caller) {
			_, err := f.accounts.ChangePassword(f.ctx, c, api.ChangePassword{Current: alicesPassword, New: "boats in the harbour"}, account.From{})
			f.must(err)
			_, err = f.accounts.SetPassword(f.ctx, "alice", alicesPassword)
			f.must(err)
		},
		"an end of all": func(_ string, c access.Caller) {
			f.write(func(tx *db.Tx) error { return f.accounts.EndSessions(f.ctx, tx, c, true) })
		},
		"revocation": func(string, access.Caller) { f.change("alice", api.UserRevoke, "") },
		"disabling": func(string, access.Caller) {
			f.change("alice", api.UserDisable, "")
			f.change("alice", api.UserEnable, "")
		},
	} {
		token := f.login("alice")
		end(token, f.caller(token))
		if _, err := f.authenticate(token); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("after %s: got %v", what, err)
		}
	}
}

func (f *fixture) change(user, act, organization string) {
	f.Helper()
	f.write(func(tx *db.Tx) error {
		return operator.New(f.accounts).Change(f.ctx, tx, access.Itself(), api.UserChange{User: user, Act: act, Organization: organization},
			func(int64, string) error { return nil })
	})
}

func FuzzToken(f *testing.F) {
	fx := newFixture(f)
	token := fx.user("alice")
	f.Add(token)
	f.Add("..")
	f.Add(`eyJhbGciOiJub25lIn0.e30.`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := fx.authenticate(text)
		if err == nil && text != token {
			t.Errorf("%q is %+v", text, c)
		}
		if err != nil && !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// Attack: who is a user is told by how long the answer takes. It is told by no work: one hash of the same cost is made for everybody.
func TestAnUnknownUserCostsTheSame(t *testing.T) {
	f := newFixture(t)
	f.accounts = f.other(account.Config{}) // at the cost that a server has
	f.user("alice")
	f.user("bob")
	f.write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, `UPDATE "user" SET password = '' WHERE username = 'bob'`)
		return err
	})
	var work []string
	a := f.other(account.Config{SamePassword: func(hash, _ string) bool {
		work = append(work, strings.Join(strings.Split(hash, "$")[:4], "$"))
		return false
	}})
	for _, name := range []string{"alice", "alice@example.com", "nobody", "bob", "nobody@example.com"} {
		_, err := a.Login(f.ctx, api.Login{Username: name, Password: "a wrong password"}, account.From{Address: "192.0.2.1"})
		if !errors.Is(err, api.ErrUnauthorized) || api.AsError(err).Text != "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for i, w := range work {
		if w != work[0] || len(work) != 5 {
			t.Errorf("work %d of %d: got %s, the first %s", i, len(work), w, work[0])
		}
	}
}

// Attack: the same, where the cost has changed since a user's hash was made: what is tried for nobody costs what it does for some user, and
// for one name always the same.
func TestNobodyCostsWhatSomeUserCosts(t *testing.T) {
	f := newFixture(t) // at next to no cost
	f.user("alice")
	costs := map[string]map[string]bool{}
	a := f.other(account.Config{SamePassword: func(hash, given string) bool {
		if costs[given] == nil {
			costs[given] = map[string]bool{}
		}
		costs[given][strings.Split(hash, "$")[3]] = true
		return false
	}})
	try := func(name string) (cost string) {
		_, _ = a.Login(f.ctx, api.Login{Username: name, Password: name + " and more"}, account.From{Address: "192.0.2.1"})
		f.pass(24 * time.Hour) // nobody waits
		for cost = range costs[name+" and more"] {
		}
		return cost
	}
	for _, name := range []string{"nobody", "nobody@example.com", "somebody"} {
		if got, want := try(name), try("alice"); got != want || got == "" {
			t.Errorf("%s: got %s, want what the only user costs, %s", name, got, want)
		}
	}
	_, err := a.CreateUser(f.ctx, api.NewUser{Email: "bob@example.com", Username: "bob", Password: alicesPassword}) // at another cost
	f.must(err)
	seen := map[string]bool{}
	for i := range 40 {
		name := fmt.Sprintf("nobody%d", i)
		seen[try(name)] = true
		if try(name); len(costs[name+" and more"]) != 1 {
			t.Errorf("%s: got %v, want one cost", name, costs[name+" and more"])
		}
	}
	if len(seen) != 2 || !seen[try("alice")] || !seen[try("bob")] {
		t.Errorf("names of nobody's: got %v, want those of the two users", seen)
	}
}

// Attack: who has an account is told by how long a refusal takes: of somebody who is there it is recorded. The answer does not wait for that.
func TestARefusalIsRecordedAfterTheAnswer(t *testing.T) {
	f := newFixture(t)
	f.user("alice")
	refusals := func() int {
		return f.count(`SELECT count(*) FROM audit_entry WHERE act = 'session.open' AND result = 'refused' AND address = '192.0.2.5'`)
	}
	if err := f.tries("alice", "a wrong password", "192.0.2.5"); !errors.Is(err, api.ErrUnauthorized) || refusals() != 0 {
		t.Errorf("got %v, and %d records when it came", err, refusals())
	}
	ctx, stop := context.WithCancel(f.ctx)
	ended := make(chan error, 1)
	go func() { ended <- f.accounts.Run(ctx) }()
	f.until("the refusal is recorded", func() bool { return refusals() == 1 })
	stop()
	f.must(<-ended)
	_ = f.tries("alice", "a wrong password", "192.0.2.5")
	f.must(f.accounts.RunOnce(f.ctx)) // as at the end of a process
	if n := refusals(); n != 2 {
		t.Errorf("at the end: got %d records", n)
	}
}

// until polls for a condition.
func (f *fixture) until(what string, is func() bool) {
	f.Helper()
	for began := time.Now(); !is(); {
		if time.Since(began) > 20*time.Second {
			f.Fatalf("not within 20 s: %s", what)
		}
	}
}

// Attack: the guesser hangs up while the guess waits for its turn. It was not looked at, and takes nothing back but itself.
func TestAGuessThatHangsUpForgivesNothing(t *testing.T) {
	f := newFixture(t)
	f.user("alice")
	const attacker = "198.51.100.7"
	for range 9 {
		_ = f.tries("alice", "a wrong password", attacker)
	}
	held, release := make(chan struct{}), make(chan struct{})
	a := f.other(account.Config{SamePassword: func(string, string) bool { held <- struct{}{}; <-release; return false }})
	var all sync.WaitGroup
	login := func(ctx context.Context, address string) {
		_, _ = a.Login(ctx, api.Login{Username: "alice", Password: "a wrong password"}, account.From{Address: address})
	}
	all.Go(func() { login(f.ctx, "203.0.113.1") })
	all.Go(func() { login(f.ctx, "203.0.113.2") })
	<-held
	<-held
	ctx, hangUp := context.WithCancel(f.ctx)
	failures := func() int { return f.count(`SELECT max(failures) FROM login_attempt WHERE counter = 'pair'`) }
	all.Go(func() { login(ctx, attacker) })
	f.until("the guess is counted", func() bool { return failures() == 10 })
	hangUp()
	f.until("the guess is taken back", func() bool { return failures() == 9 })
	close(release)
	all.Wait()
	if n := f.count(`SELECT count(*) FROM login_attempt WHERE counter = 'known'`); n != 1 {
		t.Errorf("addresses where alice is known: got %d, want her own", n)
	}
}

func TestAPasswordIsHashedAnewWhenTheCostGrows(t *testing.T) {
	f := newFixture(t)
	f.accounts = f.other(account.Config{})
	cheap := f.other(account.Config{PasswordCost: password.Cost{Memory: 64, Passes: 1}})
	_, err := cheap.CreateUser(f.ctx, api.NewUser{Email: "carol@example.com", Username: "carol", Password: alicesPassword})
	f.must(err)
	costs := func() (n int) { return f.count(`SELECT count(*) FROM "user" WHERE password LIKE '%m=19456,t=2,p=1%'`) }
	if costs() != 0 {
		t.Fatal("the first hash is not a cheap one")
	}
	f.login("carol")
	if costs() != 1 {
		t.Error("the hash was not made anew")
	}
	_, err = cheap.Login(f.ctx, api.Login{Username: "carol", Password: alicesPassword}, account.From{})
	f.must(err)
	if costs() != 1 {
		t.Error("a cheaper process made the hash weaker")
	}
}

func TestChangeOfThePassword(t *testing.T) {
	f := newFixture(t)
	one, two := f.user("alice"), f.login("alice")
	key := f.mustKey(f.caller(one), account.KeySpec{Of: account.OfUser, ID: f.caller(one).User, Name: "ci"})
	change := func(by access.Caller, current, next string) (string, error) {
		return f.accounts.ChangePassword(f.ctx, by, api.ChangePassword{Current: current, New: next}, account.From{Address: "192.0.2.1"})
	}
	for what, tt := range map[string]struct {
		by            access.Caller
		current, next string
		want          error
	}{
		"a wrong one":      {f.caller(one), "not the password", "boats in the harbour", api.ErrUnauthorized},
		"a common one":     {f.caller(one), alicesPassword, "password2024", api.ErrInvalid},
		"the same":         {f.caller(one), alicesPassword, alicesPassword, api.ErrInvalid},
		"with an API key":  {f.caller(key), alicesPassword, "boats in the harbour", api.ErrForbidden},
		"one's own name":   {f.caller(one), alicesPassword, "alice1234xyz", api.ErrInvalid},
		"nothing":          {f.caller(one), alicesPassword, "", api.ErrInvalid},
		"a very long one":  {f.caller(one), alicesPassword, strings.Repeat("long ", 1000), api.ErrInvalid},
		"a very long old ": {f.caller(one), strings.Repeat("x", 5000), "boats in the harbour", api.ErrUnauthorized},
	} {
		if _, err := change(tt.by, tt.current, tt.next); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", what, err, tt.want)
		}
	}
	f.pass(21 * time.Minute)
	if _, err := change(f.caller(one), "", "boats in the harbour"); !strings.Contains(fmt.Sprint(err), "Fresh authentication") {
		t.Errorf("without the current one, in a session that is not fresh: got %v", err)
	}
	token, err := change(f.caller(one), alicesPassword, "boats in the harbour")
	f.must(err)
	for _, old := range []string{one, two} {
		if _, err := f.authenticate(old); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("a session from before: got %v", err)
		}
	}
	f.caller(key) // keys stay
	if _, err := change(f.caller(token), "", "barges in the harbour"); err != nil {
		t.Errorf("without the current one, just after it was given: got %v", err)
	}
	if n := f.count(`SELECT count(*) FROM audit_entry WHERE act = 'password.change'`); n != 2 {
		t.Errorf("recorded: got %d", n)
	}
}

// A disabled user is out, by whatever road, and back in when enabled.
func TestADisabledUserEverywhere(t *testing.T) {
	f := newFixture(t)
	session := f.user("alice")
	alice := f.caller(session)
	fleet, device := f.fleet(7, alice)
	keys := map[string]string{
		"named key":        f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"}),
		"limited key":      f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "less", Level: access.Observer}),
		"provisioning key": f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet}),
		"fleet key":        f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet, Reader: true}),
	}
	deviceKey := f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device})
	f.write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, `INSERT INTO user__has__public_key (created_at, "user", title, public_key) VALUES ('x', ?, 'laptop', 'ssh-ed25519 AAAA')`, alice.User)
		return err
	})
	var robot api.ServiceAccount
	f.write(func(tx *db.Tx) (err error) {
		robot, err = service.New(f.accounts).Create(f.ctx, tx, alice, api.ServiceAccount{Name: "robot", Organization: "alice"})
		return err
	})
	keys["key of a service account"] = f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: robot.ID, Name: "pipeline"})
	f.change("alice", api.UserDisable, "")
	if _, err := f.authenticate(session); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("session: got %v", err)
	}
	for what, key := range keys {
		if _, err := f.authenticate(key); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	f.caller(deviceKey) // the device is not the user
	if _, err := f.accounts.Login(f.ctx, api.Login{Username: "alice", Password: alicesPassword}, account.From{}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("the right password: got %v", err)
	}
	if err := f.tries("alice", "a wrong password", "192.0.2.3"); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a wrong password tells that the user is disabled: got %v", err)
	}
	err := f.db.Write(f.ctx, func(tx *db.Tx) error { _, err := f.accounts.SignIn(f.ctx, tx, alice.User, account.From{}); return err })
	if !errors.Is(err, api.ErrForbidden) {
		t.Errorf("through a provider: got %v", err)
	}
	sshKeys := func() (n int) {
		f.must(f.db.Read(f.ctx, func(tx *db.Tx) error {
			list, err := sshkey.Of(f.ctx, tx, alice.User)
			n = len(list)
			return err
		}))
		return n
	}
	if sshKeys() != 0 {
		t.Error("SSH keys are listed")
	}
	f.change("alice", api.UserEnable, "")
	for _, key := range keys {
		f.caller(key)
	}
	f.login("alice")
	if sshKeys() != 1 {
		t.Error("SSH keys are not back")
	}
	if n := f.count(`SELECT count(*) FROM audit_entry WHERE act IN ('user.disable', 'user.enable')`); n != 2 {
		t.Errorf("recorded: got %d", n)
	}
}

// An organization that wants no passwords hears a right one and refuses it. Who does not know the password learns nothing of it.
func TestAnOrganizationForbidsPasswords(t *testing.T) {
	f := newFixture(t)
	f.user("alice")
	f.write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, `UPDATE organization SET is_forbidding_passwords = 1`)
		return err
	})
	if err := f.tries("alice", alicesPassword, "192.0.2.1"); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("the right password: got %v", err)
	}
	if err := f.tries("alice", "a wrong password", "192.0.2.1"); !errors.Is(err, api.ErrUnauthorized) || api.AsError(err).Text != "" {
		t.Errorf("a wrong one: got %v", err)
	}
	if n := f.count(`SELECT count(*) FROM audit_entry WHERE act = 'session.open' AND result = 'refused' AND detail LIKE '%does not allow%'`); n != 1 {
		t.Errorf("recorded with its reason: got %d", n)
	}
	f.write(func(tx *db.Tx) error {
		_, err := f.accounts.SignIn(f.ctx, tx, 1, account.From{Way: account.ByProvider})
		return err
	})
}

// Who sets a rule about signing in must be able to come back; who could not have come in under it is out.
func TestRulesAboutSigningIn(t *testing.T) {
	f := newFixture(t)
	var way, factor atomic.Bool
	has := func(b *atomic.Bool) func(context.Context, *db.Tx, int64) (bool, error) {
		return func(context.Context, *db.Tx, int64) (bool, error) { return b.Load(), nil }
	}
	a := f.other(account.Config{SecondFactor: has(&factor), WaysIn: []func(context.Context, *db.Tx, int64) (bool, error){has(&way)}})
	alice := f.caller(f.user("alice"))
	bob := f.user("bob")
	org := int64(f.count(`SELECT is_member_of__organization FROM organization_membership WHERE "user" = ?`, alice.User))
	f.write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, `INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role)
			SELECT created_at, id, CAST(? AS BIGINT), 2 FROM "user" WHERE username = 'bob'`, org)
		return err
	})
	var before []odata.Hook
	for _, r := range a.Resources() {
		if r.Name == "organization" {
			before = r.Before
		}
	}
	set := func(by access.Caller, column string) error {
		return f.db.Write(f.ctx, func(tx *db.Tx) error {
			for _, hook := range before {
				if err := hook(f.ctx, tx, &odata.Change{Op: odata.Update, Caller: by, IDs: []int64{org}, Values: map[string]any{column: true}}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for column, own := range map[string]*atomic.Bool{"is_forbidding_passwords": &way, "is_requiring_two_factor": &factor} {
		if err := set(alice, column); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s, without a way back: got %v", column, err)
		}
		if err := set(access.Caller{Kind: access.User, User: alice.User, Key: 1}, column); !errors.Is(err, api.ErrForbidden) {
			t.Errorf("%s, with a key: got %v", column, err)
		}
		var program string // that bob's session let in
		f.write(func(tx *db.Tx) (err error) {
			program, err = f.accounts.Delegate(f.ctx, tx, f.caller(bob), account.From{})
			return err
		})
		own.Store(true)
		f.must(set(alice, column))
		own.Store(false)
		if _, err := f.authenticate(program); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s: a session that bob's let in: got %v", column, err)
		}
		if _, err := f.authenticate(bob); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s: bob's session: got %v", column, err)
		}
		if n := f.count(`SELECT count(*) FROM session WHERE id = ?`, alice.Session); n != 1 {
			t.Errorf("%s: who set it is out", column)
		}
		bob = f.login("bob")
	}
}

// What decides about people needs a fresh session: no key, however whole, and no session of an hour ago.
func TestFreshAuthentication(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	key := f.caller(f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"}))
	ask := func(by access.Caller) error {
		return f.db.Read(f.ctx, func(tx *db.Tx) error { return rights.RequireFresh(f.ctx, tx, by) })
	}
	f.must(ask(alice))
	f.must(ask(access.Itself()))
	if err := ask(key); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a key: got %v", err)
	}
	f.pass(21 * time.Minute)
	if err := ask(alice); !errors.Is(err, api.ErrUnauthorized) || api.AsError(err).Text != "Fresh authentication token required" {
		t.Errorf("a session of 21 minutes ago: got %v", err)
	}
	refreshed, err := f.accounts.Refresh(f.ctx, alice, "", account.From{})
	f.must(err)
	if err := ask(f.caller(refreshed)); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("refreshed without a password: got %v", err)
	}
	again, err := f.accounts.Refresh(f.ctx, f.caller(refreshed), alicesPassword, account.From{})
	f.must(err)
	f.must(ask(f.caller(again)))
	hooked := map[string]bool{}
	for _, r := range slices.Concat(f.accounts.Resources(), member.New(f.accounts, nil).Resources(), invite.New(f.accounts).Resources()) {
		for _, op := range []odata.Op{odata.Create, odata.Update, odata.Delete} {
			for _, hook := range r.Before {
				err := f.db.Read(f.ctx, func(tx *db.Tx) error {
					return hook(f.ctx, tx, &odata.Change{Op: op, Caller: key, Values: map[string]any{}})
				})
				if err != nil && strings.Contains(err.Error(), "an API key may not do this") {
					hooked[fmt.Sprint(r.Name, " ", op)] = true
				}
			}
		}
	}
	for resource, ops := range map[string][]odata.Op{
		"organization_membership": {odata.Create, odata.Update, odata.Delete}, "team_membership": {odata.Create, odata.Delete},
		"user_application_membership": {odata.Create, odata.Update, odata.Delete}, "organization_invite": {odata.Create},
		"application_invite": {odata.Create}, "organization": {odata.Delete}, "team": {odata.Delete},
		"team_application_access": {odata.Create, odata.Update, odata.Delete},
	} {
		for _, op := range ops {
			if !hooked[fmt.Sprint(resource, " ", op)] {
				t.Errorf("%v of %s asks for no session", op, resource)
			}
		}
	}
}

// Attack: a flood of wrong passwords fills the audit log.
func TestRefusalsAreRecordedInBounds(t *testing.T) {
	f := newFixture(t)
	f.user("alice")
	a := f.other(account.Config{SamePassword: func(string, string) bool { return false }})
	for i := range 45 {
		_, _ = a.Login(f.ctx, api.Login{Username: "alice", Password: "a wrong password"}, account.From{Address: fmt.Sprintf("198.51.%d.7", i)})
	}
	f.must(a.RunOnce(f.ctx))
	if n := f.count(`SELECT count(*) FROM audit_entry WHERE result = 'refused'`); n != 20 {
		t.Errorf("recorded: got %d, want 20", n)
	}
	var detail map[string]any
	var text string
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(f.ctx, `SELECT detail FROM audit_entry WHERE result = 'refused' LIMIT 1`).Scan(&text)
	}))
	f.must(json.Unmarshal([]byte(text), &detail))
	if detail["reason"] != "wrong password" || strings.Contains(text, "a wrong") {
		t.Errorf("recorded: got %s", text)
	}
}

// The operator's roads: a lost organization gets an administrator, and everything of a user ends.
func TestWhatTheOperatorDoes(t *testing.T) {
	f := newFixture(t)
	session := f.user("alice")
	alice := f.caller(session)
	f.user("bob")
	fleet, device := f.fleet(7, alice)
	named := f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"})
	ofFleet := f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet})
	ofDevice := f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device})
	var robot api.ServiceAccount
	f.write(func(tx *db.Tx) (err error) {
		robot, err = service.New(f.accounts).Create(f.ctx, tx, alice, api.ServiceAccount{Name: "robot", Organization: "alice"})
		return err
	})
	ofRobot := f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: robot.ID, Name: "pipeline"})
	f.exec(`INSERT INTO user__has__public_key (created_at, "user", title, public_key) VALUES ('x', ?, 'laptop', 'ssh-ed25519 AAAA')`, alice.User)
	f.exec(`INSERT INTO password_reset ("user", token_hash, expires_at) VALUES (?, 'x', '2027-01-01T00:00:00.000Z')`, alice.User)
	// A member whose time is to end becomes an administrator who stays.
	f.exec(`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role, end_date)
		SELECT 'x', b.id, m.is_member_of__organization, 2, '2026-11-22T00:00:00.000Z' FROM "user" b, organization_membership m
		WHERE b.username = 'bob' AND m."user" = ?`, alice.User)
	f.change("bob@example.com", api.UserMakeAdministrator, "alice")
	if n := f.count(`SELECT count(*) FROM organization_membership WHERE organization_membership_role = 1 AND end_date IS NULL`); n != 3 {
		t.Errorf("administrators who stay: got %d, want alice and bob, each of their own, and bob of alice's", n)
	}
	f.change("ALICE", api.UserRevoke, "")
	if n := f.count(`SELECT (SELECT count(*) FROM user__has__public_key) + (SELECT count(*) FROM password_reset)`); n != 0 {
		t.Errorf("SSH keys and links to another password: got %d", n)
	}
	for what, token := range map[string]string{"session": session, "named key": named, "provisioning key": ofFleet, "key of a service account": ofRobot} {
		if _, err := f.authenticate(token); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	f.caller(ofDevice)
	var users []api.UserInfo
	var bob api.UserInfo
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
		if users, err = operator.New(f.accounts).Users(f.ctx, tx); err != nil {
			return err
		}
		bob, err = operator.New(f.accounts).User(f.ctx, tx, "bob")
		return err
	}))
	if len(users) != 3 || users[0].SessionCount != 0 || users[0].KeyCount != 0 || users[1].SessionCount != 1 {
		t.Errorf("users: got %+v", users)
	}
	if bob.Organizations["alice"] != "administrator" || len(bob.Sessions) != 1 || !bob.HasPassword {
		t.Errorf("bob: got %+v", bob)
	}
	for what, c := range map[string]api.UserChange{
		"nobody":          {User: "nobody", Act: api.UserDisable},
		"no organization": {User: "bob", Act: api.UserMakeAdministrator, Organization: "nothing"},
	} {
		err := f.db.Write(f.ctx, func(tx *db.Tx) error { return operator.New(f.accounts).Change(f.ctx, tx, access.Itself(), c, nil) })
		if !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	err := f.db.Write(f.ctx, func(tx *db.Tx) error {
		return operator.New(f.accounts).Change(f.ctx, tx, access.Itself(), api.UserChange{User: "robot", Act: api.UserMakeAdministrator, Organization: "alice"}, nil)
	})
	if !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a service account: got %v", err)
	}
	if n := f.count(`SELECT count(*) FROM audit_entry WHERE act = 'user.create'`); n != 2 {
		t.Errorf("users that were made, in the record: got %d", n)
	}
}

// Whoever has no second factor does not become a member of an organization that asks for one, by whatever road.
func TestMembersWithoutAFactorAreNotTakenIn(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.caller(f.user("alice")), f.caller(f.user("bob"))
	org := int64(f.count(`SELECT is_member_of__organization FROM organization_membership WHERE "user" = ?`, alice.User))
	f.write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, `UPDATE organization SET is_requiring_two_factor = 1 WHERE id = ?`, org)
		return err
	})
	for _, has := range []bool{false, true} {
		a := f.other(account.Config{SecondFactor: func(context.Context, *db.Tx, int64) (bool, error) { return has, nil }})
		var after []odata.Hook
		for _, r := range a.Resources() {
			if r.Name == "organization_membership" {
				after = r.After
			}
		}
		err := f.db.Read(f.ctx, func(tx *db.Tx) error {
			change := &odata.Change{Op: odata.Create, Caller: alice, IDs: []int64{1}, Values: map[string]any{"user": bob.User, "is_member_of__organization": org}}
			for _, hook := range after {
				if err := hook(f.ctx, tx, change); err != nil {
					return err
				}
			}
			return nil
		})
		if has != (err == nil) || err != nil && !errors.Is(err, api.ErrForbidden) {
			t.Errorf("somebody with a factor: %v: got %v", has, err)
		}
		var token string
		f.write(func(tx *db.Tx) error {
			var invitee, id int64
			if err := tx.QueryRowContext(f.ctx, `INSERT INTO invitee (email) VALUES ('bob@example.com') ON CONFLICT (email) DO UPDATE SET email = excluded.email RETURNING id`).
				Scan(&invitee); err != nil {
				return err
			}
			if err := tx.QueryRowContext(f.ctx, `INSERT INTO organization_invite (created_at, invited, is_invited_to__organization, organization_membership_role, token_hash, expires_at)
				VALUES ('x', ?, ?, 2, 'x', 'x') ON CONFLICT (invited, is_invited_to__organization) DO UPDATE SET token_hash = 'x' RETURNING id`, invitee, org).Scan(&id); err != nil {
				return err
			}
			link, err := invite.New(a).Link(f.ctx, tx, access.Itself(), invite.ToOrganization, id)
			token = link.Token
			return err
		})
		err = f.db.Write(f.ctx, func(tx *db.Tx) error { return invite.New(a).Accept(f.ctx, tx, bob, invite.ToOrganization, token) })
		if has != (err == nil) || err != nil && !errors.Is(err, api.ErrForbidden) {
			t.Errorf("an invitation of somebody with a factor: %v: got %v", has, err)
		}
	}
}
