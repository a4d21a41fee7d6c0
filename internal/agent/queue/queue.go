// Package queue does on the device what waited for it at the server: it takes actions when the device polls, does each once, and says what
// became of it. A journal holds every step before the next one begins, so that a device that loses power on any line neither does an
// action twice nor forgets one.
package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const (
	remembered = 500              // actions that are over and reported; many more than the server ever gives again
	atOnce     = 20               // results in one exchange
	atOnceSize = 256 << 10        // and their bytes
	actTime    = 15 * time.Minute // of one action
	downTime   = 5 * time.Minute  // in which a device that restarts is down
	freshTime  = 10 * time.Minute // in which commands are used that the server gave; then it is asked for others
)

// Config is what the queue works with.
type Config struct {
	File string // the journal
	Boot string // changes with every start of the device, not of the agent
	Acts deviceapi.Acts
	// Exchange tells the server results, and asks it what there is to do.
	Exchange func(ctx context.Context, said api.ActionExchange) (api.ActionsWaiting, error)
	// Commanded checks the signed command of an action: that it is for just this, and was not done before; nil: none is needed.
	Commanded func(what api.TrustCommand, command []byte) error
	Retry     remote.Backoff // between attempts to reach the server
	Log       *slog.Logger
	Now       func() time.Time // nil: the real one
	// Write replaces the journal; nil: durable.WriteFile.
	Write func(path string, data []byte, perm fs.FileMode) error
}

// How far an action is on the device.
const (
	taken    = "taken"    // and not begun
	begun    = "begun"    // it may be done, or not
	accepted = "accepted" // a reboot will happen
	over     = "over"     // there is a result, which the server has not heard
)

// entry is one action in the journal.
type entry struct {
	Action api.QueuedAction  `json:"action"`
	State  string            `json:"state"`
	Boot   string            `json:"boot"`             // during which it was begun
	At     time.Time         `json:"at"`               // when it was begun
	Until  time.Time         `json:"until"`            // it is not begun later
	Signed bool              `json:"signed,omitempty"` // its command was checked
	Result *api.ActionResult `json:"result,omitempty"`
}

// journal is the file.
type journal struct {
	Entries []*entry `json:"entries"`
	Seen    []int64  `json:"seen"` // over and reported
}

// Queue is the device's side of the actions. It has one owner, Run.
type Queue struct {
	cfg  Config
	j    journal
	lost bool // there was a journal that cannot be read: what the server gave before is not begun
	due  chan struct{}
}

// Open reads the journal.
func Open(cfg Config) (*Queue, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Write == nil {
		cfg.Write = durable.WriteFile
	}
	q := &Queue{cfg: cfg, due: make(chan struct{}, 1)}
	data, err := os.ReadFile(cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return q, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal of actions: %w", err)
	}
	if err := json.Unmarshal(data, &q.j); err != nil {
		cfg.Log.Error("the journal of actions cannot be read; actions that the server gave before are not done", "error", err)
		q.j, q.lost = journal{}, true
	}
	return q, nil
}

// Poke says that the server may have something to do. Run asks at its start by itself.
func (q *Queue) Poke() {
	select {
	case q.due <- struct{}{}:
	default:
	}
}

