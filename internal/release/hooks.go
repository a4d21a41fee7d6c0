package release

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

func (r *Releases) beforeRelease(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	switch c.Op {
	case odata.Create:
		return beforeCreate(ctx, tx, c)
	case odata.Update:
		return r.beforeUpdate(ctx, tx, c)
	default:
		return r.beforeDelete(ctx, tx, c)
	}
}

// beforeCreate fills in what a new release has of itself. A release is final unless it says otherwise.
func beforeCreate(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if err := checkPhase(c); err != nil {
		return err
	}
	fleet, ok := c.Values["belongs_to__application"].(int64)
	if !ok {
		return api.Errorf(api.Invalid, "It is necessary that each release belongs to exactly one application")
	}
	if err := checkMade(ctx, tx, c, fleet); err != nil {
		return err
	}
	var v version
	if text, ok := c.Values["semver"].(string); ok {
		var err error
		if v, err = parseVersion(text); err != nil {
			return err
		}
	}
	v.Variant, _ = c.Values["variant"].(string)
	f := full{version: v, CreatedMS: tx.Now.UnixMilli()}
	if c.Values["is_final"] != false {
		var err error
		if f.Revision, err = nextRevision(ctx, tx, fleet, v); err != nil {
			return err
		}
		c.Values["is_finalized_at__date"] = tx.NowText()
	}
	columns, err := f.columns()
	if err != nil {
		return err
	}
	maps.Copy(c.Values, columns)
	c.Values["created_at"], c.Values["update_timestamp"] = tx.NowText(), tx.NowText()
	for column, value := range map[string]any{
		"start_timestamp": tx.NowText(), "status": api.StatusRunning, "source": "cloud", "commit": randomHex(),
	} {
		if c.Values[column] == nil {
			c.Values[column] = value
		}
	}
	return nil
}

func (r *Releases) beforeUpdate(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Caller.Kind != access.System {
		for _, column := range givenOnce {
			if _, given := c.Values[column]; given {
				return api.Errorf(api.Forbidden, "%q is given when a release is made, and stays.", column)
			}
		}
	}
	if err := r.checkStatus(ctx, tx, c); err != nil {
		return err
	}
	if err := renumber(ctx, tx, c); err != nil {
		return err
	}
	if err := checkPhase(c); err != nil {
		return err
	}
	c.Values["update_timestamp"] = tx.NowText()
	return nil
}

// checkStatus lets people change the status of a release in one way: cancel it, as long as it has not succeeded. Of one whose images
// they push themselves they say how it went, too.
func (r *Releases) checkStatus(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Caller.Kind == access.System {
		return nil
	}
	status, given := c.Values["status"]
	if !given {
		if _, ok := c.Values["end_timestamp"]; ok {
			return api.Errorf(api.Invalid, "end_timestamp goes with cancelling a release.")
		}
		return nil
	}
	if handled, err := r.changeDeployed(ctx, tx, c, status); err != nil || handled {
		return err
	}
	if status != api.StatusCancelled {
		return api.Errorf(api.Invalid, "The status of a release can only be changed to cancelled; builds set the others.")
	}
	for _, id := range c.IDs {
		now, err := statusOf(ctx, tx, id)
		if err != nil {
			return err
		}
		if now == api.StatusSuccess {
			return api.Errorf(api.Invalid, "A successful release cannot be cancelled.")
		}
	}
	c.Values["end_timestamp"] = tx.NowText() // the clock of the server, whatever the client's says
	return nil
}

// checkPhase lets through the phases of a release's life that clients know.
func checkPhase(c *odata.Change) error {
	switch c.Values["phase"] {
	case nil, "next", "current", "sunset", "end-of-life":
		return nil
	}
	return api.Errorf(api.Invalid, "The phase of a release is next, current, sunset or end-of-life.")
}

func statusOf(ctx context.Context, tx *db.Tx, id int64) (string, error) {
	var status string
	if err := tx.QueryRowContext(ctx, `SELECT status FROM "release" WHERE id = $1`, id).Scan(&status); err != nil {
		return "", fmt.Errorf("release %d: status: %w", id, err)
	}
	return status, nil
}

