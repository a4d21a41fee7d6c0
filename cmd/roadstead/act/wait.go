package act

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

const (
	lookFirst  = 50 * time.Millisecond // after that twice as long each time
	lookEvery  = time.Second
	rowsAtOnce = 100 // of one question
)

// row is an action as the server lists it.
type row struct {
	ID        int64                     `json:"id"`
	CreatedAt string                    `json:"created_at"`
	Device    client.Ref[client.Device] `json:"device"`
	Verb      string                    `json:"verb"`
	Service   *string                   `json:"service_name"`
	Forced    bool                      `json:"is_forced"`
	State     api.ActionState           `json:"state"`
	Message   *string                   `json:"message"`
	ExpiresAt string                    `json:"expires_at"`
	EndedAt   *string                   `json:"ended_at"`
	HasResult bool                      `json:"has_result"`
}

// view is the JSON form of an action.
type view struct {
	ID        int64           `json:"id"`
	UUID      string          `json:"uuid"`
	Device    string          `json:"device"`
	Verb      string          `json:"verb"`
	Service   *string         `json:"service"`
	State     api.ActionState `json:"state"` // queued, sent, done, failed, expired, cancelled; refused: it was not taken
	Message   string          `json:"message"`
	CreatedAt string          `json:"created_at"`
	ExpiresAt string          `json:"expires_at"`
	EndedAt   *string         `json:"ended_at"`
	Result    json.RawMessage `json:"result,omitempty"`
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (r row) view() view {
	d := r.Device.Get()
	return view{ID: r.ID, UUID: d.UUID, Device: d.Name, Verb: r.Verb, Service: r.Service, State: r.State, Message: text(r.Message),
		CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt, EndedAt: r.EndedAt}
}

const rowFields = "id,created_at,verb,service_name,is_forced,state,message,expires_at,ended_at,has_result"

// waiting is a command whose actions the server has.
type waiting struct {
	*cmdline.App
	c     *client.Client
	verb  verb
	flags *flags
	made  api.ActionsMade
}

func (w *waiting) run(ctx context.Context) error {
	views := map[int64]view{}
	bad := len(w.made.Refused)
	for _, a := range w.made.Actions {
		views[a.ID] = view{ID: a.ID, UUID: string(a.UUID), Device: a.Name, Verb: string(a.Verb), Service: cmdline.OrNil(a.Service), State: a.State,
			CreatedAt: a.CreatedAt.Format(time.RFC3339), ExpiresAt: a.ExpiresAt.Format(time.RFC3339)}
	}
	for _, r := range w.made.Refused {
		name := r.Name
		if name == "" {
			name = string(r.UUID)
		}
		w.Say("%s: %s", name, r.Message)
	}
	if !w.flags.noWait {
		if err := w.follow(ctx, views); err != nil {
			return err
		}
	}
	list := []view{}
	for _, a := range w.made.Actions {
		v := views[a.ID]
		switch v.State {
		case api.ActionFailed, api.ActionExpired, api.ActionCancelled:
			bad++
		}
		list = append(list, v)
	}
	for _, r := range w.made.Refused {
		list = append(list, view{UUID: string(r.UUID), Device: r.Name, Verb: string(w.flags.Verb), Service: cmdline.OrNil(w.flags.Service),
			State: "refused", Message: r.Message})
	}
	if w.Output == "json" {
		if err := w.JSON(list); err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("not done on %d of %d devices", bad, len(list))
	}
	return nil
}

// follow looks what becomes of the actions until nothing more is to be waited for, and says it of each.
func (w *waiting) follow(ctx context.Context, views map[int64]view) error {
	open := map[int64]bool{}
	for _, a := range w.made.Actions {
		open[a.ID] = true
		if !a.Connected && !w.flags.wait {
			w.waits(views[a.ID])
			delete(open, a.ID)
		}
	}
	bar := w.Counter("Devices", int64(len(open)))
	defer bar.End()
	ctx, cancel := context.WithTimeout(ctx, w.flags.timeout)
	defer cancel()
	said := map[int64]bool{}
	for pause := lookFirst; len(open) > 0; pause = min(2*pause, lookEvery) {
		rows, err := w.look(ctx, open)
		if err != nil && ctx.Err() == nil && !errors.Is(err, api.ErrUnavailable) {
			return err
		}
		for _, r := range rows {
			v := r.view()
			switch {
			case r.State == api.ActionQueued && v.Message != "" && !w.flags.wait: // its channel did not carry it
				w.waits(v)
			case r.State.Open():
				if r.State == api.ActionSent && v.Message != "" && !said[r.ID] {
					said[r.ID] = true
					w.Say("%s: %s.", v.Device, v.Message)
				}
				continue
			default:
				if v, err = w.ended(ctx, r, v); err != nil {
					return err
				}
				bar.Add(1)
			}
			views[r.ID] = v
			delete(open, r.ID)
		}
		if len(open) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("gave up waiting after %s; %d devices are not done yet. `roadstead device actions` shows them", w.flags.timeout, len(open))
			}
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	return nil
}

// look asks for the actions that are open.
func (w *waiting) look(ctx context.Context, open map[int64]bool) (found []row, err error) {
	var ids []int64
	for _, a := range w.made.Actions {
		if open[a.ID] {
			ids = append(ids, a.ID)
		}
	}
	for len(ids) > 0 {
		n := min(len(ids), rowsAtOnce)
		rows, err := client.Get[row](ctx, w.c, "device_action", client.Query{Select: rowFields, Expand: "device($select=id,uuid,device_name)",
			Filter: client.Where("id in ?", ids[:n])})
		if err != nil {
			return found, err
		}
		found, ids = append(found, rows...), ids[n:]
	}
	return found, nil
}

// waits says that an action waits for its device.
func (w *waiting) waits(v view) {
	until := v.ExpiresAt
	if at, err := time.Parse(time.RFC3339, v.ExpiresAt); err == nil {
		until = at.Local().Format("2006-01-02 15:04")
	}
	w.Say("%s is not connected: it does this when it polls next, until %s. Take it back with `roadstead device actions %s --cancel %d`.",
		v.Device, until, terminal.Short(v.UUID), v.ID)
}

// ended says how an action ended, and prints what the device answered.
func (w *waiting) ended(ctx context.Context, r row, v view) (view, error) {
	if r.HasResult {
		if err := w.c.Do(ctx, http.MethodGet, fmt.Sprintf("%s/%d/result", at, r.ID), nil, &v.Result); err != nil {
			return v, err
		}
	}
	switch {
	case r.State != api.ActionDone:
		w.Say("%s: %s: %s", v.Device, r.State, v.Message)
	case v.Result != nil && w.Output != "json":
		return v, w.print(v)
	case v.Message != "" && r.Verb != string(api.ActReboot) && r.Verb != string(api.ActShutdown):
		w.Say("%s: %s.", v.Device, v.Message)
	default:
		w.Say("%s %s.", v.Device, w.verb.said(text(r.Service)))
	}
	return v, nil
}

// print prints what a device answered: text as lines, of which none steers the terminal, anything else as JSON.
func (w *waiting) print(v view) error {
	if len(w.made.Actions) > 1 {
		w.Say("%s:", v.Device)
	}
	var lines string
	if json.Unmarshal(v.Result, &lines) != nil {
		var any any
		if err := json.Unmarshal(v.Result, &any); err != nil {
			return fmt.Errorf("%s answered no JSON: %w", v.Device, err)
		}
		return w.JSON(any)
	}
	_, err := fmt.Fprint(w.Out, terminal.Lines(lines))
	return err
}
