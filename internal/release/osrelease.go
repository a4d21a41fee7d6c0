package release

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Operating systems and supervisors are releases of fleets of the server itself: balena_os/<device type> and
// balena_os/<architecture>-supervisor. The operator brings them in, from a file; nobody builds them here.

// supervisorBoards says which board stands for an architecture: every fleet is for one.
var supervisorBoards = map[string]string{
	"aarch64": "generic-aarch64", "amd64": "generic-amd64", "armv7hf": "generic-armv7ahf", "i386": "qemux86", "rpi": "raspberry-pi",
}

var (
	imageForm   = pattern.New(`^([a-z0-9][a-z0-9.-]*(?::\d+)?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+)@(sha256:[0-9a-f]{64})$`)
	variantForm = pattern.New(`^[a-z0-9-]{0,50}$`)
)

// ImportOS brings in releases of operating systems and supervisors, all or none. One that is there already keeps what it is, and
// gets what may be said about it anew.
func (r *Releases) ImportOS(ctx context.Context, tx *db.Tx, list []api.OSRelease) ([]api.OSReleaseResult, error) {
	results := make([]api.OSReleaseResult, 0, len(list))
	for i, o := range list {
		result, err := r.importOS(ctx, tx, o)
		if err != nil {
			return nil, named(err, i)
		}
		results = append(results, result)
	}
	return results, nil
}

// named puts the place in the list into a text that people see.
func named(err error, i int) error {
	if e := api.AsError(err); e.Code != api.Internal {
		return &api.Error{Code: e.Code, Text: fmt.Sprintf("releases[%d]: %s", i, e.Text)}
	}
	return err
}

func (r *Releases) importOS(ctx context.Context, tx *db.Tx, o api.OSRelease) (result api.OSReleaseResult, err error) {
	f, err := checkOS(o)
	if err != nil {
		return result, err
	}
	system, err := systemOf(ctx, tx, o)
	if err != nil {
		return result, err
	}
	fleetID, slug, err := fleet.EnsureSystem(ctx, tx, system)
	if err != nil {
		return result, err
	}
	f.CreatedMS = tx.Now.UnixMilli()
	result = api.OSReleaseResult{Fleet: slug}
	err = tx.QueryRowContext(ctx, `
SELECT id, raw_version FROM "release" WHERE belongs_to__application = ? AND semver = ? AND variant = ?
  AND revision IS NOT DISTINCT FROM CAST(? AS BIGINT) ORDER BY id LIMIT 1`, fleetID, f.semver(), f.Variant, f.Revision).
		Scan(&result.ID, &result.Version)
	if errors.Is(err, sql.ErrNoRows) {
		result.Created, result.Version = true, f.raw()
		result.ID, err = r.makeOS(ctx, tx, fleetID, o, f)
	}
	if err != nil {
		return result, fmt.Errorf("%s %s: %w", slug, f.raw(), err)
	}
	return result, r.describeOS(ctx, tx, result.ID, o)
}

