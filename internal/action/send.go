package action

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/device/nudge"
	"github.com/roadstead-io/roadstead/internal/device/report"
)

// hand gives actions to be sent over channels by this process.
func (a *Actions) hand(ids ...int64) {
	a.mu.Lock()
	for _, id := range ids {
		if !a.listed[id] {
			a.listed[id] = true
			a.todo = append(a.todo, id)
		}
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *Actions) next() (id int64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.todo) == 0 {
		return 0, false
	}
	id, a.todo = a.todo[0], a.todo[1:]
	return id, true
}

func (a *Actions) sent(id int64) {
	a.mu.Lock()
	delete(a.listed, id)
	a.mu.Unlock()
}

// send sends what it is handed, some at a time. It waits for those on their way when the context ends.
func (a *Actions) send(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	slots := make(chan struct{}, callsAtOnce)
	for {
		id, ok := a.next()
		if !ok {
			select {
			case <-ctx.Done():
				return nil
			case <-a.wake:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case slots <- struct{}{}:
		}
		wait.Go(func() {
			defer func() { <-slots }()
			defer a.sent(id)
			if err := a.SendOne(ctx, id); err != nil && ctx.Err() == nil {
				a.cfg.Log.ErrorContext(ctx, "send an action to a device", "action", id, "error", err)
			}
		})
	}
}

// claimed is an action that this process sends, and nobody else.
type claimed struct {
	id      int64
	to      device.Reachable
	verb    api.ActionVerb
	service string
	force   bool
	lines   int
	network json.RawMessage
	queued  bool
}

// SendOne sends an action over the device's channel if it still waits, and writes down what came of it.
func (a *Actions) SendOne(ctx context.Context, id int64) error {
	var c claimed
	err := a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		c = claimed{id: id}
		var service sql.NullString
		var network string
		err := tx.QueryRowContext(ctx, `UPDATE device_action SET state = 'sent', road = 'channel', sent_at = ?1,
				boot = (SELECT b.boot FROM device_boot b WHERE b.device = device_action.device)
			WHERE id = ?2 AND state = 'queued' AND expires_at > ?1
				AND EXISTS (SELECT 1 FROM device d WHERE d.id = device_action.device AND d.is_connected_to_vpn = 1 AND d.is_frozen = 0)
			RETURNING device, verb, service_name, is_forced, lines, coalesce(network, ''), is_queued`, tx.NowText(), id).
			Scan(&c.to.ID, &c.verb, &service, &c.force, &c.lines, &network, &c.queued)
		if err != nil {
			return err
		}
		c.service, c.network = service.String, json.RawMessage(network)
		return tx.QueryRowContext(ctx, `SELECT uuid, belongs_to__application FROM device WHERE id = ?`, c.to.ID).Scan(&c.to.UUID, &c.to.Fleet)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it was cancelled, or somebody else sent it
	}
	if err != nil {
		return err
	}
	calling, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	end := a.call(calling, c)
	// What the device did is written down even when the server stops.
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer done()
	return a.cfg.DB.Write(ctx, func(tx *db.Tx) error { return end.write(ctx, tx, c) })
}

// outcome is what became of an action that was sent over a channel.
type outcome struct {
	state   api.ActionState
	message string
	result  []byte // JSON; nil: none
}

func (o outcome) write(ctx context.Context, tx *db.Tx, c claimed) error {
	if o.state == api.ActionQueued {
		_, err := tx.ExecContext(ctx, `UPDATE device_action SET state = 'queued', road = NULL, sent_at = NULL, message = ?, try_at = ?
			WHERE id = ? AND state = 'sent'`, o.message, db.FormatTime(tx.Now.Add(tryAgain)), c.id)
		if err != nil {
			return err
		}
		return nudge.Touch(ctx, tx, []int64{c.to.ID})
	}
	var ended, result any
	if !o.state.Open() {
		ended = tx.NowText()
	}
	if o.result != nil {
		result = string(o.result)
	}
	_, err := tx.ExecContext(ctx, `UPDATE device_action SET state = ?, message = ?, result = ?, ended_at = ?, network = NULL WHERE id = ? AND state = 'sent'`,
		string(o.state), o.message, result, ended, c.id)
	return err
}

