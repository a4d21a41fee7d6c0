package account_test

import (
	"errors"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/service"
	"github.com/roadstead-io/roadstead/internal/db"
)

func (f *fixture) proof(by access.Caller) (p account.Proof) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
		p, err = account.ProofOf(f.ctx, tx, by)
		return err
	}))
	return p
}

func (f *fixture) holds(p account.Proof, user int64) (holds bool) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
		_, holds, err = f.accounts.Holds(f.ctx, tx, p, user)
		return err
	}))
	return holds
}

// What was begun with a session ends with its login, and with no other's: not with that of a program that it let in.
func TestAProofIsOfOneLogin(t *testing.T) {
	f := newFixture(t)
	session := f.user("alice")
	alice := f.caller(session)
	var program string
	f.write(func(tx *db.Tx) (err error) {
		program, err = f.accounts.Delegate(f.ctx, tx, alice, account.From{})
		return err
	})
	proof, programs := f.proof(alice), f.proof(f.caller(program))
	for what, password := range map[string]string{"refreshed": "", "refreshed with the password": alicesPassword} {
		f.pass(time.Minute)
		fresh, err := f.accounts.Refresh(f.ctx, f.caller(session), password, account.From{})
		f.must(err)
		if session = fresh; !f.holds(proof, alice.User) {
			t.Errorf("%s, it holds no more", what)
		}
	}
	if f.holds(proof, alice.User+1) {
		t.Error("it holds for somebody else")
	}
	f.write(func(tx *db.Tx) error { return f.accounts.EndSession(f.ctx, tx, f.caller(session), 0) })
	if f.holds(proof, alice.User) || !f.holds(programs, alice.User) {
		t.Errorf("after the end of the one: it holds %v, the program's %v", f.holds(proof, alice.User), f.holds(programs, alice.User))
	}
	f.pass(31 * 24 * time.Hour)
	if f.holds(programs, alice.User) {
		t.Error("it holds with a session that was idle too long")
	}
}

// A key that every request is refused with holds up nothing that was begun with it.
func TestAProofEndsWithTheRightToAsk(t *testing.T) {
	f, has, asked := newFixture(t), map[int64]bool{}, 0
	f.withFactors(has, &asked)
	alice := f.caller(f.user("alice"))
	named := f.caller(f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: alice.User}))
	var robot api.ServiceAccount
	f.write(func(tx *db.Tx) (err error) {
		robot, err = service.New(f.accounts).Create(f.ctx, tx, alice, api.ServiceAccount{Name: "robot", Organization: "alice"})
		return err
	})
	machine := f.caller(f.mustKey(alice, account.KeySpec{Of: account.OfUser, ID: robot.ID}))
	proofs := map[string]struct {
		proof account.Proof
		by    access.Caller
	}{"named key": {f.proof(named), named}, "key of a service account": {f.proof(machine), machine}}
	for _, step := range []struct {
		query string
		want  map[string]bool
	}{
		{`UPDATE organization SET is_requiring_two_factor = 1`, map[string]bool{"key of a service account": true}},
		{`UPDATE organization SET is_requiring_two_factor = 0`, map[string]bool{"named key": true, "key of a service account": true}},
		{`UPDATE organization_membership SET organization_membership_role = 2`, map[string]bool{"named key": true}},
		{`UPDATE organization_membership SET organization_membership_role = 1`, map[string]bool{"named key": true, "key of a service account": true}},
		{`UPDATE "user" SET is_disabled = 1 WHERE username = 'alice'`, map[string]bool{}},
	} {
		f.exec(step.query)
		for what, p := range proofs {
			if got := f.holds(p.proof, p.by.User); got != step.want[what] {
				t.Errorf("%s: the %s holds: %v, want %v", step.query, what, got, step.want[what])
			}
			err := f.db.Read(f.ctx, func(tx *db.Tx) error { _, err := f.accounts.Again(f.ctx, tx, p.by); return err })
			if (err == nil) != step.want[what] || err != nil && !errors.Is(err, api.ErrUnauthorized) {
				t.Errorf("%s: with the %s: got %v", step.query, what, err)
			}
		}
	}
}

// Attack: whoever has only the password opens half sessions until the whole ones are pushed out.
func TestHalfSessionsMakeRoomAmongThemselves(t *testing.T) {
	f, has, asked := newFixture(t), map[int64]bool{}, 0
	f.withFactors(has, &asked)
	session := f.user("alice")
	alice := f.caller(session)
	has[alice.User] = true
	for range 110 {
		f.write(func(tx *db.Tx) error {
			_, err := f.accounts.SignIn(f.ctx, tx, alice.User, account.From{Way: account.ByPassword})
			return err
		})
	}
	if n := f.count(`SELECT count(*) FROM session WHERE awaits <> ''`); n != 100 {
		t.Errorf("half sessions: got %d, want 100", n)
	}
	f.caller(session)
}

// Where an organization wants no passwords, one proves nothing: giving it with its change makes no session fresh.
func TestAForbiddenPasswordMakesNoSessionFresh(t *testing.T) {
	f := newFixture(t)
	f.user("alice")
	var session string
	f.write(func(tx *db.Tx) (err error) {
		session, err = f.accounts.SignIn(f.ctx, tx, 1, account.From{Way: account.ByProvider})
		return err
	})
	f.exec(`UPDATE organization SET is_forbidding_passwords = 1`)
	f.pass(21 * time.Minute)
	token, err := f.accounts.ChangePassword(f.ctx, f.caller(session), api.ChangePassword{Current: alicesPassword, New: "boats in the harbour"}, account.From{})
	f.must(err)
	if _, err := f.accounts.ChangePassword(f.ctx, f.caller(token), api.ChangePassword{New: "barges in the harbour"}, account.From{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("without the current one, afterwards: got %v", err)
	}
}
