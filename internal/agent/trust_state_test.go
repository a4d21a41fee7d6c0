package agent_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/agent/trust/trusttest"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// again starts a device anew after something was done to its files.
func (v *verifying) again(stop func(), do func()) (stopAgain func()) {
	v.t.Helper()
	stop()
	do()
	return v.start()
}

// begun is a device whose agent can be stopped.
func begun(t *testing.T, change func(*trusttest.Fleet)) (v *verifying, stop func()) {
	t.Helper()
	v = prepared(t, change)
	stop = v.start()
	v.release(commitA, 1)
	v.runs("a")
	return v, stop
}

// Files of trust that are missing, empty, unreadable, corrupt or old never make a device run anything new, and never make it run nothing.
func TestFilesOfTrust(t *testing.T) {
	type files struct{ a, b string }
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, f files)
		says string // empty: one whole copy is enough
	}{
		{"one missing", func(t *testing.T, f files) { remove(t, f.a) }, ""},
		{"the other missing", func(t *testing.T, f files) { remove(t, f.b) }, ""},
		{"one corrupt", func(t *testing.T, f files) { flip(t, f.a) }, ""},
		{"the other corrupt", func(t *testing.T, f files) { flip(t, f.b) }, ""},
		{"one empty", func(t *testing.T, f files) { write(t, f.a, nil) }, ""},
		{"one unreadable", func(t *testing.T, f files) { remove(t, f.a); folder(t, f.a) }, ""},
		{"both missing", func(t *testing.T, f files) { remove(t, f.a); remove(t, f.b) }, "no such file"},
		{"the whole directory missing", func(t *testing.T, f files) {
			if err := os.RemoveAll(filepath.Dir(filepath.Dir(f.a))); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
		{"both empty", func(t *testing.T, f files) { write(t, f.a, nil); write(t, f.b, nil) }, "is empty"},
		{"both corrupt", func(t *testing.T, f files) { flip(t, f.a); flip(t, f.b) }, "is corrupt"},
		{"both unreadable", func(t *testing.T, f files) { remove(t, f.a); remove(t, f.b); folder(t, f.a); folder(t, f.b) }, "is a directory"},
		{"both huge", func(t *testing.T, f files) { huge(t, f.a); huge(t, f.b) }, "is larger than"},
		{"another fleet's", func(t *testing.T, f files) { foreignState(t, f.a); foreignState(t, f.b) }, "is about the fleet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v, stop := begun(t, nil)
			f := files{filepath.Join(v.trustDir(), "state-a.json"), filepath.Join(v.trustDir(), "state-b.json")}
			saved := [2][]byte{read(t, f.a), read(t, f.b)}
			stop = v.again(stop, func() { tt.do(t, f) })
			v.build(commitB, 2)
			v.w.setTarget(target(commitB, 2))
			if tt.says == "" {
				v.runs("b")
				if string(read(t, f.a)) != string(read(t, f.b)) {
					t.Error("the bad copy was not made anew")
				}
				return
			}
			roletest.Eventually(t, "it says why: "+tt.says, func() bool { return v.log.has(tt.says) && v.w.logged("Could not move to new release") })
			roletest.Eventually(t, "it reports that it waits", func() bool { return v.w.said().State == api.TrustWaiting })
			if why := v.w.said().Rejection.Got; strings.Contains(why, "\n") || !strings.Contains(why, "trust import") {
				t.Errorf("the reason is no line of a table that says what to do: %q", why)
			}
			if got := v.running(); !slices.Equal(got, []string{"web a"}) {
				t.Errorf("runs %v, want A still", got)
			}
			stop = v.again(stop, func() {}) // and so it is at the next start
			roletest.Eventually(t, "it says why again", func() bool { return strings.Count(v.log.String(), tt.says) > 1 })
			if got := v.running(); !slices.Equal(got, []string{"web a"}) {
				t.Errorf("runs %v after another start, want A still", got)
			}
			for i, path := range []string{f.a, f.b} { // the files come back, and it goes on without a start
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				write(t, path, saved[i])
			}
			v.runs("b")
			stop()
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func folder(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, path string) {
	t.Helper()
	b := read(t, path)
	b[len(b)/2] ^= 1
	write(t, path, b)
}

func huge(t *testing.T, path string) {
	t.Helper()
	if err := os.Truncate(path, 100<<20); err != nil {
		t.Fatal(err)
	}
}

func foreignState(t *testing.T, path string) {
	t.Helper()
	_, body, _ := strings.Cut(string(read(t, path)), "\n")
	body = strings.Replace(body, `"fleet":"`+fleetUUID, `"fleet":"`+otherUUID, 1)
	write(t, path, []byte(digest(body)+"\n"+body))
}

// A copy of the files from before is whole, and does not count.
func TestOldFilesOfTrustAreARollback(t *testing.T) {
	v, stop := begun(t, nil)
	a, b := filepath.Join(v.trustDir(), "state-a.json"), filepath.Join(v.trustDir(), "state-b.json")
	old := read(t, a)
	v.release(commitB, 2)
	v.runs("b")
	stop = v.again(stop, func() { write(t, a, old); write(t, b, old) })
	defer stop()
	v.w.setTarget(target(commitA, 1))
	roletest.Eventually(t, "it says why", func() bool { return v.log.has("are older") })
	v.runs("b")
}

// A disk without room: what cannot be remembered is not accepted.
func TestNoRoomForTrust(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small disk")
	}
	v, stop := begun(t, nil)
	stop()
	dir := filepath.Dir(v.trustDir())
	kept := map[string][]byte{}
	for _, name := range []string{"state-a.json", "state-b.json"} {
		kept[name] = read(t, filepath.Join(v.trustDir(), name))
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	folder(t, v.trustDir())
	for name, b := range kept {
		write(t, filepath.Join(v.trustDir(), name), b)
	}
	filler := filepath.Join(dir, "filler")
	full := make([]byte, 256<<10)
	for len(full) > 0 && os.WriteFile(filler, full, 0o600) != nil {
		full = full[:len(full)-4096]
	}
	stop = v.start()
	defer stop()
	v.release(commitB, 2)
	roletest.Eventually(t, "it says why", func() bool { return v.log.has("no space left on device") && v.w.logged("no space left on device") })
	v.asked(2)
	if got := v.running(); !slices.Equal(got, []string{"web a"}) {
		t.Errorf("runs %v, want A still", got)
	}
	remove(t, filler)
	v.runs("b")
}

// Who is in the way for a moment answers under the tag of the server's own target state. Once they are gone, "not modified" is not the end of it.
func TestTagOfALieIsNotKept(t *testing.T) {
	for name, lie := range map[string]func() string{
		"refused": func() string {
			told := target(commitB, 2)
			releaseOf(told, commitB).Services["web"].Image = ref(3)
			return string(made(json.Marshal(told)))
		},
		"unlisted":  func() string { return string(made(json.Marshal(target(commitC, 3)))) },
		"malformed": func() string { return `{"apps":7}` },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVerifying(t, nil)
			v.build(commitB, 2)
			v.w.mu.Lock()
			v.w.tag = `W/"the server's"`
			for _, k := range v.w.devices {
				k.target = lie()
			}
			v.w.mu.Unlock()
			roletest.Eventually(t, "it refuses", func() bool { return v.log.has("the target state is rejected") })
			v.w.setTarget(target(commitB, 2))
			v.runs("b")
			polls, full := v.w.polls(), v.w.fulls()
			roletest.Eventually(t, "three polls more", func() bool { return v.w.polls() >= polls+3 })
			if now := v.w.fulls(); now > full+1 { // the one that was accepted may have been counted after it ran
				t.Errorf("it fetched %d whole target states that did not change", now-full)
			}
		})
	}
}

func (w *world) fulls() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.full
}

// At a start without the server a device runs what it accepted, and nothing that somebody put in its place.
func TestRememberedTargetsAreChecked(t *testing.T) {
	v, stop := begun(t, nil)
	state := filepath.Join(v.dir, "state", "state.json")
	v.w.setAnswer(func(r *http.Request) int {
		if strings.HasSuffix(r.URL.Path, "/state") || strings.HasSuffix(r.URL.Path, "/bundle") {
			return 503
		}
		return 0
	})
	stop = v.again(stop, func() { v.engine.End(v.box(t)) })
	v.runs("a") // started again, from what was accepted
	stop()
	text := strings.Replace(string(read(t, state)), ref(1), ref(3), 1)
	write(t, state, []byte(text))
	stop = v.start()
	defer stop()
	roletest.Eventually(t, "it says why", func() bool { return v.log.has("image of service web: digest") })
	if got := v.running(); !slices.Equal(got, []string{"web a"}) {
		t.Errorf("runs %v, want A still", got)
	}
	for _, b := range v.engine.Boxes() {
		if strings.Contains(b.Image, ref(3)) {
			t.Errorf("made a container of %s", b.Image)
		}
	}
}

func (v *verifying) box(t *testing.T) string {
	t.Helper()
	for name := range v.engine.Boxes() {
		return v.engine.Boxes()[name].Name
	}
	t.Fatal("there is no container")
	return ""
}

// A device that was off for 18 months, while the root was rotated three times and everything that it knew expired.
func TestRootRotatedWhileOff(t *testing.T) {
	v, stop := begun(t, nil)
	const month = 30 * 24 * time.Hour
	stop = v.again(stop, func() {
		for n, owners := range [][]string{{"second"}, {"third", "fourth"}, {"fifth"}} {
			v.clock.set(time.Duration(n+1)*6*month, 18*month)
			v.fleet.Rotate(owners...)
		}
		v.build(commitB, 2)
		v.w.setTarget(target(commitB, 2))
	})
	v.runs("b")
	roletest.Eventually(t, "it reports the root", func() bool { return v.w.said().Versions[api.TrustRoot] == 4 })
	stop()
	mark, err := identity.Read(filepath.Join(v.dir, "state"))
	if err != nil || mark.Trust == nil || mark.Trust.Root != 4 || mark.Trust.Counter == 0 {
		t.Errorf("identity.json has the mark %+v, %v", mark.Trust, err)
	}
}

// Forty roots are more than one answer brings.
func TestManyRoots(t *testing.T) {
	v, stop := begun(t, nil)
	stop = v.again(stop, func() {
		for range 40 {
			v.fleet.Rotate()
		}
	})
	defer stop()
	v.release(commitB, 2)
	v.runs("b")
}

// A clock that is wrong neither lets in what is old nor locks out what is new.
func TestWrongClocks(t *testing.T) {
	const year = 365 * 24 * time.Hour
	t.Run("1970", func(t *testing.T) {
		v, stop := begun(t, nil)
		files, versions := v.fleet.Snapshot()
		v.clock.set(30*24*time.Hour, 30*24*time.Hour) // a month later
		v.release(commitB, 2)
		v.runs("b")
		stop = v.again(stop, func() { v.clock.set(30*24*time.Hour, -56*year) })
		defer stop()
		v.fleet.Restore(files, versions) // last month's metadata, which such a clock would find fresh
		v.w.setTarget(target(commitA, 1))
		roletest.Eventually(t, "it refuses", func() bool { return v.w.said().Rejection != nil })
		v.runs("b")
		v.release(commitC, 3) // what is new needs no better clock
		v.runs("c")
	})
	t.Run("2040", func(t *testing.T) {
		v, stop := begun(t, nil)
		stop = v.again(stop, func() { v.clock.set(0, 14*year) })
		v.release(commitB, 2)
		v.refuses("a", "expired")
		v.clock.set(0, 0) // it gets the time
		v.runs("b")
		stop()
	})
}

// Metadata of last month were genuine once, and may even be valid still.
func TestReplayedMetadata(t *testing.T) {
	v := newVerifying(t, func(f *trusttest.Fleet) { f.Lives = 1000 * time.Hour })
	files, versions := v.fleet.Snapshot()
	v.clock.set(30*24*time.Hour, 30*24*time.Hour)
	v.release(commitB, 2)
	v.runs("b")
	v.fleet.Restore(files, versions)
	v.w.setTarget(target(commitA, 1))
	v.refuses("b", "rollback", "timestamp")
}

// A database that was restored from an old backup: devices keep what they run; a new release with a new counter is the way on.
func TestRestoredDatabase(t *testing.T) {
	v := newVerifying(t, nil)
	backup, versions := v.fleet.Snapshot()
	v.clock.set(time.Hour, time.Hour)
	v.release(commitB, 2)
	v.runs("b")
	v.clock.set(2*time.Hour, 2*time.Hour)
	v.fleet.Restore(backup, versions)
	v.fleet.Forget(commitB)
	v.fleet.Publish() // the server goes on: newer files, in which the old release is the newest
	v.w.setTarget(target(commitA, 1))
	v.refuses("b", "rollback", "counter of release "+commitA)
	v.build(commitA, 1) // the owner lists it anew
	v.runs("a")
}

// builder+owner: a release waits until the owner has signed it.
func TestOwnerSigns(t *testing.T) {
	for _, approval := range []api.Approval{api.ApprovalBoth, api.ApprovalOwner} {
		t.Run(string(approval), func(t *testing.T) {
			v := prepared(t, func(f *trusttest.Fleet) { f.Approval = approval })
			v.start()
			v.release(commitA, 1)
			roletest.Eventually(t, "it waits for the signature", func() bool {
				s := v.w.said()
				return s.State == api.TrustWaiting && s.Rejection != nil && s.Rejection.Reason == "unlisted"
			})
			if got := v.running(); len(got) != 0 {
				t.Errorf("runs %v, which nobody signed", got)
			}
			v.fleet.Sign(commitA)
			v.fleet.Publish()
			v.runs("a")
			roletest.Eventually(t, "it says that it verified", func() bool { s := v.w.said(); return s.State == api.TrustVerified && s.Approval == approval })
		})
	}
}

// The first release that a device refuses is reported as rejected, though it runs nothing yet.
func TestFirstReleaseRejected(t *testing.T) {
	v := prepared(t, nil)
	v.start()
	v.build(commitA, 1)
	v.w.setTarget(target(commitA, 2))
	v.refuses("", "digest")
	roletest.Eventually(t, "the release is reported as rejected", func() bool {
		app := v.w.reported().Apps[fleetUUID]
		return app != nil && app.Releases[commitA] != nil && app.Releases[commitA].UpdateStatus == "rejected"
	})
	if got := v.running(); len(got) != 0 {
		t.Errorf("runs %v", got)
	}
}

// Nothing is asked for while nothing changes, until half of the life of the director's statement is over.
func TestUnchangedPollsAskForNothing(t *testing.T) {
	v := newVerifying(t, nil)
	asked, polls := len(v.fleet.Asked()), v.w.polls()
	roletest.Eventually(t, "three polls", func() bool { return v.w.polls() >= polls+3 })
	if now := len(v.fleet.Asked()); now != asked {
		t.Errorf("asked %d times for metadata that did not change", now-asked)
	}
	v.clock.set(4*24*time.Hour, 4*24*time.Hour)
	roletest.Eventually(t, "the statement is renewed", func() bool { return len(v.fleet.Asked()) > asked })
	roletest.Eventually(t, "and what is old in the rest stays good", func() bool { return v.w.said().State == api.TrustVerified })
	// A variable of a service is nobody's to sign, and needs no metadata.
	asked = len(v.fleet.Asked())
	told := target(commitA, 1)
	releaseOf(told, commitA).Services["web"].Environment = map[string]string{"A": "changed"}
	v.w.setTarget(told)
	roletest.Eventually(t, "the variable is there", func() bool {
		for _, b := range v.engine.Boxes() {
			if b.State == "running" && slices.Contains(b.Spec.Config.Env, "A=changed") {
				return true
			}
		}
		return false
	})
	if now := len(v.fleet.Asked()); now != asked {
		t.Errorf("asked %d times for metadata because of a variable", now-asked)
	}
}

func (w *world) polls() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.states
}

