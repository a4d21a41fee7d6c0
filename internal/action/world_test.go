package action_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/device/nudge"
	"github.com/roadstead-io/roadstead/internal/domaintest"
)

// world is a database with two people who know nothing of each other, each with a fleet.
type world struct {
	*domaintest.People
	actions    *action.Actions
	alice, bob access.Caller
	hers, his  int64 // fleets

	mu     sync.Mutex // covers what follows
	calls  []string
	answer func(path string) (*http.Response, error)
}

func newWorld(t *testing.T) *world {
	w := &world{People: domaintest.NewPeople(t, nudge.Migrations(), action.Migrations())}
	w.alice, w.bob = w.Person("alice"), w.Person("bob")
	w.hers, w.his = w.FleetRow(w.alice, "harbour", "a"), w.FleetRow(w.bob, "harbour", "b")
	w.actions = action.New(action.Config{DB: w.DB, Caller: w, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	return w
}

// answers is how devices answer from now on.
func (w *world) answers(f func(path string) (*http.Response, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

// called is what devices were asked.
func (w *world) called() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

func uuidOf(n int) api.DeviceUUID { return domaintest.UUID(n) }

// device makes a device and gives what its key stands for.
func (w *world) device(fleetID int64, n int, connected bool) access.Caller {
	w.Helper()
	return w.DeviceRow(fleetID, uuidOf(n), fmt.Sprintf("device %d", n), connected)
}

func (w *world) create(by access.Caller, want api.NewAction) (made api.ActionsMade, err error) {
	err = w.DB.Write(w.Context(), func(tx *db.Tx) (err error) {
		made, err = w.actions.Create(w.Context(), tx, by, want)
		return err
	})
	return made, err
}

// tell has one thing done on one device.
func (w *world) tell(n int, verb api.ActionVerb) int64 {
	w.Helper()
	made, err := w.create(w.alice, api.NewAction{Devices: []api.DeviceUUID{uuidOf(n)}, Verb: verb})
	w.Must(err)
	return made.Actions[0].ID
}

// is checks how far an action is.
func (w *world) is(id int64, state api.ActionState, words string) {
	w.Helper()
	got := w.Text(`SELECT state || ': ' || coalesce(message, '') FROM device_action WHERE id = ?`, id)
	if !strings.HasPrefix(got, string(state)+": ") || !strings.Contains(got, words) {
		w.Errorf("action %d is %q, want %s with %q", id, got, state, words)
	}
}

func (w *world) exchange(by access.Caller, boot string, results ...api.ActionResult) (api.ActionsWaiting, error) {
	return w.actions.Exchange(w.Context(), by, api.ActionExchange{Boot: boot, Results: results})
}

// CallDevice plays the control channel.
func (w *world) CallDevice(_ context.Context, dev device.Reachable, method, path string, body []byte) (*http.Response, error) {
	w.mu.Lock()
	w.calls = append(w.calls, fmt.Sprintf("%s %s %s %s", dev.UUID[len(dev.UUID)-1:], method, path, body))
	answer := w.answer
	w.mu.Unlock()
	if answer == nil {
		return says(200, `OK`), nil
	}
	return answer(path)
}

func says(status int, text string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader([]byte(text)))}
}
