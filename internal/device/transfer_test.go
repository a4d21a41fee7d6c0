package device_test

import (
	"fmt"
	"testing"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// join gives somebody a role in another's organization.
func (w *world) join(who access.Caller, organization, role string) {
	w.Helper()
	w.Write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(w.Context(), `INSERT INTO organization_membership ("user", is_member_of__organization, organization_membership_role)
			SELECT ?, o.id, r.id FROM organization o, organization_membership_role r WHERE o.handle = ? AND r.name = ?
			ON CONFLICT ("user", is_member_of__organization)
				DO UPDATE SET organization_membership_role = excluded.organization_membership_role`, who.User, organization, role)
		return err
	})
}

// operate makes somebody an operator of a fleet.
func (w *world) operate(who access.Caller, fleetID int64) {
	w.Helper()
	w.Write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(w.Context(), `INSERT INTO user_application_membership (created_at, "user", is_member_of__application,
			application_membership_role) VALUES (?, ?, ?, ?)`, tx.NowText(), who.User, fleetID, int(access.Operator))
		return err
	})
}

// The attack: a member on his way out takes a device along into an organization of his own, where it runs what he says.
func TestAMemberDoesNotTakeDevicesAway(t *testing.T) {
	w := newWorld(t)
	f, haven, far := w.Fleet(w.alice, "harbour"), w.Fleet(w.alice, "haven"), w.Fleet(w.bob, "elsewhere")
	dev, made := w.device(w.alice, f, uuidOf(1))
	path := fmt.Sprintf("device(%d)", made.ID)
	w.Must(w.send(dev, uuidOf(1), `{"message":"said at alice's"}`))

	w.join(w.bob, "alice", "member")
	w.Want(w.bob, "GET", path, nil, 200, `{"d":[]}`)
	w.operate(w.bob, f)
	w.Want(w.bob, "PATCH", path, map[string]any{"belongs_to__application": haven}, 404, "no access")
	w.operate(w.bob, haven)
	w.Want(w.bob, "PATCH", path, map[string]any{"belongs_to__application": haven}, 200, "")
	w.Want(w.bob, "PATCH", path, map[string]any{"belongs_to__application": far}, 403, "administrator")
	if got := w.log(w.bob, uuidOf(1), everything); len(got) != 1 {
		t.Errorf("a move within the organization: the log is %q", got)
	}

	w.join(w.bob, "alice", "administrator")
	w.Want(w.bob, "PATCH", path, map[string]any{"belongs_to__application": far}, 200, "")
	if got := w.log(w.bob, uuidOf(1), everything); len(got) != 0 {
		t.Errorf("the new organization reads what the device said at the old one: %q", got)
	}
	if status, _ := w.Do(w.alice, "PATCH", path, map[string]any{"note": "mine"}); status == 200 && len(w.rows(w.alice, path)) != 0 {
		t.Error("the old organization still has the device")
	}
	w.Must(w.send(w.Caller(made.APIKey), uuidOf(1), `{"message":"said at bob's"}`))
	if got := w.log(w.bob, uuidOf(1), everything); len(got) != 1 {
		t.Errorf("the log goes on: %q", got)
	}
}
