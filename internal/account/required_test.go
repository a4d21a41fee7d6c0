package account_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/service"
	"github.com/roadstead-io/roadstead/internal/db"
)

// withFactors makes the accounts anew, with second factors that the test gives.
func (f *fixture) withFactors(has map[int64]bool, asked *int) {
	f.Helper()
	var err error
	f.accounts, err = account.New(account.Config{DB: f.db, Pepper: []byte(pepper), Now: f.clock,
		SecondFactor: func(_ context.Context, _ *db.Tx, user int64) (bool, error) { *asked++; return has[user], nil },
	})
	f.must(err)
}

// An organization that asks for a second factor refuses the keys of members who have none, made before; and theirs alone.
func TestKeysOfMembersWithoutSecondFactor(t *testing.T) {
	f, has, asked := newFixture(t), map[int64]bool{}, 0
	f.withFactors(has, &asked)
	alice := f.caller(f.user("alice"))
	bob := f.caller(f.user("bob"))
	fleet, device := f.fleet(1, alice)
	scoped := f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Level: access.Observer})
	whole := f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User})
	others := map[string]string{
		"device":       f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device}),
		"provisioning": f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet}),
		"another user": f.mustKey(bob, account.KeySpec{Of: account.OfUser, ID: bob.User}),
	}
	var robot api.ServiceAccount
	f.write(func(tx *db.Tx) (err error) {
		robot, err = service.New(f.accounts).Create(f.ctx, tx, alice, api.ServiceAccount{Name: "robot", Organization: "alice"})
		return err
	})
	others["service account"] = f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: robot.ID})
	check := func(when string, want bool) {
		t.Helper()
		for name, key := range map[string]string{"scoped": scoped, "whole": whole} {
			if _, err := f.authenticate(key); (err == nil) != want || err != nil && !errors.Is(err, api.ErrUnauthorized) {
				t.Errorf("%s, %s key: got %v", when, name, err)
			}
		}
		before := asked
		for name, key := range others {
			if _, err := f.authenticate(key); err != nil {
				t.Errorf("%s, key of %s: got %v", when, name, err)
			}
		}
		if asked != before {
			t.Errorf("%s: for other keys it is asked whether somebody has a second factor", when)
		}
	}
	check("before", true)
	f.exec(`UPDATE organization SET is_requiring_two_factor = 1 WHERE handle = 'alice'`)
	check("required", false)
	has[alice.User] = true
	check("with a second factor", true)
	has[alice.User] = false
	check("without again", false)
	f.exec(`UPDATE organization_membership SET end_date = ? WHERE "user" = ?`, db.FormatTime(f.clock().Add(time.Hour)), alice.User)
	check("until the membership ends", false)
	f.exec(`UPDATE api_key SET is_created_by__user = NULL`) // alice is no administrator any more, which is not what this is about
	f.exec(`UPDATE organization_membership SET organization_membership_role = 1, end_date = ? WHERE "user" = ?`, db.FormatTime(f.clock()), alice.User)
	check("after it", true)
}

// A membership that has ended forbids nothing and asks for nothing.
func TestEndedMembershipsDoNotCount(t *testing.T) {
	f, has, asked := newFixture(t), map[int64]bool{}, 0
	f.withFactors(has, &asked)
	alice := f.caller(f.user("alice"))
	login := func() (access.Caller, error) {
		token, err := f.accounts.Login(f.ctx, api.Login{Username: "alice", Password: alicesPassword}, account.From{Address: "192.0.2.1"})
		if err != nil {
			return access.Caller{}, err
		}
		return f.authenticate(token)
	}
	end := func(at any) {
		f.exec(`UPDATE organization_membership SET end_date = ? WHERE "user" = ?`, at, alice.User)
	}
	for column, ok := range map[string]func(access.Caller, error) bool{
		"is_forbidding_passwords": func(_ access.Caller, err error) bool { return err == nil },
		"is_requiring_two_factor": func(c access.Caller, err error) bool { return err == nil && c.Kind == access.User },
	} {
		f.exec(`UPDATE organization SET ` + column + ` = 1`)
		for when, at := range map[string]any{"no end": nil, "an end to come": db.FormatTime(f.clock().Add(time.Minute))} {
			end(at)
			if c, err := login(); ok(c, err) {
				t.Errorf("%s, %s: got %v, %v", column, when, c.Kind, err)
			}
		}
		end(db.FormatTime(f.clock()))
		if c, err := login(); !ok(c, err) {
			t.Errorf("%s, ended: got %v, %v", column, c.Kind, err)
		}
		f.exec(`UPDATE organization SET ` + column + ` = 0`)
	}
}

