package account_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/reset"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// postbox is a fixture whose letters are kept.
type postbox struct {
	*fixture
	resets  *reset.Resets
	letters []account.Notice
}

func newPostbox(t *testing.T) *postbox {
	p := &postbox{fixture: newFixture(t)}
	var err error
	p.accounts, err = account.New(account.Config{
		DB: p.db, Pepper: []byte(pepper), Now: p.clock,
		Notify: func(_ context.Context, tx *db.Tx, n account.Notice) error {
			tx.OnCommit(func() { p.mu.Lock(); defer p.mu.Unlock(); p.letters = append(p.letters, n) })
			return nil
		},
	})
	p.must(err)
	p.resets = reset.New(reset.Config{DB: p.db, Accounts: p.accounts, Now: p.clock})
	return p
}

const (
	oldPassword = "an old harbour wall"
	newPassword = "a new harbour crane"
)

// forgot asks for a letter and gives the token in the last one that came.
func (p *postbox) forgot(email string) string {
	p.Helper()
	p.must(p.resets.Forgot(p.ctx, email, account.From{Address: "192.0.2.1"}))
	p.must(p.resets.RunOnce(p.ctx))
	if len(p.letters) == 0 {
		return ""
	}
	return p.letters[len(p.letters)-1].Data["token"]
}

func (p *postbox) login(password string) error {
	_, err := p.accounts.Login(p.ctx, api.Login{Username: "alice", Password: password}, account.From{Address: "192.0.2.9"})
	return err
}

func (p *postbox) alice() {
	p.Helper()
	_, err := p.accounts.CreateUser(p.ctx, api.NewUser{Email: "alice@example.com", Username: "alice", Password: oldPassword})
	p.must(err)
}

func TestPasswordResetByMail(t *testing.T) {
	p := newPostbox(t)
	p.alice()
	session, err := p.accounts.Login(p.ctx, api.Login{Username: "alice", Password: oldPassword}, account.From{Address: "192.0.2.9"})
	p.must(err)
	token := p.forgot(" Alice@Example.com ")
	if token == "" || p.letters[0].To != "alice@example.com" || p.letters[0].Kind != "password reset" || !p.letters[0].Until.Equal(p.now.Add(time.Hour)) {
		t.Fatalf("the letter: got %+v", p.letters)
	}
	set := func(token, password string) error {
		return p.resets.Set(p.ctx, token, password, account.From{Address: "192.0.2.1"})
	}
	for _, wrong := range []string{"", token[:len(token)-1], token + "x", strings.ToLower(token), strings.Repeat("x", 5000)} {
		if err := set(wrong, newPassword); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("token %.50q: got %v", wrong, err)
		}
	}
	for _, bad := range []string{"", "short", "password1234"} {
		if err := set(token, bad); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("password %q: got %v", bad, err)
		}
	}
	if strings.Contains(dbtest.Dump(t, p.db), token) {
		t.Error("a dump of the database lets in")
	}
	p.must(p.login(oldPassword)) // nothing has happened yet
	p.must(set(token, newPassword))
	if err := set(token, "a third harbour light"); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("the link once more: got %v", err)
	}
	if err := p.login(oldPassword); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("the old password: got %v", err)
	}
	p.must(p.login(newPassword))
	if _, err := p.authenticate(session); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a session of before: got %v", err)
	}
	if last := p.letters[len(p.letters)-1]; last.Kind != "password changed" {
		t.Errorf("the last letter: got %+v", last)
	}
	if got := p.acts(); fmt.Sprint(got) != "[password.forgot password.reset]" {
		t.Errorf("recorded: got %v", got)
	}
}

func (p *postbox) acts() (acts []string) {
	p.Helper()
	p.must(p.db.Read(p.ctx, func(tx *db.Tx) (err error) {
		acts, err = db.Column[string](p.ctx, tx, `SELECT act FROM audit_entry WHERE act LIKE 'password.%' ORDER BY id`)
		return err
	}))
	return acts
}

// A newer link ends the older one, and none lives longer than an hour.
func TestOldResetLinks(t *testing.T) {
	p := newPostbox(t)
	p.alice()
	first := p.forgot("alice@example.com")
	second := p.forgot("alice@example.com")
	set := func(token string) error {
		return p.resets.Set(p.ctx, token, newPassword, account.From{})
	}
	if err := set(first); !errors.Is(err, api.ErrUnauthorized) || first == second {
		t.Errorf("the older link: got %v", err)
	}
	p.pass(time.Hour)
	if err := set(second); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("after an hour: got %v", err)
	}
	p.must(set(p.forgot("alice@example.com")))
}

