package release

import (
	"context"
	"fmt"
	"time"

	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	retainEvery = time.Hour
	retainBatch = 500 // releases a transaction
)

// Retain lets go of what builds left that ended longer ago than [Config.KeepBuilds]: their logs; and of those that made no release,
// the rows of their images, without which the registry lets go of the rest. The release itself stays: what was tried is history.
func (r *Releases) Retain(ctx context.Context) error {
	if r.cfg.KeepBuilds <= 0 {
		return nil
	}
	for {
		var done int
		err := r.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
			done, err = retain(ctx, tx, db.FormatTime(tx.Now.Add(-r.cfg.KeepBuilds)))
			return err
		})
		if err != nil || done < retainBatch {
			return err
		}
	}
}

func retain(ctx context.Context, tx *db.Tx, before string) (int, error) {
	logs, err := db.Column[int64](ctx, tx, `
UPDATE "release" SET build_log = NULL WHERE id IN
    (SELECT id FROM "release" WHERE end_timestamp < $1 AND build_log IS NOT NULL AND status <> 'running' ORDER BY id LIMIT $2) RETURNING id`,
		before, retainBatch)
	if err != nil {
		return 0, fmt.Errorf("release: logs of old builds: %w", err)
	}
	images, err := db.Column[int64](ctx, tx, `
DELETE FROM image WHERE id IN (
    SELECT ri.image FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
    WHERE r.end_timestamp < $1 AND r.status IN ('failed', 'cancelled', 'interrupted') AND NOT EXISTS (
        SELECT 1 FROM release_image other JOIN "release" o ON o.id = other.is_part_of__release
        WHERE other.image = ri.image AND (o.status NOT IN ('failed', 'cancelled', 'interrupted') OR o.end_timestamp >= $1))
    ORDER BY ri.image LIMIT $2) RETURNING id`, before, retainBatch)
	if err != nil {
		return 0, fmt.Errorf("release: images of old builds: %w", err)
	}
	return max(len(logs), len(images)), nil
}
