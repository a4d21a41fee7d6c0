package trust_test

import (
	"errors"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// move moves a device as the api role does.
func (b *board) move(from, to int64) error {
	b.Helper()
	return b.DB.Write(b.Context(), func(tx *db.Tx) error {
		if err := b.trust.Moving(b.Context(), tx, b.by.Device, from, to); err != nil {
			return err
		}
		b.by.Fleet = to
		_, err := tx.ExecContext(b.Context(), `UPDATE device SET belongs_to__application = ? WHERE id = ?`, to, b.by.Device)
		return err
	})
}

// report says that it believes a fleet.
func (b *board) report(fleet string) {
	b.Helper()
	b.Must(b.trust.Report(b.Context(), b.by, b.uuid, api.TrustReport{State: api.TrustVerified, Fleet: fleet, Versions: b.trusted.Versions()}))
}

// letGo asks for the word of a fleet, verifies it from what this device believes, and gives where it may go.
func (b *board) letGo(fleet string) (api.TrustLeave, error) {
	b.Helper()
	have := b.have("")
	have.Fleet = fleet
	bundle, err := b.trust.Bundle(b.Context(), b.by, b.uuid, have)
	if err != nil {
		return api.TrustLeave{}, err
	}
	b.trusted.SetNow(b.Now())
	for _, root := range bundle.Roots {
		if err := b.trusted.Root(root); err != nil {
			return api.TrustLeave{}, err
		}
	}
	for _, f := range bundle.Files {
		if err := b.trusted.Take(f); err != nil {
			return api.TrustLeave{}, err
		}
	}
	policy, err := b.trusted.Policy()
	if err != nil {
		return api.TrustLeave{}, err
	}
	for _, l := range policy.Transfers {
		if l.Device == b.uuid {
			return l, nil
		}
	}
	return api.TrustLeave{}, errors.New("the fleet does not let it go")
}

// remove deletes a fleet as the api role does.
func (w *world) remove(fleetID int64) {
	w.Helper()
	w.Write(func(tx *db.Tx) error {
		for _, query := range []string{`DELETE FROM device WHERE belongs_to__application = ?`, `UPDATE application SET should_be_running__release = NULL WHERE id = ?`,
			`DELETE FROM "release" WHERE belongs_to__application = ?`, `DELETE FROM image WHERE is_a_build_of__service IN (SELECT id FROM service WHERE application = ?)`} {
			if _, err := tx.ExecContext(w.Context(), query, fleetID); err != nil {
				return err
			}
		}
		if err := w.trust.FleetsDeleting(w.Context(), tx, []int64{fleetID}); err != nil {
			return err
		}
		_, err := tx.ExecContext(w.Context(), `DELETE FROM application WHERE id = ?`, fleetID)
		return err
	})
}

// kept counts what is kept of a fleet.
func (w *world) kept(fleetID int64) int64 {
	w.Helper()
	return w.Number(`SELECT (SELECT count(*) FROM trust_gone WHERE application = ?) + (SELECT count(*) FROM trust_fleet WHERE application = ?)
		+ (SELECT count(*) FROM trust_file WHERE application = ?) + (SELECT count(*) FROM trust_leave WHERE application = ?)`, fleetID, fleetID, fleetID, fleetID)
}

// expire has what the signer signs for days be over, as after months; the signer has a clock of its own. It gives the version of the timestamp.
func (w *world) expire(fleetID int64) int64 {
	w.Helper()
	w.Exec(`UPDATE trust_file SET expires_at = ? WHERE application = ? AND role IN ('timestamp', 'snapshot')`, db.FormatTime(w.Now().Add(-time.Hour)), fleetID)
	w.Exec(`UPDATE trust_fleet SET changes = changes + 1 WHERE application = ?`, fleetID)
	return w.Number(`SELECT max(version) FROM trust_file WHERE application = ? AND role = 'timestamp'`, fleetID)
}

// leaver is a device that checks, in her fleet, moved out of it before it asked again.
func (w *world) leaver(n int) *board {
	w.Helper()
	w.target(w.hers, w.release(w.hers, 1+2*n))
	w.target(w.his, w.release(w.his, 2+2*n))
	d := w.device(w.hers, n)
	d.equip()
	_, err := d.check(w.trust, commitOf(1+2*n))
	w.Must(err)
	d.report(w.uuid(w.hers))
	w.Must(d.move(w.hers, w.his))
	return d
}

// The attack of carelessness: a device is moved, is off, and the fleet that it believes is deleted. It comes months later and is let go all the same.
func TestADeletedFleetLetsItsDevicesGo(t *testing.T) {
	w := newWorld(t)
	d := w.leaver(1)
	here, there := w.uuid(w.hers), w.uuid(w.his)
	if s := w.status(); len(s.Leaving) != 1 || s.Leaving[0].UUID != d.uuid {
		t.Errorf("who has still to leave: %+v", s.Leaving)
	}
	w.remove(w.hers)
	before := w.expire(w.hers) // what was signed for days
	w.trust = w.process()
	// Bob makes a fleet under the uuid of the one that is gone: it is not the one that the device believes.
	w.Exec(`UPDATE application SET uuid = ? WHERE id = ?`, here, w.FleetRow(w.bob, "imitated", "0123456789abcdef0123456789abcdef"))
	leave, err := d.letGo(here)
	if err != nil || leave.To != there {
		t.Fatalf("it may go to %+v: %v", leave, err)
	}
	if after := w.Number(`SELECT max(version) FROM trust_file WHERE application = ? AND role = 'timestamp'`, w.hers); after <= before {
		t.Error("nothing was signed anew")
	}
	bundle, err := w.trust.Bundle(t.Context(), d.by, d.uuid, api.TrustHave{Nonce: "0123456789abcdef", Fleet: there})
	w.Must(err)
	if len(bundle.Roots) == 0 || tuf.Digest(bundle.Roots[0]) != leave.Root {
		t.Fatal("the other fleet's first root is another")
	}
	d.trusted, err = tuf.Open(there, bundle.Roots[0])
	w.Must(err)
	d.uuidOfFleet, d.counter = there, 0
	if _, err := d.check(w.trust, commitOf(4)); err != nil {
		t.Fatalf("in the other fleet: %v", err)
	}
	// A stranger learns nothing of the fleet that is gone.
	other := w.device(w.his, 2)
	other.equip()
	ask := other.have("")
	ask.Fleet = here
	if bundle, err := w.trust.Bundle(t.Context(), other.by, other.uuid, ask); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a stranger: %+v %v", bundle, err)
	}
	// Once the device says that it believes the other fleet, nothing is kept any more.
	d.report(here) // late, of before
	if w.kept(w.hers) == 0 {
		t.Error("forgotten before the device has come")
	}
	d.report(there)
	if n := w.kept(w.hers); n != 0 {
		t.Errorf("%d rows are kept of a fleet that nobody has to leave", n)
	}
}

