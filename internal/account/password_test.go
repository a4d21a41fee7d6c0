package account_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/throttle"
)

func TestPasswordsThatAreNotGoodEnough(t *testing.T) {
	for _, tt := range []struct {
		password string
		good     bool
	}{
		{"", false},
		{"short", false},
		{"elevenchars", false},
		{"Password1234", false},
		{"QWERTYuiop12345", false},
		{"aaaaaaaaaaaaaaaaaaaa", false},
		{"abababababababab", false},
		{"alicealice99", true},
		{"harbourmaster1", false},
		{"twelve chars", true},
		{"пароль для порта", true},
		{strings.Repeat("0123456789", 103), false},
		{"correct horse battery", true},
	} {
		err := account.CheckPassword(tt.password, "harbourmaster")
		if tt.good != (err == nil) || (err != nil && !errors.Is(err, api.ErrInvalid)) {
			t.Errorf("CheckPassword(%.30q): got %v, want good %v", tt.password, err, tt.good)
		}
	}
}

func TestUsersThatCannotBeMade(t *testing.T) {
	f := newFixture(t)
	f.user("alice")
	for _, tt := range []struct {
		user api.NewUser
		want error
	}{
		{api.NewUser{Email: "not an address"}, api.ErrInvalid},
		{api.NewUser{Email: "Bob <bob@example.com>"}, api.ErrInvalid},
		{api.NewUser{Email: "bob@example.com", Username: "a/b"}, api.ErrInvalid},
		{api.NewUser{Email: "bob@example.com", Username: "bob\n"}, api.ErrInvalid},
		{api.NewUser{Email: "bob@example.com", Username: "bobby", Password: "short"}, api.ErrInvalid},
		{api.NewUser{Email: "ALICE@example.com", Username: "bobby"}, api.ErrConflict},
		{api.NewUser{Email: "bob@example.com", Username: "Alice"}, api.ErrConflict},
		{api.NewUser{Email: "Bob.Smith@example.com"}, nil},
	} {
		made, err := f.accounts.CreateUser(f.ctx, tt.user)
		if !errors.Is(err, tt.want) {
			t.Errorf("CreateUser(%+v): got %v, want %v", tt.user, err, tt.want)
		}
		if err == nil && (made.Username != "bob_smith" || made.Email != "bob.smith@example.com" || len(made.Password) < 20) {
			t.Errorf("CreateUser: got %+v", made)
		}
	}
}

func TestBootstrapHappensOnce(t *testing.T) {
	f := newFixture(t)
	admin, err := f.accounts.Bootstrap(f.ctx, "admin@roadstead.test", "admin")
	f.must(err)
	if c := f.caller(admin.APIKey); c.Name != "admin" {
		t.Errorf("key of the administrator: got %+v", c)
	}
	_, err = f.accounts.Login(f.ctx, api.Login{Username: "admin@roadstead.test", Password: admin.Password}, account.From{})
	f.must(err)
	again, err := f.accounts.Bootstrap(f.ctx, "admin@roadstead.test", "admin")
	if again != nil || err != nil {
		t.Errorf("second bootstrap: got %+v, %v", again, err)
	}
}

// A first start that was killed between making the user and writing its secrets down is repeated at the next start.
func TestBootstrapIsRepeatedWhileNobodyUsedIt(t *testing.T) {
	f := newFixture(t)
	lost, err := f.accounts.Bootstrap(f.ctx, "admin@roadstead.test", "admin")
	f.must(err)
	again, err := f.accounts.Bootstrap(f.ctx, "admin@roadstead.test", "admin")
	f.must(err)
	if again == nil || again.APIKey == lost.APIKey || again.Password == lost.Password {
		t.Fatalf("bootstrap after a lost answer: got %+v", again)
	}
	if c := f.caller(again.APIKey); c.Name != "admin" {
		t.Errorf("key of the administrator: got %+v", c)
	}
	if _, err := f.authenticate(lost.APIKey); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("the lost key: got %v, want unauthorized", err)
	}
	f.must(f.accounts.RunOnce(f.ctx)) // the use of the new key is written down
	if more, err := f.accounts.Bootstrap(f.ctx, "admin@roadstead.test", "admin"); more != nil || err != nil {
		t.Errorf("bootstrap once the key was used: got %+v, %v", more, err)
	}
}

