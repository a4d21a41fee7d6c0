package trust_test

import (
	"bytes"

	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

func (w *world) leaves(by access.Caller, start, end int64) (list []api.TrustLeaf) {
	w.Helper()
	w.Must(w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
		list, err = w.trust.Book.Leaves(w.Context(), tx, by, start, end)
		return err
	}))
	return list
}

func (w *world) checkpoint() (api.TrustCheckpoint, tlog.Checkpoint) {
	w.Helper()
	c, err := w.trust.Book.Checkpoint(w.Context())
	w.Must(err)
	open, _, err := tlog.Open(c.Checkpoint, c.Key)
	w.Must(err)
	return c, open
}

func TestTheLogTellsOnlyWhatOneMayRead(t *testing.T) {
	w := newWorld(t)
	w.target(w.hers, w.release(w.hers, 1))
	w.target(w.his, w.release(w.his, 1))
	for i, fleetID := range []int64{w.hers, w.his} {
		d := w.device(fleetID, i)
		d.equip()
		_, err := d.check(w.trust, commitOf(1))
		w.Must(err)
	}
	_, c := w.checkpoint()
	for who, by := range map[string]access.Caller{"alice": w.alice, "bob": w.bob} {
		list := w.leaves(by, 0, 1000)
		if int64(len(list)) != c.Size || c.Size != 6 { // a root, a policy and a release of each
			t.Fatalf("%s sees %d of %d leaves", who, len(list), c.Size)
		}
		own := 0
		for _, l := range list {
			if l.Entry == nil {
				continue
			}
			var e api.TrustEntry
			w.Must(json.Unmarshal(l.Entry, &e))
			if e.Fleet != fleetUUID(by.User) || !strings.HasPrefix(l.Hash, "") {
				t.Errorf("%s sees %+v", who, e)
			}
			own++
		}
		if own != 3 {
			t.Errorf("%s sees %d entries, want their three", who, own)
		}
	}
	w.Must(w.DB.Read(t.Context(), func(tx *db.Tx) error {
		in, err := w.trust.Book.Inclusion(t.Context(), tx, 2, c.Size)
		if err != nil {
			return err
		}
		in.Entry = w.leaves(w.alice, 0, 1000)[2].Entry
		if in.Entry == nil {
			in.Entry = w.leaves(w.bob, 0, 1000)[2].Entry
		}
		if err := tlog.CheckInclusion(c, in); err != nil {
			return err
		}
		if _, err := w.trust.Book.Inclusion(t.Context(), tx, 2, c.Size+1); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("beyond the log: %v", err)
		}
		_, err = w.trust.Book.Consistency(t.Context(), tx, 2, c.Size)
		return err
	}))
	if _, err := w.trust.Proof(t.Context(), w.bob, w.uuid(w.hers), commitOf(1), "builder", 0); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("bob asks for alice's proof: %v", err)
	}
	p, err := w.trust.Proof(t.Context(), w.alice, w.uuid(w.hers), commitOf(1), "builder", 0)
	w.Must(err)
	if _, err := tlog.Check(*p, w.logKey(), tlog.Checkpoint{}); err != nil {
		t.Errorf("the proof: %v", err)
	}
}

