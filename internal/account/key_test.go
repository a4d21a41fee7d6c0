package account_test

import (
	"context"
	"errors"
	"maps"
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
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

func TestAKeySaysWhoItIs(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	fleet, device := f.fleet(100, alice)

	named := f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"})
	if c := f.caller(named); c.Kind != access.User || c.User != alice.User || c.Actor != alice.Actor || c.Key == 0 || c.Session != 0 || c.Name != "alice" {
		t.Errorf("named key: got %+v", c)
	}
	prov := f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet})
	if c := f.caller(prov); c.Kind != access.Provisioning || c.Fleet != fleet || c.User != 0 {
		t.Errorf("provisioning key: got %+v", c)
	}
	dev := f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device})
	if c := f.caller(dev); c.Kind != access.Device || c.Device != device || c.Fleet != fleet || c.User != 0 {
		t.Errorf("device key: got %+v", c)
	}
	for token, prefix := range map[string]string{named: "rsu_", prov: "rsp_", dev: "rsd_"} {
		if !strings.HasPrefix(token, prefix) || len(token) != 4+43+6 {
			t.Errorf("token %q: want prefix %s and 49 digits", token, prefix)
		}
	}
	for _, bad := range []string{"", "x", named + "x", named[4:], "a.b.c", strings.Repeat("a", 5000), "' OR 1=1 --"} {
		if c, err := f.authenticate(bad); !errors.Is(err, api.ErrUnauthorized) || c.Kind != access.Anonymous {
			t.Errorf("authenticate %.20q: got %+v, %v", bad, c, err)
		}
	}
}

func TestWhoMayMakeKeys(t *testing.T) {
	f := newFixture(t)
	session := f.user("alice")
	alice, mallory := f.caller(session), f.caller(f.user("mallory"))
	fleet, device := f.fleet(100, alice)
	named := f.caller(f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"}))
	dev := f.caller(f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device}))
	prov := f.caller(f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet}))

	past, soon := f.clock().Add(-time.Second), f.clock().Add(time.Hour)
	for _, tt := range []struct {
		what string
		by   access.Caller
		spec account.KeySpec
		want error
	}{
		{"named key makes a provisioning key", named, account.KeySpec{Of: account.OfFleet, ID: fleet}, nil},
		{"named key makes a device key", named, account.KeySpec{Of: account.OfDevice, ID: device}, nil},
		{"named key makes a user key", named, account.KeySpec{Of: account.OfUser, ID: alice.User}, api.ErrForbidden},
		{"device makes a key", dev, account.KeySpec{Of: account.OfDevice, ID: device}, api.ErrForbidden},
		{"provisioning key makes a key", prov, account.KeySpec{Of: account.OfFleet, ID: fleet}, api.ErrForbidden},
		{"nobody makes a key", access.Nobody(), account.KeySpec{Of: account.OfFleet, ID: fleet}, api.ErrForbidden},
		{"other tenant, fleet", mallory, account.KeySpec{Of: account.OfFleet, ID: fleet}, api.ErrNotFound},
		{"other tenant, device", mallory, account.KeySpec{Of: account.OfDevice, ID: device}, api.ErrNotFound},
		{"other tenant, user", mallory, account.KeySpec{Of: account.OfUser, ID: alice.User}, api.ErrNotFound},
		{"no such fleet", alice, account.KeySpec{Of: account.OfFleet, ID: 12345}, api.ErrNotFound},
		{"expiry in the past", alice, account.KeySpec{Of: account.OfFleet, ID: fleet, Expiry: &past}, api.ErrInvalid},
		{"expiry in the future", alice, account.KeySpec{Of: account.OfFleet, ID: fleet, Expiry: &soon}, nil},
		{"uses of a device key", alice, account.KeySpec{Of: account.OfDevice, ID: device, MaxUses: 1}, api.ErrInvalid},
		{"negative uses", alice, account.KeySpec{Of: account.OfFleet, ID: fleet, MaxUses: -1}, api.ErrInvalid},
		{"short key of its own", alice, account.KeySpec{Of: account.OfDevice, ID: device, Token: "short"}, api.ErrInvalid},
		{"key like a session", alice, account.KeySpec{Of: account.OfDevice, ID: device, Token: strings.Repeat("a.", 20)}, api.ErrInvalid},
		{"name with a newline", alice, account.KeySpec{Of: account.OfFleet, ID: fleet, Name: "a\nb"}, api.ErrInvalid},
		{"no actor", alice, account.KeySpec{ID: fleet}, api.ErrInvalid},
	} {
		if _, err := f.key(tt.by, tt.spec); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.what, err, tt.want)
		}
	}

	// A named key needs a password given lately; the same session with the password given again is fine.
	f.pass(21 * time.Minute)
	if _, err := f.key(alice, account.KeySpec{Of: account.OfUser, ID: alice.User}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("user key after 21 minutes: got %v, want unauthorized", err)
	}
	again, err := f.accounts.Refresh(f.ctx, alice, alicesPassword, account.From{})
	f.must(err)
	f.mustKey(f.caller(again), account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"})
}

