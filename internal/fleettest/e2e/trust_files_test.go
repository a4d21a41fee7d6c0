package e2e_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// keptFiles are all files of the device's state, by their names below it.
func (s *siege) keptFiles(t *testing.T) map[string][]byte {
	t.Helper()
	kept := map[string][]byte{}
	dir := filepath.Join(s.dir, "state")
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		kept[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

// again ends the agent, does something to its files, and has it start anew. The device's own init starts it.
func (s *siege) again(t *testing.T, do func()) {
	t.Helper()
	// Stopped, it cannot write while its files are changed; killed then, it had no say in it.
	if out, err := s.exec(t, "sh", "-c", "kill -STOP $(cat /run/agent.pid)"); err != nil {
		t.Fatalf("stop the agent: %v: %s", err, out)
	}
	do()
	starts := strings.Count(s.log(t), "msg=starting")
	if out, err := s.exec(t, "sh", "-c", "kill -KILL $(cat /run/agent.pid)"); err != nil {
		t.Fatalf("kill the agent: %v: %s", err, out)
	}
	eventually(t, time.Minute, "the agent starts again", func() bool { return strings.Count(s.log(t), "msg=starting") > starts })
}

// harm is something that happens to the device's files of trust. The newest release waits to be run meanwhile.
type harm struct {
	name string
	do   func(a, b string) error
	says string // of the log; empty: one whole copy is enough
}

var harms = []harm{
	{"one copy missing", func(a, _ string) error { return os.Remove(a) }, ""},
	{"the other copy corrupt", func(_, b string) error { return flipByte(b) }, ""},
	{"both missing", func(a, b string) error { return errors.Join(os.Remove(a), os.Remove(b)) }, "no such file"},
	{"both corrupt", func(a, b string) error { return errors.Join(flipByte(a), flipByte(b)) }, "is corrupt"},
	{"one empty and one unreadable", func(a, b string) error {
		return errors.Join(os.Truncate(a, 0), os.Remove(b), os.Mkdir(b, 0o700))
	}, "is a directory"},
	{"the whole directory missing", func(a, _ string) error { return os.RemoveAll(filepath.Dir(filepath.Dir(a))) }, "no such file"},
}

func flipByte(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return os.WriteFile(path, b, 0o600)
}

// wrongFiles does harm to the files of trust, while a release waits that is genuine and new. It is not run, what ran runs, and the device says why; once the files
// are back, it goes on by itself.
func (s *siege) wrongFiles(t *testing.T) {
	a, b := s.copies()
	for _, h := range harms {
		t.Run(h.name, func(t *testing.T) {
			at := len(s.log(t))
			var kept map[string][]byte
			var after int
			s.again(t, func() {
				kept = s.keptFiles(t)
				if err := h.do(a, b); err != nil {
					t.Fatal(err)
				}
				if h.says != "" { // the news come while the files are bad
					after, _ = s.liar.tell(lie{})
					s.pin(t, s.third)
				}
			})
			if h.says == "" {
				eventually(t, time.Minute, "the copies are whole again", func() bool {
					one, err := os.ReadFile(a)
					two, other := os.ReadFile(b)
					return err == nil && other == nil && len(one) > 0 && string(one) == string(two)
				})
				s.unharmed(t)
				return
			}
			eventually(t, time.Minute, "the device reports that it waits", func() bool {
				r, ok := s.liar.said(after)
				return ok && r.State == api.TrustWaiting && r.Rejection != nil && r.Rejection.What == "files of trust"
			})
			if log := s.log(t)[at:]; !strings.Contains(log, h.says) || !strings.Contains(log, "the target state is rejected") {
				t.Errorf("the device's log does not say %q:\n%s", h.says, log)
			}
			s.unharmed(t)
			s.pin(t, s.second)
			s.restore(t, kept)
			s.calm(t)
		})
	}
}

// copies are the files that say what the device believes.
func (s *siege) copies() (a, b string) {
	dir := filepath.Join(s.dir, "state/trust", s.fleetUUID)
	return filepath.Join(dir, "state-a.json"), filepath.Join(dir, "state-b.json")
}

// restore puts both copies back.
func (s *siege) restore(t *testing.T, kept map[string][]byte) {
	t.Helper()
	a, b := s.copies()
	for _, path := range []string{a, b} {
		name, err := filepath.Rel(filepath.Join(s.dir, "state"), path)
		if err == nil {
			err = errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, kept[name], 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// lostFiles loses what says that the device verifies at all, and what it was told last. Whatever it makes of that, it runs what ran, and nothing that was changed.
func (s *siege) lostFiles(t *testing.T) {
	for _, name := range []string{"identity.json", "state.json"} {
		t.Run(name, func(t *testing.T) {
			at := len(s.log(t))
			var after int
			s.again(t, func() {
				if err := os.Remove(filepath.Join(s.dir, "state", name)); err != nil {
					t.Fatal(err)
				}
				// What the server tells now is good but for one thing.
				bad := liesAboutTargets[1]
				lie := bad.lie(s)
				lie.about = s.third
				after, _ = s.liar.tell(lie)
				s.pin(t, s.third)
			})
			s.rejects(t, after, at, "composition", "privileged")
			s.calm(t)
		})
	}
}

// fullDisk leaves no room for what the device would have to remember, nor what it keeps in reserve.
func (s *siege) fullDisk(t *testing.T) {
	at := len(s.log(t))
	filler := filepath.Join(s.dir, "state/filler")
	s.again(t, func() {
		if err := os.RemoveAll(filepath.Join(s.dir, "state/reserve")); err != nil {
			t.Fatal(err)
		}
		size := 4 << 20
		for size > 0 && os.WriteFile(filler, make([]byte, size), 0o600) != nil {
			size -= 4 << 10
		}
	})
	s.liar.tell(lie{})
	s.pin(t, s.third)
	eventually(t, time.Minute, "the device says that there is no room", func() bool {
		return strings.Contains(s.log(t)[at:], "no space left on device")
	})
	s.unharmed(t)
	s.again(t, func() {}) // nor is it run after a start
	_, polls := s.liar.tell(lie{})
	eventually(t, time.Minute, "it has polled twice more", func() bool { _, now := s.liar.tell(lie{}); return now >= polls+2 })
	s.unharmed(t)
	s.pin(t, s.second)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
}

// newRoots has the owner replace the root three times while the device is off. It follows, and runs what it ran.
func (s *siege) newRoots(t *testing.T) {
	s.down(t)
	for range 3 {
		s.owner.run("", "trust", "rotate", s.fleet, "--yes")
	}
	after, _ := s.liar.tell(lie{})
	s.up(t)
	s.says(t, "second")
	s.box, s.images = s.runs(t)
	s.pin(t, s.first) // so that it asks
	eventually(t, time.Minute, "the device follows to the fifth root", func() bool {
		r, ok := s.liar.said(after)
		return ok && r.Versions[api.TrustRoot] == 5
	})
	s.calm(t)
}
