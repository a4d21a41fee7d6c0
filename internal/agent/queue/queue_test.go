package queue_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/queue"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
)

// The queue runs in a process of its own that is killed with SIGKILL at a point that the environment names.
const (
	envServer = "QUEUE_TEST_SERVER"
	envDir    = "QUEUE_TEST_DIR"
	envBoot   = "QUEUE_TEST_BOOT"
	envDie    = "QUEUE_TEST_DIE"
)

func TestMain(m *testing.M) {
	if os.Getenv(envServer) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func die(point string) {
	if os.Getenv(envDie) == point {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it is dead
	}
}

// acts writes down what it does.
type acts struct {
	deviceapi.Acts
	file string
}

func (a *acts) did(what string) error {
	die("before " + what)
	f, err := os.OpenFile(a.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, what)
	err = errors.Join(err, f.Close())
	die("after " + what)
	return err
}

func (a *acts) Reboot(context.Context, bool) error { return a.did("reboot") }
func (a *acts) Purge(context.Context, deviceapi.App, bool) error {
	return a.did("purge")
}

func (a *acts) RestartApp(_ context.Context, app deviceapi.App, force bool) error {
	if !force {
		return fmt.Errorf("%w by web", deviceapi.ErrLocked)
	}
	return a.did(fmt.Sprintf("restart of %d", app.ID))
}

func (a *acts) Journal(_ context.Context, what deviceapi.Journal, to io.Writer) error {
	for i := range what.Count {
		if _, err := fmt.Fprintf(to, "line %d \x1b]0;owned\x07\xff\n", i); err != nil {
			return err
		}
	}
	return nil
}

func child() error {
	dir := os.Getenv(envDir)
	q, err := queue.Open(queue.Config{
		File: filepath.Join(dir, "actions.json"), Boot: os.Getenv(envBoot), Acts: &acts{file: filepath.Join(dir, "did")},
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Retry: remote.Backoff{Min: 10 * time.Millisecond, Max: 50 * time.Millisecond},
		Exchange: func(ctx context.Context, said api.ActionExchange) (out api.ActionsWaiting, err error) {
			if len(said.Results) > 0 {
				die("before telling")
			}
			text, err := json.Marshal(said)
			if err != nil {
				return out, err
			}
			req, err := http.NewRequestWithContext(ctx, "POST", os.Getenv(envServer), bytes.NewReader(text))
			if err != nil {
				return out, err
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return out, err
			}
			defer func() { _ = res.Body.Close() }()
			err = json.NewDecoder(res.Body).Decode(&out)
			if len(said.Results) > 0 {
				die("after telling")
			} else if len(out.Actions) > 0 {
				die("after taking")
			}
			return out, err
		},
	})
	if err != nil {
		return err
	}
	return q.Run(context.Background())
}

// server plays the api role: it gives what has no result until it has one.
type server struct {
	*testing.T
	url, dir string

	mu      sync.Mutex // covers what follows
	actions []api.QueuedAction
	given   map[int64]bool
	results map[int64][]api.ActionResult
	asked   int
}

func newServer(t *testing.T, actions ...api.QueuedAction) *server {
	s := &server{T: t, dir: t.TempDir(), actions: actions, given: map[int64]bool{}, results: map[int64][]api.ActionResult{}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	var said api.ActionExchange
	if err := json.NewDecoder(r.Body).Decode(&said); err != nil {
		s.Error(err)
	}
	out := api.ActionsWaiting{}
	for _, got := range said.Results {
		s.results[got.ID] = append(s.results[got.ID], got)
		out.Heard = append(out.Heard, got.ID)
	}
	for _, a := range s.actions {
		if _, over := s.over(a.ID); !over {
			a.Again, s.given[a.ID] = s.given[a.ID], true
			out.Actions = append(out.Actions, a)
		}
	}
	_ = json.NewEncoder(w).Encode(out)
}

// over is called with the lock, ended without it: a request of a child that is dead may still be looked at.
func (s *server) ended(id int64) (api.ActionResult, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over(id)
}

func (s *server) over(id int64) (api.ActionResult, bool) {
	if all := s.results[id]; len(all) > 0 && !all[len(all)-1].State.Open() {
		return all[len(all)-1], true
	}
	return api.ActionResult{}, false
}

// run runs the queue until it dies, if it is to, or until a condition holds.
func (s *server) run(boot, point string, until func() bool) {
	s.Helper()
	cmd := exec.CommandContext(s.Context(), os.Args[0])
	var log bytes.Buffer
	cmd.Stderr = &log
	cmd.Env = append(os.Environ(), envServer+"="+s.url, envDir+"="+s.dir, envBoot+"="+boot, envDie+"="+point)
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	dead := make(chan error, 1)
	go func() { dead <- cmd.Wait() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(3 * time.Minute)
	for {
		select {
		case <-dead:
			if point == "" {
				s.Fatalf("it ended by itself: %s", &log)
			}
			return
		case <-limit:
			_ = cmd.Process.Kill()
			<-dead
			s.Fatalf("with %q nothing came of it: %s", point, &log)
		case <-tick.C:
		}
		s.mu.Lock()
		ok := until()
		s.mu.Unlock()
		if ok && point == "" {
			_ = cmd.Process.Kill()
			<-dead
			return
		}
	}
}

func (s *server) allOver() bool {
	return !slices.ContainsFunc(s.actions, func(a api.QueuedAction) bool { _, over := s.over(a.ID); return !over })
}

func (s *server) did() []string {
	text, err := os.ReadFile(filepath.Join(s.dir, "did"))
	if err != nil && !os.IsNotExist(err) {
		s.Fatal(err)
	}
	return strings.Fields(string(text))
}

// Killed at any point, the device does each action once, and says so.
func TestKilledAnywhereEachIsDoneOnce(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"after taking", "before purge", "after purge", "before telling", "after telling", "before reboot", "after reboot"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, api.QueuedAction{ID: 7, Verb: api.ActPurge, Fleet: 3, Expires: 3600}, api.QueuedAction{ID: 9, Verb: api.ActReboot, Expires: 3600})
			s.run("one", point, func() bool { return false })
			rebooted := slices.Contains(s.did(), "reboot")
			if !rebooted { // the agent comes back, the device did not go down
				s.run("one", "", func() bool { return slices.Contains(s.did(), "reboot") && len(s.results[9]) > 0 })
			}
			s.run("two", "", s.allOver)
			purged, _ := s.ended(7)
			want := []string{"purge", "reboot"}
			if point == "before purge" { // it may have been done, so it is not done again
				want = want[1:]
			}
			if got := s.did(); !slices.Equal(got, want) {
				t.Errorf("it did %v, want %v", got, want)
			}
			interrupted := strings.HasSuffix(point, " purge")
			if interrupted != (purged.State == api.ActionFailed) || interrupted && !strings.Contains(purged.Message, "may be done") {
				t.Errorf("the purge: %+v", purged)
			}
			if back, _ := s.ended(9); back.State != api.ActionDone || back.Message != "the device is back" {
				t.Errorf("the reboot: %+v", back)
			}
		})
	}
}

