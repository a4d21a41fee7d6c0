package trust

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

// store is the directory that is kept of a fleet:
//
//	fleet.json               what it is about
//	keys/ID.key              keys, or the public halves of those that are elsewhere
//	metadata/root.json       the root that is believed
//	metadata/N.root.json     all roots that were signed here or verified
//	metadata/ROLE.json       the last targets, owner and bins that were signed here or verified
//	waiting/ROLE.json        what was signed here and waits for signatures of others
//	last.json                the document of the release that was signed last
type store struct{ dir string }

// fleetFile is fleet.json.
type fleetFile struct {
	Fleet  string `json:"fleet"`
	Slug   string `json:"slug"`
	Server string `json:"server"`
}

// last is last.json.
type last struct {
	Commit   string `json:"commit"`
	Counter  int64  `json:"counter"`
	Document []byte `json:"document"`
}

// home is where the directories of all fleets are.
func home() string { return filepath.Join(xdg.ConfigHome, "roadstead", "trust") }

// openStore gives the directory of a fleet, which need not be there yet.
func openStore(dir, fleet string) (*store, error) {
	if fleet == "" || strings.Trim(fleet, "0123456789abcdef-") != "" {
		return nil, fmt.Errorf("%q is no uuid of a fleet", fleet)
	}
	s := &store{dir}
	if dir == "" {
		s.dir = filepath.Join(home(), fleet)
	}
	var a fleetFile
	if err := s.readJSON("fleet.json", &a); err != nil {
		return nil, err
	}
	if a.Fleet != "" && a.Fleet != fleet {
		return nil, fmt.Errorf("the directory %s is that of the fleet %s (%s), not of this one: name another by --dir", s.dir, a.Slug, a.Fleet)
	}
	return s, nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

// read gives a file, or nil when there is none.
func (s *store) read(name string) ([]byte, error) {
	data, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func (s *store) readJSON(name string, into any) error {
	data, err := s.read(name)
	if err != nil || data == nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s is damaged: %w; put it back from a backup", s.path(name), err)
	}
	return nil
}

func (s *store) write(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o700); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	if err := durable.WriteFile(s.path(name), data, 0o600); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	return nil
}

func (s *store) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return s.write(name, append(data, '\n'))
}

// keys are the files of keys that are kept, by id.
func (s *store) keys() ([]*ownerkey.File, error) {
	names, err := filepath.Glob(s.path("keys/*.key"))
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

// metadata gives a kept file of metadata, or nil.
func (s *store) metadata(role string) ([]byte, error) { return s.read("metadata/" + role + ".json") }

// kept gives all that is kept, in the order in which a server takes it: every root, then targets, owner, and bins.
func (s *store) kept() ([]api.TrustFile, error) {
	names, err := filepath.Glob(s.path("metadata/*.json"))
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
		case owners(role):
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
	slices.SortFunc(rest, inOrder)
	return append(list, rest...), nil
}

// owners says whether a role is one that the owner signs.
func owners(role string) bool {
	return role == api.TrustRoot || role == api.TrustTargets || role == api.TrustOwner || strings.HasPrefix(role, api.TrustOwner+"-")
}

// inOrder sorts files as they are to be read.
func inOrder(a, b api.TrustFile) int {
	rank := func(role string) int {
		return max(0, slices.Index([]string{api.TrustRoot, api.TrustTargets, api.TrustOwner}, role)) + 3*strings.Count(role, "-")
	}
	if d := rank(a.Role) - rank(b.Role); d != 0 {
		return d
	}
	return strings.Compare(a.Role, b.Role)
}

// keepRoot believes a root from now on.
func (s *store) keepRoot(data []byte) error {
	r, err := tuf.ReadRoot(data)
	if err != nil {
		return err
	}
	if err := s.write(fmt.Sprintf("metadata/%d.root.json", r.Version), data); err != nil {
		return err
	}
	return s.write("metadata/root.json", data)
}

// keepMade keeps what was signed here, before it is sent: when the server loses it, it is here.
func (s *store) keepMade(b *bundle, files []signed) error {
	if err := s.writeJSON("fleet.json", fleetFile{b.Fleet, b.Slug, b.Server}); err != nil {
		return err
	}
	for _, f := range files {
		var err error
		switch {
		case !f.whole:
			err = s.write("waiting/"+f.Role+".json", f.Data)
		case f.Role == api.TrustRoot:
			err = s.follow(b.Fleet, f.Data)
		default:
			err = s.write("metadata/"+f.Role+".json", f.Data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// follow believes a root that follows from the one that is believed. An older one is kept beside it, if it is the same that was known.
func (s *store) follow(fleet string, data []byte) error {
	pinned, err := s.metadata(api.TrustRoot)
	if err != nil || pinned == nil {
		return errors.Join(err, s.keepRoot(data))
	}
	newest, _, err := newestRoot(fleet, pinned, [][]byte{data})
	if err != nil || !same(newest, data) {
		return err
	}
	return s.keepRoot(newest)
}

// same says whether two files say the same, whoever signed them.
func same(a, b []byte) bool {
	ma, _, errA := tuf.Signed(a)
	mb, _, errB := tuf.Signed(b)
	return errA == nil && errB == nil && bytes.Equal(ma, mb)
}

// keep keeps what was verified, as far as it is newer: no older file is taken for it from then on.
func (s *store) keep(h *held) error {
	for role, data := range h.taken {
		before, err := s.metadata(role)
		if err != nil {
			return err
		}
		if before != nil {
			old, _, err := versionOf(role, before)
			if err != nil {
				return fmt.Errorf("%s is damaged: %w; put it back from a backup", s.path("metadata/"+role+".json"), err)
			}
			if now, _, err := versionOf(role, data); err != nil || now < old || now == old && same(before, data) {
				continue
			}
		}
		if role == api.TrustRoot {
			err = s.keepRoot(data)
		} else {
			err = s.write("metadata/"+role+".json", data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
