package account_test

import (
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/keyuse"
	"github.com/roadstead-io/roadstead/internal/account/service"
	"github.com/roadstead-io/roadstead/internal/db"
)

// What is said of a key that opens nothing any more is why, and nothing is said of one that does: it is what authentication says.
func TestWhyAKeyOpensNothing(t *testing.T) {
	f, has, asked := newFixture(t), map[int64]bool{}, 0
	f.withFactors(has, &asked)
	alice := f.caller(f.user("alice"))
	fleet, _ := f.fleet(1, alice)
	f.exec(`UPDATE application SET slug = 'alice/one'`)
	var robot api.ServiceAccount
	f.write(func(tx *db.Tx) (err error) {
		robot, err = service.New(f.accounts).Create(f.ctx, tx, alice, api.ServiceAccount{Name: "robot", Organization: "alice"})
		return err
	})
	keys := map[string]string{
		"alice's": f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User}),
		"robot's": f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: robot.ID}),
		"fleet's": f.mustKey(alice, account.KeySpec{Of: account.OfFleet, ID: fleet, Reader: true}),
	}
	ids := map[string]int64{}
	for name, key := range keys {
		ids[name] = f.caller(key).Key
	}
	const factor, disabled = "an organization asks its user for a second factor, and there is none", "its user is disabled"
	for _, tt := range []struct {
		what, query string
		ended       map[string]string
	}{
		{"at first", `UPDATE "user" SET is_disabled = 0`, nil},
		{"a second factor is asked for", `UPDATE organization SET is_requiring_two_factor = 1`, map[string]string{"alice's": factor}},
		{"and not any more", `UPDATE organization SET is_requiring_two_factor = 0`, nil},
		{"the service account is disabled", `UPDATE "user" SET is_disabled = 1 WHERE username = 'robot'`, map[string]string{"robot's": disabled}},
		{"alice is no administrator", `UPDATE organization_membership SET organization_membership_role = 2`, map[string]string{
			"robot's": "who made it does not administer the organization any more", "fleet's": "who made it may not make it any more",
		}},
	} {
		f.exec(tt.query)
		for name, key := range keys {
			var said api.KeyExplanation
			f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
				said, _, err = f.accounts.ExplainKey(f.ctx, tx, ids[name])
				return err
			}))
			if said.Ended != tt.ended[name] {
				t.Errorf("%s: %s key: got %q, want %q", tt.what, name, said.Ended, tt.ended[name])
			}
			if _, err := f.authenticate(key); (err == nil) != (said.Ended == "") {
				t.Errorf("%s: %s key: it is said %q and is %v", tt.what, name, said.Ended, err)
			}
		}
	}
}

// A use while the uses before it are written down is not forgotten.
func TestAUseDuringTheWriting(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	by := f.caller(f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User}))
	var uses keyuse.Uses
	by.Address = "192.0.2.1"
	uses.Add(by, access.Read, f.clock())
	f.write(func(tx *db.Tx) error { return uses.Write(f.ctx, tx) })
	by.Address = "192.0.2.2"
	uses.Add(by, access.Read, f.clock())
	uses.Wrote()
	f.write(func(tx *db.Tx) error { return uses.Write(f.ctx, tx) })
	uses.Wrote()
	var from string
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(f.ctx, `SELECT last_used_from FROM api_key WHERE id = ?`, by.Key).Scan(&from)
	}))
	if from != "192.0.2.2" {
		t.Errorf("the last use was from %s", from)
	}
}