// A device goes to another fleet when its own lets it, and to no other root than it says.
func TestTransfer(t *testing.T) {
	v := newVerifying(t, nil)
	there := trusttest.New(otherUUID)
	there.Now = v.clock.ofServer
	there.Owners = []string{"somebody else"}
	there.Rotate()
	there.Rotate("their next")
	told := target(commitC, 3)
	there.Build(commitC, releaseOf(told, commitC))
	there.Publish()
	v.w.mu.Lock()
	v.w.fleets[otherUUID] = there
	v.w.mu.Unlock()
	told.Apps = map[string]*api.AppTarget{otherUUID: told.Apps[fleetUUID]}
	v.w.setTarget(told)
	v.refuses("a", "fleet", "does not let this device go")

	let := func(root string) {
		v.fleet.Alter(func(f *trusttest.Fleet) {
			f.Transfers = []api.TrustLeave{{Device: v.uuid(), To: otherUUID, Root: root}}
		})
		v.fleet.Publish()
	}
	let(digest("another root"))
	v.refuses("a", "digest", "first root of fleet "+otherUUID)
	let(digest(string(there.Root(1))))
	v.runs("c")
	roletest.Eventually(t, "it says what it runs", func() bool { s := v.w.said(); return s.State == api.TrustVerified && s.Commit == commitC })
	if _, err := os.Stat(v.trustDir()); err == nil {
		t.Error("the files of the fleet before are still there")
	}
	// Back again, with the same permission in return: but not to an older release than it ran there.
	there.Alter(func(f *trusttest.Fleet) {
		f.Transfers = []api.TrustLeave{{Device: v.uuid(), To: fleetUUID, Root: digest(string(v.fleet.Root(1)))}}
	})
	there.Publish()
	v.fleet.List(commitB, v.fleet.Document(commitB, releaseOf(target(commitB, 2), commitB)), 5)
	v.fleet.Publish()
	v.w.setTarget(target(commitB, 2))
	v.refuses("c", "rollback", "counter of release "+commitB)
	v.release(commitB, 2)
	v.runs("b")
}

func digest(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