// checkOS refuses what cannot be a release, and gives its version. Errors name the field.
func checkOS(o api.OSRelease) (f full, err error) {
	v, err := parseVersion(strings.TrimPrefix(o.Version, "v"))
	if err != nil {
		return f, api.Errorf(api.Invalid, "version: %q is not a version such as 6.0.24 or 2.113.18+rev2", o.Version)
	}
	f = full{version: v}
	if !o.Draft {
		f.Revision.Valid = true
	}
	// The revision is the operator's: what came before it may never come here.
	rest := slices.DeleteFunc(v.buildParts(), func(part string) bool {
		m := revPart.FindStringSubmatch(part)
		if m != nil && f.Revision.Valid {
			f.Revision.Int64, _ = strconv.ParseInt(m[1], 10, 64) // at most nine digits, by the expression
		}
		return m != nil
	})
	f.Build, f.Variant = strings.Join(rest, "."), o.Variant
	switch {
	case !variantForm.MatchString(o.Variant):
		return f, api.Errorf(api.Invalid, "variant: %q is not made of lower-case letters, digits and hyphens", o.Variant)
	case o.Line != "" && o.Line != "esr":
		return f, api.Errorf(api.Invalid, `line: %q must be "esr" or nothing`, o.Line)
	case o.Image != "" && !imageForm.MatchString(o.Image):
		return f, api.Errorf(api.Invalid, "image: %q is not a repository with a digest, registry.example.com/name@sha256:…", o.Image)
	case o.Size < 0:
		return f, api.Errorf(api.Invalid, "size: must not be negative")
	case len(o.Note)+len(o.KnownIssues)+len(o.InvalidationReason) > maxText:
		return f, api.Errorf(api.TooLarge, "note, known_issues and invalidation_reason have more than %d bytes", maxText)
	case len(o.Contract) > 0 && (o.Contract[0] != '{' || !json.Valid(o.Contract)):
		return f, api.Errorf(api.Invalid, "contract: must be an object")
	}
	for name := range o.Labels {
		if err := fleet.CheckLabelName(name); err != nil {
			return f, api.Errorf(api.Invalid, "labels: %q: %s", name, api.AsError(err).Text)
		}
	}
	if checkPhase(&odata.Change{Values: phaseOf(o)}) != nil {
		return f, api.Errorf(api.Invalid, "phase: %q is not next, current, sunset or end-of-life", o.Phase)
	}
	return f, nil
}

func phaseOf(o api.OSRelease) map[string]any {
	if o.Phase == "" {
		return nil
	}
	return map[string]any{"phase": o.Phase}
}

// systemOf says which fleet a release belongs to.
func systemOf(ctx context.Context, tx *db.Tx, o api.OSRelease) (fleet.System, error) {
	var s fleet.System
	board := o.DeviceType
	switch o.Kind {
	case api.KindOS:
		if board == "" || o.Arch != "" {
			return s, api.Errorf(api.Invalid, "device_type: an operating system is for a device type, and for no arch")
		}
	case api.KindSupervisor:
		board = supervisorBoards[o.Arch]
		if board == "" || o.DeviceType != "" || o.Line != "" {
			return s, api.Errorf(api.Invalid,
				"arch: a supervisor is for aarch64, amd64, armv7hf, i386 or rpi, and for no device_type or line")
		}
	default:
		return s, api.Errorf(api.Invalid, `kind: %q must be "os" or "supervisor"`, o.Kind)
	}
	t, err := fleet.FindDeviceType(ctx, tx, board)
	if errors.Is(err, api.ErrNotFound) {
		return s, api.Errorf(api.Invalid, "device_type: there is none called %q", board)
	}
	if err != nil {
		return s, err
	}
	s = fleet.System{Name: t.Slug, DeviceType: t.ID, Host: true}
	if o.Kind == api.KindSupervisor {
		s.Name, s.Host = o.Arch+"-supervisor", false
	}
	if o.Line != "" {
		s.Name += "-" + o.Line
		s.Tags = map[string]string{"release-policy": o.Line}
	}
	return s, nil
}

