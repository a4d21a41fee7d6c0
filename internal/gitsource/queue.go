package gitsource

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	// claimLife is how long a claim holds that nobody renews: whoever had it is dead then, and the delivery is given to another one.
	claimLife = 20 * time.Second
	// maxAttempts is how often a delivery is begun, and between them a pause grows by attemptPause.
	maxAttempts  = 8
	attemptPause = 15 * time.Second
	// ofOrganization are at work at a time, so that nobody's slow servers keep the others waiting.
	ofOrganization = 2
)

// open are deliveries that could be begun: one of a source at a time, a few of an organization, and those that nobody works on any more.
var open = `d.state = 'waiting' AND (d.claimed_until IS NULL OR d.claimed_until <= ?)
		AND NOT EXISTS (SELECT 1 FROM build_delivery r WHERE r.source = d.source AND r.state = 'running')
		AND (SELECT count(*) FROM build_delivery r JOIN build_source rs ON rs.id = r.source JOIN application ra ON ra.id = rs.application
			WHERE r.state = 'running' AND ra.organization = (SELECT a.organization FROM build_source s JOIN application a ON a.id = s.application
				WHERE s.id = d.source)) < ` + fmt.Sprint(ofOrganization) + `
	OR d.state = 'running' AND d.claimed_until <= ?`

// Waits reports whether there is something to do.
func (s *Sources) Waits(ctx context.Context) (waits bool, err error) {
	err = s.cfg.DB.ReadOne(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM build_delivery d WHERE d.state IN ('waiting', 'running') AND (`+open+`))`,
			tx.NowText(), tx.NowText()).Scan(&waits)
	})
	if err != nil {
		return false, fmt.Errorf("deliveries that wait: %w", err)
	}
	return waits, nil
}

// waiting is a delivery that is to be begun, or begun again.
type waiting struct {
	id, source  int64
	state       string
	ref, commit string
	attempts    int
	release     sql.NullInt64
	status      sql.NullString // of the release
}

// Next gives the git role the delivery that is to be built next, and nobody else until the claim ends. Without one the zero value.
func (s *Sources) Next(ctx context.Context, tx *db.Tx) (job api.SourceJob, by access.Caller, fleet int64, err error) {
	for range 20 { // some end by being looked at
		w, err := next(ctx, tx)
		if err != nil || w.id == 0 {
			return api.SourceJob{}, by, 0, err
		}
		job, by, fleet, err = s.begin(ctx, tx, w)
		if err != nil || job.Delivery != 0 {
			return job, by, fleet, err
		}
	}
	return api.SourceJob{}, by, 0, nil
}

func next(ctx context.Context, tx *db.Tx) (w waiting, err error) {
	err = tx.QueryRowContext(ctx, `SELECT d.id, d.source, d.state, d.ref, d."commit", d.attempts, d."release", r.status
		FROM build_delivery d LEFT JOIN "release" r ON r.id = d."release"
		WHERE d.state IN ('waiting', 'running') AND (`+open+`) ORDER BY d.id LIMIT 1`, tx.NowText(), tx.NowText()).
		Scan(&w.id, &w.source, &w.state, &w.ref, &w.commit, &w.attempts, &w.release, &w.status)
	if errors.Is(err, sql.ErrNoRows) {
		return waiting{}, nil
	}
	if err != nil {
		return w, fmt.Errorf("the next delivery: %w", err)
	}
	return w, nil
}

// begin claims a delivery, if it is still to be built.
func (s *Sources) begin(ctx context.Context, tx *db.Tx, w waiting) (job api.SourceJob, by access.Caller, fleet int64, err error) {
	switch w.status.String { // whoever worked on it has gone; how far had they come?
	case api.StatusSuccess:
		return job, by, 0, end(ctx, tx, w.id, api.DeliveryBuilt, "")
	case api.StatusFailed:
		return job, by, 0, end(ctx, tx, w.id, api.DeliveryFailed, "the build failed; its log says why")
	case api.StatusRunning: // the builder ends it soon, for nobody listens any more
		return job, by, 0, later(ctx, tx, w.id, "running", tx.Now.Add(claimLife))
	}
	if w.attempts >= maxAttempts {
		return job, by, 0, end(ctx, tx, w.id, api.DeliveryFailed, fmt.Sprintf("it was begun %d times, and the server was stopped each time", w.attempts))
	}
	list, err := s.find(ctx, tx, `WHERE s.id = ?`, w.source)
	if err != nil || len(list) == 0 {
		return job, by, 0, err
	}
	o := list[0]
	by, why, err := s.standing(ctx, tx, o)
	if err != nil {
		return job, by, 0, err
	}
	if why != "" {
		return job, by, 0, end(ctx, tx, w.id, api.DeliveryRefused, why)
	}
	job = api.SourceJob{Delivery: w.id, Claim: rand.Text(), URL: o.URL, Ref: w.ref, Commit: w.commit, Draft: o.Draft, HostKey: o.HostKey}
	if err := s.jobCredentials(o, &job); err != nil {
		return job, by, 0, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE build_delivery SET state = 'running', claim = ?, claimed_until = ?, attempts = attempts + 1 WHERE id = ?`,
		job.Claim, db.FormatTime(tx.Now.Add(claimLife)), w.id)
	if err != nil {
		return job, by, 0, fmt.Errorf("claim delivery %d: %w", w.id, err)
	}
	return job, by, o.fleet, nil
}

