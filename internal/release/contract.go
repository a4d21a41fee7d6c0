package release

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// describe gives a build what its project's contract says: the contract itself, and its version. Said again, it changes nothing.
func describe(ctx context.Context, tx *db.Tx, id, fleet int64, contract json.RawMessage) error {
	if len(contract) == 0 {
		return nil
	}
	var said struct {
		Version any `json:"version"`
	}
	if contract[0] != '{' || json.Unmarshal(contract, &said) != nil || len(contract) > maxText*4 {
		return api.Errorf(api.Invalid, "balena.yml: it is not an object of at most %d bytes", maxText*4)
	}
	if _, err := tx.ExecContext(ctx, `UPDATE "release" SET contract = ? WHERE id = ?`, string(contract), id); err != nil {
		return fmt.Errorf("build %d: contract: %w", id, err)
	}
	if said.Version == nil {
		return nil
	}
	text, _ := said.Version.(string) // 1.2 is a number in YAML, and no version
	wanted, err := parseVersion(text)
	if err != nil {
		return api.Errorf(api.Invalid, "balena.yml: version: %v is not a version such as 1.2.3", said.Version)
	}
	f, _, err := readVersion(ctx, tx, id)
	if err != nil {
		return err
	}
	wanted.Variant = f.Variant
	if f.version == wanted {
		return nil
	}
	f.version = wanted
	if f.Revision.Valid {
		if f.Revision, err = nextRevision(ctx, tx, fleet, wanted); err != nil {
			return err
		}
	}
	object, err := f.object()
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `
UPDATE "release" SET semver = ?, semver_major = ?, semver_minor = ?, semver_patch = ?, semver_prerelease = ?, semver_build = ?,
    revision = ?, raw_version = ?, version = ? WHERE id = ?`,
		f.semver(), f.Major, f.Minor, f.Patch, f.Prerelease, f.Build, f.Revision, f.raw(), string(object), id); err != nil {
		return fmt.Errorf("build %d: version %s: %w", id, f.raw(), err)
	}
	return nil
}
