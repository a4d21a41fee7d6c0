package account_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
)

func TestASessionTokenIsWhatClientsRead(t *testing.T) {
	f := newFixture(t)
	token := f.user("alice")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("token has %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	f.must(err)
	var claims struct{ ID, AuthTime, Iat, Exp int64 }
	f.must(json.Unmarshal(payload, &claims))
	alice, now := f.caller(token), f.clock()
	if claims.ID != alice.User || claims.AuthTime != now.UnixMilli() || claims.Iat != now.Unix() || claims.Exp <= now.Unix() {
		t.Errorf("claims: got %+v", claims)
	}
	if strings.Contains(string(payload), "twoFactorRequired") {
		t.Errorf("claims speak of a second factor: %s", payload)
	}
}

func TestForgedSessionTokens(t *testing.T) {
	f := newFixture(t)
	token := f.user("alice")
	parts := strings.Split(token, ".")
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	none := b64(`{"alg":"none","typ":"JWT"}`)
	for what, forged := range map[string]string{
		"no signature":        parts[0] + "." + parts[1] + ".",
		"alg none":            none + "." + parts[1] + ".",
		"alg none, signed":    none + "." + parts[1] + "." + parts[2],
		"other payload":       parts[0] + "." + b64(`{"id":1,"jti":"x","exp":99999999999}`) + "." + parts[2],
		"other algorithm":     b64(`{"alg":"HS512"}`) + "." + parts[1] + "." + parts[2],
		"garbage":             "a.b.c",
		"empty":               "..",
		"signature cut short": token[:len(token)-2],
	} {
		if _, err := f.authenticate(forged); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func TestRefreshKillsTheOldToken(t *testing.T) {
	f := newFixture(t)
	old := f.user("alice")
	alice := f.caller(old)
	f.pass(time.Hour)
	fresh, err := f.accounts.Refresh(f.ctx, alice, "", account.From{})
	f.must(err)
	if _, err := f.authenticate(old); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("old token: got %v", err)
	}
	if c := f.caller(fresh); c.User != alice.User || c.Session == alice.Session {
		t.Errorf("new token: got %+v", c)
	}
	if !slices.Equal(f.revoked, []string{"session"}) {
		t.Errorf("told: got %v", f.revoked)
	}
	if _, err := f.accounts.Refresh(f.ctx, f.caller(fresh), "not the password", account.From{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("refresh with a wrong password: got %v", err)
	}
}

func TestOnlyOneOfManyRefreshesWins(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	var won atomic.Int64
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := f.accounts.Refresh(f.ctx, alice, "", account.From{}); err == nil {
				won.Add(1)
			} else if !errors.Is(err, api.ErrUnauthorized) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("refreshes that won: got %d, want 1", won.Load())
	}
}

// A session that nobody uses ends after thirty days; one that is used after ninety, however often it is refreshed.
func TestASessionExpires(t *testing.T) {
	f := newFixture(t)
	idle, token := f.user("alice"), f.login("alice")
	for day := range 89 {
		f.caller(token)
		f.must(f.accounts.RunOnce(f.ctx)) // the use is written down
		if day%20 == 19 {
			fresh, err := f.accounts.Refresh(f.ctx, f.caller(token), "", account.From{})
			f.must(err)
			token = fresh
		}
		if day == 30 {
			if _, err := f.authenticate(idle); !errors.Is(err, api.ErrUnauthorized) {
				t.Errorf("the idle session: got %v", err)
			}
		}
		f.pass(24 * time.Hour)
	}
	f.pass(24*time.Hour - time.Second)
	f.caller(token)
	f.pass(time.Second)
	if _, err := f.authenticate(token); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("after ninety days: got %v", err)
	}
	f.must(f.accounts.RunOnce(f.ctx))
	if n := f.count(`SELECT count(*) FROM session`); n != 0 {
		t.Errorf("rows of expired sessions: got %d", n)
	}
}

func (f *fixture) count(query string, args ...any) (n int) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) error { return tx.QueryRowContext(f.ctx, query, args...).Scan(&n) }))
	return n
}

