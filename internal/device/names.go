package device

import (
	"math/rand/v2"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/device/report"
)

// longestName bounds the name of a device, in bytes.
const longestName = 255

// The words of invented names: a device without a name is hard to talk about.
var (
	manners = [...]string{
		"amber", "ancient", "autumn", "azure", "bold", "brave", "bright", "broad", "calm", "clear", "coastal", "cool", "crimson",
		"dapper", "deep", "distant", "drifting", "eager", "early", "easterly", "fair", "fleet", "fond", "foggy", "gentle", "gilded",
		"golden", "grand", "hardy", "hidden", "humble", "idle", "jolly", "keen", "kind", "late", "lively", "lucky", "merry", "misty",
		"morning", "nimble", "noble", "northern", "patient", "plain", "proud", "quiet", "rapid", "restless", "rolling", "rustic",
		"salty", "silent", "silver", "snowy", "solid", "southern", "steady", "sunny", "swift", "tidal", "weathered", "winter",
	}
	things = [...]string{
		"anchor", "atoll", "barge", "bay", "beacon", "bell", "bight", "bollard", "boom", "brig", "buoy", "cable", "canoe", "cape",
		"capstan", "channel", "cliff", "compass", "coral", "cove", "current", "cutter", "davit", "dinghy", "dock", "dory", "estuary",
		"fathom", "ferry", "fjord", "gale", "galley", "gull", "harbour", "haven", "helm", "hull", "inlet", "island", "jetty", "kayak",
		"keel", "ketch", "lagoon", "lantern", "lighthouse", "mast", "mooring", "oar", "pier", "pilot", "quay", "reef", "rudder",
		"sail", "schooner", "shoal", "skiff", "sloop", "spar", "strait", "tide", "tiller", "wharf",
	}
)

// inventName makes a name of two words. It need not be unique: the uuid is.
func inventName() string {
	return manners[rand.IntN(len(manners))] + "-" + things[rand.IntN(len(things))]
}

// nameFor gives a new device the name that it was given before its first boot. A device key cannot write the name later, so
// this is the one time that it may say it.
func nameFor(req api.Register) string {
	if req.DeviceName != "" {
		return req.DeviceName
	}
	return inventName()
}

// checkName refuses names that no list of devices could show.
func checkName(name string) error {
	switch {
	case strings.ContainsAny(name, "\r\n"):
		return api.Errorf(api.Invalid, textNewline)
	case strings.ContainsFunc(name, report.Steers):
		return api.Errorf(api.Invalid, "Device name cannot contain any control characters.")
	}
	return nil
}
