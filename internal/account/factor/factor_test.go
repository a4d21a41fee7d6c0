package factor_test

import (
	"context"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/factor"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/account/throttle"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// above stands for the tables of the packages above account, which it only reads.
const above = `-- +goose Up
CREATE TABLE application (id INTEGER PRIMARY KEY, actor INTEGER NOT NULL UNIQUE REFERENCES actor (id),
	organization INTEGER NOT NULL REFERENCES organization (id), slug TEXT, is_accessible_by_support_until__date TEXT,
	is_closed_to_support INTEGER NOT NULL DEFAULT 0);
CREATE TABLE device (id INTEGER PRIMARY KEY, actor INTEGER NOT NULL UNIQUE REFERENCES actor (id), uuid TEXT NOT NULL UNIQUE,
	belongs_to__application INTEGER REFERENCES application (id), is_frozen INTEGER NOT NULL DEFAULT 0,
	is_accessible_by_support_until__date TEXT);
`

type fixture struct {
	testing.TB
	ctx      context.Context
	db       *db.DB
	accounts *account.Accounts
	factors  *factor.Factors

	mu  sync.Mutex // covers now
	now time.Time
}

const (
	pepper = "0123456789abcdef0123456789abcdef"
	secret = "ships in the harbour"
	host   = "dashboard.roadstead.test"
	origin = "https://dashboard.roadstead.test:8443"
)

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{TB: t, ctx: t.Context(), now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	f.db = dbtest.Open(t, f.clock, audit.Migrations(), account.Migrations(), factor.Migrations(), dbtest.Schema("0010_above.sql", above))
	var err error
	f.accounts, err = account.New(account.Config{
		DB: f.db, Pepper: []byte(pepper), Now: f.clock, PasswordCost: password.Cost{Memory: 64, Passes: 1}, SecondFactor: factor.Enrolled,
		WaysIn: []func(ctx context.Context, tx *db.Tx, user int64) (bool, error){factor.WayIn},
	})
	f.must(err)
	f.factors, err = factor.New(factor.Config{DB: f.db, Accounts: f.accounts, Pepper: []byte(pepper), Host: host, Origin: origin, Site: "roadstead.test"})
	f.must(err)
	return f
}

func (f *fixture) clock() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.now }

func (f *fixture) pass(d time.Duration) { f.mu.Lock(); defer f.mu.Unlock(); f.now = f.now.Add(d) }

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) user(name string) access.Caller {
	f.Helper()
	_, err := f.accounts.CreateUser(f.ctx, api.NewUser{Email: name + "@example.com", Username: name, Password: secret})
	f.must(err)
	return f.login(name)
}

func (f *fixture) login(name string) access.Caller {
	f.Helper()
	token, err := f.accounts.Login(f.ctx, api.Login{Username: name, Password: secret}, account.From{Address: "192.0.2.1"})
	f.must(err)
	return f.caller(token)
}

func (f *fixture) caller(token string) (c access.Caller) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
		c, err = f.accounts.Authenticate(f.ctx, tx, token)
		return err
	}))
	return c
}

func (f *fixture) setup(by access.Caller) (seed []byte, err error) {
	var text string
	err = f.db.Write(f.ctx, func(tx *db.Tx) (err error) {
		text, err = f.factors.Setup(f.ctx, tx, by)
		return err
	})
	if err != nil {
		return nil, err
	}
	return base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(text)
}

// enrol gives somebody one-time codes.
func (f *fixture) enrol(by access.Caller) (seed []byte, out api.Enrolled) {
	f.Helper()
	seed, err := f.setup(by)
	f.must(err)
	out, err = f.factors.Enable(f.ctx, by, factor.Code(seed, factor.Step(f.clock())), account.From{Address: "192.0.2.1"})
	f.must(err)
	f.pass(time.Minute) // so that the next code is another one
	return seed, out
}

func (f *fixture) code(seed []byte) string { return factor.Code(seed, factor.Step(f.clock())) }

func (f *fixture) verify(by access.Caller, code, address string) (string, error) {
	return f.factors.Verify(f.ctx, by, code, account.From{Address: address})
}

func (f *fixture) count(query string, args ...any) (n int) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) error { return tx.QueryRowContext(f.ctx, query, args...).Scan(&n) }))
	return n
}

