package queue_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/queue"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// slow is a device on which each restart takes twenty minutes of its clock.
type slow struct {
	deviceapi.Acts
	mu  sync.Mutex // covers now
	now time.Time
}

func (s *slow) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *slow) RestartApp(context.Context, deviceapi.App, bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(20 * time.Minute)
	return nil
}

// results runs a queue whose server signs commands for a quarter of an hour, until all actions are over.
func (s *slow) results(t *testing.T, file string, life time.Duration, actions ...api.QueuedAction) map[int64]api.ActionResult {
	t.Helper()
	ctx, done := context.WithCancel(t.Context())
	defer done()
	got := map[int64]api.ActionResult{} // of Run alone, until it has ended
	q, err := queue.Open(queue.Config{
		File: file, Boot: "one", Acts: s, Retry: remote.Backoff{Min: time.Millisecond, Max: time.Millisecond}, Now: s.clock,
		Exchange: func(_ context.Context, said api.ActionExchange) (out api.ActionsWaiting, err error) {
			for _, r := range said.Results {
				got[r.ID] = r
				out.Heard = append(out.Heard, r.ID)
			}
			for _, a := range actions {
				if _, over := got[a.ID]; !over {
					a.Command = []byte(s.clock().Add(life).Format(time.RFC3339))
					out.Actions = append(out.Actions, a)
				}
			}
			if len(got) == len(actions) {
				done()
			}
			return out, nil
		},
		Commanded: func(_ api.TrustCommand, command []byte) error {
			if until, err := time.Parse(time.RFC3339, string(command)); err != nil || s.clock().After(until) {
				return tuf.Refuse("command", tuf.ReasonExpired, "", "valid at "+s.clock().Format(time.RFC3339), string(command))
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return got
}

// Commands hold for minutes: for what comes later, as other actions took long or the device was off, it asks anew. What it does not do it says, and why.
func TestCommandsAreFresh(t *testing.T) {
	t.Parallel()
	var actions []api.QueuedAction
	for id := range int64(4) {
		actions = append(actions, api.QueuedAction{ID: id + 1, Verb: api.ActRestart, Fleet: 3, Force: true, Expires: 30 * 24 * 3600})
	}
	s := &slow{now: time.Now()}
	for id, r := range s.results(t, filepath.Join(t.TempDir(), "actions.json"), 15*time.Minute, actions...) {
		if r.State != api.ActionDone {
			t.Errorf("action %d after others that took long: %+v", id, r)
		}
	}

	// It took an action, and was off for a week. Its server gives the action again, with a command of now.
	file := filepath.Join(t.TempDir(), "actions.json")
	old := api.QueuedAction{ID: 1, Verb: api.ActRestart, Fleet: 3, Force: true, Command: []byte(s.now.Add(-time.Hour).Format(time.RFC3339))}
	journal := fmt.Sprintf(`{"entries":[{"action":%s,"state":"taken","until":%q}]}`, marshal(t, old), s.now.Add(time.Hour).Format(time.RFC3339))
	if err := os.WriteFile(file, []byte(journal), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.results(t, file, 15*time.Minute, actions[0])[1]; r.State != api.ActionDone {
		t.Errorf("after it was off: %+v", r)
	}

	// Its clock is wrong: what it does not do it says once.
	if r := s.results(t, filepath.Join(t.TempDir(), "actions.json"), -time.Hour, actions[0])[1]; r.State != api.ActionFailed || !strings.Contains(r.Message, "refused: command: expired") {
		t.Errorf("a command of before: %+v", r)
	}

	// The action itself is over.
	journal = fmt.Sprintf(`{"entries":[{"action":%s,"state":"taken","until":%q}]}`, marshal(t, old), s.clock().Add(-time.Hour).Format(time.RFC3339))
	if err := os.WriteFile(file, []byte(journal), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.results(t, file, 15*time.Minute, actions[0])[1]; r.State != api.ActionExpired || !strings.Contains(r.Message, "too late") {
		t.Errorf("an action that is over: %+v", r)
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
