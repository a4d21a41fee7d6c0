package trust

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
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
func hold(b *bundle, s *kept.Store) (*held, error) {
	pinned, err := s.Metadata(api.TrustRoot)
	if err != nil {
		return nil, err
	}
	h, err := holdFrom(b, s, pinned)
	if err != nil || pinned == nil {
		return h, err
	}
	return h, h.keep(s)
}

// holdServer verifies what a server has, without what is newer here: what was signed here and is going to be sent is no part of it.
func holdServer(b *bundle, s *kept.Store) (*held, error) {
	pinned, err := s.Metadata(fmt.Sprintf("%d.root", len(b.Roots)))
	if err != nil {
		return nil, err
	}
	if pinned == nil {
		if pinned, err = s.Metadata(api.TrustRoot); err != nil {
			return nil, err
		}
		if r, err := tuf.ReadRoot(pinned); pinned != nil && (err != nil || r.Version > int64(len(b.Roots))) {
			pinned = nil // the server is at a root from before those that are known here
		}
	}
	return holdFrom(b, nil, pinned)
}

// holdFrom verifies from a root, with what is kept in a store if there is one.
func holdFrom(b *bundle, s *kept.Store, pinned []byte) (*held, error) {
	h := &held{fleet: b.Fleet, bins: map[string]tuf.Bin{}, taken: map[string][]byte{}}
	root, first, err := kept.NewestRoot(b.Fleet, pinned, b.Roots)
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
		list, err := s.All()
		if err != nil {
			return nil, err
		}
		for _, f := range list {
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
		v, fleet, err := kept.VersionOf(role, data)
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
		other := i == 1 && v == version && !kept.Same(best, data)
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

// keepMade keeps what was signed here, before it is sent: when the server loses it, it is here.
func keepMade(s *kept.Store, b *bundle, files []signed) error {
	if err := s.WriteJSON("fleet.json", kept.Fleet{Fleet: b.Fleet, Slug: b.Slug, Server: b.Server}); err != nil {
		return err
	}
	for _, f := range files {
		var err error
		switch {
		case !f.whole:
			err = s.Write("waiting/"+f.Role+".json", f.Data)
		case f.Role == api.TrustRoot:
			err = s.Follow(b.Fleet, f.Data)
		default:
			err = s.Write("metadata/"+f.Role+".json", f.Data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keep keeps what was verified, as far as it is newer: no older file is taken for it from then on.
func (h *held) keep(s *kept.Store) error {
	for role, data := range h.taken {
		before, err := s.Metadata(role)
		if err != nil {
			return err
		}
		if before != nil {
			old, _, err := kept.VersionOf(role, before)
			if err != nil {
				return fmt.Errorf("%s is damaged: %w; put it back from a backup", s.Path("metadata/"+role+".json"), err)
			}
			if now, _, err := kept.VersionOf(role, data); err != nil || now < old || now == old && kept.Same(before, data) {
				continue
			}
		}
		if role == api.TrustRoot {
			err = s.KeepRoot(data)
		} else {
			err = s.Write("metadata/"+role+".json", data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