// Nothing is kept for nobody: not where no device has to leave, nor after the last one was deleted.
func TestAGoneFleetIsForgotten(t *testing.T) {
	w := newWorld(t)
	d := w.leaver(1)
	d.report(w.uuid(w.his))
	w.remove(w.hers)
	if n := w.kept(w.hers); n != 0 {
		t.Errorf("%d rows are kept of a fleet that nobody has to leave", n)
	}
	w = newWorld(t)
	d = w.leaver(1)
	w.remove(w.hers)
	w.Must(w.trust.ForgetGone(t.Context()))
	if w.kept(w.hers) == 0 {
		t.Fatal("forgotten while a device has to leave: the test shows nothing")
	}
	w.Exec(`DELETE FROM device WHERE id = ?`, d.by.Device)
	w.Must(w.trust.ForgetGone(t.Context()))
	if n := w.kept(w.hers); n != 0 {
		t.Errorf("%d rows are kept for a device that is deleted", n)
	}
}

// Devices ask at the same time while their fleet is deleted: each gets its word, before or after.
func TestAFleetIsDeletedWhileDevicesLeave(t *testing.T) {
	w := newWorld(t)
	var boards []*board
	for n := range 4 {
		boards = append(boards, w.leaver(1+n))
	}
	here, there := w.uuid(w.hers), w.uuid(w.his)
	done := make(chan error)
	for _, d := range boards {
		go func() {
			leave, err := d.letGo(here)
			if err == nil && leave.To != there {
				err = errors.New("it may go to " + leave.To)
			}
			done <- err
		}()
	}
	w.remove(w.hers)
	for range boards {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	// What they have is of the fleet that they leave: it says nothing about the files of the one that they go to.
	if n := w.Number(`SELECT count(*) FROM trust_file WHERE application = ?`, w.his); n > 100 {
		t.Errorf("the other fleet's files were made anew: there are %d", n)
	}
}

// An owner's word is kept as well, and holds as long as the owner said. A device that has still to follow it is sent nowhere else.
func TestAnOwnersDeletedFleetLetsItsDevicesGo(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, "")
	w.Must(err)
	d.report(w.uuid(w.hers))
	here, there := w.uuid(w.hers), w.uuid(w.his)
	o := w.owner(w.hers, api.ApprovalBuilder, 1)
	root, err := w.trust.File(t.Context(), w.bob, there, "root.json")
	w.Must(err)
	o.leaves = []api.TrustLeave{{Device: d.uuid, To: there, Root: tuf.Digest(root)}}
	_, err = o.upload(o.root(2, 1, 1), o.targets(1, 1))
	w.Must(err)
	w.Must(d.move(w.hers, w.his))
	w.remove(w.hers)
	third := w.FleetRow(w.bob, "third", "00000000000000000000000000000003")
	if err := d.move(w.his, third); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a device that could follow nobody there is sent on: %v", err)
	}
	w.expire(w.hers)
	if leave, err := d.letGo(here); err != nil || leave.To != there {
		t.Errorf("it may go to %+v: %v", leave, err)
	}
	d.report(there)
	if n := w.kept(w.hers); n != 0 {
		t.Errorf("%d rows are kept", n)
	}
	if err := d.move(w.his, third); err != nil {
		t.Errorf("a device that has come is sent on: %v", err)
	}
}

func TestAReportNamesAFleet(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	for _, fleet := range []string{"x", "0123456789ABCDEF0123456789ABCDEF", "0123456789abcdef0123456789abcdef0"} {
		if err := w.trust.Report(t.Context(), d.by, d.uuid, api.TrustReport{State: api.TrustVerified, Fleet: fleet}); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%q: %v", fleet, err)
		}
	}
}
