// Package trust is what a device checks before it runs anything: that its fleet's owner, or whom the owner lets, released just this, that it
// is what this device was told to run, and that it is not older than what ran before. What it believes is kept in files of which nothing may
// be missing, corrupt or older than it was: then nothing new is run, and what runs keeps running. The order of the checks, and why,
// is in internal/trust/DESIGN.md.
package trust

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Config is what the checks work with.
type Config struct {
	StateDir string // the agent's; the files are in its directory trust/FLEET
	UUID     api.DeviceUUID
	Mark     *identity.Mark   // what identity.json says; nil: this device never verified
	Given    *api.ConfigTrust // what config.json says; nil: nothing
	Anew     bool             // the device has just been given away: what files there are belong to its life before
	// Bundle asks the server for what is missing here.
	Bundle func(ctx context.Context, have api.TrustHave) (api.TrustBundle, error)
	Log    *slog.Logger
	Now    func() time.Time // nil: time.Now
	// Write replaces a file; nil: durable.WriteFile.
	Write func(path string, data []byte, perm fs.FileMode) error
}

// Trust checks for one device. Its methods may be called from several goroutines.
type Trust struct {
	cfg Config
	log *slog.Logger

	checking sync.Mutex // held during a check, so that there is one at a time
	asked    bool       // since the start; covered by checking

	since atomic.Pointer[moment] // of the floor that is believed

	writing sync.Mutex     // covers the files and what follows
	mark    *identity.Mark // as identity.json has it

	mu       sync.Mutex // covers what follows; nothing is waited for under it
	fleet    string     // uuid; changes when the device goes to another fleet
	st       *state     // nil: the files cannot be used. What it points to does not change
	broken   error      // why they cannot
	policy   api.TrustMark
	heldBy   string
	versions map[string]int64
	result   *result                       // of the last check; nil: there was none since the start
	images   map[string]api.TrustRejection // that were refused when they were pulled last, of the release that was checked last
}

// Open reads what the device believes. A device that was never given a root gets nil: it runs what it is told, as it always did. Files
// that cannot be used are no error here: the checks fail then, until they can be used again.
func Open(cfg Config) (*Trust, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	t := &Trust{cfg: cfg, log: cfg.Log, mark: cfg.Mark}
	switch {
	case cfg.Mark != nil:
		t.fleet = cfg.Mark.Fleet
	case cfg.Given != nil:
		t.fleet = cfg.Given.Fleet
	}
	if cfg.Mark == nil && !cfg.Anew { // identity.json may have been lost, and made anew from config.json
		if fleet, err := newest(cfg.StateDir); err != nil {
			return nil, err
		} else if fleet != "" {
			t.fleet = fleet
		}
	}
	if t.fleet == "" && cfg.Given == nil && cfg.Mark == nil {
		return nil, nil //nolint:nilnil // a device that verifies nothing has none
	}
	if !api.DeviceUUID(t.fleet).Valid() { // it becomes the name of a directory
		return nil, fmt.Errorf("trust: %q is not the uuid of a fleet", t.fleet)
	}
	if cfg.Given != nil && cfg.Given.Fleet != t.fleet {
		t.log.Warn("config.json has the root of another fleet than the one this device believes; it does not count", "believed", t.fleet, "config", cfg.Given.Fleet)
	}
	if err := t.load(); err != nil {
		t.log.Error("this device verifies what it runs, and cannot: nothing new is run, and what runs keeps running", "error", err)
	}
	return t, nil
}

func (t *Trust) disk(fleet string) store { return store{dir: Dir(t.cfg.StateDir, fleet)} }

// Dir is where the files of a fleet's trust are.
func Dir(stateDir, fleet string) string { return filepath.Join(stateDir, "trust", fleet) }

// load reads the files, or takes over the root of config.json at the first start.
func (t *Trust) load() error {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.disk(t.fleet).tidy()
	st, again, err := t.disk(t.fleet).load(t.fleet, t.mark)
	if errors.Is(err, errNone) {
		st, err = t.first()
		again = errNone
	}
	var o *opened
	if err == nil {
		o, err = open(st)
	}
	if err == nil && t.mark != nil && o.root < t.mark.Root {
		err = fmt.Errorf("their root has version %d, and this device believed %d", o.root, t.mark.Root)
	}
	if err == nil && (again != nil || t.mark == nil || t.mark.Sequence != st.Sequence) {
		if again != nil && !errors.Is(again, errNone) {
			t.log.Warn("one copy of the files of trust cannot be used; the other one is whole", "error", again)
		}
		if failed := t.save(st, o.root); failed != nil && t.mark == nil {
			err = fmt.Errorf("they cannot be stored: %w", failed)
		} else if failed != nil { // there is one whole copy, and it counts
			t.log.Warn("a copy of the files of trust cannot be mended", "error", failed)
		}
	}
	if err != nil {
		err = fmt.Errorf("the files of trust cannot be used: %w", err)
		t.mu.Lock()
		t.st, t.broken = nil, err
		t.mu.Unlock()
		return err
	}
	t.believe(st, o)
	return nil
}

// first makes the state of a device that was just given its root.
func (t *Trust) first() (*state, error) {
	if t.cfg.Given == nil || t.cfg.Given.Fleet != t.fleet {
		return nil, errors.New("the root is missing")
	}
	st, err := fresh(t.fleet, t.cfg.Given.Root)
	if err != nil {
		return nil, fmt.Errorf("the root in config.json: %w", err)
	}
	t.log.Info("this device verifies what it runs from now on", "fleet", t.fleet)
	return st, nil
}

