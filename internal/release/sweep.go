package release

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// RunOnce ends the running builds whose builder has been silent for longer than [Silence], but for promotions, which another builder takes
// over, and what clients began to push long ago. Builders could not report while
// this process or the database was not there, so it waits that long itself first.
func (r *Releases) RunOnce(ctx context.Context) error {
	if r.cfg.Now().Sub(r.since) < Silence {
		return nil
	}
	err := errors.Join(r.interrupt(ctx), r.sweepDeployments(ctx))
	if err != nil {
		r.since = r.cfg.Now()
	}
	return err
}

func (r *Releases) interrupt(ctx context.Context) error {
	return r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		ids, err := db.Column[int64](ctx, tx, `
UPDATE "release" SET status = 'interrupted', end_timestamp = $1, update_timestamp = $1
WHERE status = 'running' AND heartbeat_at < $2 AND id NOT IN (SELECT "release" FROM deployment WHERE emptied_at IS NULL) RETURNING id`, tx.NowText(), db.FormatTime(tx.Now.Add(-Silence)))
		if err != nil {
			return fmt.Errorf("release: interrupted builds: %w", err)
		}
		for _, id := range ids {
			if err := endImages(ctx, tx, id, api.StatusInterrupted); err != nil {
				return err
			}
			r.cfg.Log.WarnContext(ctx, "build interrupted: its builder is silent", "build", id)
		}
		return nil
	})
}

// Run sweeps until the context ends.
func (r *Releases) Run(ctx context.Context) error {
	sweep := r.cfg.Only("interrupted builds", Silence/4, r.RunOnce)
	retain, retained := r.cfg.Only("old builds", retainEvery/2, r.Retain), time.Time{}
	for {
		wait := Silence/6 + rand.N(Silence/12)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if err := sweep(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Log.ErrorContext(ctx, "sweep of builds failed", "error", err)
		}
		if time.Since(retained) < retainEvery {
			continue
		}
		retained = time.Now()
		if err := retain(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Log.ErrorContext(ctx, "letting go of old builds failed", "error", err)
		}
	}
}
