// Package kept is the directory that an owner's machine keeps of a fleet: keys, every root, and the last that was signed or verified.
package kept

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/adrg/xdg"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/ownerkey"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Store is the directory that is kept of a fleet:
//
//	fleet.json               what it is about
//	keys/ID.key              keys, or the public halves of those that are elsewhere
//	metadata/root.json       the root that is believed
//	metadata/N.root.json     all roots that were signed here or verified
//	metadata/ROLE.json       the last targets, owner and bins that were signed here or verified
//	waiting/ROLE.json        what was signed here and waits for signatures of others
//	last.json                the document of the release that was signed last
type Store struct{ Dir string }

// Fleet is fleet.json.
type Fleet struct {
	Fleet  string `json:"fleet"`
	Slug   string `json:"slug"`
	Server string `json:"server"`
}

// Last is last.json.
type Last struct {
	Commit   string `json:"commit"`
	Counter  int64  `json:"counter"`
	Document []byte `json:"document"`
}

// Home is where the directories of all fleets are.
func Home() string { return filepath.Join(xdg.ConfigHome, "roadstead", "trust") }

// Open gives the directory of a fleet, which need not be there yet.
func Open(dir, fleet string) (*Store, error) {
	if fleet == "" || strings.Trim(fleet, "0123456789abcdef-") != "" {
		return nil, fmt.Errorf("%q is no uuid of a fleet", fleet)
	}
	s := &Store{dir}
	if dir == "" {
		s.Dir = filepath.Join(Home(), fleet)
	}
	var a Fleet
	if err := s.ReadJSON("fleet.json", &a); err != nil {
		return nil, err
	}
	if a.Fleet != "" && a.Fleet != fleet {
		return nil, fmt.Errorf("the directory %s is that of the fleet %s (%s), not of this one: name another by --dir", s.Dir, a.Slug, a.Fleet)
	}
	return s, nil
}

// Path is where something is kept.
func (s *Store) Path(name string) string { return filepath.Join(s.Dir, name) }

// Read gives a file, or nil when there is none.
func (s *Store) Read(name string) ([]byte, error) {
	data, err := os.ReadFile(s.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// ReadJSON reads a file; one that is not there leaves the value as it is.
func (s *Store) ReadJSON(name string, into any) error {
	data, err := s.Read(name)
	if err != nil || data == nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s is damaged: %w; put it back from a backup", s.Path(name), err)
	}
	return nil
}

// Write keeps a file.
func (s *Store) Write(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(s.Path(name)), 0o700); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	if err := durable.WriteFile(s.Path(name), data, 0o600); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	return nil
}

// WriteJSON keeps a value.
func (s *Store) WriteJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return s.Write(name, append(data, '\n'))
}

