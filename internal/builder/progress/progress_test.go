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
	p := progress.New(func(s string) { got = append(got, s) })
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
		"#3 [3/3] RUN bad", "#3 ERROR: exit code: 1", "#4 [4/3] RUN endless", "#4   " + strings.Repeat("x", 4096) + "…", "#4   tail"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