// claim reads twoFactorRequired of a token: "" when it is not there.
func claim(t testing.TB, token string) string {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		TwoFactor *bool `json:"twoFactorRequired"`
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	if c.TwoFactor == nil {
		return ""
	}
	return fmt.Sprint(*c.TwoFactor)
}

// The vectors of RFC 6238, appendix B, for SHA-1; six digits are the last of its eight.
func TestCodesAreThoseOfTheStandard(t *testing.T) {
	seed := []byte("12345678901234567890")
	for at, want := range map[int64]string{
		59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130",
	} {
		if got := factor.Code(seed, factor.Step(time.Unix(at, 0))); got != want {
			t.Errorf("at %d: got %s, want %s", at, got, want)
		}
	}
}

func TestLoginWithACode(t *testing.T) {
	f := newFixture(t)
	alice := f.user("alice")
	other := f.login("alice")
	seed, out := f.enrol(alice)
	if len(out.RecoveryCodes) != 10 || claim(t, out.Token) != "false" {
		t.Errorf("enrolled: got %d codes, claim %q", len(out.RecoveryCodes), claim(t, out.Token))
	}
	for _, ended := range []access.Caller{alice, other} {
		if n := f.count(`SELECT count(*) FROM session WHERE id = ?`, ended.Session); n != 0 {
			t.Error("a session that was opened without the factor lives on")
		}
	}
	text, err := f.accounts.Login(f.ctx, api.Login{Username: "alice", Password: secret}, account.From{Address: "192.0.2.1"})
	f.must(err)
	half := f.caller(text)
	if half.Kind != access.HalfUser || claim(t, text) != "true" {
		t.Errorf("after the password: got a %s, claim %q", half.Kind, claim(t, text))
	}
	if _, err := f.verify(half, "000000", "192.0.2.1"); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a wrong code: got %v", err)
	}
	full, err := f.verify(half, f.code(seed), "192.0.2.1")
	f.must(err)
	if c := f.caller(full); c.Kind != access.User || claim(t, full) != "false" {
		t.Errorf("after the code: got a %s, claim %q", c.Kind, claim(t, full))
	}
	if n := f.count(`SELECT count(*) FROM session WHERE id = ?`, half.Session); n != 0 {
		t.Error("the half session lives on")
	}
	if n := f.count(`SELECT count(*) FROM audit_entry WHERE act = 'factor.prove' AND result = 'refused'`); n != 1 {
		t.Errorf("refusals recorded: got %d", n)
	}
}

// Attack: a half session is refreshed for ever, to try codes at leisure.
func TestAHalfSessionEnds(t *testing.T) {
	f := newFixture(t)
	f.enrol(f.user("alice"))
	half := f.login("alice")
	f.pass(29 * time.Minute)
	text, err := f.accounts.Refresh(f.ctx, half, "", account.From{})
	f.must(err)
	if c := f.caller(text); c.Kind != access.HalfUser || claim(t, text) != "true" {
		t.Errorf("refreshed: got a %s", c.Kind)
	}
	f.pass(time.Minute)
	err = f.db.Read(f.ctx, func(tx *db.Tx) error {
		_, err := f.accounts.Authenticate(f.ctx, tx, text)
		return err
	})
	if !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("after half an hour: got %v", err)
	}
}