// Keys are the files of keys that are kept, by id.
func (s *Store) Keys() ([]*ownerkey.File, error) {
	names, err := filepath.Glob(s.Path("keys/*.key"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	list := make([]*ownerkey.File, 0, len(names))
	for _, n := range names {
		f, err := ownerkey.Read(n)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// Metadata gives a kept file of metadata, or nil.
func (s *Store) Metadata(role string) ([]byte, error) { return s.Read("metadata/" + role + ".json") }

// All gives all that is kept, in the order in which a server takes it: every root, then targets, owner, and bins.
func (s *Store) All() ([]api.TrustFile, error) {
	names, err := filepath.Glob(s.Path("metadata/*.json"))
	if err != nil {
		return nil, err
	}
	roots := map[int64][]byte{}
	var rest []api.TrustFile
	for _, n := range names {
		role := strings.TrimSuffix(filepath.Base(n), ".json")
		data, err := os.ReadFile(n)
		if err != nil {
			return nil, err
		}
		version, isRoot := strings.CutSuffix(role, ".root")
		switch v, err := strconv.ParseInt(version, 10, 64); {
		case isRoot && err == nil:
			roots[v] = data
		case role == api.TrustRoot:
		case Owners(role):
			rest = append(rest, api.TrustFile{Role: role, Data: data})
		}
	}
	var list []api.TrustFile
	versions := make([]int64, 0, len(roots))
	for v := range roots {
		versions = append(versions, v)
	}
	slices.Sort(versions)
	for _, v := range versions {
		list = append(list, api.TrustFile{Role: api.TrustRoot, Data: roots[v]})
	}
	slices.SortFunc(rest, InOrder)
	return append(list, rest...), nil
}

// Owners says whether a role is one that the owner signs.
func Owners(role string) bool {
	return role == api.TrustRoot || role == api.TrustTargets || role == api.TrustOwner || strings.HasPrefix(role, api.TrustOwner+"-")
}

// InOrder sorts files as they are to be read.
func InOrder(a, b api.TrustFile) int {
	rank := func(role string) int {
		return max(0, slices.Index([]string{api.TrustRoot, api.TrustTargets, api.TrustOwner}, role)) + 3*strings.Count(role, "-")
	}
	if d := rank(a.Role) - rank(b.Role); d != 0 {
		return d
	}
	return strings.Compare(a.Role, b.Role)
}

// KeepRoot believes a root from now on.
func (s *Store) KeepRoot(data []byte) error {
	r, err := tuf.ReadRoot(data)
	if err != nil {
		return err
	}
	if err := s.Write(fmt.Sprintf("metadata/%d.root.json", r.Version), data); err != nil {
		return err
	}
	return s.Write("metadata/root.json", data)
}

// Follow believes a root that follows from the one that is believed. An older one is kept beside it, if it is the same that was known.
func (s *Store) Follow(fleet string, data []byte) error {
	pinned, err := s.Metadata(api.TrustRoot)
	if err != nil || pinned == nil {
		return errors.Join(err, s.KeepRoot(data))
	}
	newest, _, err := NewestRoot(fleet, pinned, [][]byte{data})
	if err != nil || !Same(newest, data) {
		return err
	}
	return s.KeepRoot(newest)
}

// Same says whether two files say the same, whoever signed them.
func Same(a, b []byte) bool {
	ma, _, errA := tuf.Signed(a)
	mb, _, errB := tuf.Signed(b)
	return errA == nil && errB == nil && bytes.Equal(ma, mb)
}

// NewestRoot follows the roots from the one that is believed. first: none was.
func NewestRoot(fleet string, pinned []byte, roots [][]byte) (root []byte, first bool, err error) {
	if pinned == nil {
		if len(roots) == 0 {
			return nil, true, fmt.Errorf("there is no root: this server keeps no trust for the fleet")
		}
		pinned, roots, first = roots[0], roots[1:], true
	}
	t, err := tuf.Open(fleet, pinned)
	if err != nil {
		return nil, first, err
	}
	root = pinned
	for _, next := range roots {
		r, err := tuf.ReadRoot(next)
		if err != nil {
			return nil, first, err
		}
		switch version := t.Versions()[api.TrustRoot]; {
		case r.Version < version:
		case r.Version == version:
			if !Same(next, root) {
				return nil, first, fmt.Errorf("the server's root %d is not the root %d that this machine believes. Trust neither the server nor a device that follows it, "+
					"until you know why: see \"Another root\" in docs/trust.md", version, version)
			}
			root = next // it may have more signatures: a server adds its own to the root that takes the place of its own
		default:
			if err := t.Root(next); err != nil {
				return nil, first, fmt.Errorf("the server's root %d does not follow from root %d, which is believed here: %w", r.Version, version, err)
			}
			root = next
		}
	}
	return root, first, nil
}

// VersionOf reads a file's version and fleet.
func VersionOf(role string, data []byte) (version int64, fleet string, err error) {
	switch role {
	case api.TrustRoot:
		x, err := tuf.ReadRoot(data)
		return x.Version, x.Mark.Fleet, err
	case api.TrustTargets:
		x, err := tuf.ReadTargets(data)
		return x.Version, x.Mark.Fleet, err
	case api.TrustOwner, api.TrustBuilder:
		x, err := tuf.ReadDelegator(role, data)
		return x.Version, x.Mark.Fleet, err
	}
	x, err := tuf.ReadBin(role, data)
	return x.Version, x.Mark.Fleet, err
}

// FirstOwned is the version of the first root that is the owner's, of those that are kept.
func (s *Store) FirstOwned() (int64, error) {
	list, err := s.All()
	if err != nil {
		return 0, err
	}
	for _, f := range list {
		if f.Role != api.TrustRoot {
			break
		}
		if r, err := tuf.ReadRoot(f.Data); err == nil && r.Mark.HeldBy == api.HeldByOwner {
			return r.Version, nil
		}
	}
	return 0, nil
}
