package account_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/db"
)

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// tokenForm is what docs/access.md gives to those who look for leaked tokens.
var tokenForm = regexp.MustCompile(`\brs[updfi]_[0-9A-Za-z]{49}\b`)

// A token with a wrong checksum is nobody's, and no database is asked about it.
func TestAWrongChecksumCostsNothing(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	token := f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User, Name: "ci"})
	if !tokenForm.MatchString("token=" + token + "\n") {
		t.Errorf("%s has not the form that leak scanners look for", token)
	}
	f.caller(token)
	for i := len("rsu_"); i < len(token); i++ {
		wrong := []byte(token)
		wrong[i] = digits[(strings.IndexByte(digits, wrong[i])+1)%len(digits)]
		// Without a transaction: a look at the database would end the test.
		if _, _, err := f.accounts.AuthenticateUntil(f.ctx, nil, string(wrong)); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s: got %v", wrong, err)
		}
	}
	// A device brings a key that it made itself; it must not look like one of ours.
	_, device := f.fleet(100, alice)
	brought := "rsd_" + strings.Repeat("a", 49)
	if _, err := f.key(alice, account.KeySpec{Of: account.OfDevice, ID: device, Token: brought}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a brought key with a wrong checksum: %v", err)
	}
}

// Keys from before there were checksums go on working.
func TestKeysWithoutAChecksum(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	old := "rsu_" + strings.Repeat("7", 43)
	f.exec(`INSERT INTO api_key (created_at, kind, key_hash, is_of__actor, name) VALUES ('2026-01-01T00:00:00.000Z', 'user', ?, ?, 'old')`,
		token.NewHasher([]byte(pepper)).Token(old), alice.Actor)
	if c := f.caller(old); c.User != alice.User || c.Kind != access.User {
		t.Errorf("an old key is %+v", c)
	}
}

// The verbs of somebody with a role of an organization's own, with an end, and of the key that they made.
func TestVerbsOfARole(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.caller(f.user("alice")), f.caller(f.user("bob"))
	fleet, device := f.fleet(100, alice)
	for _, one := range access.Given.Each() {
		set := access.Read | one
		f.exec(`INSERT INTO application_membership_role (id, created_at, modified_at, name, verbs, mask)
			VALUES (?, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', ?, ?, ?)`, 1000+int(one), one.String()+" alone", set.JSON(), int(set))
		f.exec(`DELETE FROM user_application_membership`)
		f.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role, end_date)
			VALUES ('2026-11-21T12:00:00.000Z', ?, ?, ?, '2026-11-21T13:00:00.000Z')`, bob.User, fleet, 1000+int(one))
		if got := f.verbs(bob, fleet); got != set {
			t.Errorf("a role of %s gives %s", set, got)
		}
		f.must(f.db.Read(f.ctx, func(tx *db.Tx) error {
			got, err := rights.DeviceVerbs(f.ctx, tx, bob, device)
			if got != set {
				t.Errorf("a role of %s gives %s on a device", set, got)
			}
			return err
		}))
		for _, need := range access.AllVerbs.Each() {
			err := f.db.Read(f.ctx, func(tx *db.Tx) error { return rights.Require(f.ctx, tx, bob, fleet, need) })
			if (err == nil) != set.Has(need) {
				t.Errorf("%s of somebody with %s: %v", need, set, err)
			}
		}
	}
	at := f.clock()
	f.pass(3600e9)
	if got := f.verbs(bob, fleet); got != access.NoVerbs {
		t.Errorf("an hour after %s, at its end, a membership gives %s", at, got)
	}
	f.must(f.accounts.RunOnce(f.ctx))
	if got := f.revoked; len(got) != 1 || got[0] != "member" {
		t.Errorf("revoked: %v", got)
	}
}
