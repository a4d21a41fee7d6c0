package stored

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// maxBatch bounds what one question says and is answered.
const maxBatch = 1000

// alive is the condition that a repository's image is being built, or was.
const alive = `EXISTS (SELECT 1 FROM image i WHERE i.id = registry_repository.image AND i.status IN ('running', 'success'))`

// Collect forgets what the registry has deleted and says what it may delete next. A repository whose image is gone, or came to
// nothing, is removed after the grace; with a blob's last repository goes the blob. From the moment that something is named here
// until it is said to be deleted, nobody can push to it: so it does not matter when, or how often, the registry deletes it.
func (s *Rows) Collect(ctx context.Context, tx *db.Tx, ask api.RegistryCollect) (api.RegistryGarbage, error) {
	garbage := api.RegistryGarbage{Repositories: []string{}, Blobs: []string{}}
	if len(ask.Repositories) > maxBatch || len(ask.Blobs) > maxBatch || ask.Limit < 1 || ask.Limit > maxBatch || ask.Grace < 0 {
		return garbage, api.Errorf(api.Invalid, "limit: 1 to %d", maxBatch)
	}
	for _, name := range ask.Repositories {
		if err := removed(ctx, tx, name); err != nil {
			return garbage, err
		}
	}
	if len(ask.Blobs) > 0 {
		list, args := db.In(ask.Blobs)
		if _, err := tx.ExecContext(ctx, `DELETE FROM registry_blob WHERE sweeping = 1 AND digest IN `+list, args...); err != nil {
			return garbage, fmt.Errorf("blobs that are deleted: %w", err)
		}
	}
	for _, q := range []string{
		`UPDATE registry_repository SET unused_since = ?1 WHERE unused_since IS NULL AND NOT ` + alive,
		`UPDATE registry_repository SET unused_since = NULL WHERE unused_since <= ?1 AND removing = 0 AND ` + alive,
	} {
		if _, err := tx.ExecContext(ctx, q, tx.NowText()); err != nil {
			return garbage, fmt.Errorf("unused repositories: %w", err)
		}
	}
	var err error
	late := db.FormatTime(tx.Now.Add(-time.Duration(ask.Grace) * time.Second))
	if garbage.Repositories, err = db.Column[string](ctx, tx, `UPDATE registry_repository SET removing = 1 WHERE name IN (
SELECT name FROM registry_repository WHERE unused_since <= ? ORDER BY unused_since, name LIMIT ?) RETURNING name`, late, ask.Limit); err != nil {
		return garbage, fmt.Errorf("repositories to remove: %w", err)
	}
	if garbage.Blobs, err = db.Column[string](ctx, tx, `SELECT digest FROM registry_blob WHERE sweeping = 1 ORDER BY digest LIMIT ?`, ask.Limit); err != nil {
		return garbage, fmt.Errorf("blobs to delete: %w", err)
	}
	at, err := scanned(ctx, tx)
	garbage.Scan = at < db.FormatTime(tx.Now.Add(-scanEvery))
	return garbage, err
}

// removed forgets a repository. Blobs that no other one has are swept from now on.
func removed(ctx context.Context, tx *db.Tx, name string) error {
	for _, q := range []string{
		`UPDATE registry_blob SET sweeping = 1 WHERE digest IN (
SELECT l.digest FROM registry_link l JOIN registry_repository r ON r.name = l.repository WHERE r.name = ?1 AND r.removing = 1)
AND NOT EXISTS (SELECT 1 FROM registry_link other WHERE other.digest = registry_blob.digest AND other.repository <> ?1)`,
		`DELETE FROM registry_repository WHERE name = ?1 AND removing = 1`,
	} {
		if _, err := tx.ExecContext(ctx, q, name); err != nil {
			return fmt.Errorf("repository %s is removed: %w", name, err)
		}
	}
	return nil
}

// Found compares what is in the storage with the rows. Links from before there were rows get some. A blob without any row is of
// no use: rows are written before blobs are kept.
func (s *Rows) Found(ctx context.Context, tx *db.Tx, found api.RegistryFound) error {
	if len(found.Blobs) > maxBatch {
		return api.Errorf(api.Invalid, "blobs: at most %d", maxBatch)
	}
	for _, b := range found.Blobs {
		if err := checkBlob(b.Digest, b.Size); err != nil {
			return err
		}
	}
	if found.Repository != "" {
		if err := s.adopt(ctx, tx, found); err != nil {
			return err
		}
	} else {
		for _, b := range found.Blobs {
			if _, err := tx.ExecContext(ctx, `INSERT INTO registry_blob (digest, size, created_at, sweeping) VALUES (?, ?, ?, 1)
ON CONFLICT (digest) DO NOTHING`, b.Digest, b.Size, tx.NowText()); err != nil {
				return fmt.Errorf("stray blob %s: %w", b.Digest, err)
			}
		}
	}
	if found.Done {
		if _, err := tx.ExecContext(ctx, `INSERT INTO registry_scan (id, scanned_at) VALUES (1, ?)
ON CONFLICT (id) DO UPDATE SET scanned_at = excluded.scanned_at`, tx.NowText()); err != nil {
			return fmt.Errorf("end of the scan: %w", err)
		}
	}
	return nil
}

// strayGrace is how long a repository is kept that was found and of which nobody knows an image. These rows may be the ones that are
// wrong: a database that was restored from a backup knows nothing of what came after it.
const strayGrace = 7 * 24 * time.Hour

// adopt makes the rows of a repository that was found. One of which nobody knows an image belongs to nobody and is collected.
func (s *Rows) adopt(ctx context.Context, tx *db.Tx, found api.RegistryFound) error {
	o, known, err := s.imageOf(ctx, tx, found.Repository)
	if err != nil {
		return err
	}
	if known {
		err = s.enter(ctx, tx, found.Repository, o)
	} else if _, err = tx.ExecContext(ctx, `INSERT INTO registry_repository (name, created_at, unused_since) VALUES (?, ?, ?)
ON CONFLICT (name) DO NOTHING`, found.Repository, tx.NowText(), db.FormatTime(tx.Now.Add(strayGrace))); err != nil {
		err = fmt.Errorf("repository %s: %w", found.Repository, err)
	}
	if errors.Is(err, api.ErrConflict) {
		return nil // it is being removed as it is
	}
	if err != nil {
		return err
	}
	for _, b := range found.Blobs {
		if err := link(ctx, tx, found.Repository, b); err != nil {
			return err
		}
	}
	return nil
}

// scanEvery is how often the storage is compared with the rows.
const scanEvery = 7 * 24 * time.Hour

// scanned says when the storage was last compared with the rows; empty: never.
func scanned(ctx context.Context, tx *db.Tx) (string, error) {
	at, err := db.Column[string](ctx, tx, `SELECT scanned_at FROM registry_scan WHERE id = 1`)
	if err != nil {
		return "", fmt.Errorf("last scan: %w", err)
	}
	return slices.Concat(at, []string{""})[0], nil
}