// fresh is the state of a device that believes a root and nothing else yet.
func fresh(fleet string, root []byte) (*state, error) {
	opened, err := tuf.Open(fleet, root)
	if err != nil {
		return nil, err
	}
	return &state{Sequence: 1, Fleet: fleet, Files: opened.Files(), Floor: opened.Floor(), Nonces: map[string]int64{}}, nil
}

func (t *Trust) write() func(string, []byte, fs.FileMode) error {
	if t.cfg.Write != nil {
		return t.cfg.Write
	}
	return durable.WriteFile
}

// save stores a state and the mark. The caller holds writing.
func (t *Trust) save(st *state, root int64) error {
	mark, err := t.disk(st.Fleet).save(st, root, t.write())
	if err != nil {
		return err
	}
	if err := identity.Remember(t.cfg.StateDir, mark, t.write()); err != nil {
		return err
	}
	t.mark = &mark
	return nil
}

// believe makes a state the one that counts.
func (t *Trust) believe(st *state, o *opened) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if since := t.since.Load(); since == nil || !since.floor.Equal(st.Floor) {
		t.since.Store(&moment{floor: st.Floor, at: t.cfg.Now()})
	}
	t.st, t.fleet, t.broken = st, st.Fleet, nil
	t.policy, t.heldBy, t.versions = o.policy, o.HeldBy(), o.Versions()
}

// change stores a changed state and then believes it. Neither happens when it cannot be stored.
func (t *Trust) change(f func(*state) error) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.mu.Lock()
	before, broken := t.st, t.broken
	t.mu.Unlock()
	if before == nil {
		return broken
	}
	next := *before
	next.Nonces = maps.Clone(before.Nonces)
	if next.Nonces == nil {
		next.Nonces = map[string]int64{}
	}
	if err := f(&next); err != nil {
		return err
	}
	next.Sequence = before.Sequence + 1
	o, err := open(&next)
	if err != nil {
		return err
	}
	if err := t.save(&next, o.root); err != nil {
		return fmt.Errorf("what was verified cannot be stored, so it does not count: %w", cause(err))
	}
	t.believe(&next, o)
	return nil
}

// current is the state that is believed. When its files could not be used, it looks whether they can be now.
func (t *Trust) current() (*state, error) {
	t.mu.Lock()
	st := t.st
	t.mu.Unlock()
	if st != nil {
		return st, nil
	}
	if err := t.load(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.st, nil
}

// moment is when a floor was believed, by the clock: however wrong that is, it tells how long ago that was.
type moment struct{ floor, at time.Time }

// now is the clock's time, but never before what was signed. See DESIGN.md.
func (t *Trust) now(floor time.Time) time.Time {
	now := t.cfg.Now()
	if !now.Before(floor) {
		return now
	}
	if since := t.since.Load(); since != nil && since.floor.Equal(floor) {
		floor = floor.Add(max(0, now.Sub(since.at))) // a wrong clock does not stand still
	}
	return floor
}

// NotBefore is the newest time that was signed: it is not earlier. Zero where nothing is believed.
func (t *Trust) NotBefore() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.st == nil {
		return time.Time{}
	}
	return t.st.Floor
}

// opened is a stored state that can be asked.
type opened struct {
	*tuf.Trusted
	root   int64         // version
	policy api.TrustMark // zero until there are targets
}

func open(st *state) (*opened, error) {
	trusted, err := tuf.Reopen(st.Fleet, st.Files)
	if err != nil {
		return nil, err
	}
	o := &opened{Trusted: trusted, root: trusted.Versions()[api.TrustRoot]}
	if policy, err := trusted.Policy(); err == nil {
		o.policy = policy
	}
	return o, nil
}

// Fleet is the uuid of the fleet that this device believes.
func (t *Trust) Fleet() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fleet
}

// Shell reports whether the server may open this device's SSH server. A device that cannot read what it believes lets nobody in.
func (t *Trust) Shell() bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.st != nil && t.policy.Approval != "" && t.policy.Shell != "forbidden"
}

// Channel reports whether the control channel may stand, and why not. The variables of a target state alone do not open it.
func (t *Trust) Channel() (ok bool, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.st == nil:
		return false, "the files of trust cannot be used"
	case t.st.Said == nil:
		return false, "no signed statement of what is wanted has come yet"
	}
	said, now := t.st.Said, t.now(t.st.Floor)
	switch {
	case said.Channel == nil || !said.Channel.Wanted:
		return false, "the signed statement does not want it"
	case now.After(said.until()):
		return false, "the signed statement that wants it has expired"
	case said.Channel.Until != nil && now.After(*said.Channel.Until):
		return false, "the signed statement wanted it until " + said.Channel.Until.UTC().Format(time.RFC3339)
	}
	return true, ""
}

// Images are what the engine may pull for a service from a reference by digest: what the release that was accepted names and, while that one is not taken yet,
// the one before.
func (t *Trust) Images(service, ref string) ([]api.ReleaseImage, error) {
	t.mu.Lock()
	st := t.st
	t.mu.Unlock()
	if st == nil || st.Accepted == nil || len(st.Accepted.Document) == 0 {
		return nil, tuf.Refuse("release", tuf.ReasonMissing, "", "one that was accepted", "none")
	}
	_, digest, _ := strings.Cut(ref, "@")
	var newest []api.ReleaseImage
	for i, was := range []*acceptance{st.Accepted, st.Before} {
		if was == nil || len(was.Document) == 0 {
			continue
		}
		doc, err := readDocument(was.Document)
		if err != nil {
			return nil, err
		}
		images := doc.Services[service].Images
		if slices.ContainsFunc(images, func(image api.ReleaseImage) bool { return image.Digest == digest }) {
			return images, nil
		}
		if i == 0 {
			newest = images
		}
	}
	return newest, nil // the gate says that it is none of these
}
