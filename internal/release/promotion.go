package release

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// A promotion is what a builder does for a deployment that was finalised: it looks at what lies in quarantine, copies it into the
// repositories of the release, and ends the release as a build, with [Releases.Finish]. The row of the deployment is the job: it is
// leased by the builder's heartbeat, taken again when that stops, and given up after a few attempts.

const (
	// promotionSilence is after how long without a heartbeat another builder takes a promotion over.
	promotionSilence = 15 * time.Second
	maxAttempts      = 5
	// promotionPatience is how long the answer to a client that calls its release a success waits for the promotion. It is shorter
	// than what requests may take, here and at the client.
	promotionPatience = 40 * time.Second
	promotionLook     = 150 * time.Millisecond
)

// NextChore gives a builder the next thing to do about quarantine, and leases it. It is asked again and again.
func (r *Releases) NextChore(ctx context.Context) (chore api.QuarantineChore, err error) {
	due := false
	err = r.cfg.DB.ReadOne(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM deployment d JOIN "release" r ON r.id = d."release" WHERE d.emptied_at IS NULL
AND (r.status <> 'running' OR d.finalised_at IS NOT NULL AND (r.heartbeat_at IS NULL OR r.heartbeat_at < ?)))`,
			db.FormatTime(tx.Now.Add(-promotionSilence))).Scan(&due)
	})
	if err != nil || !due {
		return chore, err
	}
	err = r.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		chore = api.QuarantineChore{}
		if chore.Promote, err = r.lease(ctx, tx); err != nil || chore.Promote != nil {
			return err
		}
		chore.Empty, err = r.toEmpty(ctx, tx)
		return err
	})
	return chore, err
}

// lease takes the promotion that has waited longest; nil when there is none.
func (r *Releases) lease(ctx context.Context, tx *db.Tx) (*api.Promotion, error) {
	for {
		var id int64
		var attempts int
		err := tx.QueryRowContext(ctx, `SELECT d."release", d.attempts FROM deployment d JOIN "release" r ON r.id = d."release"
WHERE d.emptied_at IS NULL AND r.status = 'running' AND d.finalised_at IS NOT NULL AND (r.heartbeat_at IS NULL OR r.heartbeat_at < ?)
ORDER BY d.finalised_at, d."release" LIMIT 1`, db.FormatTime(tx.Now.Add(-promotionSilence))).Scan(&id, &attempts)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, nil //nolint:nilnil // none is an answer
		}
		if err != nil {
			return nil, fmt.Errorf("next promotion: %w", err)
		}
		if err := r.endWithoutRight(ctx, tx, id); err != nil {
			return nil, err
		}
		b, err := r.Get(ctx, tx, id)
		if err != nil {
			return nil, err
		}
		if b.Status != api.StatusRunning {
			continue // its maker may not do this any more
		}
		if attempts >= maxAttempts {
			if _, err := r.Finish(ctx, tx, id, api.BuildResult{
				Status: api.StatusFailed, Error: fmt.Sprintf("the promotion of the images was interrupted %d times", attempts),
			}); err != nil {
				return nil, err
			}
			continue
		}
		if _, err := tx.ExecContext(ctx, `UPDATE deployment SET attempts = attempts + 1 WHERE "release" = ?`, id); err != nil {
			return nil, fmt.Errorf("promotion %d: %w", id, err)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE "release" SET heartbeat_at = ? WHERE id = ?`, tx.NowText(), id); err != nil {
			return nil, fmt.Errorf("promotion %d: %w", id, err)
		}
		return promotion(ctx, tx, b)
	}
}

// promotion reads everything that a builder needs to know.
func promotion(ctx context.Context, tx *db.Tx, b api.Build) (*api.Promotion, error) {
	p := &api.Promotion{Build: b}
	var composition string
	var contract sql.NullString
	if err := tx.QueryRowContext(ctx, `SELECT composition, contract FROM "release" WHERE id = ?`, b.ID).Scan(&composition, &contract); err != nil {
		return nil, fmt.Errorf("promotion %d: %w", b.ID, err)
	}
	p.Composition = json.RawMessage(composition)
	if contract.Valid && contract.String != "null" {
		p.Contract = json.RawMessage(contract.String)
	}
	images, err := buildImages(ctx, tx, b.ID)
	if err != nil {
		return nil, err
	}
	for _, image := range images {
		said := api.PromotionImage{BuildImage: image}
		var digest, dockerfile, kind sql.NullString
		err := tx.QueryRowContext(ctx, `SELECT q.repository, i.content_hash, i.dockerfile, i.project_type FROM quarantine q
JOIN image i ON i.id = q.image WHERE q.image = ?`, image.ID).Scan(&said.Quarantine, &digest, &dockerfile, &kind)
		if err != nil {
			return nil, fmt.Errorf("promotion %d: image %d: %w", b.ID, image.ID, err)
		}
		said.Digest, said.Dockerfile, said.ProjectType = digest.String, dockerfile.String, kind.String
		p.Images = append(p.Images, said)
	}
	return p, nil
}

