package apiserver

import (
	"regexp"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
)

// The permission page says each filter in words; a filter that it has no words for stands there as it is.

// plainWords are conditions on the row that a chain of links ends at.
var plainWords = map[string]string{
	"is_seen":                          "of organizations they administer; what they did or what was done to them; what support did in fleets they operate by right of their own",
	"may_read":                         "of fleets where they may `read`",
	"may_devices":                      "of fleets where they may `devices`",
	"may_own_devices":                  "of fleets where they may `devices` by right of their own",
	"may_actions":                      "of fleets where they may `actions`",
	"may_shell":                        "of fleets where they may `shell`",
	"may_shell and may_actions":        "of fleets where they may `shell` and `actions`",
	"may_actions and may_shell":        "of fleets where they may `shell` and `actions`",
	"is_created_by__user eq @user":     "of releases that they made",
	"may_keys":                         "of fleets where they may `keys`",
	"may_releases":                     "of fleets where they may `releases`",
	"may_settings":                     "of fleets where they may `settings`",
	"may_members":                      "of fleets where they may `members`",
	"may_ownership":                    "of fleets where they may `ownership`",
	"tracks__device/any(a:may_read)":   "of devices that they see",
	"is_for_all_devices":               "by a key that is not for some devices only",
	"is_public":                        "of public fleets",
	"belongs_to__organization eq null": "built-in ones",
	"organization_membership/any(mine:mine/user eq @user and mine/is_lasting)":                                            "of organizations they are a member of",
	"organization_membership/any(mine:mine/user eq @user and mine/organization_membership_role eq 1 and mine/is_lasting)": "of organizations they administer",
	"belongs_to__application eq @fleet": "of its own fleet", "application eq @fleet": "of its own fleet", "id eq @fleet": "its own fleet",
	"id eq @device": "itself", "device eq @device": "its own",
	"user eq @user": "their own", "id eq @user": "their own", "is_of__actor eq @actor": "their own", "id eq @actor": "its own",
	"id eq @key": "itself", "@key eq 0": "in a session", "status eq 'success'": "of builds that succeeded",
	"is_quarantined eq true": "in quarantine (pushed by a client, not yet checked)", "is_quarantined eq false": "out of quarantine",
}

var (
	link   = regexp.MustCompile(`^(\w+/)?\w+/any\((\w+):(.*)\)$`)
	prefix = regexp.MustCompile(`\b[a-f]/`)
)

// words says a filter in words.
func words(filter string) string {
	filter = strings.TrimSpace(filter)
	switch filter {
	case "":
		return "–"
	case "true":
		return "all"
	}
	for len(filter) > 1 && filter[0] == '(' && closes(filter) == len(filter)-1 {
		filter = filter[1 : len(filter)-1]
	}
	if w, ok := plainWords[prefix.ReplaceAllString(filter, "")]; ok {
		return w
	}
	for _, op := range []string{" or ", " and "} {
		if terms := split(filter, op); len(terms) > 1 {
			said := make([]string, 0, len(terms))
			for _, t := range terms {
				if w := words(t); !contains(said, w) {
					said = append(said, w)
				}
			}
			return strings.Join(said, strings.ReplaceAll(op, " or ", "; or "))
		}
	}
	if m := link.FindStringSubmatch(filter); m != nil && closes(filter[strings.Index(filter, "("):]) == len(filter)-strings.Index(filter, "(")-1 {
		return words(strings.ReplaceAll(m[3], m[2]+"/", ""))
	}
	return "`" + filter + "`"
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// closes is where the parenthesis closes that a text begins with.
func closes(s string) int {
	depth := 0
	for i, c := range s {
		switch c {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// split cuts a filter at an operator that stands outside of parentheses.
func split(s, op string) (parts []string) {
	depth, start := 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth == 0 && strings.HasPrefix(s[i:], op) {
			parts = append(parts, s[start:i])
			start = i + len(op)
		}
	}
	return append(parts, s[start:])
}

// kindNames are the principals as people say them.
var kindNames = map[access.Kind]string{
	access.Anonymous: "nobody", access.User: "person", access.HalfUser: "half session", access.ScopedKey: "limited key", access.Device: "device", access.FrozenDevice: "frozen device",
	access.FleetKey: "fleet key", access.Provisioning: "provisioning key",
}