func TestTheListOfSessions(t *testing.T) {
	f := newFixture(t)
	f.user("alice")
	open := func(agent string) access.Caller {
		token, err := f.accounts.Login(f.ctx, api.Login{Username: "alice", Password: alicesPassword}, account.From{Address: "192.0.2.7", UserAgent: agent})
		f.must(err)
		c := f.caller(token)
		c.Address = "192.0.2.8"
		f.accounts.UsedFrom(c)
		return c
	}
	cli, sdk, browser := open("balena-cli/25.2.6 node"), open("balena-sdk/23.1.0"), open("Mozilla/5.0")
	f.must(f.accounts.RunOnce(f.ctx))
	list := func() (all []api.Session) {
		f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
			all, err = f.accounts.Sessions(f.ctx, tx, cli)
			return err
		}))
		return all
	}
	kinds := []string{}
	for _, s := range list() {
		kinds = append(kinds, s.Client)
		if s.Current != (s.ID == cli.Session) || s.OpenedBy != "password" || s.Half {
			t.Errorf("session: got %+v", s)
		}
		if s.ID == cli.Session && (s.Address != "192.0.2.7" || s.LastAddress != "192.0.2.8" || s.LastUsedAt == nil) {
			t.Errorf("where it was used: got %+v", s)
		}
	}
	if want := []string{"browser", "SDK", "CLI", "other"}; !slices.Equal(kinds, want) {
		t.Errorf("clients: got %v, want %v", kinds, want)
	}
	f.write(func(tx *db.Tx) error { return f.accounts.EndSession(f.ctx, tx, cli, sdk.Session) })
	if n := len(list()); n != 3 {
		t.Errorf("after one was ended: got %d", n)
	}
	f.write(func(tx *db.Tx) error { return f.accounts.EndSessions(f.ctx, tx, cli, false) })
	if left := list(); len(left) != 1 || !left[0].Current {
		t.Errorf("after all others were ended: got %+v", left)
	}
	f.user("bob")
	bob := f.caller(f.login("bob"))
	err := f.db.Write(f.ctx, func(tx *db.Tx) error { return f.accounts.EndSession(f.ctx, tx, bob, cli.Session) })
	if !errors.Is(err, api.ErrNotFound) {
		t.Errorf("somebody else's: got %v", err)
	}
	f.write(func(tx *db.Tx) error { return f.accounts.EndSessions(f.ctx, tx, cli, true) })
	if n := f.count(`SELECT count(*) FROM session WHERE "user" = ?`, browser.User); n != 0 {
		t.Errorf("after all were ended: got %d", n)
	}
}

// Attack: a client that logs in without end fills the table.
func TestSessionsOfOneUserAreBounded(t *testing.T) {
	f := newFixture(t)
	first := f.user("alice")
	second := f.caller(f.login("alice"))
	f.write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, `INSERT INTO session ("user", token_hash, created_at, authenticated_at, expires_at)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 995)
			SELECT s."user", 'hash' || n.i, s.created_at, s.authenticated_at, s.expires_at FROM n JOIN session s ON s.id = ?`, second.Session)
		if err != nil {
			return err
		}
		for range 5 {
			if _, err := f.accounts.SignIn(f.ctx, tx, second.User, account.From{}); err != nil {
				return err
			}
		}
		return nil
	})
	if n := f.count(`SELECT count(*) FROM session`); n != 1000 {
		t.Errorf("sessions: got %d, want 1000", n)
	}
	if _, err := f.authenticate(first); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("the oldest: got %v", err)
	}
}

func TestSessionsAreListedAndEnded(t *testing.T) {
	f := newFixture(t)
	first := f.user("alice")
	second, mallory := f.login("alice"), f.caller(f.user("mallory"))
	alice := f.caller(first)
	list := func(by access.Caller) (all []api.Session, err error) {
		err = f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
			all, err = f.accounts.Sessions(f.ctx, tx, by)
			return err
		})
		return all, err
	}
	end := func(by access.Caller, id int64) error {
		return f.db.Write(f.ctx, func(tx *db.Tx) error { return f.accounts.EndSession(f.ctx, tx, by, id) })
	}
	all, err := list(alice)
	f.must(err)
	if len(all) != 2 || all[0].Current || !all[1].Current || all[1].Address != "192.0.2.1" || all[1].UserAgent != "test" {
		t.Errorf("sessions: got %+v", all)
	}
	if err := end(mallory, alice.Session); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("end another user's session: got %v", err)
	}
	f.must(end(alice, f.caller(second).Session))
	if _, err := f.authenticate(second); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("ended session: got %v", err)
	}
	named := f.caller(f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"}))
	if _, err := list(named); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("list by a named key: got %v", err)
	}
	if err := end(named, alice.Session); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("end by a named key: got %v", err)
	}
	f.must(end(alice, 0))
	if _, err := f.authenticate(first); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("after logout: got %v", err)
	}
}

func TestANewPasswordEndsAllSessionsButNoKey(t *testing.T) {
	f := newFixture(t)
	session := f.user("alice")
	alice := f.caller(session)
	named := f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"})
	made, err := f.accounts.SetPassword(f.ctx, "Alice@example.com", "")
	f.must(err)
	if _, err := f.authenticate(session); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("session: got %v", err)
	}
	f.caller(named)
	if _, err := f.accounts.Login(f.ctx, api.Login{Username: "alice", Password: alicesPassword}, account.From{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("old password: got %v", err)
	}
	_, err = f.accounts.Login(f.ctx, api.Login{Username: "alice", Password: made.Password}, account.From{})
	f.must(err)
	if _, err := f.accounts.SetPassword(f.ctx, "nobody@example.com", ""); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("password of nobody: got %v", err)
	}
}
