package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// Names of the two copies of the state, in the directory trust/FLEET of the state directory. Both hold the same; each is replaced as a
// whole, one after the other, so that one is whole whatever happens to the other.
var copies = [2]string{"state-a.json", "state-b.json"}

// maxState bounds a copy: the metadata that a release needs, two documents and the nonces of commands, all of that as base64 or JSON. The largest of
// everything has room, or a device that accepted it would accept nothing any more.
const maxState = 16 << 20

// state is what survives. What it says was verified before it was stored, but for the first root, which came with config.json.
type state struct {
	Sequence int64                 `json:"sequence"` // grows with every store
	Fleet    string                `json:"fleet"`
	Files    []api.TrustFile       `json:"files"`            // the newest metadata that are believed, root and director's statement too
	Floor    time.Time             `json:"floor,omitzero"`   // the newest time that was signed: it is not earlier
	Accepted *acceptance           `json:"accepted"`         // nil: nothing yet
	Before   *acceptance           `json:"before,omitempty"` // what a loss of power may have left to run
	Said     *statement            `json:"said,omitempty"`   // by the director
	Log      *believed             `json:"log,omitempty"`
	Nonces   map[string]int64      `json:"nonces,omitempty"` // of commands that were done → seconds since 1970 when they expire
	Left     map[string]leftBehind `json:"left,omitempty"`   // fleets that the device was in, by uuid
}

// leftBehind is what was believed of a fleet that the device left: should it come back, nothing older counts.
type leftBehind struct {
	Root    int64  `json:"root"`
	Counter int64  `json:"counter"`
	SHA256  string `json:"sha256"`
}

// prune forgets the nonces of commands that cannot be repeated any more. The clock has no say in this: it may be set back.
func (s *state) prune() {
	maps.DeleteFunc(s.Nonces, func(_ string, expires int64) bool { return time.Unix(expires, 0).Before(s.Floor) })
}

// acceptance is a release that was checked in full. One without a commit says that the device is to run nothing.
type acceptance struct {
	Commit   string       `json:"commit"`
	Counter  int64        `json:"counter"`
	SHA256   string       `json:"sha256"`
	Document []byte       `json:"document,omitempty"`
	Approval api.Approval `json:"approval,omitempty"`
}

// statement is the newest one of the director.
type statement struct {
	Commit    string            `json:"commit"`
	Channel   *api.TrustChannel `json:"channel,omitempty"`
	Fetched   time.Time         `json:"fetched"`
	Expires   time.Time         `json:"expires"`
	Variables string            `json:"variables"` // digest of the configuration variables of the channel that were known then
}

// longestSaid is how long a statement counts, whatever it says of itself. Who had the director's key for a day would otherwise be obeyed until nobody
// remembers, and the device would not ask for what its owner signed against that.
const longestSaid = 14 * 24 * time.Hour

// until is when it ends.
func (s *statement) until() time.Time {
	if longest := s.Fetched.Add(longestSaid); longest.Before(s.Expires) {
		return longest
	}
	return s.Expires
}

// half is when a new one is due.
func (s *statement) half() time.Time { return s.Fetched.Add(s.until().Sub(s.Fetched) / 2) }

// ended is the statement of a director whose word does not count any more: it has expired.
func (s *statement) ended() *statement {
	if s == nil {
		return nil
	}
	out := *s
	out.Expires = time.Time{}
	return &out
}

// believed is the transparency log as it was last seen.
type believed struct {
	api.TrustLogKey
	Checkpoint string `json:"checkpoint"`
	Size       int64  `json:"size"`
}

// store keeps the state of one fleet.
type store struct {
	dir string
}

// errNone says that there is no copy at all, as before the first start.
var errNone = errors.New("there are no files of trust")

// tidy removes what writes left that a loss of power ended. Nobody else may be writing.
func (s store) tidy() {
	left, _ := os.ReadDir(s.dir) // what cannot be read shows when it is loaded
	for _, f := range left {
		if name := f.Name(); strings.HasPrefix(name, ".state-") && strings.HasSuffix(name, ".tmp") {
			_ = os.Remove(filepath.Join(s.dir, name)) // it is only litter
		}
	}
}