// Whoever asks learns nothing of who has an account: the same is written for every address, by the request itself, and nothing else.
func TestForgottenPasswordsOfStrangers(t *testing.T) {
	p := newPostbox(t)
	p.alice()
	for _, email := range []string{"nobody@example.com", "alice@example.com"} {
		p.must(p.resets.Forgot(p.ctx, email, account.From{Address: "192.0.2.1"}))
	}
	if len(p.letters) != 0 {
		t.Errorf("a letter was written while somebody waited: %+v", p.letters)
	}
	p.must(p.resets.RunOnce(p.ctx))
	if len(p.letters) != 1 || p.letters[0].To != "alice@example.com" {
		t.Errorf("letters: got %+v", p.letters)
	}
	p.must(p.db.Read(p.ctx, func(tx *db.Tx) error {
		left, err := db.Column[int](p.ctx, tx, `SELECT count(*) FROM password_reset_wish WHERE email IS NOT NULL OR address IS NOT NULL`)
		if err == nil && left[0] != 0 {
			t.Errorf("%d addresses are kept", left[0])
		}
		return err
	}))
	if err := p.resets.Forgot(p.ctx, "alice@example.com\r\nBcc: x@example.com", account.From{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("an address of two lines: got %v", err)
	}
	// Without a mail server nothing is written and nothing is said.
	f := newFixture(t)
	resets := reset.New(reset.Config{DB: f.db, Accounts: f.accounts, Now: f.clock})
	f.must(resets.Forgot(f.ctx, "alice@example.com", account.From{Address: "192.0.2.1"}))
	f.must(resets.RunOnce(f.ctx))
}

// A flood of wishes fills neither the mailbox of one person nor the table, and is not told where it ended.
func TestForgottenPasswordsAreThrottled(t *testing.T) {
	p := newPostbox(t)
	p.alice()
	ask := func(email, address string) {
		t.Helper()
		p.must(p.resets.Forgot(p.ctx, email, account.From{Address: address}))
	}
	for i := range 30 {
		ask("alice@example.com", fmt.Sprintf("203.0.113.%d", i))
	}
	for i := range 60 {
		ask(fmt.Sprintf("u%d@example.com", i), "198.51.100.7")
	}
	for i := range 60 {
		ask(fmt.Sprintf("v%d@example.com", i), fmt.Sprintf("2001:db8::%x", i)) // one network
	}
	p.must(p.resets.RunOnce(p.ctx))
	if len(p.letters) != 5 {
		t.Errorf("alice got %d letters", len(p.letters))
	}
	rows := func() (n []int) {
		p.must(p.db.Read(p.ctx, func(tx *db.Tx) (err error) {
			n, err = db.Column[int](p.ctx, tx, `SELECT count(*) FROM password_reset_wish`)
			return err
		}))
		return n
	}
	if n := rows(); n[0] != 45 {
		t.Errorf("%d wishes were written, not 45", n[0])
	}
	p.pass(time.Hour)
	p.must(p.resets.RunOnce(p.ctx))
	if n := rows(); n[0] != 0 {
		t.Errorf("an hour later %d are left", n[0])
	}
	if p.forgot("alice@example.com"); len(p.letters) != 6 {
		t.Errorf("an hour later alice has %d letters", len(p.letters))
	}
}

// Strangers who ask for many letters, from many networks and of many addresses, keep nobody from theirs.
func TestAFloodOfStrangersKeepsNobodyFromTheirLetter(t *testing.T) {
	p := newPostbox(t)
	p.alice()
	for i := range 60 {
		for j := range 20 {
			p.must(p.resets.Forgot(p.ctx, fmt.Sprintf("n%d-%d@example.com", i, j), account.From{Address: fmt.Sprintf("2001:db8:0:%x::1", i)}))
		}
	}
	p.must(p.resets.Forgot(p.ctx, "alice@example.com", account.From{Address: "192.0.2.1"}))
	for range 4 { // two seconds each
		p.must(p.resets.RunOnce(p.ctx))
	}
	if len(p.letters) != 1 || p.letters[0].To != "alice@example.com" {
		t.Errorf("letters: got %+v", p.letters)
	}
}

// Many use one link at the same time; one of them sets the password. Several processes answer one wish once.
func TestAResetLinkWorksOnceInARace(t *testing.T) {
	p := newPostbox(t)
	p.alice()
	p.must(p.resets.Forgot(p.ctx, "alice@example.com", account.From{Address: "192.0.2.1"}))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := p.resets.RunOnce(p.ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(p.letters) != 1 {
		t.Fatalf("%d letters for one wish", len(p.letters))
	}
	token := p.letters[0].Data["token"]
	var mu sync.Mutex
	set := 0
	for i := range 8 {
		wg.Go(func() {
			err := p.resets.Set(p.ctx, token, fmt.Sprintf("a new harbour crane %d", i), account.From{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				set++
			} else if !errors.Is(err, api.ErrUnauthorized) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if set != 1 {
		t.Errorf("the link worked %d times", set)
	}
}
