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
