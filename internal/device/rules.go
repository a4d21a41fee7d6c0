package device

import (
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Who may see and change a device: who reads or works on the devices of its fleet or the device alone (a support grant), and (its
// state only) the device itself. See [access.On].
const (
	itself       = "id eq @device"
	deviceItself = "device eq @device"
	ofFleetKey   = "belongs_to__application eq @fleet"
)

var (
	onDevice       = []string{"device"}
	throughInstall = []string{"service_install", "device"}
)

// writtenByUsers are the columns of a device that people give. uuid, device type and fleet are needed to make one.
var writtenByUsers = []string{
	"uuid", "device_name", "note", "local_id", "is_of__device_type", "belongs_to__application", "is_pinned_on__release",
	"is_active", "is_web_accessible", "is_locked_until__date", "is_accessible_by_support_until__date",
	"custom_latitude", "custom_longitude", "should_be_operated_by__release", "should_be_managed_by__release",
	// Of these the device itself has the last word: a person tells what is known before the device does.
	"is_online", "os_version", "os_variant", "supervisor_version",
}

// writtenByItself are the columns of its own row that a device gives: its state, and nothing that decides what it is or runs.
var writtenByItself = []string{
	"status", "os_version", "os_variant", "supervisor_version", "provisioning_progress", "provisioning_state",
	"download_progress", "ip_address", "mac_address", "memory_usage", "memory_total", "storage_block_device", "storage_usage",
	"storage_total", "cpu_usage", "cpu_temp", "cpu_id", "is_undervolted",
}

// ignoredFromItself are columns that real supervisors try to write and would for ever if they were refused: the initial name,
// the pin of a preloaded release, what its system or supervisor was or will be, which people choose, and parts of reports that
// mean nothing here.
var ignoredFromItself = []string{
	"device_name", "is_pinned_on__release", "is_online", "public_address",
	"should_be_operated_by__release", "should_be_managed_by__release", "should_be_managed_by__supervisor_release",
}

func deviceRules() map[access.Kind]odata.Rule {
	may := access.On(access.Devices)
	key := odata.Rule{
		Read: access.On(access.Read), Create: may, Update: may, Delete: may, Write: writtenByUsers,
		Refs: map[string]string{"belongs_to__application": may}, // the fleet that it comes into
		// Who else gets to it, which is as much as giving away a key. A support grant gives no keys, so staff do not make it longer.
		Needs: map[string]string{rights.SupportColumn: access.On(access.Keys)},
	}
	// What support staff do must end with the grant: they make and delete no device, move none, and open none to themselves.
	const own = access.OwnDevices
	person := key
	person.Create, person.Delete = own, own
	person.Refs = map[string]string{"belongs_to__application": own}
	person.Needs = map[string]string{"belongs_to__application": own, "is_web_accessible": own, rights.SupportColumn: access.On(access.Keys)}
	key.Create += " and " + access.AllDevices // a key for some devices would not see what it made
	return map[access.Kind]odata.Rule{
		access.User: person, access.ScopedKey: key,
		access.Device:   {Read: itself, Update: itself, Write: writtenByItself, Ignore: ignoredFromItself},
		access.FleetKey: {Read: ofFleetKey},
	}
}

// rowRules are those of what hangs on a device, which path leads to: who reads the fleet reads it, who changes its devices writes the columns named, the
// device itself reads it.
func rowRules(path []string, write ...string) map[access.Kind]odata.Rule {
	person := odata.Rule{Read: access.On(access.Read, path...)}
	if len(write) > 0 {
		may := access.On(access.Devices, path...)
		person.Create, person.Update, person.Delete, person.Write = may, may, may, write
	}
	own := access.Along("{}"+deviceItself, path[:len(path)-1]...)
	return map[access.Kind]odata.Rule{
		access.User: person, access.ScopedKey: person,
		access.Device:   {Read: own},
		access.FleetKey: {Read: access.Along("{}"+ofFleetKey, path...)},
	}
}

// tagRules are those of the tags of devices. A key for devices with a tag gives none a tag and takes none from one: it is not for it to
// say which devices it is for.
func tagRules() map[access.Kind]odata.Rule {
	rules := rowRules(onDevice, "device", "tag_key", "value")
	key := rules[access.ScopedKey]
	may := access.Along("{}"+access.Devices.Columns()[0]+" and {}"+access.AllDevices, onDevice...)
	key.Create, key.Update, key.Delete = may, may, may
	rules[access.ScopedKey] = key
	return rules
}

// historyRules let those see what a device was who may see the fleet that it was in; a key for some devices, if it sees the device, too.
func historyRules() map[access.Kind]odata.Rule {
	person := odata.Rule{Read: access.On(access.Read, "belongs_to__application")}
	key := odata.Rule{Read: person.Read + " and (" + access.Along(access.AllDevices, "belongs_to__application") + " or " +
		access.On(access.Read, "tracks__device") + ")"}
	return map[access.Kind]odata.Rule{access.User: person, access.ScopedKey: key, access.FleetKey: {Read: ofFleetKey}}
}

// serviceInstanceRules show people what carries the control channels; it tells nothing of whose they are.
func serviceInstanceRules() map[access.Kind]odata.Rule {
	all := odata.Rule{Read: "true"}
	return map[access.Kind]odata.Rule{access.User: all, access.ScopedKey: all}
}
