package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
	"github.com/roadstead-io/roadstead/internal/agent/trust/trusttest"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// Somebody who stands before a device sees what it believes, and brings it a root when its files are lost. What it accepted before is not forgotten
// by that.
func TestTrustByHand(t *testing.T) {
	v, stop := begun(t, nil)
	state := filepath.Join(v.dir, "state")
	seen, err := trust.Peek(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fleetUUID, "version 1, held by the owner", "need the word of builder", commitA, "log.example.com"} {
		if text := seen.Describe(); !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	if _, _, err := trust.Import(state, v.fleet.Root(1)); !errors.Is(err, trust.ErrRunning) {
		t.Errorf("import while the agent runs: %v", err)
	}
	ours, err := seen.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	if same, err := seen.Compare(ours); !same || err != nil {
		t.Errorf("its own checkpoint: %v, %v", same, err)
	}
	other := trusttest.NewLog(v.fleet.Log.Origin)
	other.Add([]byte("another leaf"))
	if _, err := seen.Compare(other.Checkpoint()); err == nil || !strings.Contains(err.Error(), "another history") {
		t.Errorf("a second history: %v", err)
	}
	other.Add([]byte("one more"))
	if same, err := seen.Compare(other.Checkpoint()); same || err != nil {
		t.Errorf("another size: %v, %v", same, err)
	}
	if _, err := seen.Compare(trusttest.NewLog("elsewhere.example.com").Checkpoint()); err == nil {
		t.Error("a checkpoint of another log fits")
	}
	stop()

	if _, _, err := trust.Import(state, []byte("{}")); err == nil {
		t.Error("took what is no root")
	}
	stranger := trusttest.New(otherUUID)
	stranger.Rotate()
	if _, _, err := trust.Import(state, stranger.Root(1)); err == nil || !strings.Contains(err.Error(), "fleet") {
		t.Errorf("the root of another fleet: %v", err)
	}
	forged := trusttest.New(fleetUUID)
	forged.Owners = []string{"thief"}
	forged.Rotate()
	forged.Rotate()
	if _, _, err := trust.Import(state, forged.Root(2)); err == nil || !strings.Contains(err.Error(), "root version 2") {
		t.Errorf("a root that the one before did not sign: %v", err)
	}
	v.fleet.Rotate("next owner")
	if _, version, err := trust.Import(state, v.fleet.Root(2)); err != nil || version != 2 {
		t.Errorf("the next root: version %d, %v", version, err)
	}
	if err := os.RemoveAll(v.trustDir()); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Peek(state); err == nil {
		t.Error("status finds nothing wrong with lost files")
	}
	if _, _, err := trust.Import(state, v.fleet.Root(1)); err == nil || !strings.Contains(err.Error(), "at least version 2") {
		t.Errorf("an older root after the files were lost: %v", err)
	}
	if _, _, err := trust.Import(state, v.fleet.Root(2)); err != nil {
		t.Fatal(err)
	}
	v.start()
	v.fleet.List(commitB, v.fleet.Document(commitB, releaseOf(target(commitB, 2), commitB)), 7)
	v.fleet.Publish()
	v.w.setTarget(target(commitB, 2))
	v.refuses("a", "rollback", "counter of release "+commitB)
	v.release(commitB, 2)
	v.runs("b")
}

// A device that was unverified verifies once it was brought a root.
func TestImportOnAnUnverifiedDevice(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	stop := d.run(t)
	roletest.Eventually(t, "registered", registered(w))
	stop()
	state := filepath.Join(d.dir, "state")
	if _, err := trust.Peek(state); !errors.Is(err, trust.ErrUnverified) {
		t.Errorf("status: %v", err)
	}
	fleet := trusttest.New(fleetUUID)
	fleet.Rotate()
	if _, _, err := trust.Import(state, fleet.Root(1)); err != nil {
		t.Fatal(err)
	}
	who, err := identity.Read(state)
	if err != nil || who.Trust == nil || who.Trust.Fleet != fleetUUID {
		t.Errorf("the mark is %+v, %v", who.Trust, err)
	}
}
