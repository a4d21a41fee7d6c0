package action

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	maxResults = 100 // of one exchange
	maxBoot    = 200 // bytes
)

// Exchange takes what a device says of its actions and gives it those that wait for it. Those that it took before and said nothing about are
// given again: it knows them. A result that is not of an action of its own that it has means nothing.
func (a *Actions) Exchange(ctx context.Context, by access.Caller, x api.ActionExchange) (out api.ActionsWaiting, err error) {
	if by.Kind != access.Device {
		return out, api.ErrUnauthorized
	}
	if len(x.Results) > maxResults || len(x.Boot) > maxBoot {
		return out, api.Errorf(api.TooLarge, "at most %d results at a time", maxResults)
	}
	for _, r := range x.Results {
		switch r.State {
		case api.ActionSent, api.ActionDone, api.ActionFailed, api.ActionExpired:
		default:
			return out, api.Errorf(api.Invalid, "results: %.50q is no state that a device gives", r.State)
		}
		if len(r.Result) > api.MaxActionResult {
			return out, api.Errorf(api.TooLarge, "results: at most %d bytes each", api.MaxActionResult)
		}
	}
	quiet := false
	err = a.cfg.DB.ReadOne(ctx, func(tx *db.Tx) (err error) {
		quiet, err = nothing(ctx, tx, by, x)
		return err
	})
	if err != nil || quiet {
		return api.ActionsWaiting{Actions: []api.QueuedAction{}, Heard: []int64{}}, err
	}
	err = a.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		out = api.ActionsWaiting{Actions: []api.QueuedAction{}, Heard: []int64{}}
		if err := starts(ctx, tx, by, x.Boot); err != nil {
			return err
		}
		for _, r := range x.Results {
			if err := take(ctx, tx, by, r); err != nil {
				return err
			}
			out.Heard = append(out.Heard, r.ID)
		}
		out.Actions, err = give(ctx, tx, by)
		return err
	})
	if err != nil {
		return out, fmt.Errorf("actions of device %d: %w", by.Device, err)
	}
	if a.cfg.Sign != nil && len(out.Actions) > 0 { // they stay given: what cannot be signed now is given again
		err = a.cfg.Sign(ctx, by.Device, out.Actions)
	}
	return out, err
}

// nothing says, in one statement, that a device brings no news and that none waits for it.
func nothing(ctx context.Context, tx *db.Tx, by access.Caller, x api.ActionExchange) (bool, error) {
	if len(x.Results) > 0 {
		return false, nil
	}
	var boot sql.NullString
	var open bool
	err := tx.QueryRowContext(ctx, `SELECT (SELECT boot FROM device_boot WHERE device = ?1),
		EXISTS (SELECT 1 FROM device_action WHERE device = ?1 AND state IN `+openList+`)`, by.Device).Scan(&boot, &open)
	return err == nil && boot.Valid && boot.String == x.Boot && !open, err
}

// starts learns with which start of its system a device is running. One that was to restart, and has, is done.
func starts(ctx context.Context, tx *db.Tx, by access.Caller, boot string) error {
	if boot == "" {
		return nil
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO device_boot (device, boot) VALUES (?, ?) ON CONFLICT (device) DO UPDATE SET boot = excluded.boot`,
		by.Device, boot)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE device_action SET state = 'done', message = 'the device is back', ended_at = ?
		WHERE device = ? AND state = 'sent' AND road = 'channel' AND verb = 'reboot' AND boot <> ?`, tx.NowText(), by.Device, boot)
	return err
}

// take writes down what a device says of an action that it took from the queue.
func take(ctx context.Context, tx *db.Tx, by access.Caller, r api.ActionResult) error {
	var result, ended any
	if len(r.Result) > 0 && json.Valid(r.Result) {
		result = string(r.Result)
	}
	if !r.State.Open() {
		ended = tx.NowText()
	}
	_, err := tx.ExecContext(ctx, `UPDATE device_action SET state = ?1, message = ?2, result = ?3, ended_at = ?4,
			network = CASE WHEN CAST(?4 AS TEXT) IS NULL THEN network END
		WHERE id = ?5 AND device = ?6 AND state = 'sent' AND road = 'queue'`, string(r.State), cut(r.Message), result, ended, r.ID, by.Device)
	return err
}

