package reach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/publicurl"
)

const (
	rowsAtOnce = 500    // permits in one statement
	maxAsked   = 20_000 // permits of one question
)

// Still says which of the connections that a process of the vpn role has open must end, and writes down those that have ended.
func (r *Reach) Still(ctx context.Context, ask api.ReachStill) (answer api.ReachEnd, err error) {
	if len(ask.Permits) > maxAsked || len(ask.Ended) > maxAsked {
		return answer, api.Errorf(api.TooLarge, "at most %d permits at a time", maxAsked)
	}
	if len(ask.Ended) > 0 {
		for part := range slices.Chunk(sorted(ask.Ended), rowsAtOnce) {
			if err := r.cfg.DB.Write(ctx, func(tx *db.Tx) error { return over(ctx, tx, part) }); err != nil {
				return answer, err
			}
		}
	}
	answer.End = []api.ReachOver{}
	var late []string // to be seen anew
	for part := range slices.Chunk(ask.Permits, rowsAtOnce) {
		var ends []api.ReachOver
		var due []string
		err := r.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
			ends, due, err = r.ends(ctx, tx, part)
			return err
		})
		if err != nil {
			return answer, err
		}
		answer.End, late = append(answer.End, ends...), append(late, due...)
	}
	slices.Sort(late)
	for part := range slices.Chunk(late, rowsAtOnce) {
		these, args := db.In(part)
		err := r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE reach_permit SET seen_at = ? WHERE permit IN `+these, append([]any{tx.NowText()}, args...)...)
			return err
		})
		if err != nil {
			return answer, fmt.Errorf("reach: %w", err)
		}
	}
	return answer, nil
}

// row is a connection as it is written down.
type row struct {
	opened
	user    int64
	name    string
	address string
	seen    string
}

const rowColumns = `permit, kind, seen_at, device, uuid, application, organization, port, "user", username, api_key, login, ssh_key, address, is_support, serial, visitor`

func rowsOf(ctx context.Context, tx *db.Tx, where string, args ...any) (list []row, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+rowColumns+` FROM reach_permit WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("reach: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	for rows.Next() {
		var o row
		if err := rows.Scan(&o.permit, &o.kind, &o.seen, &o.target.id, &o.uuid, &o.target.fleet, &o.target.organization, &o.port, &o.user, &o.name,
			&o.proof.Key, &o.proof.Login, &o.proof.SSH, &o.address, &o.support, &o.serial, &o.visitor); err != nil {
			return nil, fmt.Errorf("reach: %w", err)
		}
		list = append(list, o)
	}
	return list, rows.Err()
}

// whose is who opened a connection, as far as it is written down.
func (o row) whose() access.Caller {
	return access.Caller{Kind: access.User, User: o.user, Name: o.name, Key: o.proof.Key.Int64, SSHKey: o.proof.SSH.Int64, Address: o.address}
}

// ends says which of some connections must end. due are those to be written down as seen.
func (r *Reach) ends(ctx context.Context, tx *db.Tx, permits []string) (over []api.ReachOver, due []string, err error) {
	these, args := db.In(permits)
	list, err := rowsOf(ctx, tx, `permit IN `+these, args...)
	if err != nil {
		return nil, nil, err
	}
	known := make(map[string]bool, len(list))
	answers := map[question]string{}
	seenBefore := db.FormatTime(tx.Now.Add(-seenEvery))
	for _, o := range list {
		known[o.permit] = true
		q := question{o.kind, o.target.id, o.user, o.proof, o.port, o.address, o.serial}
		why, asked := answers[q]
		if !asked {
			if why, err = r.why(ctx, tx, o); err != nil {
				return nil, nil, err
			}
			answers[q] = why
		}
		if why != "" {
			over = append(over, api.ReachOver{Permit: o.permit, Why: why})
		}
		if o.seen < seenBefore {
			due = append(due, o.permit)
		}
	}
	for _, permit := range permits {
		if !known[permit] {
			over = append(over, api.ReachOver{Permit: permit, Why: "it is not written down"})
		}
	}
	return over, due, nil
}

// question is what an answer is the same for.
type question struct {
	kind    string
	device  int64
	user    int64
	proof   account.Proof
	port    int
	address string
	serial  int64
}

