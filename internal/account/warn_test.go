package account_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
)

// kinds are the letters that came since the last time.
func (p *postbox) kinds() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.letters {
		list = append(list, l.Kind+" to "+l.To)
	}
	p.letters = nil
	return list
}

// A sign-in from a network that was not seen before is told of, but for the first of all.
func TestSignInFromANewPlace(t *testing.T) {
	p := newPostbox(t)
	p.alice()
	from := func(address string, want ...string) {
		t.Helper()
		_, err := p.accounts.Login(p.ctx, api.Login{Username: "alice", Password: oldPassword}, account.From{Address: address, UserAgent: "curl/8"})
		p.must(err)
		if got := p.kinds(); !slices.Equal(got, want) {
			t.Errorf("from %s: got %q, want %q", address, got, want)
		}
	}
	const letter = "new sign in to alice@example.com"
	from("192.0.2.1")
	from("192.0.2.1")
	from("2001:db8::1", letter)
	from("2001:db8::2") // the same network
	from("not an address")
	p.pass(300 * 24 * time.Hour)
	from("192.0.2.1")
	p.pass(100 * 24 * time.Hour)
	from("192.0.2.1")
	from("2001:db8::3", letter) // not seen for a year
	if _, err := p.accounts.Login(p.ctx, api.Login{Username: "alice", Password: "wrong, and wrong"}, account.From{Address: "198.51.100.1"}); err == nil {
		t.Error("a wrong password: got no error")
	}
	if got := p.kinds(); len(got) != 0 {
		t.Errorf("a wrong password: got %q", got)
	}
	var alice int64
	p.must(p.db.Read(p.ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(p.ctx, `SELECT id FROM "user" WHERE username = 'alice'`).Scan(&alice)
	}))
	for i := range 120 { // what is remembered of one user is bounded
		p.must(p.db.Write(p.ctx, func(tx *db.Tx) error {
			_, err := p.accounts.SignIn(p.ctx, tx, alice, account.From{Address: fmt.Sprintf("198.51.100.%d", i)})
			return err
		}))
		if got := p.kinds(); !slices.Equal(got, []string{letter}) {
			t.Errorf("from the %d-th place: got %q", i, got)
		}
	}
	var n int
	p.must(p.db.Read(p.ctx, func(tx *db.Tx) error { return tx.QueryRowContext(p.ctx, `SELECT count(*) FROM sign_in_place`).Scan(&n) }))
	if n != 100 {
		t.Errorf("%d places are remembered", n)
	}
	from("198.51.100.119")
}

// A password that whoever runs the server sets is told of, and a link to another that lies in the mailbox leads nowhere any more.
func TestAPasswordOfTheOperatorIsToldOf(t *testing.T) {
	p := newPostbox(t)
	p.alice()
	link := p.forgot("alice@example.com")
	p.kinds()
	_, err := p.accounts.SetPassword(p.ctx, "alice", newPassword)
	p.must(err)
	if got, want := p.kinds(), []string{"password changed to alice@example.com"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := p.resets.Set(p.ctx, link, "an old harbour crane", account.From{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("the link from before: got %v", err)
	}
	p.must(p.login(newPassword))
}

// A key of one's own is told of; keys of others' are not.
func TestNewKeysAreToldOf(t *testing.T) {
	p := newPostbox(t)
	p.alice()
	session, err := p.accounts.Login(p.ctx, api.Login{Username: "alice", Password: oldPassword}, account.From{Address: "192.0.2.9"})
	p.must(err)
	alice := p.caller(session)
	alice.Address = "192.0.2.9"
	fleet, device := p.fleet(1, alice)
	p.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet})
	p.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device})
	if got := p.kinds(); len(got) != 0 {
		t.Errorf("keys of a fleet and a device: got %q", got)
	}
	p.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"})
	if len(p.letters) != 1 || p.letters[0].Data["key"] != "ci" || p.letters[0].Data["address"] != "192.0.2.9" || p.letters[0].To != "alice@example.com" {
		t.Errorf("a key of alice's own: got %+v", p.letters)
	}
}