// Attack: a code is watched and given again, within its half minute and in another session.
func TestACodeWorksOnce(t *testing.T) {
	f := newFixture(t)
	seed, _ := f.enrol(f.user("alice"))
	code, before, after := f.code(seed), factor.Code(seed, factor.Step(f.clock())-1), factor.Code(seed, factor.Step(f.clock())+1)
	_, err := f.verify(f.login("alice"), code, "192.0.2.1")
	f.must(err)
	for what, again := range map[string]string{"the same": code, "an older one": before} {
		if _, err := f.verify(f.login("alice"), again, "192.0.2.1"); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if _, err := f.verify(f.login("alice"), after, "192.0.2.1"); err != nil {
		t.Errorf("the next one, from a clock that is fast: got %v", err)
	}
}

// Attack: a hundred half sessions give the same code at once, from as many addresses.
func TestOneOfAHundredTakesACode(t *testing.T) {
	for what, recovery := range map[string]bool{"code": false, "recovery code": true} {
		f := newFixture(t)
		seed, out := f.enrol(f.user("alice"))
		code := f.code(seed)
		if recovery {
			code = out.RecoveryCodes[3]
		}
		var halves []access.Caller
		for range 100 {
			halves = append(halves, f.login("alice"))
		}
		var won, late, wrong atomic.Int64
		var all sync.WaitGroup
		for i, half := range halves {
			all.Go(func() {
				_, err := f.verify(half, code, fmt.Sprintf("198.51.%d.1", i))
				var later *throttle.TryLaterError
				switch {
				case err == nil:
					won.Add(1)
				case errors.As(err, &later):
					late.Add(1)
				case errors.Is(err, api.ErrUnauthorized):
					wrong.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Errorf("%s: %d got in, %d were put off, %d refused; want one in", what, won.Load(), late.Load(), wrong.Load())
		}
	}
}

// Attack: somebody who has the password opens many half sessions from many addresses, and tries codes in all of them.
func TestCodesAreNotGuessedOverManySessions(t *testing.T) {
	f := newFixture(t)
	seed, _ := f.enrol(f.user("alice"))
	tried := 0
	for i := range 200 {
		_, err := f.verify(f.login("alice"), "000000", fmt.Sprintf("203.0.%d.1", i))
		if !errors.Is(err, api.ErrRateLimited) {
			tried++
		}
	}
	if tried != 5 {
		t.Errorf("codes tried at once: got %d, want 5", tried)
	}
	end := f.clock().Add(24 * time.Hour)
	for f.clock().Before(end) {
		_, err := f.verify(f.login("alice"), "000000", "203.0.113.1")
		var later *throttle.TryLaterError
		if errors.As(err, &later) {
			f.pass(later.After)
		} else {
			tried++
		}
	}
	if tried > 45 {
		t.Errorf("codes tried in a day: got %d", tried)
	}
	f.pass(time.Hour)
	if _, err := f.verify(f.login("alice"), f.code(seed), "192.0.2.1"); err != nil {
		t.Errorf("the user, an hour later: got %v", err)
	}
}

func TestARecoveryCodeWorksOnce(t *testing.T) {
	f := newFixture(t)
	seed, out := f.enrol(f.user("alice"))
	typed := strings.ToUpper(strings.ReplaceAll(out.RecoveryCodes[0], "-", " "))
	token, err := f.verify(f.login("alice"), typed, "192.0.2.1")
	f.must(err)
	if _, err := f.verify(f.login("alice"), out.RecoveryCodes[0], "192.0.2.1"); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("again: got %v", err)
	}
	bob := f.user("bob")
	f.enrol(bob)
	if _, err := f.verify(f.login("bob"), out.RecoveryCodes[1], "192.0.2.9"); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("alice's code for bob: got %v", err)
	}
	fresh, err := f.factors.RenewCodes(f.ctx, f.caller(token), f.code(seed), account.From{Address: "192.0.2.1"})
	f.must(err)
	if len(fresh) != 10 {
		t.Errorf("new codes: got %d", len(fresh))
	}
	f.pass(time.Minute)
	if _, err := f.verify(f.login("alice"), out.RecoveryCodes[2], "192.0.2.1"); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("an old code after new ones were made: got %v", err)
	}
	_, err = f.verify(f.login("alice"), fresh[0], "192.0.2.1")
	f.must(err)
}

// Attack: whoever holds a session, whole or half, enrols a second factor of their own over the first.
func TestNoSecondEnrolmentOverTheFirst(t *testing.T) {
	f := newFixture(t)
	_, out := f.enrol(f.user("alice"))
	if _, err := f.setup(f.caller(out.Token)); !errors.Is(err, api.ErrConflict) {
		t.Errorf("in a whole session: got %v", err)
	}
	half := f.login("alice")
	if _, err := f.setup(half); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("in a half session: got %v", err)
	}
	if _, err := f.factors.Enable(f.ctx, half, "123456", account.From{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("enable in a half session: got %v", err)
	}
	if err := f.db.Read(f.ctx, func(tx *db.Tx) error { _, err := f.factors.RegisterStart(f.ctx, tx, half); return err }); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a passkey in a half session: got %v", err)
	}
	key := access.Caller{Kind: access.User, User: half.User, Key: 1}
	if _, err := f.setup(key); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("with a key: got %v", err)
	}
	// A seed that nobody confirmed counts for nothing, and a new one takes its place.
	bob := f.user("bob")
	first, err := f.setup(bob)
	f.must(err)
	second, err := f.setup(bob)
	f.must(err)
	if c := f.login("bob"); c.Kind != access.User {
		t.Errorf("before it is confirmed: got a %s", c.Kind)
	}
	if _, err := f.factors.Enable(f.ctx, bob, f.code(first), account.From{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a code of the seed that was replaced: got %v", err)
	}
	_, err = f.factors.Enable(f.ctx, bob, f.code(second), account.From{})
	f.must(err)
}

