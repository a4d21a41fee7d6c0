package trust_test

import (
	"errors"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// A device goes to another fleet when the one that it comes from says so: the server's by itself, an owner's by a signature.
func TestADeviceGoesToAnotherFleet(t *testing.T) {
	w := newWorld(t)
	w.target(w.hers, w.release(w.hers, 1))
	w.target(w.his, w.release(w.his, 2))
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, commitOf(1))
	w.Must(err)
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, api.TrustReport{State: api.TrustVerified, Versions: d.trusted.Versions()}))
	here, there := w.uuid(w.hers), w.uuid(w.his)
	move := func(from, to int64) error {
		return w.DB.Write(t.Context(), func(tx *db.Tx) error {
			if err := w.trust.Moving(t.Context(), tx, d.by.Device, from, to); err != nil {
				return err
			}
			_, err := tx.ExecContext(t.Context(), `UPDATE device SET belongs_to__application = ? WHERE id = ?`, to, d.by.Device)
			return err
		})
	}
	w.Must(move(w.hers, w.his))
	d.by.Fleet = w.his
	have := d.have("")
	have.Fleet = here
	bundle, err := w.trust.Bundle(t.Context(), d.by, d.uuid, have)
	w.Must(err)
	if bundle.Fleet != here || bundle.Director != nil {
		t.Errorf("the fleet that it came from says %+v", bundle)
	}
	d.trusted.SetNow(w.Now())
	for _, f := range bundle.Files {
		w.Must(d.trusted.Take(f))
	}
	policy, err := d.trusted.Policy()
	w.Must(err)
	if len(policy.Transfers) != 1 || policy.Transfers[0].Device != d.uuid || policy.Transfers[0].To != there {
		t.Fatalf("transfers: %+v", policy.Transfers)
	}
	bundle, err = w.trust.Bundle(t.Context(), d.by, d.uuid, api.TrustHave{Nonce: "0123456789abcdef", Fleet: there})
	w.Must(err)
	if len(bundle.Roots) == 0 || tuf.Digest(bundle.Roots[0]) != policy.Transfers[0].Root {
		t.Fatal("the other fleet's first root is another")
	}
	d.trusted, err = tuf.Open(there, bundle.Roots[0])
	w.Must(err)
	d.uuidOfFleet, d.counter = there, 0
	if _, err := d.check(w.trust, commitOf(2)); err != nil {
		t.Errorf("in the other fleet: %v", err)
	}
	// Another device learns nothing of a fleet that it has nothing to do with.
	other := w.device(w.his, 2)
	other.equip()
	ask := other.have("")
	ask.Fleet = here
	if _, err := w.trust.Bundle(t.Context(), other.by, other.uuid, ask); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a stranger: %v", err)
	}
}

func TestAnOwnerLetsADeviceGo(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, "")
	w.Must(err)
	o := w.owner(w.hers, api.ApprovalBuilder, 1)
	if _, err := o.upload(o.root(2, 1, 1), o.targets(1, 1)); err != nil {
		t.Fatal(err)
	}
	moving := func() error {
		return w.DB.Write(t.Context(), func(tx *db.Tx) error { return w.trust.Moving(t.Context(), tx, d.by.Device, w.hers, w.his) })
	}
	w.Must(moving()) // a device that checks nothing goes where it is sent
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, api.TrustReport{State: api.TrustVerified}))
	if err := moving(); !errors.Is(err, api.ErrConflict) {
		t.Fatalf("the owner has not signed it: %v", err)
	}
	o.leaves = []api.TrustLeave{{Device: d.uuid, To: w.uuid(w.his), Root: tuf.Digest([]byte("root"))}}
	if _, err := o.upload(o.targets(1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := moving(); err != nil {
		t.Errorf("the owner has signed it: %v", err)
	}
}