// Run does what there is to do until the context ends.
func (q *Queue) Run(ctx context.Context) error {
	if q.resume() {
		if err := q.write(); err != nil { // nothing is begun before there is room again; until then each start decides the same
			q.cfg.Log.Error("what became of the actions that were going on cannot be stored", "error", err)
		}
	}
	for ctx.Err() == nil {
		more, err := q.round(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil && more {
			continue
		}
		wait := time.Duration(math.MaxInt64) // until it is poked
		switch {
		case err != nil:
			wait = remote.Wait(q.cfg.Retry.Next(), err)
			q.cfg.Log.Warn("actions of the server", "error", err, "again_in", wait.Round(time.Millisecond))
		case q.falling():
			wait = downTime
			fallthrough
		default:
			q.cfg.Retry.Reset()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-q.due:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// falling says that the device is about to go down: nothing else is begun.
func (q *Queue) falling() bool {
	return slices.ContainsFunc(q.j.Entries, func(e *entry) bool { return e.State == accepted })
}

// resume decides about what was going on when the agent ended, and tells whether that is news.
func (q *Queue) resume() (changed bool) {
	for _, e := range q.j.Entries {
		if e.State != begun && e.State != accepted {
			continue
		}
		switch {
		case down(e.Action.Verb) && e.Boot != q.cfg.Boot:
			q.end(e, api.ActionDone, "the device is back", nil)
		case e.State == accepted: // it goes down any moment
			continue
		case down(e.Action.Verb):
			e.State = taken // it did not go down, so it was not done
		default:
			q.end(e, api.ActionFailed, "the agent ended while it did this; it may be done", nil)
		}
		changed = true
	}
	return changed
}

func down(v api.ActionVerb) bool { return v == api.ActReboot || v == api.ActShutdown }

// round talks to the server and does what is to be done. more says that there are results again.
func (q *Queue) round(ctx context.Context) (more bool, err error) {
	for _, e := range q.j.Entries {
		if e.State == accepted && q.cfg.Now().Sub(e.At) > downTime {
			q.end(e, api.ActionFailed, "the device did not go down", nil)
		}
	}
	if err := q.talk(ctx); err != nil {
		return false, err
	}
	asked := q.cfg.Now()
	for _, e := range slices.Clone(q.j.Entries) {
		if e.State != taken || q.falling() {
			continue
		}
		if took := q.cfg.Now().Sub(asked); took > freshTime || took < 0 { // its command may have expired meanwhile
			return true, nil
		}
		if err := q.do(ctx, e); err != nil || ctx.Err() != nil {
			return false, err
		}
		more = true // of a device that goes down, too: there may be just time to say so
	}
	return more || slices.ContainsFunc(q.j.Entries, func(e *entry) bool { return e.State == over }), nil
}

// talk tells the server results, as many as go into one request, and writes down what it gives.
func (q *Queue) talk(ctx context.Context) error {
	said := api.ActionExchange{Boot: q.cfg.Boot, Results: []api.ActionResult{}}
	size := 0
	for _, e := range q.j.Entries {
		if e.Result == nil || len(said.Results) == atOnce || size > 0 && size+len(e.Result.Result) > atOnceSize {
			continue
		}
		size += len(e.Result.Result) + len(e.Result.Message) + 100
		said.Results = append(said.Results, *e.Result)
	}
	given, err := q.cfg.Exchange(ctx, said)
	if err != nil {
		return err
	}
	changed := q.lost
	q.j.Entries = slices.DeleteFunc(q.j.Entries, func(e *entry) bool {
		if !slices.Contains(given.Heard, e.Action.ID) || e.Result == nil {
			return false
		}
		changed = true
		if e.State == accepted { // it is over when the device is back
			e.Result = nil
			return false
		}
		q.j.Seen = append(q.j.Seen, e.Action.ID)
		return true
	})
	q.j.Seen = q.j.Seen[max(len(q.j.Seen)-remembered, 0):]
	for _, a := range given.Actions {
		if at := slices.IndexFunc(q.j.Entries, func(e *entry) bool { return e.Action.ID == a.ID }); at >= 0 {
			if e := q.j.Entries[at]; e.State == taken && !e.Signed && len(a.Command) > 0 && !bytes.Equal(e.Action.Command, a.Command) {
				e.Action.Command, changed = a.Command, true // the one that it came with may have expired while the device was off
			}
			continue
		}
		if slices.Contains(q.j.Seen, a.ID) {
			continue
		}
		changed = true
		e := &entry{Action: a, State: taken, Until: q.cfg.Now().Add(time.Duration(a.Expires) * time.Second)}
		q.j.Entries = append(q.j.Entries, e)
		if q.lost && a.Again {
			q.end(e, api.ActionFailed, "the device lost its journal; it may have done this before", nil)
		}
	}
	if !changed {
		return nil
	}
	q.lost = false
	return q.write()
}

// do does one action. An error is one of the journal: nothing goes on without it.
func (q *Queue) do(ctx context.Context, e *entry) error {
	if q.cfg.Now().After(e.Until) {
		q.end(e, api.ActionExpired, "the device came to it too late", nil)
		return q.write()
	}
	if err := q.commanded(e); err != nil {
		q.cfg.Log.Warn("an action that waited at the server is refused", "verb", e.Action.Verb, "service", e.Action.Service, "action", e.Action.ID, "error", err)
		q.end(e, api.ActionFailed, "refused: "+err.Error(), nil)
		return q.write()
	}
	e.State, e.Boot, e.At = begun, q.cfg.Boot, q.cfg.Now()
	if err := q.write(); err != nil {
		e.State = taken
		return err
	}
	q.cfg.Log.Info("an action that waited at the server", "verb", e.Action.Verb, "service", e.Action.Service, "action", e.Action.ID)
	acting, cancel := context.WithTimeout(ctx, actTime)
	result, words, err := q.act(acting, e.Action)
	cancel()
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled):
		e.State = taken // the agent ends, and it was not begun: whatever begins is finished
	case err != nil:
		q.end(e, api.ActionFailed, failure(err), nil)
	case e.Action.Verb == api.ActReboot:
		e.State = accepted
		e.Result = &api.ActionResult{ID: e.Action.ID, State: api.ActionSent, Message: "the device restarts"}
	default:
		q.end(e, api.ActionDone, words, result)
	}
	return q.write()
}

// commanded checks the command of an action that needs one. It counts once, also where the agent ends before the action begins.
func (q *Queue) commanded(e *entry) error {
	if q.cfg.Commanded == nil || e.Signed || !e.Action.Verb.NeedsCommand(e.Action.Force) {
		return nil
	}
	if len(e.Action.Command) == 0 {
		return errors.New("this device does what its fleet's key signed, and this action has no command")
	}
	what := api.TrustCommand{Verb: e.Action.Verb, Service: e.Action.Service, Force: e.Action.Force}
	if e.Action.Verb == api.ActHostConfig {
		val, err := network(e.Action)
		if err != nil {
			return err
		}
		if what.Digest, err = tuf.CanonicalDigest(val); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	if err := q.cfg.Commanded(what, e.Action.Command); err != nil {
		return err
	}
	e.Signed = true
	return nil
}

// end writes the result of an action into its entry.
func (q *Queue) end(e *entry, state api.ActionState, message string, result json.RawMessage) {
	e.State = over
	e.Action.Network = nil // a proxy's password may be in it
	e.Result = &api.ActionResult{ID: e.Action.ID, State: state, Message: message[:min(len(message), api.MaxActionMessage)], Result: result}
}

func (q *Queue) write() error {
	data, err := json.Marshal(q.j)
	if err == nil {
		err = q.cfg.Write(q.cfg.File, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("journal of actions: %w", err)
	}
	return nil
}

// failure says what went wrong to whoever wanted the action.
func failure(err error) string {
	switch {
	case errors.Is(err, deviceapi.ErrLocked):
		return "a service holds an update lock: " + err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "it took too long"
	default:
		return err.Error()
	}
}
