package trust

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// words say in lines what files change, against what is held. They are what a person reads before signing: everything that a file says is in them,
// and a file that cannot be put into words is not signed.
func (h *held) words(files []api.TrustFile) ([]string, error) {
	now := h.copy()
	var list []string
	for _, f := range files {
		version, fleet, err := kept.VersionOf(f.Role, f.Data)
		if err != nil {
			return nil, err
		}
		if fleet != h.fleet {
			return nil, tuf.Refuse(f.Role, tuf.ReasonFleet, "", h.fleet, fleet)
		}
		if !kept.Owners(f.Role) {
			return nil, fmt.Errorf("%s is not a file that owners sign", f.Role)
		}
		next := now.copy()
		if err := next.take(f.Role, f.Data); err != nil {
			return nil, err
		}
		if old := now.version(f.Role); version <= old {
			return nil, fmt.Errorf("%s %d is not newer than version %d, which the fleet's keys have signed already", f.Role, version, old)
		}
		if err := next.early(f.Role); err != nil {
			return nil, err
		}
		list = append(list, fmt.Sprintf("%s %d, until %s", f.Role, version, next.expires(f.Role).Format(time.DateOnly)))
		switch f.Role {
		case api.TrustRoot:
			if next.root.Version != now.root.Version+1 {
				return nil, fmt.Errorf("root %d does not come after root %d", next.root.Version, now.root.Version)
			}
			list = append(list, rootWords(now.root, next.root)...)
		case api.TrustTargets:
			list = append(list, targetsWords(now.targets, next.targets)...)
		case api.TrustOwner:
			if err := sameHolders(next.owner.Keys, next.owner.Threshold, next.targets.Owner, next.targets.OwnerThreshold); err != nil {
				return nil, err
			}
			list = append(list, fmt.Sprintf("  releases are signed by %d of %s", next.owner.Threshold, shorts(next.owner.Keys)))
		default:
			list = append(list, binWords(now.bins[f.Role], next.bins[f.Role])...)
		}
		now = next
	}
	return list, nil
}

func sameHolders(a []*metadata.Key, m int, b []*metadata.Key, n int) error {
	x, y := ids(a), ids(b)
	slices.Sort(x)
	slices.Sort(y)
	if m != n || !slices.Equal(x, y) {
		return fmt.Errorf("owner.json names other keys than targets do")
	}
	return nil
}

func (h *held) version(role string) int64 {
	switch {
	case role == api.TrustRoot:
		return h.root.Version
	case role == api.TrustTargets:
		return h.targets.Version
	case role != api.TrustOwner:
		return h.bins[role].Version
	case h.owner != nil:
		return h.owner.Version
	}
	return 0
}

// early refuses a file that says it was signed in days to come, or lists a release with a counter from then: devices would take nothing before.
func (h *held) early(role string) error {
	last := time.Now().Add(ahead)
	var mark api.TrustMark
	switch role {
	case api.TrustRoot:
		mark = h.root.Mark
	case api.TrustTargets:
		mark = h.targets.Mark
	case api.TrustOwner:
		mark = h.owner.Mark
	default:
		mark = h.bins[role].Mark
	}
	if mark.SignedAt.After(last) {
		return fmt.Errorf("%s says that it was signed on %s, which is ahead of the clock here", role, mark.SignedAt.Format(time.DateOnly))
	}
	for path, l := range h.bins[role].Listed {
		if l.Counter > last.Unix() {
			return fmt.Errorf("%s lists %s with the counter %d, which is ahead of the clock here: signed, it would keep devices from every later release", role, path, l.Counter)
		}
	}
	return nil
}

func (h *held) expires(role string) time.Time {
	switch {
	case role == api.TrustRoot:
		return h.root.Expires
	case role == api.TrustTargets:
		return h.targets.Expires
	case role != api.TrustOwner:
		return h.bins[role].Expires
	case h.owner != nil:
		return h.owner.Expires
	}
	return time.Time{}
}