// end ends a delivery.
func end(ctx context.Context, tx *db.Tx, id int64, state, reason string) error {
	_, err := tx.ExecContext(ctx, `UPDATE build_delivery SET state = ?, reason = ?, ended_at = ?, claim = NULL, claimed_until = NULL WHERE id = ?`,
		state, reason, tx.NowText(), id)
	if err != nil {
		return fmt.Errorf("end delivery %d: %w", id, err)
	}
	return nil
}

// later leaves a delivery alone until then.
func later(ctx context.Context, tx *db.Tx, id int64, state string, until time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE build_delivery SET state = ?, claim = NULL, claimed_until = ? WHERE id = ?`, state, db.FormatTime(until), id)
	if err != nil {
		return fmt.Errorf("put delivery %d off: %w", id, err)
	}
	return nil
}

// Renew makes claims hold for longer, and answers those that do.
func (s *Sources) Renew(ctx context.Context, tx *db.Tx, claims []string) ([]string, error) {
	held := []string{}
	for _, claim := range claims {
		res, err := tx.ExecContext(ctx, `UPDATE build_delivery SET claimed_until = ? WHERE claim = ? AND state = 'running'`,
			db.FormatTime(tx.Now.Add(claimLife)), claim)
		if err != nil {
			return nil, fmt.Errorf("renew a claim: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil {
			return nil, err
		} else if n == 1 {
			held = append(held, claim)
		}
	}
	return held, nil
}

// Holds reports whether a claim on a delivery does, and its source builds for a user: what is made with it ends otherwise.
func (s *Sources) Holds(ctx context.Context, tx *db.Tx, claim string, user int64) (by access.Caller, holds bool, err error) {
	list, err := s.find(ctx, tx, `JOIN build_delivery d ON d.source = s.id WHERE d.claim = ? AND d.state = 'running' AND s.made_by = ?`, claim, user)
	if err != nil || len(list) == 0 {
		return access.Nobody(), false, err
	}
	by, why, err := s.maker(ctx, tx, list[0])
	return by, why == "" && err == nil, err
}

// Opened says which release is made of a delivery. There is one, and another only after the first was cancelled.
func (s *Sources) Opened(ctx context.Context, tx *db.Tx, claim string, release int64) error {
	var id int64
	var status sql.NullString
	err := tx.QueryRowContext(ctx, `SELECT d.id, r.status FROM build_delivery d LEFT JOIN "release" r ON r.id = d."release"
		WHERE d.claim = ? AND d.state = 'running'`, claim).Scan(&id, &status)
	if errors.Is(err, sql.ErrNoRows) {
		return api.Errorf(api.Unauthorized, "the delivery was given to somebody else")
	}
	if err != nil {
		return fmt.Errorf("open the build of a delivery: %w", err)
	}
	if status.Valid && status.String != api.StatusCancelled {
		return api.Errorf(api.Conflict, "delivery %d has a build", id)
	}
	if _, err := tx.ExecContext(ctx, `UPDATE build_delivery SET "release" = ? WHERE id = ?`, release, id); err != nil {
		return fmt.Errorf("open the build of delivery %d: %w", id, err)
	}
	list, err := s.find(ctx, tx, `JOIN build_delivery d ON d.source = s.id WHERE d.id = ?`, id)
	if err != nil || len(list) == 0 {
		return err
	}
	return s.record(ctx, tx, access.Itself(), list[0], "source.run", map[string]any{"delivery": id, "release": release, "on_behalf_of": list[0].OnBehalfOf})
}

// Finish ends a delivery as the git role says, or puts it off. A claim that does not hold ends nothing.
func (s *Sources) Finish(ctx context.Context, tx *db.Tx, result api.SourceResult) error {
	var id, source int64
	var attempts int
	var ref string
	var status sql.NullString
	err := tx.QueryRowContext(ctx, `SELECT d.id, d.source, d.attempts, d.ref, r.status FROM build_delivery d LEFT JOIN "release" r ON r.id = d."release"
		WHERE d.claim = ? AND d.state = 'running'`, result.Claim).Scan(&id, &source, &attempts, &ref, &status)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finish a delivery: %w", err)
	}
	if result.Commit != "" {
		if _, err := tx.ExecContext(ctx, `UPDATE build_delivery SET "commit" = ? WHERE id = ?`, result.Commit, id); err != nil {
			return fmt.Errorf("finish delivery %d: %w", id, err)
		}
	}
	reason := cut(result.Error)
	switch {
	case status.String == api.StatusSuccess:
		return end(ctx, tx, id, api.DeliveryBuilt, "")
	case result.Error == "":
		return end(ctx, tx, id, api.DeliveryFailed, "the git role says that it was built, but there is no release")
	case !result.Again || status.String == api.StatusFailed:
		return end(ctx, tx, id, api.DeliveryFailed, reason)
	case attempts >= maxAttempts:
		return end(ctx, tx, id, api.DeliveryFailed, reason+fmt.Sprintf("; given up after %d times", attempts))
	}
	var newer bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM build_delivery WHERE source = ? AND ref = ? AND state = 'waiting' AND id > ?)`,
		source, ref, id).Scan(&newer); err != nil {
		return fmt.Errorf("finish delivery %d: %w", id, err)
	}
	if newer {
		return end(ctx, tx, id, api.DeliverySuperseded, "a newer one came before it was begun again: "+reason)
	}
	return later(ctx, tx, id, api.DeliveryWaiting, tx.Now.Add(time.Duration(attempts)*attemptPause))
}

// cut makes of what git or a build said a reason that a database keeps.
func cut(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}