// why says why a connection must end; "" when it may go on.
func (r *Reach) why(ctx context.Context, tx *db.Tx, o row) (string, error) {
	now, err := find(ctx, tx, `d.id = ?`, o.target.id)
	if errors.Is(err, api.ErrNotFound) {
		return "the device was deleted or frozen", nil
	}
	if err != nil {
		return "", err
	}
	if o.kind == api.ReachURL {
		address, err := publicurl.Find(ctx, tx, o.uuid)
		if err != nil && !errors.Is(err, api.ErrNotFound) {
			return "", err
		}
		if err != nil || address.Serial != o.serial || address.Device != o.target.id {
			return "the public address was switched off or changed", nil
		}
		if o.user == 0 {
			return "", nil
		}
	}
	by, holds, err := r.cfg.Accounts.Holds(ctx, tx, o.proof, o.user)
	if err != nil {
		return "", err
	}
	if !holds || o.kind != api.ReachURL && by.Comes(access.Tunnel, o.address) != nil {
		return "the session or key ended", nil
	}
	if _, err := may(ctx, tx, by, o.kind, now, o.port); err != nil {
		if e := api.AsError(err); e.Code != api.NotFound && e.Code != api.Forbidden {
			return "", err
		}
		if o.support {
			return "the support grant ended", nil
		}
		return "the right to it ended", nil
	}
	return "", nil
}

// over writes down that connections ended.
func over(ctx context.Context, tx *db.Tx, ended []api.ReachEnded) error {
	permits := make([]string, len(ended))
	for i, e := range ended {
		permits[i] = e.Permit
	}
	these, args := db.In(permits)
	list, err := rowsOf(ctx, tx, `permit IN `+these+` ORDER BY permit`, args...)
	if err != nil || len(list) == 0 {
		return err
	}
	told := make(map[string]api.ReachEnded, len(ended))
	for _, e := range ended {
		told[e.Permit] = e
	}
	var entries []audit.By
	carried := map[int64]api.ReachEnded{} // by visitors
	for _, o := range list {
		e := told[o.permit]
		if o.user == 0 {
			sum := carried[o.visitor]
			sum.BytesIn, sum.BytesOut = sum.BytesIn+max(0, e.BytesIn), sum.BytesOut+max(0, e.BytesOut)
			carried[o.visitor] = sum
			continue
		}
		more := detail(e.Detail)
		more["bytes_in"], more["bytes_out"], more["why"] = e.BytesIn, e.BytesOut, e.Why
		entries = append(entries, audit.By{Caller: o.whose(), Entry: o.entry("close", more)})
	}
	if err := audit.RecordAll(ctx, tx, entries); err != nil {
		return err
	}
	if err := left(ctx, tx, carried); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM reach_permit WHERE permit IN `+these, args...); err != nil {
		return fmt.Errorf("reach: %w", err)
	}
	return nil
}

// Run ends what nobody speaks of any more, and public addresses whose time is over, until the context ends.
func (r *Reach) Run(ctx context.Context) error {
	once := r.TidyOnce
	if r.cfg.Only != nil {
		once = r.cfg.Only("connections to devices", tidyEvery, once)
	}
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := once(ctx); err != nil && ctx.Err() == nil {
				r.cfg.Log.ErrorContext(ctx, "tidy up connections to devices", "error", err)
			}
		}
	}
}

// TidyOnce writes down the end of connections that went with the process that had them, and who visited public addresses, and switches off
// those whose time is over.
func (r *Reach) TidyOnce(ctx context.Context) error {
	var idle bool
	err := r.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT NOT EXISTS (SELECT 1 FROM reach_permit WHERE seen_at <= ?)
			AND NOT EXISTS (SELECT 1 FROM device_public_url WHERE until <= ?) AND NOT EXISTS (SELECT 1 FROM reach_visitor WHERE told = 0 OR hour < ?)`,
			alive(tx), tx.NowText(), hourOf(tx)).Scan(&idle)
	})
	if err != nil || idle {
		return err
	}
	return r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if err := publicurl.EndOnce(ctx, tx); err != nil {
			return err
		}
		if err := tellVisitors(ctx, tx); err != nil {
			return err
		}
		list, err := rowsOf(ctx, tx, `seen_at <= ? ORDER BY permit LIMIT 500`, alive(tx))
		if err != nil || len(list) == 0 {
			return err
		}
		lost := make([]api.ReachEnded, len(list))
		for i, o := range list {
			lost[i] = api.ReachEnded{Permit: o.permit, Why: "the server that had it went away"}
		}
		return over(ctx, tx, lost)
	})
}
