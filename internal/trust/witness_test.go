package trust_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tlog"
)

// witness signs the newest checkpoint under a name, as a user brings it.
func (w *world) witness(by access.Caller, name string) (string, error) {
	w.Helper()
	c, _ := w.checkpoint()
	seed := sha256.Sum256([]byte(name))
	key := ed25519.NewKeyFromSeed(seed[:])
	signer, err := tlog.NewWitness(name, key, time.Now)
	w.Must(err)
	signed, err := tlog.Cosign(c.Checkpoint, signer)
	w.Must(err)
	whole := tlog.WitnessKey(name, key.Public().(ed25519.PublicKey))
	return whole, w.trust.Book.Cosign(w.Context(), by, api.TrustCosignature{Witness: whole, Checkpoint: signed})
}

func (w *world) witnesses() (list []api.TrustWitness) {
	w.Helper()
	w.Must(w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
		list, err = w.trust.Book.Witnesses(w.Context(), tx)
		return err
	}))
	return list
}

func (w *world) removeWitness(name string) error {
	w.Helper()
	return w.DB.Write(w.Context(), func(tx *db.Tx) error {
		_, err := w.trust.Book.RemoveWitness(w.Context(), tx, access.Itself(), name)
		return err
	})
}

// A user brings two witnesses, at once or one by one, and no third, until the operator decides.
func TestAUserBringsFewWitnesses(t *testing.T) {
	w := newWorld(t)
	w.device(w.hers, 1).equip()
	var wait sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wait.Go(func() { _, errs[i] = w.witness(w.alice, fmt.Sprintf("alice%d.example.com", i)) })
	}
	wait.Wait()
	refused := 0
	for _, err := range errs {
		if err != nil {
			refused++
			if coded := api.AsError(err); coded.Code != api.TooLarge || !strings.Contains(coded.Text, "witness") || !strings.Contains(coded.Text, ".example.com+") {
				t.Errorf("a third witness: %v", err)
			}
		}
	}
	if list := w.witnesses(); refused != 4 || len(list) != 2 || list[0].By != "alice" || list[0].Signed == 0 {
		t.Fatalf("%d were refused, and there are %+v", refused, list)
	}
	if _, err := w.witness(w.bob, "bob.example.com"); err != nil {
		t.Errorf("bob's own: %v", err)
	}
	if n := w.Number(`SELECT count(*) FROM audit_entry WHERE act = 'trust.witness.add'`); n != 3 {
		t.Errorf("%d entries in the audit log", n)
	}

	mine := w.witnesses()[0].Name
	name, _, _ := strings.Cut(mine, "+")
	if err := w.removeWitness("nobody.example.com"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("one that there is not: %v", err)
	}
	w.Must(w.removeWitness(name))
	if err := w.removeWitness(mine); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("one that is removed: %v", err)
	}
	if c, _ := w.checkpoint(); slices.Contains(c.Witnesses, mine) || len(c.Witnesses) != 2 {
		t.Errorf("the checkpoint has the witnesses %q", c.Witnesses)
	}
	if _, err := w.witness(w.bob, name); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("one that was removed comes back: %v", err)
	}
	if n := w.Number(`SELECT count(*) FROM audit_entry WHERE act = 'trust.witness.remove'`); n != 1 {
		t.Errorf("%d entries in the audit log", n)
	}
}

// The attack: many users fill a checkpoint, so that the witness which was always there gets no place.
func TestAWitnessKeepsItsPlace(t *testing.T) {
	w := newWorld(t)
	w.device(w.hers, 1).equip()
	_, err := w.witness(w.alice, "always.example.com")
	w.Must(err)
	before, _ := w.checkpoint()
	w.target(w.hers, w.release(w.hers, 1)) // the log grows
	d := w.device(w.hers, 2)
	d.equip()
	_, err = d.check(w.trust, commitOf(1))
	w.Must(err)
	if now, _ := w.checkpoint(); now.Checkpoint == before.Checkpoint {
		t.Fatal("the log did not grow")
	}
	for i := range 11 {
		by := w.Visitor(fmt.Sprintf("crowd%d", i))
		for j := range 2 {
			_, err := w.witness(by, fmt.Sprintf("crowd%d-%d.example.com", i, j))
			if full := i == 10; full != errors.Is(err, api.ErrTooLarge) || !full && err != nil {
				t.Fatalf("%d of user %d: %v", j, i, err)
			}
		}
	}
	always, err := w.witness(w.alice, "always.example.com")
	if err != nil {
		t.Fatalf("the first witness finds no place: %v", err)
	}
	if c, _ := w.checkpoint(); len(c.Witnesses) != 20 || !slices.Contains(c.Witnesses, always) || slices.ContainsFunc(c.Witnesses, func(s string) bool { return strings.HasPrefix(s, "crowd9-1.") }) {
		t.Errorf("the checkpoint has %q", c.Witnesses)
	}
	if _, err := w.witness(w.alice, "always.example.com"); err != nil {
		t.Errorf("once more: %v", err)
	}
}