func TestAKeyEndsWithItsRowItsActorAndItsExpiry(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	fleet, device := f.fleet(100, alice)
	soon := f.clock().Add(time.Hour)
	expiring := f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet, Expiry: &soon})
	deleted := f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet})
	dev := f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device})

	f.caller(expiring)
	f.pass(time.Hour)
	if _, err := f.authenticate(expiring); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("expired key: got %v", err)
	}
	f.write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, `DELETE FROM api_key WHERE id = ?`, f.caller(deleted).Key)
		return err
	})
	if _, err := f.authenticate(deleted); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("deleted key: got %v", err)
	}
	actor := f.caller(dev).Actor
	f.write(func(tx *db.Tx) error {
		if _, err := tx.ExecContext(f.ctx, `DELETE FROM device WHERE id = ?`, device); err != nil {
			return err
		}
		return account.DeleteActor(f.ctx, tx, actor)
	})
	if _, err := f.authenticate(dev); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("key of a deleted device: got %v", err)
	}
}

func TestADeviceBringsItsKey(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	_, first := f.fleet(100, alice)
	_, second := f.fleet(200, alice)
	own := "00112233445566778899aabbccddeeff"
	spec := account.KeySpec{Of: account.OfDevice, ID: first, Token: own}
	if got := f.mustKey(alice, spec); got != own {
		t.Errorf("own key: got %q", got)
	}
	if got := f.mustKey(alice, spec); got != own {
		t.Errorf("own key, repeated: got %q", got)
	}
	spec.ID = second
	if _, err := f.key(alice, spec); !errors.Is(err, api.ErrConflict) {
		t.Errorf("own key of another device: got %v, want conflict", err)
	}
	var holds, stolen bool
	f.write(func(tx *db.Tx) (err error) {
		actor := f.caller(own).Actor
		if holds, err = f.accounts.KeyHolds(f.ctx, tx, actor, own); err != nil {
			return err
		}
		stolen, err = f.accounts.KeyHolds(f.ctx, tx, actor+1, own)
		return err
	})
	if !holds || stolen {
		t.Errorf("KeyHolds: got %v for the device, %v for another", holds, stolen)
	}
}

// Fifty registrations at once with a key for seven: seven get through, whatever their order.
func TestUsesOfAProvisioningKeyAreCountedUnderARace(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	fleet, _ := f.fleet(100, alice)
	token := f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet, MaxUses: 7})
	key := f.caller(token).Key
	var good, refused atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			err := f.db.Write(f.ctx, func(tx *db.Tx) error { return account.UseProvisioningKey(f.ctx, tx, key) })
			switch {
			case err == nil:
				good.Add(1)
			case errors.Is(err, api.ErrUnauthorized):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if good.Load() != 7 || refused.Load() != 43 {
		t.Errorf("uses: got %d good and %d refused, want 7 and 43", good.Load(), refused.Load())
	}
	f.caller(token) // it still says who it is, for a device that repeats its registration
}

