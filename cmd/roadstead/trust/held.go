package trust

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// held is what the owner's keys vouch for in a fleet: nothing in it was taken because a server said it. What is expired is held too: who signs
// anew begins with it.
type held struct {
	fleet   string
	root    tuf.Root
	targets tuf.Targets
	owner   *tuf.Delegator     // nil: there is none yet
	bins    map[string]tuf.Bin // of the owner's, by role
	file    []byte             // of the root
	taken   map[string][]byte  // by role, those that were taken
	behind  bool               // the server has an older root than this machine
	first   bool               // no root was known here: the server's first one was believed
	notes   []string           // what a person should know
}

// hold verifies a bundle from the root that this machine believes, or else from the first one that the bundle has.
func hold(b *bundle, s *store) (*held, error) {
	pinned, err := s.metadata(api.TrustRoot)
	if err != nil {
		return nil, err
	}
	h, err := holdFrom(b, s, pinned)
	if err != nil || pinned == nil {
		return h, err
	}
	return h, s.keep(h)
}

// holdServer verifies what a server has, without what is newer here: what was signed here and is going to be sent is no part of it.
func holdServer(b *bundle, s *store) (*held, error) {
	pinned, err := s.metadata(fmt.Sprintf("%d.root", len(b.Roots)))
	if err != nil {
		return nil, err
	}
	if pinned == nil {
		if pinned, err = s.metadata(api.TrustRoot); err != nil {
			return nil, err
		}
		if r, err := tuf.ReadRoot(pinned); pinned != nil && (err != nil || r.Version > int64(len(b.Roots))) {
			pinned = nil // the server is at a root from before those that are known here
		}
	}
	return holdFrom(b, nil, pinned)
}

