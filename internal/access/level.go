package access

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Verbs is a set of what a person may do with one fleet and what belongs to it. Roles, API keys and support grants are such sets, and
// rules ask for one verb of them.
//
// Administrators of an organization have all of them on all its fleets. Others have what the role of their membership of the fleet, or
// of one of their teams, gives them: never [Members] or [Ownership]. A support grant gives [Support] while it lasts. A scoped API key has
// at most its own, whatever its user has.
type Verbs int

// The verbs. Their numbers are stored.
const (
	Read      Verbs = 1 << iota // see all of the fleet: devices, releases, variables, logs. Part of every set: what one does not see is not there
	Devices                     // make, change, move, pin and delete devices, their variables and tags; by a support grant only change and pin
	Actions                     // act on devices: restart, reboot, purge, update …
	Shell                       // enter devices: SSH, tunnels
	Keys                        // make, see and end the keys of the fleet and of its devices; by right of one's own, for they outlive a support grant
	Releases                    // push, build, change and delete releases, their tags and files
	Settings                    // change the fleet's settings, services, variables and tags, and what it tracks
	Members                     // say who may do what in the fleet: members, teams, invitations, what is public, support
	Ownership                   // delete the fleet

	NoVerbs  Verbs = 0
	AllVerbs       = Ownership<<1 - 1
	// Given is what a role may hold, and thus be given to somebody who does not administer the organization.
	Given = AllVerbs &^ (Members | Ownership)
	// Support is what a support grant gives. Of [Devices] only what ends with it, see [OwnDevices].
	Support = Read | Devices | Actions | Shell
)

var verbNames = []string{"read", "devices", "actions", "shell", "keys", "releases", "settings", "members", "ownership"}

// Each lists the verbs of the set, one by one.
func (v Verbs) Each() (list []Verbs) {
	for i := range verbNames {
		if one := Verbs(1) << i; v&one != 0 {
			list = append(list, one)
		}
	}
	return list
}

// Names lists them as they are said to people and on the wire.
func (v Verbs) Names() []string {
	names := []string{}
	for _, one := range v.Each() {
		names = append(names, verbNames[bits.TrailingZeros(uint(one))])
	}
	return names
}

func (v Verbs) String() string { return strings.Join(v.Names(), ", ") }

// Has reports whether all of some verbs are in the set.
func (v Verbs) Has(need Verbs) bool { return v&need == need }

// JSON is the list of names, as it is stored and sent.
func (v Verbs) JSON() string {
	text, err := json.Marshal(v.Names())
	if err != nil {
		return "[]" // a list of words does not fail
	}
	return string(text)
}

// ParseVerbs reads a list of names; [Read] is always among them.
func ParseVerbs(names []string) (Verbs, error) {
	if len(names) > len(verbNames) {
		return NoVerbs, fmt.Errorf("there are only %d verbs", len(verbNames))
	}
	v := Read
	for _, name := range names {
		i := slices.Index(verbNames, name)
		if i < 0 {
			return NoVerbs, fmt.Errorf("%q is no verb: %s", name, strings.Join(verbNames, ", "))
		}
		v |= Verbs(1) << i
	}
	return v, nil
}

// Level is a set of verbs with a name. Each level includes the ones below it.
type Level int

// The levels. The first three are also the ids of the built-in rows of application_membership_role.
const (
	NoLevel       Level = 0
	Observer      Level = 1 // reads all of the fleet
	Operator      Level = 2 // and works on its devices; makes keys for them
	Developer     Level = 3 // and decides what they run: releases, services, variables and settings of the fleet
	Administrator Level = 4 // and decides about the fleet itself: who may do what in it, whose it is, its end
)

// Levels lists them from the lowest.
func Levels() []Level { return []Level{Observer, Operator, Developer, Administrator} }

// Verbs is what the level stands for.
func (l Level) Verbs() Verbs {
	switch l {
	case Observer:
		return Read
	case Operator:
		return Read | Devices | Actions | Shell | Keys
	case Developer:
		return Given
	case Administrator:
		return AllVerbs
	}
	return NoVerbs
}

// Level is the highest level of which the set has every verb.
func (v Verbs) Level() (highest Level) {
	for _, l := range Levels() {
		if v.Has(l.Verbs()) {
			highest = l
		}
	}
	return highest
}

// String is the name of a level, as it is said to people and on the wire.
func (l Level) String() string {
	switch l {
	case Observer:
		return "observer"
	case Operator:
		return "operator"
	case Developer:
		return "developer"
	case Administrator:
		return "administrator"
	}
	return "nobody"
}

// ParseLevel reads a level's name.
func ParseLevel(s string) (Level, error) {
	for _, l := range Levels() {
		if l.String() == s {
			return l, nil
		}
	}
	return NoLevel, fmt.Errorf("%q is no level: observer, operator, developer or administrator", s)
}

// Columns are the hidden columns of fleets and of devices that say whether the caller has the verbs of the set there, one each. Rules
// are written with them, see [On].
func (v Verbs) Columns() (names []string) {
	for _, name := range v.Names() {
		names = append(names, "may_"+name)
	}
	return names
}

// AllDevices is the hidden column of fleets and of devices that says that the caller's key is not for some devices only. What touches
// devices that such a key does not see, and what decides which it sees, is ruled by it.
const AllDevices = "is_for_all_devices"

// On is the rule "the caller has these verbs on the fleet, or device, behind these navigations": On(Devices) over a fleet,
// On(Devices, "application") over what hangs on one.
func On(v Verbs, path ...string) string {
	return Along("{}"+strings.Join(v.Columns(), " and {}"), path...)
}

// OwnDevices is the hidden column of fleets and of devices that says whether the caller has [Devices] there by right of their own, and not
// by a support grant: what outlives the grant asks for it.
const OwnDevices = "may_own_devices"

// Seen is the rule "the caller may read what is public, and sees the rest" of a fleet behind these navigations.
func Seen(path ...string) string { return Along("{}may_read or {}is_public", path...) }

// Along puts a condition at the end of a chain of navigations, each to one row. {} in the condition stands for that row; a
// condition without it is one column.
func Along(condition string, path ...string) string {
	if !strings.Contains(condition, "{}") {
		condition = "{}" + condition
	}
	if len(path) == 0 {
		return strings.ReplaceAll(condition, "{}", "")
	}
	name := string(rune('a' + len(path) - 1)) // each chain counts its variables from the inside, so that none hides another
	inner := strings.ReplaceAll(condition, "{}", name+"/")
	for i := len(path) - 1; i >= 0; i-- {
		name = string(rune('a' + i))
		nav := path[i]
		if i > 0 {
			nav = string(rune('a'+i-1)) + "/" + nav
		}
		inner = nav + "/any(" + name + ":" + inner + ")"
	}
	return inner
}