// makeOS writes the release, and its one image if it has one.
func (r *Releases) makeOS(ctx context.Context, tx *db.Tx, fleetID int64, o api.OSRelease, f full) (id int64, err error) {
	object, err := f.object()
	if err != nil {
		return 0, err
	}
	service := "hostapp"
	if o.Kind == api.KindSupervisor {
		service = "supervisor"
	}
	composition, err := json.Marshal(map[string]any{"version": "2.4", "services": map[string]any{
		service: map[string]any{"labels": labelsOf(o)},
	}})
	if err != nil {
		return 0, err
	}
	var finalized any
	if f.Revision.Valid {
		finalized = tx.NowText()
	}
	now := tx.NowText()
	err = tx.QueryRowContext(ctx, `
INSERT INTO "release" (created_at, belongs_to__application, "commit", composition, status, source, start_timestamp, end_timestamp,
    update_timestamp, is_final, is_finalized_at__date, semver, semver_major, semver_minor, semver_patch, semver_prerelease,
    semver_build, variant, revision, raw_version, version)
VALUES (?, ?, ?, ?, 'success', 'local', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
		now, fleetID, randomHex(), string(composition), now, now, now, f.Revision.Valid, finalized, f.semver(), f.Major, f.Minor,
		f.Patch, f.Prerelease, f.Build, f.Variant, f.Revision, f.raw(), string(object)).Scan(&id)
	if err != nil || o.Image == "" {
		return id, err
	}
	return id, makeOSImage(ctx, tx, id, fleetID, service, o, f)
}

// labelsOf are the labels of an operating system's container; by the first the supervisor knows it.
func labelsOf(o api.OSRelease) map[string]string {
	labels := map[string]string{}
	if o.Kind == api.KindOS {
		labels["io.balena.image.class"] = "hostapp"
		labels["io.balena.image.store"] = "root"
	}
	for name, value := range o.Labels {
		labels[name] = value
	}
	return labels
}

func makeOSImage(ctx context.Context, tx *db.Tx, id, fleetID int64, service string, o api.OSRelease, f full) error {
	serviceID, err := fleet.EnsureService(ctx, tx, fleetID, service)
	if err != nil {
		return err
	}
	m := imageForm.FindStringSubmatch(o.Image)
	// A location is one image's alone, but a repository holds many: the version tells them apart. Devices go by the digest.
	location := m[1] + ":" + strings.ReplaceAll(f.raw(), "+", "_")
	var image, part int64
	err = tx.QueryRowContext(ctx, `
INSERT INTO image (created_at, start_timestamp, end_timestamp, push_timestamp, is_a_build_of__service, image_size,
    is_stored_at__image_location, status, content_hash)
VALUES (?, ?, ?, ?, ?, ?, ?, 'success', ?) RETURNING id`,
		tx.NowText(), tx.NowText(), tx.NowText(), tx.NowText(), serviceID, o.Size, location, m[2]).Scan(&image)
	if db.IsUnique(err) {
		return api.Errorf(api.Conflict, "image: another release has %s already", location)
	}
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if err := tx.QueryRowContext(ctx, `
INSERT INTO release_image (created_at, image, is_part_of__release) VALUES (?, ?, ?) RETURNING id`,
		tx.NowText(), image, id).Scan(&part); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	for name, value := range labelsOf(o) {
		if _, err := tx.ExecContext(ctx, `INSERT INTO image_label (created_at, release_image, label_name, value) VALUES (?, ?, ?, ?)`,
			tx.NowText(), part, name, value); err != nil {
			return fmt.Errorf("label %s: %w", name, err)
		}
	}
	return nil
}

// describeOS writes what may be said about a release of its own time.
func (r *Releases) describeOS(ctx context.Context, tx *db.Tx, id int64, o api.OSRelease) error {
	var contract any
	if len(o.Contract) > 0 {
		contract = string(o.Contract)
	}
	_, err := tx.ExecContext(ctx, `
UPDATE "release" SET phase = NULLIF(?, ''), note = NULLIF(?, ''), known_issue_list = NULLIF(?, ''), is_invalidated = ?,
    invalidation_reason = NULLIF(?, ''), contract = ?, update_timestamp = ? WHERE id = ?`,
		o.Phase, o.Note, o.KnownIssues, o.Invalidated, o.InvalidationReason, contract, tx.NowText(), id)
	if err != nil {
		return fmt.Errorf("release %d: %w", id, err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM release_tag WHERE "release" = ?`, id); err != nil {
		return fmt.Errorf("release %d: tags: %w", id, err)
	}
	for key, value := range o.Tags {
		if err := fleet.CheckTagKey(key); err != nil {
			return api.Errorf(api.Invalid, "tags: %q: %s", key, api.AsError(err).Text)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO release_tag ("release", tag_key, value) VALUES (?, ?, ?)`, id, key, value)
		if err != nil {
			return fmt.Errorf("release %d: tag %q: %w", id, key, err)
		}
	}
	return nil
}