// Who makes a fleet under the uuid of one that is gone reads nothing of what was said about that.
func TestAnotherFleetOfThatNameReadsNothing(t *testing.T) {
	w := newWorld(t)
	w.target(w.hers, w.release(w.hers, 1))
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, commitOf(1))
	w.Must(err)
	shown := func() (n int) {
		for _, l := range w.leaves(w.bob, 0, 1000) {
			if l.Entry != nil {
				n++
			}
		}
		return n
	}
	uuid := w.uuid(w.hers)
	w.Pass(time.Second)
	w.Exec(`UPDATE application SET uuid = ? WHERE id = ?`, strings.Repeat("d", 32), w.hers) // as good as deleted
	w.Write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE application SET uuid = ?, created_at = ? WHERE id = ?`, uuid, tx.NowText(), w.his)
		return err
	})
	if n := shown(); n != 0 {
		t.Errorf("%d entries of another's fleet are shown", n)
	}
	if err := w.trust.Book.Extend(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (w *world) logKey() api.TrustLogKey {
	w.Helper()
	key, err := w.trust.Book.Key(w.Context())
	w.Must(err)
	return key
}

// somebody with the log's key has shown a device another history.
func TestAnotherHistoryIsKept(t *testing.T) {
	w := newWorld(t)
	w.target(w.hers, w.release(w.hers, 1))
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, commitOf(1))
	w.Must(err)
	c, _ := w.checkpoint()
	if err := w.trust.Book.Gossip(t.Context(), d.by, c.Checkpoint); err != nil {
		t.Errorf("the log's own checkpoint: %v", err)
	}
	if err := w.trust.Book.Gossip(t.Context(), d.by, "rubbish\n\nrubbish"); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("rubbish: %v", err)
	}
	// The same size with other leaves, by a signer with the same key that knows nothing of them.
	var forged api.TrustExtended
	w.Must(w.twin(false)(t.Context(), "log", api.TrustExtension{Leaves: []string{strings.Repeat("ab", 32), strings.Repeat("cd", 32)}}, &forged))
	r := api.TrustReport{State: api.TrustVerified, Checkpoint: forged.Checkpoint}
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, r))
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, r))
	if err := w.trust.Book.Gossip(t.Context(), w.alice, forged.Checkpoint); !errors.Is(err, api.ErrConflict) {
		t.Errorf("another history: %v", err)
	}
	if n := w.Number(`SELECT count(*) FROM trust_evidence`); n != 1 {
		t.Errorf("kept %d times", n)
	}
	if n := w.Number(`SELECT count(*) FROM audit_entry WHERE act = 'trust.fork' AND thing_id = ?`, d.by.Device); n != 1 {
		t.Errorf("%d events", n)
	}
}

func TestAWitnessSigns(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	d.equip()
	c, _ := w.checkpoint()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte("w"), 32))
	witness, err := tlog.NewWitness("witness.example.com", key, time.Now)
	w.Must(err)
	signed, err := tlog.Cosign(c.Checkpoint, witness)
	w.Must(err)
	name := tlog.WitnessKey("witness.example.com", key.Public().(ed25519.PublicKey))
	if err := w.trust.Book.Cosign(t.Context(), w.alice, api.TrustCosignature{Witness: name, Checkpoint: c.Checkpoint}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("without its signature: %v", err)
	}
	w.Must(w.trust.Book.Cosign(t.Context(), w.alice, api.TrustCosignature{Witness: name, Checkpoint: signed}))
	c, _ = w.checkpoint()
	verifier, err := tlog.ParseWitness(name)
	w.Must(err)
	if _, by, err := tlog.Open(c.Checkpoint, c.Key, []note.Verifier{verifier}...); err != nil || len(by) != 1 || len(c.Witnesses) != 1 {
		t.Errorf("the checkpoint is signed by %v, %v: %v", by, c.Witnesses, err)
	}
}

// The database comes back from yesterday: devices know more than it does, and go on.
func TestADatabaseOfYesterday(t *testing.T) {
	w := newWorld(t)
	first := w.release(w.hers, 1)
	w.target(w.hers, first)
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, commitOf(1))
	w.Must(err)
	backup := w.backup()
	w.Pass(time.Second * 3) // what is signed in the lost day has other versions
	w.target(w.hers, w.release(w.hers, 2))
	_, err = d.check(w.trust, commitOf(2))
	w.Must(err)
	w.Pass(2 * time.Minute) // the signer has a clock of its own
	w.restore(backup)
	w.trust = w.process()
	w.release(w.hers, 3)
	w.target(w.hers, w.Number(`SELECT max(id) FROM "release"`))
	if _, err := d.check(w.trust, commitOf(3)); err != nil {
		t.Errorf("a release of after the restoration: %v", err)
	}
	w.target(w.hers, first)
	if _, err := d.check(w.trust, commitOf(1)); err != nil {
		t.Errorf("one of before: %v", err)
	}
	if lost := w.Number(`SELECT count(*) FROM trust_leaf WHERE entry IS NULL`); lost == 0 {
		t.Error("the log has lost no entry: the test shows nothing")
	}
	fresh := w.device(w.hers, 2)
	fresh.equip()
	if _, err := fresh.check(w.trust, commitOf(1)); err != nil {
		t.Errorf("a new device: %v", err)
	}
}

// What was published after the restoration is newer than what devices have of the lost day, but not each file: a device that has a newer one of
// some is helped all the same, and one that makes up versions drives those of the fleet no further.
func TestYesterdayWithNewsSince(t *testing.T) {
	w := newWorld(t)
	first := w.release(w.hers, 1)
	w.target(w.hers, first)
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, commitOf(1))
	w.Must(err)
	backup := w.backup()
	w.Pass(time.Second * 3)
	lost := beside(t, 1)
	w.target(w.hers, w.release(w.hers, lost))
	_, err = d.check(w.trust, commitOf(lost))
	w.Must(err)
	w.restore(backup)
	w.trust = w.process()
	w.Pass(time.Minute)
	third := w.release(w.hers, 3)
	w.target(w.hers, third)
	fresh := w.device(w.hers, 2)
	fresh.equip()
	if _, err := fresh.check(w.trust, commitOf(3)); err != nil { // which publishes
		t.Fatal(err)
	}
	w.Pass(time.Minute)
	if _, err := d.check(w.trust, commitOf(3)); err != nil {
		t.Errorf("a device that has what was lost: %v", err)
	}

	version := func() int64 { return w.Number(`SELECT max(version) FROM trust_file WHERE application = ?`, w.hers) }
	before := version()
	for range 20 {
		w.Pass(time.Second)
		made := d.have("")
		for role := range made.Versions {
			made.Versions[role] = w.Now().Unix() + 30
		}
		_, err := w.trust.Bundle(t.Context(), d.by, d.uuid, made)
		w.Must(err)
	}
	if after := version(); after-before > 2000 {
		t.Errorf("versions went from %d to %d for a device that makes them up", before, after)
	}
}

// beside finds a release whose listing is in the same bin as another one's.
func beside(t *testing.T, n int) int {
	t.Helper()
	bin := func(n int) string {
		path, err := tuf.ReleasePath(commitOf(n))
		if err != nil {
			t.Fatal(err)
		}
		return tuf.BinOf(path)
	}
	for other := n + 100; ; other++ {
		if bin(other) == bin(n) {
			return other
		}
	}
}

// tables whose rows a copy of the database keeps.
var tables = []string{"trust_fleet", "trust_file", "trust_document", "trust_pending", "trust_leaf", "trust_hash"}

// backup copies what this package owns.
func (w *world) backup() map[string]string {
	w.Helper()
	return map[string]string{"signed": w.text(`SELECT CAST(signed AS TEXT) FROM trust_log`), "checkpoint": w.text(`SELECT checkpoint FROM trust_log`), "made": w.copies("old_", "")}
}

// copies puts the rows of tables into others.
func (w *world) copies(to, from string) string {
	w.Helper()
	for _, table := range tables {
		if to != "" {
			w.Exec(`CREATE TABLE ` + to + table + ` AS SELECT * FROM ` + table)
			continue
		}
		w.Exec(`DELETE FROM ` + table)
		w.Exec(`INSERT INTO ` + table + ` SELECT * FROM ` + from + table)
	}
	return ""
}

func (w *world) restore(b map[string]string) {
	w.Helper()
	w.copies("", "old_")
	w.Exec(`UPDATE trust_log SET signed = CAST(? AS BIGINT), checkpoint = ?`, b["signed"], b["checkpoint"])
}

func (w *world) text(query string, args ...any) (s string) {
	w.Helper()
	w.Must(w.DB.Read(w.Context(), func(tx *db.Tx) error { return tx.QueryRowContext(w.Context(), query, args...).Scan(&s) }))
	return s
}

// A whole server comes back from a backup, which leaves the log out: it begins anew under another name, which the fleet's policy says, and devices go on.
func TestALogThatBeginsAnew(t *testing.T) {
	w := newWorld(t)
	w.target(w.hers, w.release(w.hers, 1))
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, commitOf(1))
	w.Must(err)
	before := w.logKey()
	w.trust = w.processWith(w.twin(true))
	w.target(w.hers, w.release(w.hers, 2))
	if _, err := d.check(w.trust, commitOf(2)); err != nil {
		t.Fatal(err)
	}
	if after := w.logKey(); after == before || d.key != after {
		t.Errorf("the log is %+v, was %+v; the device believes %+v", after, before, d.key)
	}
	if _, c := w.checkpoint(); c.Size != w.Number(`SELECT count(*) FROM trust_leaf`) {
		t.Errorf("the new log has %d leaves", c.Size)
	}
}
