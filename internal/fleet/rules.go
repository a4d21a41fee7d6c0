package fleet

import (
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// The navigations from what hangs on a fleet to the fleet, see [access.On].
var (
	onApplication  = []string{"application"}
	throughService = []string{"service", "application"}
)

// readable is for the catalogue, which anybody may read.
func readable() map[access.Kind]odata.Rule {
	all := odata.Rule{Read: "true"}
	return map[access.Kind]odata.Rule{
		access.Anonymous: all, access.User: all, access.ScopedKey: all, access.Device: all, access.FleetKey: all,
	}
}

// owned is for what hangs on a fleet, which path leads to: who reads the fleet reads it, people with a verb write it, and the fleet's devices
// read it with the filter own, if there is one.
func owned(v access.Verbs, path []string, own string, write ...string) map[access.Kind]odata.Rule {
	may := access.On(v, path...)
	person := odata.Rule{Read: access.On(access.Read, path...), Create: may, Update: may, Delete: may, Write: write}
	rules := map[access.Kind]odata.Rule{access.User: person, access.ScopedKey: person}
	if own != "" {
		rules[access.Device], rules[access.FleetKey] = odata.Rule{Read: own}, odata.Rule{Read: own}
	}
	return rules
}

const (
	ownParent  = "application eq @fleet"
	ownService = "service/any(s:s/application eq @fleet)"
	ofPublic   = "application/any(a:a/is_public)"
)

// applicationRules: every member of an organization may make a fleet in it, and becomes its developer. A device reads what is public
// as everybody does: its operating system and its supervisor are releases of public fleets.
func applicationRules() map[access.Kind]odata.Rule {
	person := odata.Rule{
		Read: access.Seen(), Create: account.MemberOf("organization"),
		Update: access.On(access.Settings), Delete: access.On(access.Ownership),
		Write: []string{
			"app_name", "organization", "is_for__device_type", "application_type", "is_of__class", "uuid", "is_archived",
			"should_track_latest_release", "should_be_running__release", "is_stored_at__repository_url", "is_public",
			"is_accessible_by_support_until__date", "is_discoverable", "allows_tags_from_devices", "git_branch",
			"is_also_built_for", "is_closed_to_support",
		},
	}
	person.Needs = map[string]string{}
	for _, column := range []string{"is_public", "is_discoverable", "is_accessible_by_support_until__date", "is_closed_to_support"} { // who else gets to the fleet
		person.Needs[column] = access.On(access.Members)
	}
	key := person
	key.Create = "" // a key that is limited to some fleets makes no new ones
	own := odata.Rule{
		Read: "id eq @fleet", Hide: []string{"is_stored_at__repository_url", "is_accessible_by_support_until__date"},
	}
	device := own
	device.Read += " or is_public"
	return map[access.Kind]odata.Rule{
		access.Anonymous: {Read: "is_public", Hide: []string{"actor", "is_stored_at__repository_url", "is_accessible_by_support_until__date"}},
		access.User:      person,
		access.ScopedKey: key,
		access.Device:    device,
		access.FleetKey:  own,
	}
}

func serviceRules() map[access.Kind]odata.Rule {
	// A service keeps its name: compositions of old releases speak of it.
	may := access.On(access.Settings, onApplication...)
	person := odata.Rule{
		Read: access.Seen(onApplication...), Create: may, Delete: may, Write: []string{"application", "service_name"},
	}
	return map[access.Kind]odata.Rule{
		access.Anonymous: {Read: ofPublic},
		access.User:      person, access.ScopedKey: person,
		access.Device: {Read: ownParent + " or " + ofPublic}, access.FleetKey: {Read: ownParent},
	}
}

// tagRules: the tags of a public fleet are part of its face; clients tell the lines of an operating system by them.
func tagRules() map[access.Kind]odata.Rule {
	rules := owned(access.Settings, onApplication, ownParent, "application", "tag_key", "value")
	person := rules[access.User]
	person.Read = access.Seen(onApplication...)
	// Asked before the tag is there: a key for fleets with a tag would be let in by it.
	person.Refs = map[string]string{"application": access.On(access.Settings)}
	rules[access.User], rules[access.ScopedKey] = person, person
	rules[access.Anonymous] = odata.Rule{Read: ofPublic}
	rules[access.Device] = odata.Rule{Read: ownParent + " or " + ofPublic}
	return rules
}