// request is how a verb is said to a supervisor.
func (c claimed) request() (method, path string, body map[string]any) {
	app := strconv.FormatInt(c.to.Fleet, 10)
	body = map[string]any{}
	if c.verb.Forces() {
		body["force"] = c.force
	}
	ofFleet := func() { body["appId"] = c.to.Fleet }
	switch c.verb {
	case api.ActPing:
		return http.MethodGet, "/ping", nil
	case api.ActState:
		return http.MethodGet, "/v2/state/status", nil
	case api.ActIdentify:
		return http.MethodPost, "/v1/blink", nil
	case api.ActRestart:
		ofFleet()
		return http.MethodPost, "/v1/restart", body
	case api.ActPurge:
		ofFleet()
		return http.MethodPost, "/v1/purge", body
	case api.ActRestartService, api.ActStopService, api.ActStartService:
		ofFleet()
		body["serviceName"] = c.service
		return http.MethodPost, "/v2/applications/" + app + "/" + string(c.verb), body
	case api.ActJournal:
		return http.MethodPost, "/v2/journal-logs", map[string]any{"all": false, "follow": false, "count": c.lines, "format": "short"}
	case api.ActHostConfig:
		body["network"] = c.network
		return http.MethodPatch, "/v1/device/host-config", body
	case api.ActRenewKey:
		return http.MethodPost, "/v1/regenerate-api-key", nil
	case api.ActCleanVolumes:
		return http.MethodGet, "/v2/cleanup-volumes", nil
	default: // reboot, shutdown, update
		return http.MethodPost, "/v1/" + string(c.verb), body
	}
}

// call says an action to the device.
func (a *Actions) call(ctx context.Context, c claimed) outcome {
	method, path, body := c.request()
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return outcome{state: api.ActionFailed, message: "the action could not be written"}
		}
	}
	res, err := a.cfg.Caller.CallDevice(ctx, c.to, method, path, data)
	switch {
	case errors.Is(err, ErrNotSent) && c.queued:
		return outcome{state: api.ActionQueued, message: "the device's channel did not carry it; it waits for the device"}
	case errors.Is(err, ErrNotSent):
		return outcome{state: api.ActionFailed, message: "the device could not be reached"}
	case err != nil:
		return outcome{state: api.ActionFailed, message: "the device did not answer; it may have done it all the same"}
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, api.MaxActionResult+1))
	if err != nil {
		return outcome{state: api.ActionFailed, message: "the device's answer broke off; it may have done it all the same"}
	}
	return judge(c, res.StatusCode, answer)
}

// judge says what an answer means.
func judge(c claimed, status int, answer []byte) outcome {
	switch {
	case status == http.StatusLocked:
		return outcome{state: api.ActionFailed, message: cut("a service holds an update lock: " + words(answer))}
	case status == http.StatusUnauthorized:
		return outcome{state: api.ActionFailed, message: "the device's agent does not take the key that it reported"}
	case status < 200 || status > 299:
		return outcome{state: api.ActionFailed, message: cut(fmt.Sprintf("the device answers %d: %s", status, words(answer)))}
	}
	switch c.verb {
	case api.ActReboot:
		return outcome{state: api.ActionSent, message: "the device restarts"}
	case api.ActShutdown:
		return outcome{state: api.ActionDone, message: "the device switches off"}
	case api.ActUpdate:
		if status == http.StatusAccepted {
			return outcome{state: api.ActionDone, message: "the device has instant updates switched off: it looks when it is time"}
		}
	case api.ActJournal:
		return outcome{state: api.ActionDone, result: text(answer)}
	case api.ActState:
		if len(answer) > api.MaxActionResult || !json.Valid(answer) {
			return outcome{state: api.ActionFailed, message: "the device's answer cannot be read"}
		}
		return outcome{state: api.ActionDone, result: answer}
	}
	return outcome{state: api.ActionDone}
}

// text makes a JSON string of bytes that a device sent, the end of them if there are too many.
func text(answer []byte) []byte {
	if half := api.MaxActionResult / 2; len(answer) > half {
		answer = answer[len(answer)-half:]
	}
	quoted, err := json.Marshal(strings.ToValidUTF8(string(answer), "\uFFFD"))
	if err != nil || len(quoted) > api.MaxActionResult {
		return nil // nothing but characters that are escaped
	}
	return quoted
}

// words takes what is for people out of an answer.
func words(answer []byte) string {
	var said struct {
		Message string `json:"message"`
		Error   string `json:"Error"`
	}
	if json.Unmarshal(answer, &said) == nil && said.Message+said.Error != "" {
		return said.Message + said.Error
	}
	return string(answer[:min(len(answer), api.MaxActionMessage)])
}

// cut makes words of a device fit to be kept and shown.
func cut(s string) string {
	return report.Cut(strings.TrimRight(strings.TrimSpace(report.Plain(strings.ToValidUTF8(s, ""))), ":"), api.MaxActionMessage)
}