// renumber gives a draft another version, or its revision, which makes it final. There is no way back, and what is final keeps its
// version: devices and people know it by that. The parts of a version are not written one by one.
func renumber(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	for _, part := range semverParts {
		delete(c.Values, part)
	}
	text, renamed := c.Values["semver"].(string)
	final, given := c.Values["is_final"].(bool)
	if !renamed && !given {
		return nil
	}
	var wanted version
	if renamed {
		var err error
		if wanted, err = parseVersion(text); err != nil {
			return err
		}
	}
	for _, id := range c.IDs {
		f, fleet, err := readVersion(ctx, tx, id)
		if err != nil {
			return err
		}
		if f.Revision.Valid {
			switch {
			case given && !final:
				return api.Errorf(api.Invalid, "Finalized releases cannot be converted to draft.")
			case renamed && text != f.semver():
				return api.Errorf(api.Invalid, "The version of a finalized release cannot be changed.")
			}
			continue
		}
		if !final && !renamed {
			continue
		}
		if len(c.IDs) > 1 {
			// Each gets a revision, or a version with its own time in it.
			return api.Errorf(api.Invalid, "Only one release at a time can be finalized or get a version.")
		}
		if renamed {
			wanted.Variant = f.Variant
			f.version = wanted
		}
		if final {
			if f.Revision, err = nextRevision(ctx, tx, fleet, f.version); err != nil {
				return err
			}
			c.Values["is_finalized_at__date"] = tx.NowText()
		}
		columns, err := f.columns()
		if err != nil {
			return err
		}
		maps.Copy(c.Values, columns)
	}
	return nil
}

// beforeDelete keeps what devices are told to run, and takes the images along that belong to no other release.
func (r *Releases) beforeDelete(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	for _, id := range c.IDs {
		var raw, class string
		err := tx.QueryRowContext(ctx, `
SELECT r.raw_version, a.is_of__class FROM application a JOIN "release" r ON r.id = a.should_be_running__release
WHERE a.should_be_running__release = $1 LIMIT 1`, id).Scan(&raw, &class)
		if err == nil {
			return api.Errorf(api.Invalid, "Unable to delete release %s because it is the %s's target release.", raw, class)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("delete release %d: %w", id, err)
		}
	}
	if r.cfg.Pinned != nil && len(c.IDs) > 0 {
		pinned, err := r.cfg.Pinned(ctx, tx, c.IDs)
		if err != nil {
			return fmt.Errorf("delete releases: %w", err)
		}
		if pinned {
			return api.Errorf(api.Invalid, "Unable to delete a release because device(s) are pinned to it.")
		}
	}
	for _, id := range c.IDs {
		if err := r.dropFiles(ctx, tx, "", `SELECT id, asset FROM release_asset WHERE "release" = ?`, id); err != nil {
			return fmt.Errorf("delete release %d: its assets: %w", id, err)
		}
		if _, err := tx.ExecContext(ctx, `
DELETE FROM image WHERE id IN (SELECT image FROM release_image WHERE is_part_of__release = $1)
  AND NOT EXISTS (SELECT 1 FROM release_image other WHERE other.image = image.id AND other.is_part_of__release <> $1)`, id); err != nil {
			return fmt.Errorf("delete release %d: its images: %w", id, err)
		}
	}
	return nil
}

// afterRelease stops the images of a cancelled build and lets the fleet find its newest release again.
func (r *Releases) afterRelease(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op == odata.Delete {
		return nil // a target cannot be deleted, so deleting moves none
	}
	if err := r.afterMade(ctx, tx, c); err != nil {
		return err
	}
	if c.Values["status"] == api.StatusCancelled {
		for _, id := range c.IDs {
			if err := endImages(ctx, tx, id, api.StatusCancelled); err != nil {
				return err
			}
		}
	}
	moves := c.Op == odata.Create
	for _, column := range []string{"status", "is_final", "is_passing_tests", "is_invalidated", "start_timestamp"} {
		if _, ok := c.Values[column]; ok {
			moves = true
		}
	}
	if !moves {
		return nil
	}
	tracked := map[int64]bool{}
	for _, id := range c.IDs {
		var fleet int64
		err := tx.QueryRowContext(ctx, `SELECT belongs_to__application FROM "release" WHERE id = $1`, id).Scan(&fleet)
		if err != nil {
			return fmt.Errorf("release %d: fleet: %w", id, err)
		}
		if tracked[fleet] {
			continue
		}
		tracked[fleet] = true
		if err := r.cfg.Fleets.Track(ctx, tx, fleet); err != nil {
			return err
		}
	}
	return nil
}

// endImages ends the images of a release that are still being built.
func endImages(ctx context.Context, tx *db.Tx, release int64, status string) error {
	_, err := tx.ExecContext(ctx, `
UPDATE image SET status = $1, end_timestamp = $2
WHERE status = 'running' AND id IN (SELECT image FROM release_image WHERE is_part_of__release = $3)`,
		status, tx.NowText(), release)
	if err != nil {
		return fmt.Errorf("release %d: end its images: %w", release, err)
	}
	return nil
}
