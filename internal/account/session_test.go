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

func TestASessionExpires(t *testing.T) {
	f := newFixture(t)
	token := f.user("alice")
	f.pass(7*24*time.Hour - time.Second)
	f.caller(token)
	f.pass(time.Second)
	if _, err := f.authenticate(token); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("after seven days: got %v", err)
	}
	f.must(f.accounts.RunOnce(f.ctx))
	var n int
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(f.ctx, `SELECT count(*) FROM session`).Scan(&n)
	}))
	if n != 0 {
		t.Errorf("rows of expired sessions: got %d", n)
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
