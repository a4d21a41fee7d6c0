package signin_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
)

// some waits for n of the answers that come.
func some(t *testing.T, answers <-chan error, n int) (list []error) {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for len(list) < n {
		select {
		case err := <-answers:
			list = append(list, err)
		case <-limit.C:
			t.Fatalf("%d answers, want %d", len(list), n)
		}
	}
	return list
}

// A provider that hangs has sixteen wait for it; everybody else is told so at once.
func TestASlowProviderIsWaitedForByFew(t *testing.T) {
	f := newFixture(t)
	hang := make(chan struct{})
	f.provider.say(func() { f.provider.hang, f.provider.hangAt = hang, "/.well-known/openid-configuration" })
	const many = 100
	answers := make(chan error, many)
	for range many {
		go func() {
			_, err := f.signin.Start(f.ctx, access.Nobody(), "corp", api.StartSignIn{Purpose: api.SignInLogin})
			answers <- err
		}()
	}
	for _, err := range some(t, answers, many-16) {
		if !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("while it hangs: got %v, want unavailable", err)
		}
	}
	close(hang)
	for _, err := range some(t, answers, 16) {
		if err != nil {
			t.Errorf("those who waited: got %v", err)
		}
	}
	if f.provider.docAsks != 1 {
		t.Errorf("the provider was asked %d times", f.provider.docAsks)
	}
}

// What a provider said last is gone on with while it is asked anew, by everybody but who asks.
func TestAProviderThatBecomesSlowHoldsNobodyUp(t *testing.T) {
	f := newFixture(t)
	start := func() error {
		_, err := f.signin.Start(f.ctx, access.Nobody(), "corp", api.StartSignIn{Purpose: api.SignInLogin})
		return err
	}
	f.must(start())
	f.pass(2 * time.Hour)
	hang := make(chan struct{})
	f.provider.say(func() { f.provider.hang, f.provider.hangAt = hang, "/.well-known/openid-configuration" })
	answers := make(chan error, 50)
	for range 50 {
		go func() { answers <- start() }()
	}
	for _, err := range some(t, answers, 49) {
		f.must(err)
	}
	close(hang)
	f.must(some(t, answers, 1)[0])
}

// Codes that nobody gave, sent in a flood from one place: they leave no rows beyond those that wait, and others sign in meanwhile.
func TestAFloodOfCodesFromOneNetwork(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	f.must(f.link(alice))
	finish := func(req api.FinishSignIn, address string) error {
		_, err := f.signin.Finish(f.ctx, access.Nobody(), "corp", req, account.From{Address: address})
		return err
	}
	var flood []api.FinishSignIn
	for range 50 {
		req := f.start(access.Nobody(), api.SignInLogin)
		req.Code = "guess"
		flood = append(flood, req)
	}
	good := f.start(access.Nobody(), api.SignInLogin)
	before := f.number(`SELECT count(*) FROM sign_in_state`)
	hang := make(chan struct{})
	f.provider.say(func() { f.provider.hang, f.provider.hangAt = hang, "/token" })
	answers := make(chan error, len(flood))
	for i, req := range flood {
		go func() { answers <- finish(req, fmt.Sprintf("2001:db8::%x", i)) }()
	}
	for _, err := range some(t, answers, len(flood)-4) {
		if !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("the flood: got %v, want unavailable", err)
		}
	}
	fair := make(chan error, 1)
	go func() { fair <- finish(good, "192.0.2.7") }()
	select {
	case err := <-fair:
		t.Errorf("from elsewhere, while the provider hangs: got %v", err)
	case <-time.After(50 * time.Millisecond): // it has a place and waits
		close(hang)
		f.must(<-fair)
	}
	some(t, answers, 4)
	if n := f.number(`SELECT count(*) FROM sign_in_state`) - before; n != 5 {
		t.Errorf("%d states were used up, want 5", n)
	}
}

// A key that the provider has withdrawn signs nobody in an hour later; while the provider does not answer, those known last do for a day.
func TestAWithdrawnKeyIsForgotten(t *testing.T) {
	f := newFixture(t)
	_, alice := f.user("alice")
	f.must(f.link(alice))
	old, kid := f.provider.key, f.provider.kid
	fresh := newLiar(t)
	f.provider.say(func() {
		f.provider.key = fresh.key // the same name, so that nobody asks for a key that is not known
		f.provider.token = func(c map[string]any) string { return sign(f.provider, "ES256", old, kid, c) }
	})
	_, err := f.signIn()
	f.must(err) // it is known still
	f.pass(2 * time.Hour)
	if _, err := f.signIn(); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("two hours later: got %v, want unauthorized", err)
	}
	f.provider.say(func() { f.provider.token = nil })
	f.pass(2 * time.Minute)
	_, err = f.signIn()
	f.must(err)
	f.provider.say(func() { f.provider.doc = func(map[string]any) {}; f.provider.noKeys = true })
	f.pass(2 * time.Hour)
	_, err = f.signIn()
	f.must(err)
	f.pass(25 * time.Hour)
	if _, err := f.signIn(); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a day without keys: got %v, want unavailable", err)
	}
}

// All addresses of one network have the codes of one.
func TestCodesOfOneNetwork(t *testing.T) {
	f := newFixture(t)
	limited := 0
	for i := range 40 {
		_, err := f.signin.NewDevice(f.ctx, "x", account.From{Address: fmt.Sprintf("2001:db8::%x", i)})
		if errors.Is(err, api.ErrRateLimited) {
			limited++
		} else {
			f.must(err)
		}
	}
	if limited != 20 {
		t.Errorf("%d of 40 were refused, want 20", limited)
	}
	if _, err := f.signin.NewDevice(f.ctx, "x", account.From{Address: "2001:db8:0:1::1"}); err != nil {
		t.Errorf("another network: %v", err)
	}
}
