package gitsource

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/gitsource/hook"
)

const (
	keptDeliveries = 100 // of one source
	maxReason      = 2000
	heads          = "refs/heads/"
	tags           = "refs/tags/"
)

// errUnsigned answers what is sent to a webhook that is not there, and what is sent to one without a signature that holds.
var errUnsigned = api.Errorf(api.Unauthorized, "there is no such webhook, or the signature is not made with its secret")

// Accept takes what was sent to a webhook, and answers what became of it: what the forge shows its people. A build that it asks for is made
// later, see [Sources.Next].
func (s *Sources) Accept(ctx context.Context, name string, h http.Header, body []byte, now time.Time) (json.RawMessage, error) {
	var o source
	var secret string
	err := s.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		o, secret, err = s.called(ctx, tx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	if good := hook.Verify(o.Form, secret, h, body, now); o.ID == 0 || !good {
		if o.ID == 0 {
			return nil, errUnsigned
		}
		return nil, errors.Join(errUnsigned, s.unsigned(ctx, o.ID))
	}
	e, err := hook.Read(o.Form, h, body)
	if err != nil {
		return nil, err
	}
	var out answer
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		out, err = s.receive(ctx, tx, name, secret, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out.json(), nil
}

// called finds the source of a webhook, and its secret. For one that is not there the secret is one that nobody has.
func (s *Sources) called(ctx context.Context, tx *db.Tx, name string) (o source, secret string, err error) {
	list, err := s.find(ctx, tx, `WHERE s.hook = ?`, name)
	if err != nil {
		return o, "", err
	}
	if len(list) == 0 {
		o.Form = api.FormGitHub
		return o, s.none, nil
	}
	secret, err = s.open(list[0].hook, useSecret, list[0].secret)
	return list[0], secret, err
}

// unsigned counts what came without a signature, so that people see that the secret they gave to the forge is another one.
func (s *Sources) unsigned(ctx context.Context, id int64) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE build_source SET refused = refused + 1, refused_at = ? WHERE id = ?`, tx.NowText(), id); err != nil {
			return fmt.Errorf("source %d: %w", id, err)
		}
		return nil
	})
}

// receive writes a delivery down, once. The secret was found good outside of the transaction: it is held against the one of now.
func (s *Sources) receive(ctx context.Context, tx *db.Tx, name, secret string, e hook.Event) (answer, error) {
	o, now, err := s.called(ctx, tx, name)
	if err != nil {
		return answer{}, err
	}
	if o.ID == 0 || now != secret {
		return answer{}, errUnsigned
	}
	// The row is written in any case: of two that come at once, the second one waits here for the first.
	if _, err := tx.ExecContext(ctx, `UPDATE build_source SET refused = 0, refused_at = NULL WHERE id = ?`, o.ID); err != nil {
		return answer{}, fmt.Errorf("source %d: %w", o.ID, err)
	}
	if e.Name == hook.Ping { // a forge may ask as often as it likes
		return answer{State: api.DeliverySkipped, Reason: "the webhook of " + o.Fleet + " works"}, nil
	}
	if before, found, err := seen(ctx, tx, o.ID, e.Marks); err != nil || found {
		return before, err
	}
	d := api.Delivery{Event: e.Name, Foreign: e.GUID, Ref: e.Ref, Commit: e.Commit}
	d.State, d.Reason = judge(o, e)
	out, err := s.write(ctx, tx, o, d)
	if err != nil {
		return answer{}, err
	}
	if out.State == api.DeliverySkipped { // again it is skipped again
		return out, nil
	}
	for _, mark := range e.Marks {
		if _, err := tx.ExecContext(ctx, `INSERT INTO build_source_seen (source, mark, delivery) VALUES (?, ?, ?)`, o.ID, mark, out.Delivery); err != nil {
			return answer{}, fmt.Errorf("source %d: %w", o.ID, err)
		}
	}
	return out, nil
}

// seen finds what became of a delivery that came before.
func seen(ctx context.Context, tx *db.Tx, id int64, marks []string) (a answer, found bool, err error) {
	for _, mark := range marks {
		var state, reason sql.NullString
		err := tx.QueryRowContext(ctx, `SELECT b.delivery, d.state, d.reason FROM build_source_seen b LEFT JOIN build_delivery d ON d.id = b.delivery
			WHERE b.source = ? AND b.mark = ?`, id, mark).Scan(&a.Delivery, &state, &reason)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		a.State, a.Reason, a.Repeated = state.String, reason.String, true
		if !state.Valid {
			a.State = api.DeliverySkipped
		}
		return a, true, err
	}
	return a, false, nil
}

// judge says whether an event is to be built, or why not.
func judge(o source, e hook.Event) (state, reason string) {
	skip := func(format string, args ...any) (string, string) {
		return api.DeliverySkipped, fmt.Sprintf(format, args...)
	}
	branch, isBranch := strings.CutPrefix(e.Ref, heads)
	tag, isTag := strings.CutPrefix(e.Ref, tags)
	switch {
	case e.Name != hook.Push:
		return skip("the event %q builds nothing; have the forge send pushes alone", e.Name)
	case e.Gone:
		return skip("%s was deleted", e.Ref)
	case o.Tags != "" && !isTag:
		return skip("%s is no tag; tags %s are built", e.Ref, o.Tags)
	case o.Tags != "" && !matches(o.Tags, tag):
		return skip("the tag %s is not one of %s", tag, o.Tags)
	case o.Tags == "" && !isBranch:
		return skip("%s is no branch; the branch %s is built", e.Ref, o.Branch)
	case o.Tags == "" && branch != o.Branch:
		return skip("the branch %s is not built; %s is", branch, o.Branch)
	}
	if checkRef("ref", branch+tag) != nil {
		return skip("%s has a name that is not taken here", e.Ref)
	}
	return api.DeliveryWaiting, ""
}

func matches(pattern, tag string) bool {
	ok, err := path.Match(pattern, tag)
	return ok && err == nil
}

// write writes a delivery down. One that is to be built takes the place of those of the same branch or tag that have not been begun.
func (s *Sources) write(ctx context.Context, tx *db.Tx, o source, d api.Delivery) (answer, error) {
	if d.State == api.DeliveryWaiting {
		_, why, err := s.standing(ctx, tx, o)
		if err != nil {
			return answer{}, err
		}
		if why != "" {
			d.State, d.Reason = api.DeliveryRefused, why
		}
	}
	var ended any
	if d.State != api.DeliveryWaiting {
		ended = tx.NowText()
	}
	err := tx.QueryRowContext(ctx, `INSERT INTO build_delivery (created_at, source, event, guid, ref, "commit", state, reason, ended_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`, tx.NowText(), o.ID, d.Event, d.Foreign, d.Ref, d.Commit, d.State, d.Reason, ended).Scan(&d.ID)
	if err != nil {
		return answer{}, fmt.Errorf("source %d: write a delivery: %w", o.ID, err)
	}
	if d.State == api.DeliveryWaiting {
		_, err := tx.ExecContext(ctx, `UPDATE build_delivery SET state = 'superseded', reason = ?, ended_at = ?
			WHERE source = ? AND ref = ? AND state = 'waiting' AND id < ?`, fmt.Sprintf("delivery %d came before it was begun", d.ID), tx.NowText(), o.ID, d.Ref, d.ID)
		if err != nil {
			return answer{}, fmt.Errorf("source %d: supersede deliveries: %w", o.ID, err)
		}
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM build_delivery WHERE source = ? AND state NOT IN ('waiting', 'running') AND id <=
		(SELECT id FROM build_delivery WHERE source = ? ORDER BY id DESC LIMIT 1 OFFSET `+fmt.Sprint(keptDeliveries)+`)`, o.ID, o.ID)
	if err != nil {
		return answer{}, fmt.Errorf("source %d: forget deliveries: %w", o.ID, err)
	}
	return answer{Delivery: d.ID, State: d.State, Reason: d.Reason}, nil
}

// Ask has a source built as it is now.
func (s *Sources) Ask(ctx context.Context, tx *db.Tx, by access.Caller, id int64, ask api.SourceBuild) (api.Delivery, error) {
	o, err := s.one(ctx, tx, by, id)
	if err != nil {
		return api.Delivery{}, err
	}
	d := api.Delivery{Event: "asked", State: api.DeliveryWaiting, Ref: heads + o.Branch}
	switch {
	case o.Tags == "" && ask.Tag != "":
		return d, api.Errorf(api.Invalid, "tag: the source builds the branch %s", o.Branch)
	case o.Tags != "" && ask.Tag == "":
		return d, api.Errorf(api.Invalid, "tag: not given; the source builds tags %s", o.Tags)
	case o.Tags != "":
		if err := checkRef("tag", ask.Tag); err != nil {
			return d, err
		}
		if !matches(o.Tags, ask.Tag) {
			return d, api.Errorf(api.Invalid, "tag: %s is not one of %s", ask.Tag, o.Tags)
		}
		d.Ref = tags + ask.Tag
	}
	out, err := s.write(ctx, tx, o, d)
	if err != nil {
		return d, err
	}
	if err := s.record(ctx, tx, by, o, "source.build", map[string]any{"delivery": out.Delivery, "ref": d.Ref}); err != nil {
		return d, err
	}
	list, err := deliveries(ctx, tx, o.ID, `AND id = ?`, out.Delivery)
	if err != nil {
		return d, err
	}
	return list[0], nil
}

// Deliveries lists what came to a source, the newest first.
func (s *Sources) Deliveries(ctx context.Context, tx *db.Tx, by access.Caller, id int64) ([]api.Delivery, error) {
	o, err := s.one(ctx, tx, by, id)
	if err != nil {
		return nil, err
	}
	return deliveries(ctx, tx, o.ID, `ORDER BY id DESC LIMIT `+fmt.Sprint(keptDeliveries))
}

func deliveries(ctx context.Context, tx *db.Tx, id int64, which string, args ...any) ([]api.Delivery, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, created_at, event, guid, ref, "commit", state, reason, coalesce("release", 0), ended_at
		FROM build_delivery WHERE source = ? `+which, append([]any{id}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("deliveries of source %d: %w", id, err)
	}
	defer func() { _ = rows.Close() }()
	list := []api.Delivery{}
	for rows.Next() {
		var d api.Delivery
		var made string
		var ended sql.NullString
		if err := rows.Scan(&d.ID, &made, &d.Event, &d.Foreign, &d.Ref, &d.Commit, &d.State, &d.Reason, &d.Release, &ended); err != nil {
			return nil, fmt.Errorf("deliveries of source %d: %w", id, err)
		}
		if d.CreatedAt, err = db.ParseTime(made); err != nil {
			return nil, err
		}
		if d.EndedAt, err = timeOrNil(ended); err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, rows.Err()
}