// Several registrations in one transaction each see the ones before them.
func TestUsesOfSeveralProvisioningKeys(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	fleet, _ := f.fleet(100, alice)
	key := func(uses int) int64 {
		return f.caller(f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet, MaxUses: uses})).Key
	}
	endless, one, two := key(0), key(1), key(2)
	for _, want := range [][]int{{4, 6}, {1, 2, 4, 5, 6}} {
		var refused map[int]error
		err := f.db.Write(f.ctx, func(tx *db.Tx) (err error) {
			refused, err = account.UseProvisioningKeys(f.ctx, tx, []int64{endless, two, one, endless, one, two, two})
			return err
		})
		if got := slices.Sorted(maps.Keys(refused)); err != nil || !slices.Equal(got, want) {
			t.Errorf("refused: got %v, %v; want %v", got, err, want)
		}
		for i, err := range refused {
			if !errors.Is(err, api.ErrUnauthorized) {
				t.Errorf("use %d: %v", i, err)
			}
		}
	}
}

func TestUseOfAKeyThatIsNotForProvisioning(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	_, device := f.fleet(100, alice)
	key := f.caller(f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device})).Key
	err := f.db.Write(f.ctx, func(tx *db.Tx) error { return account.UseProvisioningKey(f.ctx, tx, key) })
	if !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
}

func TestLastUseIsWrittenDownCoarsely(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	fleet, _ := f.fleet(100, alice)
	token := f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet})
	last := func() (text string) {
		f.must(f.db.Read(f.ctx, func(tx *db.Tx) error {
			return tx.QueryRowContext(f.ctx, `SELECT coalesce(last_used_at, '') FROM api_key WHERE kind = 'provisioning'`).Scan(&text)
		}))
		return text
	}
	start := db.FormatTime(f.clock())
	f.caller(token)
	f.must(f.accounts.RunOnce(f.ctx))
	if got := last(); got != start {
		t.Errorf("first use: got %q, want %q", got, start)
	}
	f.pass(59 * time.Second)
	f.caller(token)
	f.must(f.accounts.RunOnce(f.ctx))
	if got := last(); got != start {
		t.Errorf("after 59 s: got %q, want still %q", got, start)
	}
	f.pass(time.Second)
	f.caller(token)
	gone, cancel := context.WithCancel(f.ctx)
	cancel()
	if err := f.accounts.RunOnce(gone); err == nil { // a write that fails loses no use
		t.Error("a write in a context that has ended went well")
	}
	f.must(f.accounts.RunOnce(f.ctx))
	if got, want := last(), db.FormatTime(f.clock()); got != want {
		t.Errorf("after 60 s: got %q, want %q", got, want)
	}
}

// No secret that was ever given out stands in the database's files: not the row, not a page that was freed, not the log.
func TestTheDatabaseHoldsNoSecret(t *testing.T) {
	f := newFixture(t)
	session := f.user("alice")
	alice := f.caller(session)
	fleet, device := f.fleet(100, alice)
	own := "ffeeddccbbaa99887766554433221100"
	admin, err := f.accounts.CreateUser(f.ctx, api.NewUser{Email: "bob@example.com"})
	f.must(err)
	secrets := []string{
		alicesPassword, admin.Password, session, pepper,
		f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"}),
		f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet}),
		f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device}),
		f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device, Token: own}),
	}
	again, err := f.accounts.Refresh(f.ctx, alice, "", account.From{})
	f.must(err)
	secrets = append(secrets, again, strings.Split(again, ".")[1], strings.Split(again, ".")[2])
	all := dbtest.Dump(t, f.db)
	if !strings.Contains(all, "alice@example.com") {
		t.Error("the dump does not hold what the database does")
	}
	for i, s := range secrets {
		if strings.Contains(all, s) {
			t.Errorf("the database holds secret number %d", i)
		}
	}
}