// Attack: guessing a password under the e-mail address and under the user name in turn. They are one account; a name of nobody's gets
// the same answers.
func TestOneAccountUnderTwoNames(t *testing.T) {
	f := newFixture(t)
	f.user("alice")
	tries := func(address string, names ...string) (answers []string) {
		for i := range 24 {
			_, err := f.accounts.Login(f.ctx, api.Login{Username: names[i%len(names)], Password: "wrong, and wrong"}, account.From{Address: address})
			answers = append(answers, fmt.Sprint(errors.Is(err, api.ErrRateLimited)))
		}
		return answers
	}
	both := tries("192.0.2.10", "alice", "alice@example.com")
	one := tries("192.0.2.11", "alice")
	nobody := tries("192.0.2.12", "nobody")
	if !slices.Equal(both, one) || !slices.Contains(both, "true") {
		t.Errorf("under two names: got %v, want %v", both, one)
	}
	if !slices.Equal(one, nobody) {
		t.Errorf("a name of nobody's: got %v, want %v", nobody, one)
	}
	// Nor does a name that is written like the number of a user count for the user.
	for range 24 {
		_, _ = f.accounts.Login(f.ctx, api.Login{Username: "user\x001", Password: "wrong, and wrong"}, account.From{Address: "192.0.2.13"})
	}
	if _, err := f.accounts.Login(f.ctx, api.Login{Username: "alice", Password: alicesPassword}, account.From{Address: "192.0.2.14"}); err != nil {
		t.Errorf("from elsewhere: got %v", err)
	}
}

// Whoever is made a member without being asked is held to the organization's rules about signing in at once.
func TestNewMembersAreHeldToTheRules(t *testing.T) {
	for column, passes := range map[string]bool{"is_forbidding_passwords": false, "is_requiring_two_factor": false, "name": true} {
		f := newFixture(t)
		f.user("alice")
		session := f.user("bob")
		bob := f.caller(session)
		if column != "name" {
			f.exec(`UPDATE organization SET ` + column + ` = 1 WHERE handle = 'alice'`)
		}
		f.change("bob", api.UserMakeAdministrator, "alice")
		if _, err := f.authenticate(session); (err == nil) != passes {
			t.Errorf("%s, made an administrator: got %v", column, err)
		}
		f.exec(`DELETE FROM organization_membership WHERE "user" = ? AND is_member_of__organization = (SELECT id FROM organization WHERE handle = 'alice')`, bob.User)
		session = f.login("bob")
		err := f.db.Write(f.ctx, func(tx *db.Tx) error {
			org, err := account.OrganizationByHandle(f.ctx, tx, "alice")
			if err != nil {
				return err
			}
			_, err = f.accounts.Join(f.ctx, tx, org, bob.User, false)
			return err
		})
		if column == "is_requiring_two_factor" {
			if !errors.Is(err, api.ErrForbidden) {
				t.Errorf("taken in without a second factor: got %v", err)
			}
			continue
		}
		f.must(err)
		if _, err := f.authenticate(session); (err == nil) != passes {
			t.Errorf("%s, taken in by a provider's claim: got %v", column, err)
		}
	}
}