// give hands a device what it has to do, and what it was given before without an answer.
func give(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.QueuedAction, error) {
	_, err := tx.ExecContext(ctx, `UPDATE device_action SET state = 'sent', road = 'queue', sent_at = ?1 WHERE device = ?2 AND state = 'queued'
		AND expires_at > ?1`, tx.NowText(), by.Device)
	if err != nil {
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT a.id, a.verb, coalesce(a.service_name, ''), a.is_forced, a.lines, coalesce(a.network, ''), a.expires_at, a.sent_at < ?, d.belongs_to__application
		FROM device_action a JOIN device d ON d.id = a.device WHERE a.device = ? AND a.state = 'sent' AND a.road = 'queue' ORDER BY a.id LIMIT ?`,
		tx.NowText(), by.Device, api.MaxActionsOpen)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	list := []api.QueuedAction{}
	for rows.Next() {
		var q api.QueuedAction
		var expires, network string
		if err := rows.Scan(&q.ID, &q.Verb, &q.Service, &q.Force, &q.Lines, &network, &expires, &q.Again, &q.Fleet); err != nil {
			return nil, err
		}
		q.Network = json.RawMessage(network)
		at, err := db.ParseTime(expires)
		if err != nil {
			return nil, err
		}
		q.Expires = int64(max(at.Sub(tx.Now), 0) / time.Second)
		list = append(list, q)
	}
	return list, rows.Err()
}

// open says whether any action is not over.
func (a *Actions) open(ctx context.Context) (open bool, err error) {
	err = a.cfg.DB.ReadOne(ctx, func(tx *db.Tx) error {
		var one int
		err := tx.QueryRowContext(ctx, `SELECT 1 FROM device_action WHERE state IN `+openList+` LIMIT 1`).Scan(&one)
		open = err == nil
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return open, err
}

// TendOnce sends what waits for devices whose channel is up by now, and ends what took too long.
func (a *Actions) TendOnce(ctx context.Context) error {
	var ready []int64
	err := a.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		for _, end := range []struct{ set, where string }{
			{`state = 'expired', message = 'the device did not come in time'`, `state = 'queued' AND expires_at <= ?1`},
			{`state = 'done', message = 'the device is back'`, `state = 'sent' AND road = 'channel' AND verb = 'reboot' AND boot IS NULL AND EXISTS
				(SELECT 1 FROM device d WHERE d.id = device_action.device AND d.is_connected_to_vpn = 1 AND d.last_vpn_event > device_action.sent_at)`},
			{`state = 'failed', message = 'the server was stopped while it was sent; the device may have done it'`,
				`state = 'sent' AND road = 'channel' AND verb <> 'reboot' AND sent_at < ?2`},
			{`state = 'failed', message = 'the device accepted it, and is not back'`, `state = 'sent' AND road = 'channel' AND verb = 'reboot' AND sent_at < ?3`},
			{`state = 'failed', message = 'the device took it, and never said what became of it'`,
				`state = 'sent' AND road = 'queue' AND sent_at < ?4 AND expires_at < ?1`},
		} {
			_, err := tx.ExecContext(ctx, `UPDATE device_action SET ended_at = ?1, network = NULL, `+end.set+` WHERE state IN `+openList+` AND `+end.where+
				` AND ?2 < ?1 AND ?3 < ?1 AND ?4 < ?1`, tx.NowText(), db.FormatTime(tx.Now.Add(-lostAfter)), db.FormatTime(tx.Now.Add(-backWithin)),
				db.FormatTime(tx.Now.Add(-silentAfter)))
			if err != nil {
				return err
			}
		}
		if a.cfg.Caller == nil {
			return nil
		}
		ready, err = db.Column[int64](ctx, tx, `SELECT a.id FROM device_action a JOIN device d ON d.id = a.device
			WHERE a.state = 'queued' AND a.try_at < ? AND d.is_connected_to_vpn = 1 AND d.is_frozen = 0 ORDER BY a.id LIMIT 1000`,
			db.FormatTime(tx.Now.Add(-pushEvery)))
		return err
	})
	if err != nil {
		return fmt.Errorf("actions: %w", err)
	}
	a.hand(ready...)
	return nil
}

// ForgetOnce removes actions that ended long ago, and of each device all but the newest.
func (a *Actions) ForgetOnce(ctx context.Context) error {
	return a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		for _, which := range []struct {
			rows string
			arg  any
		}{
			{`SELECT id FROM device_action WHERE created_at < ? AND state NOT IN ` + openList + ` LIMIT 10000`, db.FormatTime(tx.Now.Add(-keep))},
			{`SELECT id FROM (SELECT id, state, row_number() OVER (PARTITION BY device ORDER BY id DESC) AS place FROM device_action) AS x
				WHERE place > ? AND state NOT IN ` + openList + ` LIMIT 10000`, keepOf},
		} {
			if _, err := tx.ExecContext(ctx, `DELETE FROM device_action WHERE id IN (`+which.rows+`)`, which.arg); err != nil {
				return fmt.Errorf("forget actions: %w", err)
			}
		}
		return nil
	})
}
