package builder_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
)

// Eight builds at once, five of them of one organization that came first: with two places, nobody else's ends last.
func TestEightBuildsOfSeveralOrganizationsEndFairly(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{Builds: 2})
	gate := make(chan struct{})
	w.releases.set(func(s *releases) { s.gate = gate })
	files := project(t, nil)
	var mu sync.Mutex
	var order []int
	var wait sync.WaitGroup
	for i, tenant := range []int{1, 1, 1, 1, 1, 2, 3, 4} {
		id, _ := w.send(fmt.Sprintf("tenant%d/hello", tenant), files)
		f := w.follow(testToken, id, 0)
		if i < 2 {
			f.until("Building release")
		} else {
			f.until("Waiting for other builds")
		}
		wait.Go(func() {
			if status := f.until(""); status != api.StatusSuccess {
				t.Errorf("build %d of tenant %d is %q:\n%s", i+1, tenant, status, f.text)
			}
			mu.Lock()
			order = append(order, tenant)
			mu.Unlock()
		})
	}
	close(gate)
	wait.Wait()
	// The two that were at work end first; then each organization has had its turn before the first gets another.
	for _, tenant := range []int{2, 3, 4} {
		if at := slices.Index(order, tenant); at < 0 || at > 6 {
			t.Errorf("they ended in the order %v: tenant %d waits for the five of tenant 1", order, tenant)
		}
	}
	if order[7] != 1 {
		t.Errorf("they ended in the order %v", order)
	}
}

// The build is cancelled in the moment in which it ends: whatever the api role says it is, all are told the same.
func TestCancellingRacesWithTheEnd(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{})
	files := project(t, nil)
	for i := range 8 {
		gate := make(chan struct{})
		w.releases.set(func(s *releases) { s.gate = gate })
		id, _ := w.send(testFleet, files)
		f := w.follow(testToken, id, 0)
		f.until("Building release")
		var wait sync.WaitGroup
		wait.Go(func() { close(gate) })
		wait.Go(func() {
			<-time.After(time.Duration(i) * 15 * time.Millisecond)
			w.releases.set(func(s *releases) {
				if b := s.builds[id]; b.Status == api.StatusRunning {
					b.Status = api.StatusCancelled
				}
			})
		})
		wait.Wait()
		status := f.until("")
		if want := w.releases.get(id).Status; status != want {
			t.Errorf("round %d: followers are told %q, the release is %q:\n%s", i, status, want, f.text)
		}
	}
	await(t, "the work directory is empty", w.workEmpty)
}

// The attack: somebody follows a build that prints without end, and reads nothing. What is held for them stays small, and when they read
// again they are told how much they missed.
func TestASlowReaderCostsNoMemory(t *testing.T) {
	const limit = 1 << 20
	j, follow := builder.NewTestJournal(limit)
	srv := httptest.NewServer(follow)
	defer srv.Close()
	res := must(srv.Client().Get(srv.URL))(t)
	defer res.Body.Close()
	text := strings.Repeat("x", 1000)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 100_000 { // 100 MB
		j.Add(api.BuildEvent{Message: text})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20*limit {
		t.Errorf("the heap has grown by %d bytes for a reader who does not read", grown)
	}
	j.End(api.StatusSuccess)
	all := must(io.ReadAll(res.Body))(t)
	if !bytes.Contains(all, []byte(`"lost":`)) || !bytes.Contains(all, []byte(`"status":"success"`)) || len(all) > 40*limit {
		t.Errorf("the reader got %d bytes in the end: …%s", len(all), all[max(0, len(all)-100):])
	}
}

func TestAPlaceIsWordedForPeople(t *testing.T) {
	for n, want := range map[int]string{1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 102: "102nd", 111: "111th"} {
		if got := builder.Ordinal(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

// A push by an archive is told of its limits as well.
func TestTheOtherRoadIsBoundedToo(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{SourceEntries: 2, SourceBytes: 10 << 20})
	res := w.push(t.Context(), url.Values{}, pack(t, map[string]string{"a": "", "b": "", "c": ""}))
	defer res.Body.Close()
	if text := must(io.ReadAll(res.Body))(t); res.StatusCode != 413 || !strings.Contains(string(text), "more than 2 entries") {
		t.Errorf("got %s %s", res.Status, text)
	}
}