// toEmpty gives a release that has ended and whose quarantine still holds something; nil when there is none.
func (r *Releases) toEmpty(ctx context.Context, tx *db.Tx) (*api.Build, error) {
	var id int64
	err := tx.QueryRowContext(ctx, `SELECT d."release" FROM deployment d JOIN "release" r ON r.id = d."release"
WHERE d.emptied_at IS NULL AND r.status <> 'running' ORDER BY d."release" LIMIT 1`).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, fmt.Errorf("next quarantine to empty: %w", err)
	}
	b, err := r.Get(ctx, tx, id)
	return &b, err
}

// Emptied notes that nothing is left of what was pushed for a release that has ended.
func (r *Releases) Emptied(ctx context.Context, tx *db.Tx, id int64) error {
	if err := r.relocate(ctx, tx, id); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE deployment SET emptied_at = ? WHERE "release" = ?
AND EXISTS (SELECT 1 FROM "release" r WHERE r.id = deployment."release" AND r.status <> 'running')`, tx.NowText(), id); err != nil {
		return fmt.Errorf("quarantine of release %d: %w", id, err)
	}
	return nil
}

// quarantineOf lists where a release's images were pushed to, as long as something may be there.
func quarantineOf(ctx context.Context, tx *db.Tx, id int64) ([]string, error) {
	list, err := db.Column[string](ctx, tx, `SELECT q.repository FROM quarantine q JOIN deployment d ON d."release" = q."release"
WHERE q."release" = ? AND d.emptied_at IS NULL ORDER BY q.repository`, id)
	if err != nil {
		return nil, fmt.Errorf("quarantine of release %d: %w", id, err)
	}
	return list, nil
}

// awaitPromotion holds the answer to a client until its release has ended, so that a success is one: clients ask nothing afterwards. A
// promotion that takes longer than a client waits goes on, and the release is still running then; it does not say anything else.
func (r *Releases) awaitPromotion(ctx context.Context, id int64) error {
	deadline := time.After(promotionPatience)
	look := time.NewTicker(promotionLook)
	defer look.Stop()
	for {
		var status string
		var log sql.NullString
		err := r.cfg.DB.ReadOne(ctx, func(tx *db.Tx) error {
			return tx.QueryRowContext(ctx, `SELECT status, build_log FROM "release" WHERE id = ?`, id).Scan(&status, &log)
		})
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return api.Errorf(api.Invalid, "The release was deleted.")
		case err != nil:
			return fmt.Errorf("release %d: %w", id, err)
		case status == api.StatusSuccess:
			return nil
		case status != api.StatusRunning:
			return api.Errorf(api.Invalid, "The release is %s: %s", status, lastLine(log.String))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return nil
		case <-look.C:
		}
	}
}

// sweepDeployments ends those whose client has been silent for long, and forgets images that were put into no release.
func (r *Releases) sweepDeployments(ctx context.Context) error {
	return r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		ids, err := db.Column[int64](ctx, tx, `UPDATE "release" SET status = 'interrupted', end_timestamp = ?, update_timestamp = ?
WHERE status = 'running' AND id IN (SELECT "release" FROM deployment WHERE finalised_at IS NULL AND emptied_at IS NULL AND created_at < ?) RETURNING id`,
			tx.NowText(), tx.NowText(), db.FormatTime(tx.Now.Add(-deployTime)))
		if err != nil {
			return fmt.Errorf("release: abandoned deployments: %w", err)
		}
		for _, id := range ids {
			if err := endImages(ctx, tx, id, api.StatusInterrupted); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM image WHERE id IN (SELECT image FROM quarantine WHERE "release" IS NULL AND created_at < ?)`,
			db.FormatTime(tx.Now.Add(-looseTime))); err != nil {
			return fmt.Errorf("release: images of no release: %w", err)
		}
		if len(ids) > 0 {
			r.cfg.Log.InfoContext(ctx, "releases that were not pushed to their end are interrupted", "releases", ids)
		}
		return nil
	})
}

// lastLine is the end of a build's log, where its error stands.
func lastLine(log string) string {
	log = strings.TrimSpace(log)
	return strings.TrimPrefix(log[strings.LastIndexByte(log, '\n')+1:], "ERROR: ")
}
