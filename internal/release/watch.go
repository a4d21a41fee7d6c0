package release

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Watch lets somebody follow a build who may read its fleet: the same people who may read the release's log. What they showed is
// remembered by whoever asks, who has to ask [Releases.Gone] for as long as they follow.
func (r *Releases) Watch(ctx context.Context, tx *db.Tx, by access.Caller, id int64) (w api.BuildWatch, err error) {
	if by.Kind != access.User && by.Kind != access.ScopedKey {
		return w, api.Errorf(api.Forbidden, "Only people follow builds.")
	}
	if w.Build, err = r.Get(ctx, tx, id); err != nil {
		return w, err
	}
	verbs, err := rights.FleetVerbs(ctx, tx, by, w.Build.Fleet.ID)
	if err != nil {
		return w, fmt.Errorf("watch build %d: %w", id, err)
	}
	if !verbs.Has(access.Read) {
		return api.BuildWatch{}, api.Errorf(api.NotFound, "There is no build %d.", id)
	}
	proof, err := account.ProofOf(ctx, tx, by)
	if err != nil {
		return w, fmt.Errorf("watch build %d: %w", id, err)
	}
	w.Follower = api.BuildFollower{User: by.User, Key: proof.Key.Int64, Login: proof.Login.String}
	var opener sql.NullInt64
	err = tx.QueryRowContext(ctx, `SELECT is_created_by__user FROM "release" WHERE id = $1`, id).Scan(&opener)
	if err != nil {
		return w, fmt.Errorf("watch build %d: %w", id, err)
	}
	w.MaySend = opener.Valid && opener.Int64 == by.User && verbs.Has(access.Releases)
	return w, nil
}

// Gone says which of those who follow a build may not any more: their key or session has ended, or their right has.
func (r *Releases) Gone(ctx context.Context, tx *db.Tx, id int64, followers []api.BuildFollower) ([]int64, error) {
	if len(followers) == 0 {
		return nil, nil
	}
	var fleetID int64
	err := tx.QueryRowContext(ctx, `SELECT belongs_to__application FROM "release" WHERE id = $1`, id).Scan(&fleetID)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("followers of build %d: %w", id, err)
	}
	var gone []int64
	for _, f := range followers {
		may := err == nil
		if may {
			if may, err = r.mayStill(ctx, tx, fleetID, f); err != nil {
				return nil, fmt.Errorf("followers of build %d: %w", id, err)
			}
		}
		if !may {
			gone = append(gone, f.ID)
		}
	}
	return gone, nil
}

func (r *Releases) mayStill(ctx context.Context, tx *db.Tx, fleetID int64, f api.BuildFollower) (bool, error) {
	proof := account.Proof{
		Key: sql.NullInt64{Int64: f.Key, Valid: f.Key != 0}, Login: sql.NullString{String: f.Login, Valid: f.Login != ""},
	}
	if !proof.Key.Valid && !proof.Login.Valid { // nobody is let in who shows nothing
		return false, nil
	}
	by, holds, err := r.cfg.Accounts.Holds(ctx, tx, proof, f.User)
	if err != nil || !holds {
		return false, err
	}
	verbs, err := rights.FleetVerbs(ctx, tx, by, fleetID)
	return verbs.Has(access.Read), err
}
