package progress_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/roadstead-io/roadstead/internal/builder/progress"
)

func TestProgressReadsLikeALog(t *testing.T) {
	var got []string
	p := progress.New(strings.Clone, func(s string) { got = append(got, s) })
	update := p.Update
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
	p.Flush()
	want := []string{"#1 [1/3] RUN one two", "#1   half a line", "#1   100%", "#1   rest", "#1 DONE 1.5s", "#2 [2/3] COPY", "#2 CACHED",
		"#3 [3/3] RUN bad", "#3 ERROR: exit code: 1", "#4 [4/3] RUN endless", "#4   " + strings.Repeat("x", 4096) + "…"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// output makes the reports of one step that prints.
func outputs(p *progress.Printer, parts func(func(string))) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d := digest.FromString("step")
	p.Update(&client.SolveStatus{Vertexes: []*client.Vertex{{Digest: d, Name: "RUN", Started: &start}}})
	parts(func(data string) {
		p.Update(&client.SolveStatus{Logs: []*client.VertexLog{{Vertex: d, Data: []byte(data)}}})
	})
	p.Update(&client.SolveStatus{Vertexes: []*client.Vertex{{Digest: d, Name: "RUN", Started: &start, Completed: &start}}})
}

// The attack: a step prints a gigabyte. It costs neither memory nor wire nor log, and people are told.
func TestAGigabyteOfOutputIsBounded(t *testing.T) {
	for name, part := range map[string]string{"lines": strings.Repeat(strings.Repeat("x", 1023)+"\n", 1024), "no line end": strings.Repeat("x", 1<<20),
		"a bar": strings.Repeat("\r"+strings.Repeat("=", 1023), 1024), "empty lines": strings.Repeat("\n", 1<<20)} {
		t.Run(name, func(t *testing.T) {
			size, most, last := 0, 0, []string{}
			p := progress.New(func(s string) string { most = max(most, len(s)); return s }, func(s string) {
				size += len(s) + 1
				last = append(last, s)
				last = last[max(0, len(last)-3):]
			})
			outputs(p, func(say func(string)) {
				for range 1024 {
					say(part)
				}
				say("\nthe end\n")
			})
			if size > 9<<20 {
				t.Errorf("%d bytes of one step were given on", size)
			}
			if most > 2<<20 {
				t.Errorf("a line of %d bytes was kept in memory", most)
			}
			text := strings.Join(last, "\n")
			if name == "lines" || name == "empty lines" {
				if !strings.Contains(text, "bytes of output were not shown") {
					t.Errorf("the end does not say so: %s", text)
				}
			} else if !strings.Contains(text, "the end") {
				t.Errorf("what follows the long line is lost: %s", text)
			}
		})
	}
}

// A secret must not be missed because it lies where a line is cut, or comes in two reports.
func TestOutputIsCleanedBeforeItIsCut(t *testing.T) {
	var got []string
	p := progress.New(func(s string) string { return strings.ReplaceAll(s, "hunter2", "[secret]") }, func(s string) { got = append(got, s) })
	outputs(p, func(say func(string)) {
		say(strings.Repeat("y", 4092) + "hun")
		say("ter2 and more\nhunt")
		say("er2\n")
	})
	text := strings.Join(got, "\n")
	if strings.Contains(text, "hun") || strings.Contains(text, "ter2") || strings.Contains(text, "er2") || !strings.Contains(text, "#1   [secret]\n") {
		t.Errorf("lines:\n%s", text)
	}
}