func TestDisableNeedsACode(t *testing.T) {
	f := newFixture(t)
	seed, out := f.enrol(f.user("alice"))
	alice := f.caller(out.Token)
	if _, err := f.factors.Disable(f.ctx, alice, "", account.From{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("without a code: got %v", err)
	}
	if _, err := f.factors.Disable(f.ctx, alice, "000000", account.From{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("with a wrong one: got %v", err)
	}
	f.pass(21 * time.Minute)
	if _, err := f.factors.Disable(f.ctx, alice, f.code(seed), account.From{}); err == nil || !strings.Contains(err.Error(), "Fresh authentication") {
		t.Errorf("in a session that is not fresh: got %v", err)
	}
	token, err := f.verify(f.login("alice"), f.code(seed), "192.0.2.1") // the refused call did not use the code up
	f.must(err)
	f.pass(time.Minute)
	token, err = f.factors.Disable(f.ctx, f.caller(token), f.code(seed), account.From{})
	f.must(err)
	if claim(t, token) != "" || f.count(`SELECT count(*) FROM recovery_code`) != 0 {
		t.Errorf("afterwards: claim %q, %d recovery codes", claim(t, token), f.count(`SELECT count(*) FROM recovery_code`))
	}
	if c := f.login("alice"); c.Kind != access.User {
		t.Errorf("the next login: got a %s", c.Kind)
	}
}

// An organization that asks for a second factor lets a member in to enrol one, and to do nothing else.
func TestAnOrganizationAsksForASecondFactor(t *testing.T) {
	f := newFixture(t)
	alice := f.user("alice")
	f.must(f.db.Write(f.ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, `UPDATE organization SET is_requiring_two_factor = 1`)
		return err
	}))
	text, err := f.accounts.Login(f.ctx, api.Login{Username: "alice", Password: secret}, account.From{})
	f.must(err)
	half := f.caller(text)
	if half.Kind != access.HalfUser || claim(t, text) != "true" {
		t.Fatalf("got a %s", half.Kind)
	}
	if _, err := f.verify(half, "123456", ""); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a code, of nothing: got %v", err)
	}
	seed, out := f.enrol(half)
	if c := f.caller(out.Token); c.Kind != access.User || c.User != alice.User {
		t.Errorf("enrolled: got %+v", c)
	}
	if _, err := f.factors.Disable(f.ctx, f.caller(out.Token), f.code(seed), account.From{}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("giving the last one up: got %v", err)
	}
}

// The database without the pepper is of no use: seeds open for their user only, and codes are hashes.
func TestSeedsAreSealed(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.user("alice"), f.user("bob")
	seed, out := f.enrol(alice)
	f.enrol(bob)
	dump := dbtest.Dump(t, f.db)
	for what, text := range map[string]string{
		"seed": string(seed), "seed in base32": base32.StdEncoding.EncodeToString(seed), "seed in base64": base64.StdEncoding.EncodeToString(seed)[:20],
		"recovery code": out.RecoveryCodes[0], "recovery code without dashes": strings.ReplaceAll(out.RecoveryCodes[0], "-", ""),
	} {
		if strings.Contains(dump, text) {
			t.Errorf("the database holds the %s", what)
		}
	}
	// Attack: whoever can write the database gives alice the seed of their own account.
	f.must(f.db.Write(f.ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, `UPDATE totp SET seed = (SELECT seed FROM totp WHERE "user" = ?) WHERE "user" = ?`, bob.User, alice.User)
		return err
	}))
	if _, err := f.verify(f.login("alice"), f.code(seed), "192.0.2.1"); err == nil || errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a seed of somebody else: got %v", err)
	}
}