func TestResultsOfTheQueue(t *testing.T) {
	t.Parallel()
	s := newServer(t, api.QueuedAction{ID: 1, Verb: api.ActRestart, Fleet: 3, Expires: 3600}, api.QueuedAction{ID: 2, Verb: api.ActRestart, Fleet: 3, Force: true, Expires: 3600},
		api.QueuedAction{ID: 3, Verb: api.ActJournal, Lines: 100_000, Expires: 3600}, api.QueuedAction{ID: 4, Verb: "brew", Expires: 3600},
		api.QueuedAction{ID: 5, Verb: api.ActPurge, Expires: -60}, api.QueuedAction{ID: 6, Verb: api.ActPing, Expires: 3600})
	s.run("one", "", s.allOver)
	for id, want := range map[int64]struct {
		state api.ActionState
		words string
	}{
		1: {api.ActionFailed, "update lock"}, 2: {api.ActionDone, ""}, 3: {api.ActionDone, ""}, 4: {api.ActionFailed, "does not know"},
		5: {api.ActionExpired, "too late"}, 6: {api.ActionDone, ""},
	} {
		if got, _ := s.ended(id); got.State != want.state || !strings.Contains(got.Message, want.words) {
			t.Errorf("action %d: %+v, want %+v", id, got, want)
		}
	}
	var text string
	journal, _ := s.ended(3)
	if err := json.Unmarshal(journal.Result, &text); err != nil || len(journal.Result) > api.MaxActionResult || !strings.Contains(text, "line 99999") {
		t.Errorf("the journal: %d bytes, %v", len(journal.Result), err)
	}
	if got := strings.Join(s.did(), " "); got != "restart of 3" {
		t.Errorf("it did %s", got)
	}
	// Without its journal, the device does not begin what the server gave it before.
	s.mu.Lock()
	s.actions = append(s.actions, api.QueuedAction{ID: 8, Verb: api.ActPurge, Expires: 3600}, api.QueuedAction{ID: 10, Verb: api.ActPurge, Expires: 3600})
	s.given[8] = true
	s.mu.Unlock()
	if err := os.WriteFile(filepath.Join(s.dir, "actions.json"), []byte(`{"entries":[{`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("one", "", s.allOver)
	if before, _ := s.ended(8); before.State != api.ActionFailed || !strings.Contains(before.Message, "lost its journal") {
		t.Errorf("given before: %+v", before)
	}
	if fresh, _ := s.ended(10); fresh.State != api.ActionDone {
		t.Errorf("given after: %+v", fresh)
	}
}

// A device whose disk is full says what became of its actions, and does not end for that.
func TestStartsWithoutRoomForTheJournal(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	file := filepath.Join(dir, "actions.json")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(`{"entries":[{"action":{"id":7,"verb":"purge"},"state":"begun","boot":"one"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var told []api.ActionResult
	q, err := queue.Open(queue.Config{
		File: file, Boot: "one", Acts: &acts{file: filepath.Join(t.TempDir(), "did")}, Retry: remote.Backoff{Min: time.Millisecond, Max: time.Millisecond},
		Exchange: func(_ context.Context, said api.ActionExchange) (api.ActionsWaiting, error) {
			told = append(told, said.Results...)
			cancel()
			return api.ActionsWaiting{}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil { // as little as on a full disk can be written there
		t.Fatal(err)
	}
	if err := q.Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
	if len(told) != 1 || told[0].ID != 7 || told[0].State != api.ActionFailed {
		t.Errorf("told %+v", told)
	}
}
