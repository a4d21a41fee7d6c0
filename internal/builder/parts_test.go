package builder_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
)

func TestAStreamIsOneArrayWhateverIsSentAtOnce(t *testing.T) {
	for _, n := range []int{0, 1, 2, 50} {
		rec := httptest.NewRecorder()
		event, beat, end := builder.NewTestStream(rec)
		if !beat() {
			t.Error("a beat before the first event fails")
		}
		var wait sync.WaitGroup
		for i := range n {
			wait.Go(func() {
				event(api.BuildEvent{Message: fmt.Sprintf("line %d \"quoted\"\n\x1b[1m", i), Replace: i%2 == 0})
				beat()
			})
		}
		wait.Wait()
		end()
		if event(api.BuildEvent{Message: "late"}) {
			t.Error("an event after the end is accepted")
		}
		var got []api.BuildEvent
		if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || len(got) != n {
			t.Errorf("%d events: got %d, %v:\n%s", n, len(got), err, rec.Body)
		}
		if !rec.Flushed && n > 0 {
			t.Error("nothing was flushed")
		}
	}
}

func TestAStreamToNobodyIsNoticed(t *testing.T) {
	event, beat, end := builder.NewTestStream(broken{httptest.NewRecorder()})
	if event(api.BuildEvent{Message: "x"}) || beat() {
		t.Error("writing into a broken connection is taken for success")
	}
	end()
}

type broken struct{ http.ResponseWriter }

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestALogKeepsItsBeginningAndItsEnd(t *testing.T) {
	line, text := builder.NewTestLog()
	for i := range 300_000 {
		line(fmt.Sprintf("line %06d: some words that make it as long as lines are", i))
	}
	line("the end \xff")
	got := text()
	if len(got) > 4<<20 || len(got) < 3<<20 {
		t.Errorf("the log has %d bytes, want some 4 MiB", len(got))
	}
	for _, want := range []string{"line 000000:", "line 299999:", "lines are missing here", "the end \uFFFD\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	line, text = builder.NewTestLog()
	line("short")
	if got := text(); got != "short\n" {
		t.Errorf("a short log is %q", got)
	}
}

func TestProgressReadsLikeALog(t *testing.T) {
	var got []string
	update, flush := builder.NewTestProgress(func(s string) { got = append(got, s) })
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	end := start.Add(1540 * time.Millisecond)
	vertex := func(name string, change func(*client.Vertex)) *client.SolveStatus {
		v := &client.Vertex{Digest: digest.FromString(name), Name: name, Started: &start}
		if change != nil {
			change(v)
		}
		return &client.SolveStatus{Vertexes: []*client.Vertex{v}}
	}
	output := func(name, data string) *client.SolveStatus {
		return &client.SolveStatus{Logs: []*client.VertexLog{{Vertex: digest.FromString(name), Data: []byte(data)}}}
	}
	done := func(v *client.Vertex) { v.Completed = &end }
	update(vertex("[internal] load build context", nil))
	update(output("[internal] load build context", "never shown\n"))
	update(vertex("[1/3] RUN one\n two", nil))
	update(vertex("[1/3] RUN one\n two", nil))
	update(output("[1/3] RUN one\n two", "half a "))
	update(output("[1/3] RUN one\n two", "line\n10%\r50%\r100%\r\nrest"))
	update(vertex("[1/3] RUN one\n two", done))
	update(vertex("[1/3] RUN one\n two", done))
	update(vertex("[2/3] COPY", func(v *client.Vertex) { done(v); v.Cached = true }))
	update(vertex("[3/3] RUN bad", func(v *client.Vertex) { done(v); v.Error = "exit code: 1" }))
	update(vertex("[4/3] RUN endless", nil))
	update(output("[4/3] RUN endless", strings.Repeat("x", 5000)))
	update(output("[4/3] RUN endless", "tail"))
	flush()
	want := []string{"#1 [1/3] RUN one two", "#1   half a line", "#1   100%", "#1   rest", "#1 DONE 1.5s", "#2 [2/3] COPY", "#2 CACHED",
		"#3 [3/3] RUN bad", "#3 ERROR: exit code: 1", "#4 [4/3] RUN endless", "#4   " + strings.Repeat("x", 4096) + "…", "#4   tail"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
