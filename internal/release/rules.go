package release

import (
	"slices"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// The navigations from a release, and from what hangs on it, to the fleet; see [access.On].
var (
	onApplication = []string{"belongs_to__application"}
	onRelease     = []string{"release"}
	insideRelease = []string{"release_image", "is_part_of__release"}
	builtService  = []string{"is_a_build_of__service", "application"}
)

const (
	// seen is for people: observers of the fleet read all of its releases, everybody else the good ones of public fleets.
	seen = "{}belongs_to__application/any(f:f/may_read) or (" + public + ")"
	// public is what everybody may read.
	public = "({}status eq 'success' and {}belongs_to__application/any(f:f/is_public))"
	// own is for the devices and the keys of the fleet.
	own = "{}belongs_to__application eq @fleet"
)

// readOnly is for what only builds write. Strangers see no build's words, see forObservers.
func readOnly(path []string, hidden ...string) map[access.Kind]odata.Rule {
	return readOnlyAs(access.Along(seen, path...), access.Along(public, path...), access.Along(own, path...), hidden...)
}

// readOnlyAs: a device, as everybody, reads what is public besides what is its fleet's; its system is among it.
func readOnlyAs(people, anybody, fleets string, hidden ...string) map[access.Kind]odata.Rule {
	return map[access.Kind]odata.Rule{
		access.Anonymous: {Read: anybody, Hide: hidden},
		access.User:      {Read: people}, access.ScopedKey: {Read: people},
		access.Device: {Read: fleets + " or (" + anybody + ")", Hide: hidden}, access.FleetKey: {Read: fleets, Hide: hidden},
	}
}

// semverParts are taken apart from "semver" by the server; what clients write to them is ignored.
var semverParts = []string{"semver_major", "semver_minor", "semver_patch", "semver_prerelease", "semver_build"}

// releaseRules: whoever may make releases of a fleet may make one here, whose images they push themselves, see deploy.go; all others
// are made by builds, see build.go.
func releaseRules() map[access.Kind]odata.Rule {
	may := access.On(access.Releases, onApplication...)
	rules := readOnly(nil, "build_log")
	person := rules[access.User]
	person.Create, person.Update, person.Delete = may, may, may
	person.Write = append(append([]string{
		"note", "known_issue_list", "is_invalidated", "invalidation_reason", "is_passing_tests", "is_final", "phase",
		"status", "end_timestamp", "release_version", "semver",
	}, givenOnce...), semverParts...)
	rules[access.User], rules[access.ScopedKey] = person, person
	device := rules[access.Device]
	device.Hide = nil // the builder keeps its secrets out of the log, and the column keeps it from other fleets
	rules[access.Device] = device
	return rules
}

// partRules are those of which images a release has: its maker says that of images that they push.
func partRules() map[access.Kind]odata.Rule {
	rules := readOnly(onRelease)
	person := rules[access.User]
	person.Create = access.On(access.Releases, "is_part_of__release", "belongs_to__application")
	person.Write = []string{"image", "is_part_of__release"}
	rules[access.User], rules[access.ScopedKey] = person, person
	return rules
}

// insideRules are those of what an image carries along; it may say more than a stranger should know. Where its maker writes nothing,
// only builds make it.
func insideRules(write ...string) map[access.Kind]odata.Rule {
	path := slices.Concat(insideRelease, onApplication)
	people := odata.Rule{Read: access.On(access.Read, path...)}
	if len(write) > 0 {
		people.Create, people.Write = access.On(access.Releases, path...), write
	}
	devices := odata.Rule{Read: access.Along(own, insideRelease...)}
	return map[access.Kind]odata.Rule{
		access.User: people, access.ScopedKey: people, access.Device: devices, access.FleetKey: devices,
	}
}

// imageRules: an image is seen by whoever sees a release that it is part of, and by observers of its service's fleet. One that is
// in quarantine is seen by people alone, and is the only kind that they make and change.
func imageRules() map[access.Kind]odata.Rule {
	part := access.Along(public, insideRelease...)
	rules := readOnlyAs(access.On(access.Read, builtService...)+" or "+part, "(("+part+") and is_quarantined eq false)",
		"("+access.Along("{}application eq @fleet", builtService[0])+" and is_quarantined eq false)", "build_log", "dockerfile", "error_message")
	person, may := rules[access.User], access.On(access.Releases, builtService...)
	person.Create, person.Update = may, "("+may+") and is_quarantined eq true"
	person.Write = []string{
		"is_a_build_of__service", "status", "start_timestamp", "end_timestamp", "push_timestamp", "content_hash", "image_size",
		"dockerfile", "project_type", "error_message", "build_log", "contract",
	}
	rules[access.User], rules[access.ScopedKey] = person, person
	return rules
}

// imageActs: an image is pushed by who made its release, while it is in quarantine.
func imageActs() access.Acts {
	push := imageRules()[access.User].Update + " and " + access.Along("{}is_created_by__user eq @user", insideRelease...)
	return access.Acts{"push": {access.User: push, access.ScopedKey: push}}
}

// tagRules are those of what people hang on a release.
func tagRules(write ...string) map[access.Kind]odata.Rule {
	rules := readOnly(onRelease)
	may := access.On(access.Releases, "release", "belongs_to__application")
	person := odata.Rule{Read: rules[access.User].Read, Create: may, Update: may, Delete: may, Write: write}
	rules[access.User], rules[access.ScopedKey] = person, person
	return rules
}