// holdFrom verifies from a root, with what is kept in a store if there is one.
func holdFrom(b *bundle, s *store, pinned []byte) (*held, error) {
	h := &held{fleet: b.Fleet, bins: map[string]tuf.Bin{}, taken: map[string][]byte{}}
	root, first, err := newestRoot(b.Fleet, pinned, b.Roots)
	if err != nil {
		return nil, err
	}
	h.first, h.file = first, root
	if h.root, err = tuf.ReadRoot(root); err != nil {
		return nil, err
	}
	h.taken[api.TrustRoot] = root
	if pinned != nil && len(b.Roots) > 0 {
		if last, err := tuf.ReadRoot(b.Roots[len(b.Roots)-1]); err == nil && last.Version < h.root.Version {
			h.behind = true
			h.notes = append(h.notes, fmt.Sprintf("The server has root %d, and this machine root %d: was the server restored from a backup? `roadstead trust restore` gives it the newer one.",
				last.Version, h.root.Version))
		}
	}
	roles := []string{api.TrustTargets, api.TrustOwner}
	for _, f := range b.Files {
		if strings.HasPrefix(f.Role, api.TrustOwner+"-") {
			roles = append(roles, f.Role)
		}
	}
	mine := map[string][]byte{}
	if s != nil {
		kept, err := s.kept()
		if err != nil {
			return nil, err
		}
		for _, f := range kept {
			if f.Role != api.TrustRoot {
				mine[f.Role] = f.Data
			}
		}
	}
	for role := range mine {
		if strings.HasPrefix(role, api.TrustOwner+"-") && !slices.Contains(roles, role) {
			roles = append(roles, role)
		}
	}
	for _, role := range roles {
		if err := h.newest(role, mine[role], b.file(role)); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// newestRoot follows the roots from the one that is believed. first: none was.
func newestRoot(fleet string, pinned []byte, roots [][]byte) (root []byte, first bool, err error) {
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
			if !same(next, root) {
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

// newest takes the newest of the files of a role that the right keys have signed. A server's file that they have not is an error; a kept one is not,
// nor one of a server that was restored from a backup.
func (h *held) newest(role string, mine, theirs []byte) error {
	var best []byte
	var version int64
	for i, data := range [][]byte{mine, theirs} {
		if data == nil {
			continue
		}
		keys, threshold := h.holders(role)
		v, fleet, err := versionOf(role, data)
		switch {
		case err == nil && fleet != h.fleet:
			err = tuf.Refuse(role, tuf.ReasonFleet, "", h.fleet, fleet)
		case err == nil && !enough(data, keys, threshold):
			err = tuf.Refuse(fmt.Sprintf("%s version %d", role, v), tuf.ReasonThreshold, "", fmt.Sprintf("signatures of %d of its keys", threshold), fmt.Sprint(len(signedBy(data, keys))))
		}
		if err != nil && (i == 0 || h.behind) {
			continue // the keys may have changed since
		}
		if err != nil {
			return fmt.Errorf("what the server has does not verify: %w", err)
		}
		other := i == 1 && v == version && !same(best, data)
		if v > version || other {
			best, version = data, v
		}
		if other {
			h.notes = append(h.notes, fmt.Sprintf("The server has another %s %d than was signed here, which the fleet's keys have signed too: another owner was quicker, and what was "+
				"signed here is not in force. Look at what is, and sign again what you want.", role, v))
		}
		if i == 1 && v < version {
			h.notes = append(h.notes, fmt.Sprintf("The server has %s %d, and this machine %d: `roadstead trust restore` gives it the newer one.", role, v, version))
		}
	}
	if best == nil {
		if role == api.TrustTargets {
			return fmt.Errorf("there is no file of targets that the fleet's keys have signed")
		}
		return nil
	}
	return h.take(role, best)
}

// take replaces a file by a newer one.
func (h *held) take(role string, data []byte) error {
	var err error
	h.taken[role] = data
	switch role {
	case api.TrustRoot:
		if h.root, err = tuf.ReadRoot(data); err == nil {
			h.file = data
		}
	case api.TrustTargets:
		h.targets, err = tuf.ReadTargets(data)
	case api.TrustOwner:
		var d tuf.Delegator
		if d, err = tuf.ReadDelegator(role, data); err == nil {
			h.owner = &d
		}
	default:
		h.bins[role], err = tuf.ReadBin(role, data)
	}
	return err
}

// holders are the keys of a role and how many of them must sign.
func (h *held) holders(role string) ([]*metadata.Key, int) {
	switch role {
	case api.TrustRoot, api.TrustTargets:
		return h.root.Keys[role], h.root.Threshold[role]
	}
	return h.targets.Owner, h.targets.OwnerThreshold
}

// owned says whether the root is the owner's.
func (h *held) owned() bool { return h.root.Mark.HeldBy == api.HeldByOwner }

// copy is one that may be changed.
func (h *held) copy() *held {
	c := *h
	c.bins, c.taken = maps.Clone(h.bins), maps.Clone(h.taken)
	return &c
}

// expired lists what has expired, or will within a month.
func (h *held) expired(now time.Time) []string {
	var list []string
	say := func(what string, at time.Time) {
		switch {
		case !at.After(now):
			list = append(list, fmt.Sprintf("%s EXPIRED on %s: devices take nothing new. `roadstead trust renew` signs it anew.", what, at.Format(time.DateOnly)))
		case at.Before(now.Add(30 * 24 * time.Hour)):
			list = append(list, fmt.Sprintf("%s expires on %s: `roadstead trust renew` signs it anew.", what, at.Format(time.DateOnly)))
		}
	}
	say("root", h.root.Expires)
	say("targets", h.targets.Expires)
	if h.owner != nil {
		say("owner", h.owner.Expires)
	}
	for _, role := range slices.Sorted(maps.Keys(h.bins)) {
		say(role, h.bins[role].Expires)
	}
	return list
}

// versionOf reads a file's version and fleet.
func versionOf(role string, data []byte) (version int64, fleet string, err error) {
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

// signedBy gives which of some keys have signed a file. A key counts once, whatever it is called in the file.
func signedBy(file []byte, keys []*metadata.Key) []string {
	ids, err := tuf.Signers(file, keys)
	if err != nil {
		return nil
	}
	return ids
}

// enough says whether a file has the signatures of so many of some keys.
func enough(file []byte, keys []*metadata.Key, threshold int) bool {
	return threshold > 0 && len(signedBy(file, keys)) >= threshold
}

// short names a key for people.
func short(id string) string { return id[:min(len(id), 8)] }

func ids(keys []*metadata.Key) []string {
	list := make([]string, len(keys))
	for i, k := range keys {
		list[i] = tuf.KeyID(k)
	}
	return list
}

func shorts(keys []*metadata.Key) string {
	list := ids(keys)
	for i := range list {
		list[i] = short(list[i])
	}
	return strings.Join(list, ", ")
}