func (f *fixture) tries(name, password, address string) error {
	_, err := f.accounts.Login(f.ctx, api.Login{Username: name, Password: password}, account.From{Address: address})
	return err
}

// Attack: guessing one account's password from one address.
func TestFailedLoginsMakeTheirAddressWait(t *testing.T) {
	f := newFixture(t)
	f.user("alice") // and a login from 192.0.2.1
	const attacker = "198.51.100.7"
	for i := range 10 {
		if err := f.tries("alice", "wrong password", attacker); !errors.Is(err, api.ErrUnauthorized) {
			t.Fatalf("guess %d: got %v", i, err)
		}
	}
	var waits []int64
	for range 5 {
		var later *throttle.TryLaterError
		err := f.tries("alice", "wrong password", attacker)
		if !errors.As(err, &later) || !errors.Is(err, api.ErrRateLimited) {
			t.Fatalf("guess after ten: got %v", err)
		}
		waits = append(waits, later.Seconds())
		f.pass(later.After)
		if err := f.tries("alice", "wrong password", attacker); !errors.Is(err, api.ErrUnauthorized) {
			t.Fatalf("guess after waiting: got %v", err)
		}
	}
	if want := []int64{2, 4, 8, 16, 32}; !slices.Equal(waits, want) {
		t.Errorf("waits: got %v, want %v", waits, want)
	}
	// Even the right password has to wait there, and other spellings of the account count as the same one.
	if err := f.tries("ALICE", alicesPassword, attacker); !errors.Is(err, api.ErrRateLimited) {
		t.Errorf("right password from the waiting address: got %v", err)
	}
	// Her own address is not locked out, nor is a third one.
	f.must(f.tries("alice", alicesPassword, "192.0.2.1"))
	f.must(f.tries("alice", alicesPassword, "203.0.113.9"))
}

// An unknown user costs what a known one costs: without that, the answer's time tells who has an account.
func TestUnknownUsersCostTheSame(t *testing.T) {
	f := newFixture(t)
	f.user("alice")
	known, unknown := time.Hour, time.Hour // the least of several tries, for the machine may do other things at the same time
	cost := func(name string, least *time.Duration) {
		start := time.Now()
		if err := f.tries(name, "wrong password", "198.51.100.1"); !errors.Is(err, api.ErrUnauthorized) {
			t.Fatal(err)
		}
		*least = min(*least, time.Since(start))
	}
	for round := 0; round < 5 || (round < 60 && (unknown < known/3 || known < unknown/3)); round++ {
		cost("alice", &known)
		cost("nobody", &unknown)
		f.pass(24 * time.Hour) // none of them has to wait for having failed so often
	}
	if unknown < known/3 || known < unknown/3 {
		t.Errorf("a known user costs %v, an unknown one %v", known, unknown)
	}
}

// Attack: a flood of passwords to hash. Whoever comes too late is sent away at once instead of being held. New users are hashed
// before anything is written, so that the flood is one however fast the database is.
func TestAFloodOfPasswords(t *testing.T) {
	f := newFixture(t)
	f.accounts = f.other(account.Config{})
	f.user("alice")
	var all sync.WaitGroup
	var busy, made atomic.Int64
	for i := range 100 {
		all.Go(func() {
			name := fmt.Sprintf("user%d", i)
			_, err := f.accounts.CreateUser(f.ctx, api.NewUser{Email: name + "@example.com", Username: name, Password: alicesPassword})
			switch {
			case errors.Is(err, api.ErrUnavailable):
				busy.Add(1)
			case err == nil:
				made.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() < 64 || busy.Load() == 0 {
		t.Errorf("got %d made and %d sent away", made.Load(), busy.Load())
	}
	f.must(f.tries("alice", alicesPassword, "192.0.2.1"))
}
