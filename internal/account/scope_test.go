package account_test

import (
	"errors"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
)

// verbs asks what a caller may do with a fleet, level for the highest level of which they have all verbs.
func (f *fixture) verbs(c access.Caller, fleet int64) (v access.Verbs) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
		v, err = rights.FleetVerbs(f.ctx, tx, c, fleet)
		return err
	}))
	return v
}

func (f *fixture) level(c access.Caller, fleet int64) access.Level {
	f.Helper()
	return f.verbs(c, fleet).Level()
}

// exec writes what the packages above would.
func (f *fixture) exec(query string, args ...any) {
	f.Helper()
	f.write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(f.ctx, query, args...)
		return err
	})
}

func (f *fixture) join(who access.Caller, fleet int64, l access.Level) {
	f.Helper()
	f.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
		VALUES ('2026-11-21T12:00:00.000Z', ?, ?, ?)
		ON CONFLICT ("user", is_member_of__application) DO UPDATE SET application_membership_role = excluded.application_membership_role`,
		who.User, fleet, int(l))
}

func TestLevels(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.caller(f.user("alice")), f.caller(f.user("bob"))
	mine, device := f.fleet(100, alice)
	other, _ := f.fleet(200, alice)
	want := func(what string, c access.Caller, fleet int64, l access.Level) {
		t.Helper()
		if got := f.level(c, fleet); got != l {
			t.Errorf("%s: got %s, want %s", what, got, l)
		}
	}
	want("the administrator of the organization", alice, mine, access.Administrator)
	want("a stranger", bob, mine, access.NoLevel)
	want("no such fleet", alice, 12345, access.NoLevel)
	want("the server itself", access.Itself(), mine, access.Administrator)
	want("nobody", access.Nobody(), mine, access.NoLevel)
	want("a service", access.Caller{Kind: access.Service, Role: api.RoleBuilder}, mine, access.NoLevel)
	want("a provisioning key", access.Caller{Kind: access.Provisioning, Fleet: mine}, mine, access.NoLevel)
	want("a device", access.Caller{Kind: access.Device, Device: device, Fleet: mine}, mine, access.Observer)
	want("a device of another fleet", access.Caller{Kind: access.Device, Device: device, Fleet: mine}, other, access.NoLevel)
	want("a frozen device", access.Caller{Kind: access.FrozenDevice, Device: device, Fleet: mine}, mine, access.NoLevel)
	want("a fleet key", access.Caller{Kind: access.FleetKey, Fleet: mine}, mine, access.Observer)

	for _, l := range []access.Level{access.Observer, access.Operator, access.Developer} {
		f.join(bob, mine, l)
		want("a member of the fleet", bob, mine, l)
		want("a member of another fleet", bob, other, access.NoLevel)
	}
	f.exec(`INSERT INTO team (id, created_at, belongs_to__organization, name)
		SELECT 1, created_at, organization, 'crew' FROM (SELECT '2026-11-21T12:00:00.000Z' AS created_at, organization FROM application WHERE id = ?) x`, mine)
	f.exec(`INSERT INTO team_membership (created_at, "user", is_member_of__team) VALUES ('2026-11-21T12:00:00.000Z', ?, 1)`, bob.User)
	f.exec(`INSERT INTO team_application_access (created_at, team, grants_access_to__application, application_membership_role)
		VALUES ('2026-11-21T12:00:00.000Z', 1, ?, 2)`, other)
	want("by a team", bob, other, access.Operator)
	f.join(bob, other, access.Observer)
	want("the higher of two counts", bob, other, access.Operator)
	f.exec(`DELETE FROM team_membership`)
	want("out of the team", bob, other, access.Observer)
}

func TestSupportGrant(t *testing.T) {
	f := newFixture(t)
	alice, staff := f.caller(f.user("alice")), f.caller(f.user("staff"))
	fleet, device := f.fleet(100, alice)
	on := func() (access.Verbs, access.Verbs) {
		t.Helper()
		var v access.Verbs
		f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
			v, err = rights.DeviceVerbs(f.ctx, tx, staff, device)
			return err
		}))
		return f.verbs(staff, fleet), v
	}
	want := func(what string, onFleet, onDevice access.Verbs) {
		t.Helper()
		if a, b := on(); a != onFleet || b != onDevice {
			t.Errorf("%s: %s on the fleet and %s on the device, want %s and %s", what, a, b, onFleet, onDevice)
		}
	}
	until := db.FormatTime(f.clock().Add(time.Hour))
	f.exec(`UPDATE application SET is_accessible_by_support_until__date = ? WHERE id = ?`, until, fleet)
	want("somebody who is no support staff", access.NoVerbs, access.NoVerbs)
	f.exec(`UPDATE "user" SET is_support_staff = 1 WHERE id = ?`, staff.User)
	want("while the fleet is open", access.Support, access.Support)
	key := staff
	key.Key, key.Session = 4711, 0
	if v := f.verbs(key, fleet); v != access.NoVerbs {
		t.Errorf("a key of support staff may %s", v)
	}
	err := f.db.Write(f.ctx, func(tx *db.Tx) error {
		_, err := f.accounts.CreateKey(f.ctx, tx, staff, account.KeySpec{Of: account.OfFleet, ID: fleet})
		return err
	})
	if !errors.Is(err, api.ErrNotFound) {
		t.Errorf("support staff makes a key that outlives the grant: %v", err)
	}
	f.exec(`UPDATE application SET is_accessible_by_support_until__date = NULL`)
	f.exec(`UPDATE device SET is_accessible_by_support_until__date = ? WHERE id = ?`, until, device)
	want("while the device alone is open", access.NoVerbs, access.Support)
	f.pass(time.Hour)
	want("when the time is over", access.NoVerbs, access.NoVerbs)
}

func TestScopedKeys(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	one, _ := f.fleet(100, alice)
	two, device := f.fleet(200, alice)
	f.exec(`UPDATE application SET slug = 'alice/one' WHERE id = ?`, one)
	f.exec(`UPDATE application SET slug = 'alice/two' WHERE id = ?`, two)
	key := func(spec account.KeySpec) access.Caller {
		t.Helper()
		spec.Of, spec.ID, spec.Name = account.OfUser, alice.User, "scoped"
		c := f.caller(f.mustKey(alice, spec))
		if c.Kind != access.ScopedKey || c.User != alice.User || c.Key == 0 {
			t.Errorf("a scoped key is %+v", c)
		}
		return c
	}
	reads := key(account.KeySpec{Level: access.Observer})
	devs := key(account.KeySpec{Level: access.Developer, Fleets: []string{"Alice/One"}})
	all := key(account.KeySpec{Fleets: []string{"alice/one"}})
	for _, tt := range []struct {
		name     string
		c        access.Caller
		one, two access.Level
	}{{"observer", reads, access.Observer, access.Observer}, {"developer of one", devs, access.Developer, access.NoLevel},
		{"everything in one", all, access.Administrator, access.NoLevel}} {
		if a, b := f.level(tt.c, one), f.level(tt.c, two); a != tt.one || b != tt.two {
			t.Errorf("%s: got %s and %s, want %s and %s", tt.name, a, b, tt.one, tt.two)
		}
	}
	soon, late := f.clock().Add(time.Hour), f.clock().Add(25*time.Hour)
	for _, tt := range []struct {
		what string
		by   access.Caller
		spec account.KeySpec
		want error
	}{
		{"a key of a user", all, account.KeySpec{Of: account.OfUser, ID: alice.User, Expiry: &soon}, api.ErrForbidden},
		{"a provisioning key without an end", devs, account.KeySpec{Of: account.OfFleet, ID: one}, api.ErrForbidden},
		{"a provisioning key for long", devs, account.KeySpec{Of: account.OfFleet, ID: one, Expiry: &late}, api.ErrForbidden},
		{"a provisioning key for an hour", devs, account.KeySpec{Of: account.OfFleet, ID: one, Expiry: &soon}, nil},
		{"of another fleet", devs, account.KeySpec{Of: account.OfFleet, ID: two, Expiry: &soon}, api.ErrNotFound},
		{"of a device of another fleet", devs, account.KeySpec{Of: account.OfDevice, ID: device, Expiry: &soon}, api.ErrNotFound},
		{"with a key that only reads", reads, account.KeySpec{Of: account.OfFleet, ID: one, Expiry: &soon}, api.ErrNotFound},
		{"limited to a fleet that is not there", alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Fleets: []string{"bob/one"}}, api.ErrNotFound},
		{"limited to nothing less", alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Level: access.Administrator}, api.ErrInvalid},
		{"a limited provisioning key", alice, account.KeySpec{Of: account.OfFleet, ID: one, Level: access.Observer}, api.ErrInvalid},
	} {
		err := f.db.Write(f.ctx, func(tx *db.Tx) error {
			_, err := f.accounts.CreateKey(f.ctx, tx, tt.by, tt.spec)
			return err
		})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.what, err, tt.want)
		}
	}
	// A key that is gone gives nothing, even to a request that was authenticated before.
	f.exec(`DELETE FROM api_key WHERE id = ?`, all.Key)
	if l := f.level(all, one); l != access.NoLevel {
		t.Errorf("a deleted key still is a %s", l)
	}
}

// Attack: somebody leaves, and knows a key of the fleet that they made.
func TestKeysOfAFleetEndWithTheirMakersRight(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.caller(f.user("alice")), f.caller(f.user("bob"))
	fleet, device := f.fleet(100, alice)
	f.join(bob, fleet, access.Operator)
	provisioning := f.mustKey(bob, account.KeySpec{Of: account.OfFleet, ID: fleet})
	reader := f.mustKey(bob, account.KeySpec{Of: account.OfFleet, ID: fleet, Reader: true})
	alices := f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet})
	dev := f.mustKey(bob, account.KeySpec{Of: account.OfDevice, ID: device})
	if c := f.caller(reader); c.Kind != access.FleetKey || c.Fleet != fleet {
		t.Errorf("the fleet key is %+v", c)
	}
	if c := f.caller(provisioning); c.Kind != access.Provisioning || c.Fleet != fleet {
		t.Errorf("the provisioning key is %+v", c)
	}
	f.join(bob, fleet, access.Observer)
	for name, token := range map[string]string{"provisioning": provisioning, "fleet": reader} {
		if c, err := f.authenticate(token); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("the %s key of somebody who is no operator any more is %+v, %v", name, c, err)
		}
	}
	f.caller(alices) // others' keys go on
	f.caller(dev)    // and the device's, which is the device's
	f.join(bob, fleet, access.Operator)
	f.caller(provisioning)
}

func TestFrozenDevice(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	_, device := f.fleet(100, alice)
	dev := f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device})
	f.exec(`UPDATE device SET is_frozen = 1 WHERE id = ?`, device)
	if c := f.caller(dev); c.Kind != access.FrozenDevice || c.Device != device {
		t.Errorf("a frozen device is %+v", c)
	}
}
