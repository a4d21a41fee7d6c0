package release

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// version is what a release says of itself; with its revision it is unique in the fleet.
type version struct {
	Major, Minor, Patch        int64
	Prerelease, Build, Variant string
}

var (
	semverForm = pattern.New(`^(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})` +
		`(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?` +
		`(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$`)
	revPart = pattern.New(`^rev(\d{1,9})$`)
)

func parseVersion(s string) (version, error) {
	m := semverForm.FindStringSubmatch(s)
	if m == nil || len(s) > 255 {
		return version{}, api.Errorf(api.Invalid, "Invalid semver format")
	}
	var n [3]int64
	for i := range n {
		n[i], _ = strconv.ParseInt(m[i+1], 10, 64) // at most nine digits, by the expression
	}
	return version{Major: n[0], Minor: n[1], Patch: n[2], Prerelease: m[4], Build: m[5]}, nil
}

func (v version) triple() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// semver is the version as people wrote it.
func (v version) semver() string {
	s := v.triple()
	if v.Prerelease != "" {
		s += "-" + v.Prerelease
	}
	if v.Build != "" {
		s += "+" + v.Build
	}
	return s
}

// buildParts are the parts of the build metadata.
func (v version) buildParts() []string { return split(v.Build) }

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ".")
}

// full is what tells one release of a fleet from every other: a draft carries the time it was made at, a final one its
// revision.
type full struct {
	version
	Revision  sql.NullInt64 // not valid: a draft
	CreatedMS int64
}

func (f full) prerelease() []string {
	parts := split(f.Prerelease)
	if !f.Revision.Valid {
		parts = append(parts, strconv.FormatInt(f.CreatedMS, 10))
	}
	return parts
}

func (f full) build() []string {
	parts := f.buildParts()
	if rev := fmt.Sprintf("rev%d", f.Revision.Int64); f.Revision.Int64 > 0 && !slices.Contains(parts, rev) {
		parts = append(parts, rev)
	}
	if f.Variant != "" {
		parts = append(parts, f.Variant)
	}
	return parts
}

// raw is the version that people see.
func (f full) raw() string {
	s := f.triple()
	if pre := f.prerelease(); len(pre) > 0 {
		s += "-" + strings.Join(pre, ".")
	}
	if build := f.build(); len(build) > 0 {
		s += "+" + strings.Join(build, ".")
	}
	return s
}

// object is the same taken apart, as clients get it under "version".
func (f full) object() (json.RawMessage, error) {
	short := f.triple()
	pre := []any{}
	for _, part := range f.prerelease() {
		if n, err := strconv.ParseInt(part, 10, 64); err == nil {
			pre = append(pre, n)
		} else {
			pre = append(pre, part)
		}
	}
	if parts := f.prerelease(); len(parts) > 0 {
		short += "-" + strings.Join(parts, ".")
	}
	data, err := json.Marshal(map[string]any{
		"raw": f.raw(), "major": f.Major, "minor": f.Minor, "patch": f.Patch,
		"prerelease": pre, "build": append([]string{}, f.build()...), "version": short,
	})
	if err != nil {
		return nil, fmt.Errorf("version %s: %w", f.raw(), err)
	}
	return data, nil
}

// columns are the values of every column that follows from a version, to be written together.
func (f full) columns() (map[string]any, error) {
	object, err := f.object()
	if err != nil {
		return nil, err
	}
	var revision any
	if f.Revision.Valid {
		revision = f.Revision.Int64
	}
	return map[string]any{
		"semver": f.semver(), "semver_major": f.Major, "semver_minor": f.Minor, "semver_patch": f.Patch,
		"semver_prerelease": f.Prerelease, "semver_build": f.Build, "variant": f.Variant,
		"revision": revision, "is_final": f.Revision.Valid, "raw_version": f.raw(), "version": object,
	}, nil
}

// nextRevision counts the final releases of a fleet that have the same version. A build that asks for another revision in its
// own text is refused.
func nextRevision(ctx context.Context, tx *db.Tx, fleet int64, v version) (sql.NullInt64, error) {
	next := sql.NullInt64{Valid: true}
	err := tx.QueryRowContext(ctx, `
SELECT COALESCE(max(revision) + 1, 0) FROM "release"
WHERE belongs_to__application = $1 AND semver_major = $2 AND semver_minor = $3 AND semver_patch = $4
  AND semver_prerelease = $5 AND variant = $6 AND revision IS NOT NULL`,
		fleet, v.Major, v.Minor, v.Patch, v.Prerelease, v.Variant).Scan(&next.Int64)
	if err != nil {
		return next, fmt.Errorf("fleet %d: next revision of %s: %w", fleet, v.semver(), err)
	}
	for _, part := range v.buildParts() {
		if m := revPart.FindStringSubmatch(part); m != nil && m[1] != strconv.FormatInt(next.Int64, 10) {
			return next, api.Errorf(api.Invalid, "The semver says revision %s, but the next revision of %s is %d.",
				m[1], v.triple(), next.Int64)
		}
	}
	return next, nil
}

// readVersion reads back what a release was given.
func readVersion(ctx context.Context, tx *db.Tx, id int64) (f full, fleet int64, err error) {
	var created string
	err = tx.QueryRowContext(ctx, `
SELECT belongs_to__application, created_at, semver_major, semver_minor, semver_patch, semver_prerelease, semver_build, variant,
    revision
FROM "release" WHERE id = $1`, id).
		Scan(&fleet, &created, &f.Major, &f.Minor, &f.Patch, &f.Prerelease, &f.Build, &f.Variant, &f.Revision)
	if err != nil {
		return f, 0, fmt.Errorf("release %d: version: %w", id, err)
	}
	at, err := db.ParseTime(created)
	if err != nil {
		return f, 0, fmt.Errorf("release %d: created_at: %w", id, err)
	}
	f.CreatedMS = at.UnixMilli()
	return f, fleet, nil
}
