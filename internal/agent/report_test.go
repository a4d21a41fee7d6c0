package agent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// Reports of every agent that was ever shipped decode for ever: the files below are only added to.
func TestRecordedReportsDecode(t *testing.T) {
	files, err := filepath.Glob("testdata/reports/*.ndjson")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded reports: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		for n := 1; ; n++ {
			var r api.Report
			if err := d.Decode(&r); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s, report %d: %v", file, n, err)
			}
			for uuid, dev := range r {
				if !uuid.Valid() || dev == nil {
					t.Errorf("%s, report %d: device %q", file, n, uuid)
				}
			}
		}
	}
}

// What this agent sends has the shape of the newest record: a change of it is a new record, and a thought about old servers.
func TestReportsLookAsRecorded(t *testing.T) {
	text, err := os.ReadFile("testdata/reports/v0.1.0.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for line := range bytes.Lines(text) {
		var r map[string]map[string]json.RawMessage
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		for _, fields := range r {
			for name := range fields {
				want[name] = true
			}
		}
	}
	w := newWorld(t)
	d := newDevice(t, w)
	d.run(t)
	roletest.Eventually(t, "registered", registered(w))
	d.engine.Publish(ref(1))
	w.setTarget(release(commitA, map[string]string{"web": ref(1)}, nil))
	roletest.Eventually(t, "running", func() bool { return w.serviceStatus(fleetUUID, commitA, "web") == "Running" })
	w.mu.Lock()
	defer w.mu.Unlock()
	optional := []string{"cpu_temp", "cpu_id", "os_variant", "cpu_usage"} // not every machine has them
	for _, k := range w.devices {
		got := slices.Sorted(maps.Keys(k.report))
		expect := slices.Sorted(maps.Keys(want))
		hidden := func(s string) bool { return slices.Contains(optional, s) }
		if diff := cmp.Diff(slices.DeleteFunc(expect, hidden), slices.DeleteFunc(got, hidden)); diff != "" {
			t.Errorf("fields of a report (-recorded +now):\n%s", diff)
		}
	}
}
