package throttle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// fail makes a wrong guess and reports whether it was let through.
func fail(th *Throttle, account, address string, now time.Time) bool {
	_, err := th.Try(context.Background(), account, address, now)
	return err == nil
}

// openThrottle gives one with a database of its own, which has no other table.
func openThrottle(t *testing.T) *Throttle {
	t.Helper()
	files := fstest.MapFS{}
	for _, d := range []db.Dialect{db.SQLite, db.Postgres} {
		name := string(d) + "/0048_login_attempt.sql"
		data, err := fs.ReadFile(os.DirFS("../migrations"), name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: data}
	}
	return &Throttle{db: dbtest.Open(t, nil, files), hash: token.NewHasher([]byte("a pepper of thirty-two bytes.....")), limits: ofLogins}
}

// succeed gives the right password.
func succeed(th *Throttle, account, address string, now time.Time) error {
	attempt, err := th.Try(context.Background(), account, address, now)
	if err != nil {
		return err
	}
	return attempt.Right(context.Background())
}

// Attack: guessing many accounts from one address, of IPv6 with a whole /64 to choose from.
func TestManyAccountsFromOneNetwork(t *testing.T) {
	th, through := openThrottle(t), 0
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
	th := openThrottle(t)
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
	th, through := openThrottle(t), 0
	var attempts []*Attempt
	for range 100 {
		if attempt, err := th.Try(t.Context(), "alice", "192.0.2.1", noon); err == nil {
			through++
			attempts = append(attempts, attempt)
		}
	}
	if through != perPair.free {
		t.Errorf("at once: got %d, want %d", through, perPair.free)
	}
	for _, attempt := range attempts { // all were the right password: nothing is held against the address
		if err := attempt.Right(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := succeed(th, "alice", "192.0.2.1", noon); err != nil {
		t.Errorf("afterwards: got %v", err)
	}
}

// Attack: guesses in between which the guesser hangs up before the password is looked at. That takes back the one guess, and neither the
// failures before it nor the bound of the account: the address is not one where the user has been.
func TestAnUntriedGuessForgivesNothing(t *testing.T) {
	th, through := openThrottle(t), 0
	for i := range 3 * perAccount.free {
		if attempt, err := th.Try(t.Context(), "alice", "192.0.2.1", noon); err == nil {
			if err := attempt.Untried(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if fail(th, "alice", "192.0.2.1", noon) {
			through++
		}
		fail(th, "alice", fmt.Sprintf("198.51.100.%d", i), noon)
	}
	if through != perPair.free {
		t.Errorf("guesses let through: got %d, want %d", through, perPair.free)
	}
	if err := th.db.Read(t.Context(), func(tx *db.Tx) error {
		return tx.QueryRowContext(t.Context(), `SELECT count(*) FROM login_attempt WHERE counter = 'known'`).Scan(&through)
	}); err != nil || through != 0 {
		t.Errorf("addresses where the user is known: got %d, %v", through, err)
	}
	// One that is not looked at is not held against anybody either.
	for range 3 * perPair.free {
		attempt, err := th.Try(t.Context(), "bob", "203.0.113.1", noon)
		if err != nil {
			t.Fatal(err)
		}
		if err := attempt.Untried(t.Context()); err != nil {
			t.Fatal(err)
		}
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
	th := openThrottle(t)
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

// Failures are counted in the database: another process of the server sees them, and so does the next one.
func TestProcessesCountTogether(t *testing.T) {
	one := openThrottle(t)
	two := &Throttle{one.db, one.hash, ofLogins}
	for i := range perPair.free {
		if th := []*Throttle{one, two}[i%2]; !fail(th, "alice", "192.0.2.1", noon) {
			t.Fatalf("guess %d was refused", i)
		}
	}
	for name, th := range map[string]*Throttle{"one": one, "two": two} {
		if fail(th, "alice", "192.0.2.1", noon) {
			t.Errorf("a guess too many was let through by process %s", name)
		}
	}
}

// Attack: guessing with both hands, at many processes at the same moment. They do not slip through between a look and a count.
func TestGuessesSideBySideInManyProcesses(t *testing.T) {
	first := openThrottle(t)
	var through atomic.Int64
	var all sync.WaitGroup
	for range 3 * perPair.free {
		all.Go(func() {
			if fail(&Throttle{first.db, first.hash, ofLogins}, "alice", "192.0.2.1", noon) {
				through.Add(1)
			}
		})
	}
	all.Wait()
	if n := through.Load(); n != int64(perPair.free) {
		t.Errorf("%d guesses were let through, want %d", n, perPair.free)
	}
}

// What people type as a user name is not in the database, and what counts no more is removed from it.
func TestFailuresAreForgottenAndNameNobody(t *testing.T) {
	th := openThrottle(t)
	if err := succeed(th, "alice", "192.0.2.1", noon); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		fail(th, "correct horse battery", fmt.Sprintf("198.51.100.%d", i), noon)
	}
	if dump := dbtest.Dump(t, th.db); strings.Contains(dump, "horse") || strings.Contains(dump, "198.51.100") {
		t.Error("the database names who tried")
	}
	count := func(now time.Time) (n int) {
		err := th.db.Write(t.Context(), func(tx *db.Tx) error {
			if err := th.Forget(t.Context(), tx, now); err != nil {
				return err
			}
			return tx.QueryRowContext(t.Context(), `SELECT count(*) FROM login_attempt`).Scan(&n)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(noon.Add(time.Hour)); n == 0 {
		t.Error("recent failures are forgotten")
	}
	if n := count(noon.Add(3 * time.Hour)); n != 1 { // alice's address
		t.Errorf("%d rows are left after three hours, want 1", n)
	}
	if n := count(noon.Add(rememberKnown)); n != 0 {
		t.Errorf("%d rows are left in the end", n)
	}
	if err := succeed(th, "alice", "not an address", noon); errors.Is(err, api.ErrRateLimited) {
		t.Errorf("a login without an address: got %v", err)
	}
}
