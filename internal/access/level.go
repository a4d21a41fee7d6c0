package access

import (
	"fmt"
	"strings"
)

// Level is what a person may do with one fleet and what belongs to it. Each level includes the ones below it.
//
// Administrators of an organization have [Administrator] on all its fleets. Others have what their membership of the fleet, or
// that of one of their teams, gives them: at most [Developer]. A support grant gives [Operator] while it lasts. A scoped API key
// has at most its own level, whatever its user has.
type Level int

// The levels. They are also the ids of the rows of application_membership_role.
const (
	NoLevel       Level = 0
	Observer      Level = 1 // reads all of the fleet
	Operator      Level = 2 // and works on its devices: makes, changes, deletes, pins and acts on them; makes provisioning keys
	Developer     Level = 3 // and decides what they run: releases, services, variables and settings of the fleet
	Administrator Level = 4 // and decides about the fleet itself: who may do what in it, whose it is, its end
)

// Levels lists them from the lowest.
func Levels() []Level { return []Level{Observer, Operator, Developer, Administrator} }

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

// Column is the hidden column of fleets and of devices that says whether the caller has this level there. Rules are written
// with it, see [On].
func (l Level) Column() string {
	switch l {
	case Observer:
		return "is_observed"
	case Operator:
		return "is_operated"
	case Developer:
		return "is_developed"
	}
	return "is_administered"
}

// On is the rule "the caller has this level on the fleet, or device, behind these navigations": On(Operator) over a fleet,
// On(Operator, "application") over what hangs on one.
func On(l Level, path ...string) string { return Along(l.Column(), path...) }

// Seen is the rule "the caller may read what is public, and observes the rest" of a fleet behind these navigations.
func Seen(path ...string) string { return Along("{}"+Observer.Column()+" or {}is_public", path...) }

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
