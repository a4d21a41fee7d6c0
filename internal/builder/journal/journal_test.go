package journal_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/journal"
)

// drain reads all that is there after a number, a few lines at a time.
func drain(j *journal.Journal, after int64, most int) (lines []api.BuildLine, ended bool) {
	for {
		batch, end, _ := j.Read(after, most)
		lines = append(lines, batch...)
		if len(batch) > 0 {
			after = batch[len(batch)-1].Seq
		}
		if end || len(batch) == 0 {
			return lines, end
		}
	}
}

func TestWhoComesBackGetsWhatCameAfter(t *testing.T) {
	j := journal.New(1<<20, 0)
	for i := range 10 {
		j.Add(api.BuildEvent{Message: fmt.Sprint(i)})
	}
	for after := range int64(11) {
		lines, ended := drain(j, after, 3)
		if int64(len(lines)) != 10-after || ended || len(lines) > 0 && (lines[0].Seq != after+1 || lines[0].Message != fmt.Sprint(after)) {
			t.Errorf("after %d: got %v, %v", after, lines, ended)
		}
	}
	_, _, more := j.Read(10, 3)
	select {
	case <-more:
		t.Error("there is more before anything was said")
	default:
	}
	j.End(api.StatusFailed)
	j.Add(api.BuildEvent{Message: "late"})
	<-more
	lines, ended := drain(j, 10, 3)
	if diff := cmp.Diff([]api.BuildLine{{Seq: 11, Status: api.StatusFailed}}, lines); diff != "" || !ended {
		t.Errorf("the end: ended %v (-want +got):\n%s", ended, diff)
	}
	if lines, ended := drain(j, 11, 3); len(lines) != 0 || !ended {
		t.Errorf("after the end: got %v, %v", lines, ended)
	}
}

// A build that prints without end costs no more memory than is kept, and the reader is told what it misses.
func TestAJournalIsBounded(t *testing.T) {
	const limit = 100_000
	j := journal.New(limit, 0)
	text := strings.Repeat("x", 1000)
	for range 10_000 {
		j.Add(api.BuildEvent{Message: text})
		if n := j.Bytes(); n > limit {
			t.Fatalf("the journal holds %d bytes, want %d at most", n, limit)
		}
	}
	j.End(api.StatusSuccess)
	for _, after := range []int64{0, 5, 5000, 9_990, 10_001} {
		lines, ended := drain(j, after, 7)
		if !ended {
			t.Errorf("after %d: no end", after)
		}
		last, lost := after, int64(0)
		for _, l := range lines {
			if l.Seq != last+1+max(0, l.Lost-1) {
				t.Errorf("after %d: line %d, which stands for %d, follows line %d", after, l.Seq, l.Lost, last)
			}
			last, lost = l.Seq, lost+l.Lost
		}
		if last != 10_001 || (lost > 0) != (after < 9_000) {
			t.Errorf("after %d: read up to %d with %d lost", after, last, lost)
		}
	}
}

func TestABuildThatGoesOnLaterHasHigherNumbers(t *testing.T) {
	j := journal.New(1000, 1<<32)
	j.Add(api.BuildEvent{Message: "again"})
	j.End("")
	lines, ended := drain(j, 17, 10)
	if diff := cmp.Diff([]api.BuildLine{{Seq: 1<<32 + 1, BuildEvent: api.BuildEvent{Message: "again"}}}, lines); diff != "" || !ended {
		t.Errorf("ended %v (-want +got):\n%s", ended, diff)
	}
}
