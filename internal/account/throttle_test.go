package account

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// fail makes a wrong guess and reports whether it was let through.
func fail(t *throttle, account, address string, now time.Time) bool {
	_, err := t.try(account, address, now)
	return err == nil
}

// succeed gives the right password.
func succeed(t *throttle, account, address string, now time.Time) error {
	right, err := t.try(account, address, now)
	if err == nil {
		right()
	}
	return err
}

// Attack: guessing many accounts from one address, of IPv6 with a whole /64 to choose from.
func TestManyAccountsFromOneNetwork(t *testing.T) {
	th, through := newThrottle(), 0
	for i := range 200 {
		if fail(th, fmt.Sprintf("user%d", i), fmt.Sprintf("2001:db8::%x", i), noon) {
			through++
		}
	}
	if through != perAddress.free {
		t.Errorf("guesses let through: got %d, want %d", through, perAddress.free)
	}
	if err := succeed(th, "alice", "2001:db8:0:1::1", noon); err != nil {
		t.Errorf("another network: got %v", err)
	}
}

// Attack: guessing one account from many addresses. The account slows down for strangers, for seconds; its user is not locked
// out where he has been before.
func TestOneAccountFromManyAddresses(t *testing.T) {
	th := newThrottle()
	if err := succeed(th, "alice", "192.0.2.1", noon); err != nil {
		t.Fatal(err)
	}
	through := 0
	for i := range 250 {
		if fail(th, "alice", fmt.Sprintf("198.51.100.%d", i), noon) {
			through++
		}
	}
	if through != perAccount.free {
		t.Errorf("guesses let through: got %d, want %d", through, perAccount.free)
	}
	var later *TryLaterError
	if err := succeed(th, "alice", "203.0.113.9", noon); !errors.As(err, &later) || later.After > perAccount.most {
		t.Errorf("right password from a new address: got %v", err)
	}
	if err := succeed(th, "alice", "192.0.2.1", noon); err != nil {
		t.Errorf("right password from a known address: got %v", err)
	}
	if err := succeed(th, "alice", "203.0.113.9", noon.Add(perAccount.most)); err != nil {
		t.Errorf("right password from a new address after the delay: got %v", err)
	}
}

// Guesses side by side do not slip through together: each counts before its password is looked at.
func TestGuessesSideBySide(t *testing.T) {
	th, through := newThrottle(), 0
	var rights []func()
	for range 100 {
		if right, err := th.try("alice", "192.0.2.1", noon); err == nil {
			through++
			rights = append(rights, right)
		}
	}
	if through != perPair.free {
		t.Errorf("at once: got %d, want %d", through, perPair.free)
	}
	for _, right := range rights { // all were the right password: nothing is held against the address
		right()
	}
	if err := succeed(th, "alice", "192.0.2.1", noon); err != nil {
		t.Errorf("afterwards: got %v", err)
	}
}

func TestDelaysGrowToTheirBoundAndAreForgotten(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		0: 0, 9: 0, 10: 2 * time.Second, 11: 4 * time.Second, 15: 64 * time.Second, 30: time.Hour, 1 << 40: time.Hour,
	} {
		if got := perPair.delay(failures); got != want {
			t.Errorf("delay(%d): got %v, want %v", failures, got, want)
		}
	}
	th := newThrottle()
	for range perPair.free {
		fail(th, "alice", "192.0.2.1", noon)
	}
	if fail(th, "alice", "192.0.2.1", noon) {
		t.Error("a guess too many was let through")
	}
	if err := succeed(th, "alice", "192.0.2.1", noon.Add(perPair.forget)); err != nil {
		t.Errorf("after the time to forget: got %v", err)
	}
}

// Attack: filling the server's memory with made-up accounts and addresses.
func TestTheTablesAreBounded(t *testing.T) {
	th := newThrottle()
	for i := range maxTracked + 5000 {
		fail(th, fmt.Sprintf("user%d", i), fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), noon)
	}
	for what, n := range map[string]int{"pairs": len(th.pairs), "addresses": len(th.addrs), "accounts": len(th.accounts)} {
		if n > maxTracked {
			t.Errorf("%s: got %d, want at most %d", what, n, maxTracked)
		}
	}
	if err := succeed(th, "alice", "not an address", noon); errors.Is(err, api.ErrRateLimited) {
		t.Errorf("a login without an address: got %v", err)
	}
}