// load reads the copy that is whole and newest. Nothing older than the mark is believed. again says that a copy is bad and must be written
// anew.
func (s store) load(fleet string, mark *identity.Mark) (best *state, again error, err error) {
	var bad []error
	none := 0
	for _, name := range copies {
		st, err := readCopy(filepath.Join(s.dir, name))
		if err == nil && st.Fleet != fleet {
			err = fmt.Errorf("is about the fleet %s", st.Fleet)
		}
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				none++
			}
			bad = append(bad, fmt.Errorf("%s: %w", name, cause(err)))
			continue
		}
		if best != nil && st.Sequence != best.Sequence { // the power failed between the two
			bad = append(bad, errors.New("the two are not the same"))
		}
		if best == nil || st.Sequence > best.Sequence {
			best = st
		}
	}
	switch {
	case best == nil && none == len(copies) && mark == nil:
		return nil, nil, errNone
	case best == nil:
		return nil, nil, fmt.Errorf("%s; `roadstead-agent trust import` takes a root by hand; in %s", inLine(bad), s.dir)
	case mark != nil && best.Sequence < mark.Sequence:
		return nil, nil, fmt.Errorf("they are older (%d) than what this device believed last (%d), and a copy of before does not count; "+
			"`roadstead-agent trust import` takes a root by hand; in %s", best.Sequence, mark.Sequence, s.dir)
	}
	return best, errors.Join(bad...), nil
}

// cause is what went wrong, without the long name of the file that it went wrong with: reasons are shown on a line of a table.
func cause(err error) error {
	var on *fs.PathError
	if errors.As(err, &on) {
		return on.Err
	}
	return err
}

// inLine is what errors say, on one line.
func inLine(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// newest is the fleet of which there are files of trust, when nothing else says which; empty: there are none. It is that of the newest whole copy.
func newest(stateDir string) (fleet string, err error) {
	dirs, err := os.ReadDir(filepath.Dir(Dir(stateDir, "x")))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	sequence := int64(-1)
	for _, dir := range dirs {
		for _, name := range copies {
			path := filepath.Join(Dir(stateDir, dir.Name()), name)
			st, err := readCopy(path)
			switch {
			case errors.Is(err, fs.ErrNotExist), !api.DeviceUUID(dir.Name()).Valid():
			case err == nil && st.Fleet == dir.Name() && st.Sequence > sequence:
				fleet, sequence = st.Fleet, st.Sequence
			case fleet == "":
				fleet = dir.Name() // where none is whole, nothing new is run until that is mended
			}
		}
	}
	return fleet, nil
}

// readCopy reads one copy: a line with the digest of what follows, and JSON.
func readCopy(path string) (*state, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	digest, body, ok := bytes.Cut(text, []byte("\n"))
	switch {
	case len(text) == 0:
		return nil, errors.New("is empty")
	case len(text) > maxState:
		return nil, fmt.Errorf("is larger than %d bytes", maxState)
	case !ok || string(digest) != digestOf(body):
		return nil, errors.New("is corrupt: its digest is another one")
	}
	st := &state{}
	if err := json.Unmarshal(body, st); err != nil {
		return nil, fmt.Errorf("is corrupt: %w", err)
	}
	return st, nil
}

// save stores a state as both copies, and answers the mark that is to be stored after it.
func (s store) save(st *state, root int64, write func(string, []byte, fs.FileMode) error) (m identity.Mark, err error) {
	body, err := json.Marshal(st)
	if err != nil {
		return m, err
	}
	text := append([]byte(digestOf(body)+"\n"), body...)
	if len(text) > maxState {
		return m, fmt.Errorf("what is to be believed has %d bytes, more than %d", len(text), maxState)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return m, err
	}
	if err := durable.SyncDir(filepath.Dir(s.dir)); err != nil {
		return m, err
	}
	for _, name := range copies {
		path := filepath.Join(s.dir, name)
		if info, err := os.Lstat(path); err == nil && info.IsDir() { // nothing of ours
			if err := os.RemoveAll(path); err != nil {
				return m, err
			}
		}
		if err := write(path, text, 0o600); err != nil {
			return m, err
		}
	}
	m = identity.Mark{Fleet: st.Fleet, Sequence: st.Sequence, Root: root, SignedAt: st.Floor}
	if st.Accepted != nil {
		m.Counter, m.SHA256 = st.Accepted.Counter, st.Accepted.SHA256
	}
	return m, nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