func rootWords(before, after tuf.Root) []string {
	var list []string
	if before.Mark.HeldBy != after.Mark.HeldBy {
		list = append(list, fmt.Sprintf("  !! held by the %s, before by the %s", after.Mark.HeldBy, before.Mark.HeldBy))
	}
	for _, role := range slices.Sorted(maps.Keys(after.Keys)) {
		list = append(list, "  "+role+": "+holderWords(before.Keys[role], before.Threshold[role], after.Keys[role], after.Threshold[role]))
	}
	return list
}

// holderWords say who holds a role, and which keys are new or gone.
func holderWords(before []*metadata.Key, m int, after []*metadata.Key, n int) string {
	old, now := ids(before), ids(after)
	var parts []string
	for _, id := range now {
		if slices.Contains(old, id) {
			parts = append(parts, short(id))
		} else {
			parts = append(parts, id+" (NEW)") // whole: a part of it can be imitated
		}
	}
	for _, id := range old {
		if !slices.Contains(now, id) {
			parts = append(parts, short(id)+" (REMOVED)")
		}
	}
	text := fmt.Sprintf("%d of %d keys: %s", n, len(now), strings.Join(parts, ", "))
	if len(old) > 0 && m != n {
		text += fmt.Sprintf(" (before %d of %d)", m, len(old))
	}
	return text
}

func targetsWords(before, after tuf.Targets) []string {
	change := func(what, old, now string) string {
		if old == now || old == "" {
			return "  " + what + ": " + now
		}
		return "  " + what + ": " + now + " (before " + old + ")"
	}
	list := []string{
		change("approval", string(before.Mark.Approval), string(after.Mark.Approval)),
		change("shell by the server's SSH authority", before.Mark.Shell, after.Mark.Shell),
	}
	log := func(k *api.TrustLogKey) string {
		if k == nil {
			return "none"
		}
		return terminal.Printable(k.Origin + " by " + k.Key)
	}
	list = append(list, change("transparency log", log(before.Mark.Log), log(after.Mark.Log)))
	one := func(k *metadata.Key) []*metadata.Key {
		if k == nil {
			return nil
		}
		return []*metadata.Key{k}
	}
	list = append(list, "  builder (the server's): "+holderWords(one(before.Builder), 1, one(after.Builder), 1),
		"  director (the server's): "+holderWords(one(before.Director), 1, one(after.Director), 1),
		"  owner: "+holderWords(before.Owner, before.OwnerThreshold, after.Owner, after.OwnerThreshold))
	for _, t := range after.Mark.Transfers {
		if !slices.Contains(before.Mark.Transfers, t) {
			list = append(list, fmt.Sprintf("  !! device %s may go to the fleet %s, whose first root is %s", terminal.Printable(string(t.Device)), terminal.Printable(t.To), terminal.Printable(t.Root)))
		}
	}
	for _, t := range before.Mark.Transfers {
		if !slices.Contains(after.Mark.Transfers, t) {
			list = append(list, fmt.Sprintf("  device %s may not go to the fleet %s any more", terminal.Printable(string(t.Device)), terminal.Printable(t.To)))
		}
	}
	return list
}

func binWords(before, after tuf.Bin) []string {
	var list []string
	commit := func(path string) string { return strings.TrimSuffix(strings.TrimPrefix(path, "releases/"), ".json") }
	for _, path := range slices.Sorted(maps.Keys(after.Listed)) {
		l := after.Listed[path]
		switch old, had := before.Listed[path]; {
		case !had:
			list = append(list, fmt.Sprintf("  + release %s, counter %d, document %s", commit(path), l.Counter, l.SHA256))
		case old.SHA256 != l.SHA256:
			list = append(list, fmt.Sprintf("  !! release %s, counter %d, ANOTHER document %s (before %s)", commit(path), l.Counter, l.SHA256, old.SHA256))
		case old != l:
			list = append(list, fmt.Sprintf("  release %s again, with counter %d (before %d)", commit(path), l.Counter, old.Counter))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(before.Listed)) {
		if _, has := after.Listed[path]; !has {
			list = append(list, fmt.Sprintf("  - release %s", commit(path)))
		}
	}
	if len(list) == 0 {
		list = append(list, fmt.Sprintf("  the same %d releases", len(after.Listed)))
	}
	return list
}
