package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// ErrRunning says that the agent works with the files.
var ErrRunning = errors.New("the agent is running; stop it first")

// ErrUnverified says that the device verifies nothing.
var ErrUnverified = errors.New("this device was given no root of trust: it runs what it is told, unverified")

// Peek reads what a device believes, for somebody who stands before it. It changes nothing, and the agent may run.
func Peek(stateDir string) (*Trust, error) {
	t := &Trust{cfg: Config{StateDir: stateDir, Now: time.Now}, log: slog.New(slog.DiscardHandler)}
	who, err := identity.Read(stateDir)
	if err != nil {
		return nil, err
	}
	if t.cfg.UUID, t.mark = who.UUID, who.Trust; t.mark != nil {
		t.fleet = t.mark.Fleet
	} else if t.fleet, err = newest(stateDir); err != nil {
		return nil, err
	}
	if t.fleet == "" {
		return nil, ErrUnverified
	}
	st, _, err := t.disk(t.fleet).load(t.fleet, t.mark)
	if err != nil {
		return nil, err
	}
	o, err := open(st)
	if err != nil {
		return nil, err
	}
	t.believe(st, o)
	return t, nil
}

// Describe says in lines what is believed.
func (t *Trust) Describe() string {
	report := t.Report()
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-11s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("fleet", "%s", t.fleet)
	line("root", "version %d, held by the %s", t.versions[api.TrustRoot], t.heldBy)
	if t.policy.Approval == "" {
		line("releases", "nothing was fetched with this root yet")
	} else {
		line("releases", "need the word of %s", t.policy.Approval)
		line("shell", "%s", t.policy.Shell)
	}
	switch was := t.st.Accepted; {
	case was == nil:
		line("accepted", "nothing yet")
	case was.Commit == "":
		line("accepted", "no release")
	default:
		line("accepted", "%s, counter %d, sha256 %s", was.Commit, was.Counter, was.SHA256)
	}
	if said := t.st.Said; said != nil && !said.Expires.IsZero() {
		line("director", "said so until %s", said.until().UTC().Format(time.RFC3339))
	}
	if l := t.st.Log; l != nil {
		line("log", "%s, %d leaves", l.Origin, l.Size)
	}
	line("not before", "%s", t.st.Floor.UTC().Format(time.RFC3339))
	if report.State == api.TrustWaiting {
		line("state", "waits for its first check")
	}
	return b.String()
}

// Checkpoint is the newest one of the log that this device believes.
func (t *Trust) Checkpoint() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.st == nil || t.st.Log == nil {
		return "", errors.New("this device has seen no checkpoint of a log yet")
	}
	return t.st.Log.Checkpoint, nil
}

// Compare compares a checkpoint that somebody else saw with the one that this device believes. Both must be signed by the log; that one of another size goes
// on from the other only the server can prove.
func (t *Trust) Compare(other string) (same bool, err error) {
	ours, err := t.Checkpoint()
	if err != nil {
		return false, err
	}
	t.mu.Lock()
	key := t.st.Log.TrustLogKey
	t.mu.Unlock()
	theirs, _, err := tlog.Open(other, key)
	if err != nil {
		return false, err
	}
	mine, err := tlog.ReadCheckpoint(ours)
	if err != nil {
		return false, err
	}
	if mine.Size != theirs.Size {
		return false, nil
	}
	if mine.Root != theirs.Root {
		return false, tuf.Refuse("log", tlog.ReasonLog, "", mine.Root.String(), theirs.Root.String()+", another history of the same length")
	}
	return true, nil
}

// Import takes a root that somebody brought to the device. Where the files of trust are whole it must be the one after the root that is believed; where they
// are lost it begins anew, with nothing older than what identity.json remembers; a device that verified nothing does so from then on.
func Import(stateDir string, root []byte) (fleet string, version int64, err error) {
	unlock, err := alone(stateDir)
	if err != nil {
		return "", 0, err
	}
	defer unlock()
	who, err := identity.Read(stateDir)
	if err != nil {
		return "", 0, err
	}
	read, err := tuf.ReadRoot(root)
	if err != nil {
		return "", 0, err
	}
	t := &Trust{cfg: Config{StateDir: stateDir, UUID: who.UUID, Now: time.Now}, log: slog.New(slog.DiscardHandler), mark: who.Trust, fleet: read.Mark.Fleet}
	if !api.DeviceUUID(t.fleet).Valid() {
		return "", 0, tuf.Refuse("root", tuf.ReasonFleet, "", "a uuid", t.fleet)
	}
	believed := ""
	if t.mark != nil {
		believed = t.mark.Fleet
	} else if believed, err = newest(stateDir); err != nil {
		return "", 0, err
	}
	if believed != "" && believed != t.fleet {
		return "", 0, tuf.Refuse("root", tuf.ReasonFleet, "", believed, t.fleet)
	}
	if st, _, err := t.disk(t.fleet).load(t.fleet, t.mark); err == nil {
		return t.fleet, read.Version, t.next(st, root)
	}
	st, err := fresh(t.fleet, root)
	if err != nil {
		return "", 0, err
	}
	if m := t.mark; m != nil {
		if read.Version < m.Root {
			return "", 0, tuf.Refuse("root", tuf.ReasonRollback, "", fmt.Sprint("at least version ", m.Root), fmt.Sprint(read.Version))
		}
		st.Sequence, st.Floor = m.Sequence+1, latest(st.Floor, m.SignedAt)
		st.Accepted = &acceptance{Counter: m.Counter, SHA256: m.SHA256}
	}
	return t.fleet, read.Version, t.save(st, read.Version)
}

// next takes the root after the one that is believed.
func (t *Trust) next(st *state, root []byte) error {
	o, err := open(st)
	if err != nil {
		return err
	}
	if o.RootDigest() == digestOf(root) {
		return nil // it is the one
	}
	if err := o.Root(root); err != nil {
		return err
	}
	next := *st
	next.Files, next.Sequence = without(o.Files(), api.TrustDirector), st.Sequence+1
	again, err := open(&next)
	if err != nil {
		return err
	}
	next.Floor = again.Floor()
	return t.save(&next, again.root)
}

// alone keeps the agent from starting, and fails while it runs.
func alone(stateDir string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(stateDir, "lock"), os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not the state directory of an agent: %w", stateDir, err)
	}
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor is small
		return nil, errors.Join(ErrRunning, f.Close())
	}
	return func() { _ = f.Close() }, nil // gives the lock back
}
