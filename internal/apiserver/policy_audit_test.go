package apiserver

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// What people make of every resource of the policy is in the audit log, under the organization and the fleet that it belongs to.
func TestEveryResourceIsAuditedWhereItBelongs(t *testing.T) {
	w := newPolicyWorld(t, dbtest.Config(t, Migrations()...).DSN)
	own, ann := w.places["own"], w.people["ann, administrator, session"]
	fleetless := map[string]bool{ // belong to the organization itself
		"team": true, "team_membership": true, "organization_membership": true, "organization_membership_tag": true, "organization_invite": true,
	}
	tried := 0
	for n, r := range policyRows {
		if r.post == "" {
			continue
		}
		tried++
		var text string
		w.must(w.db.Write(w.ctx, func(tx *db.Tx) (err error) {
			text, err = own.fill(w.ctx, tx, r.post, 5000+n)
			return err
		}))
		var values map[string]any
		d := json.NewDecoder(bytes.NewReader([]byte(text)))
		d.UseNumber()
		w.must(d.Decode(&values))
		for k, v := range values {
			if number, ok := v.(json.Number); ok {
				i, err := number.Int64()
				w.must(err)
				values[k] = i
			}
		}
		var id int64
		w.must(w.db.Write(w.ctx, func(tx *db.Tx) (err error) {
			id, err = w.server.engine.Insert(w.ctx, tx, ann.caller, r.name, values)
			return err
		}))
		var organization, fleet int64
		w.must(w.db.Read(w.ctx, func(tx *db.Tx) error {
			return tx.QueryRowContext(w.ctx, `SELECT organization, application FROM audit_entry WHERE act = ? AND thing_id = ? ORDER BY id DESC LIMIT 1`,
				r.name+".create", id).Scan(&organization, &fleet)
		}))
		wantFleet := own.ids["fleet"]
		switch {
		case r.name == "application":
			wantFleet = id
		case fleetless[r.name]:
			wantFleet = 0
		}
		if organization != own.ids["org"] || fleet != wantFleet {
			t.Errorf("%s: organization %d, fleet %d; want %d, %d", r.name, organization, fleet, own.ids["org"], wantFleet)
		}
	}
	if tried < 15 {
		t.Errorf("only %d resources were tried", tried)
	}
}
