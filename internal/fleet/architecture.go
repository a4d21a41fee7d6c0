package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// A fleet is built for the CPU architecture of its device type, and for those that it names beside it (is_also_built_for): its releases
// then hold an image for each, and devices of any of them may be in it.

// buildable are the architectures that images can be built for, in the order in which a fleet's are kept.
var buildable = []string{"aarch64", "amd64", "armv7hf", "i386", "rpi"}

// maxAlso bounds the column: all of the above fit.
const maxAlso = 100

// generic are the device types that stand for an architecture, for which a fleet is built beside that of its own device type.
var generic = map[string]string{
	"aarch64": "generic-aarch64", "amd64": "generic-amd64", "armv7hf": "generic-armv7ahf", "i386": "qemux86", "rpi": "raspberry-pi",
}

// BuildsAlso reads is_also_built_for for the builder.
func BuildsAlso(also string) []api.BuildArch {
	var list []api.BuildArch
	for _, arch := range listed(also) {
		list = append(list, api.BuildArch{Arch: arch, DeviceType: generic[arch]})
	}
	return list
}

// listed reads is_also_built_for.
func listed(also string) []string {
	if also == "" {
		return nil
	}
	return strings.Split(also, ",")
}

// Runs reports whether a device of one architecture runs what is built for another, by the rule that balena's clients apply.
func Runs(device, build string) bool {
	switch device {
	case build:
		return true
	case "aarch64":
		return build == "armv7hf" || build == "rpi"
	case "armv7hf":
		return build == "rpi"
	default:
		return false
	}
}

// RunsAny reports whether a device of one architecture runs something of what is built for others.
func RunsAny(device string, builds []string) bool {
	return slices.ContainsFunc(builds, func(b string) bool { return Runs(device, b) })
}

// CannotRun is the error of a device that cannot run what its fleet is built for.
func CannotRun(runs string, built []string) error {
	return api.Errorf(api.Invalid, "A device with CPU architecture %s cannot run what is built for %s.", runs, strings.Join(built, ", "))
}

// CheckArch refuses a device in a fleet whose images it could not run.
func CheckArch(ctx context.Context, tx *db.Tx, fleetID, deviceType int64) error {
	var runs, built, also string
	err := tx.QueryRowContext(ctx, `SELECT
			(SELECT c.slug FROM device_type t JOIN cpu_architecture c ON c.id = t.is_of__cpu_architecture WHERE t.id = ?),
			c.slug, coalesce(f.is_also_built_for, '') FROM application f JOIN device_type t ON t.id = f.is_for__device_type
				JOIN cpu_architecture c ON c.id = t.is_of__cpu_architecture WHERE f.id = ?`, deviceType, fleetID).Scan(&runs, &built, &also)
	if err != nil {
		return fmt.Errorf("fleet: architecture: %w", err)
	}
	if all := append([]string{built}, listed(also)...); !RunsAny(runs, all) {
		return CannotRun(runs, all)
	}
	return nil
}

// Architectures gives what fleets are built for, that of the device type first; those that do not exist are missing from the answer.
func Architectures(ctx context.Context, tx *db.Tx, fleets []int64) (map[int64][]string, error) {
	list, args := db.In(fleets)
	rows, err := tx.QueryContext(ctx, `SELECT f.id, c.slug, coalesce(f.is_also_built_for, '') FROM application f
		JOIN device_type t ON t.id = f.is_for__device_type JOIN cpu_architecture c ON c.id = t.is_of__cpu_architecture WHERE f.id IN `+list, args...)
	if err != nil {
		return nil, fmt.Errorf("fleet: architectures: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := map[int64][]string{}
	for rows.Next() {
		var id int64
		var slug, also string
		if err := rows.Scan(&id, &slug, &also); err != nil {
			return nil, fmt.Errorf("fleet: architectures: %w", err)
		}
		out[id] = append([]string{slug}, listed(also)...)
	}
	return out, rows.Err()
}

// checkAlso checks is_also_built_for of a change and puts it into its one form: every architecture once, in order, null for none.
func checkAlso(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	given, ok := c.Values["is_also_built_for"]
	if !ok {
		return nil
	}
	text, _ := given.(string)
	var wanted []string
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
		case !slices.Contains(buildable, name):
			return api.Errorf(api.Invalid, "is_also_built_for: %.50q is no CPU architecture to build for; there are %s.", name, strings.Join(buildable, ", "))
		case !slices.Contains(wanted, name):
			wanted = append(wanted, name)
		}
	}
	slices.Sort(wanted)
	c.Values["is_also_built_for"] = nil
	if len(wanted) > 0 {
		c.Values["is_also_built_for"] = strings.Join(wanted, ",")
	}
	for _, id := range c.IDs { // of an update; one that is made has its device type in the change
		if err := fits(ctx, tx, id, wanted); err != nil {
			return err
		}
	}
	if t, ok := c.Values["is_for__device_type"].(int64); ok {
		var own string
		if err := tx.QueryRowContext(ctx, `SELECT c.slug FROM device_type t JOIN cpu_architecture c ON c.id = t.is_of__cpu_architecture
			WHERE t.id = ?`, t).Scan(&own); err != nil {
			return fmt.Errorf("fleet: device type %d: %w", t, err)
		}
		return notTwice(own, wanted)
	}
	return nil
}

func notTwice(own string, wanted []string) error {
	if slices.Contains(wanted, own) {
		return api.Errorf(api.Invalid, "is_also_built_for: the fleet is built for %s anyway: its device type says so.", own)
	}
	return nil
}

// fits refuses a list with which a fleet would be built for its own architecture twice, or not for that of some of its devices.
func fits(ctx context.Context, tx *db.Tx, id int64, wanted []string) error {
	now, err := Architectures(ctx, tx, []int64{id})
	if err != nil {
		return err
	}
	if len(now[id]) == 0 {
		return nil // there is no such fleet; that is for others to say
	}
	own := now[id][0]
	if err := notTwice(own, wanted); err != nil {
		return err
	}
	rows, err := tx.QueryContext(ctx, `SELECT c.slug, count(*) FROM device d JOIN device_type t ON t.id = d.is_of__device_type
		JOIN cpu_architecture c ON c.id = t.is_of__cpu_architecture WHERE d.belongs_to__application = ? GROUP BY c.slug ORDER BY c.slug`, id)
	if err != nil {
		return fmt.Errorf("fleet %d: architectures of its devices: %w", id, err)
	}
	defer func() { _ = rows.Close() }()
	left, archs := 0, []string{}
	for rows.Next() {
		var arch string
		var n int
		if err := rows.Scan(&arch, &n); err != nil {
			return fmt.Errorf("fleet %d: architectures of its devices: %w", id, err)
		}
		if !RunsAny(arch, append([]string{own}, wanted...)) {
			left, archs = left+n, append(archs, arch)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("fleet %d: architectures of its devices: %w", id, err)
	}
	if left > 0 {
		return api.Errorf(api.Invalid, "is_also_built_for: %d devices of the fleet (%s) would have nothing to run; move or remove them first.", left,
			strings.Join(archs, ", "))
	}
	return nil
}
