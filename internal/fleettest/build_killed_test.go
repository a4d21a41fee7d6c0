package fleettest_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/client/source"
	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// The builder role dies under a build that somebody follows: it comes back, goes on with the build, and the follower is told of all of it.
func TestABuildSurvivesTheBuildersDeath(t *testing.T) {
	srv := fleettest.NewServerWith(t, fleettest.Options{Builds: true})
	c := srv.Client()
	id := func(resource, filter string) int64 {
		t.Helper()
		rows, err := client.Get[client.Fleet](t.Context(), c, resource, client.Query{Select: "id", Filter: filter})
		if err != nil || len(rows) != 1 {
			t.Fatalf("%s: %v, %v", resource, rows, err)
		}
		return rows[0].ID
	}
	if _, err := client.Create[client.Fleet](t.Context(), c, "application", map[string]any{"app_name": "killed",
		"is_for__device_type": id("device_type", "slug eq 'generic-amd64'"), "organization": id("organization", ""), "is_of__class": "fleet"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := "FROM base/busybox\nRUN echo the first step\nRUN echo sleeping now; sleep 4\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := source.Scan(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	contents, err := p.Contents(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := c.OpenBuild(t.Context(), client.BuildOptions{Slug: srv.Admin.Username + "/killed"}, contents.Entries)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SendContents(t.Context(), opened, contents, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	var lost atomic.Bool
	killed := time.Time{}
	last := int64(0)
	status, err := c.FollowBuild(t.Context(), opened.ID, client.FollowOptions{Stay: true, Lost: func(error) { lost.Store(true) }}, func(l api.BuildLine) error {
		said.WriteString(l.Message + "\n")
		if l.Seq <= last {
			t.Errorf("line %d comes after line %d", l.Seq, last)
		}
		last = l.Seq
		if killed.IsZero() && strings.Contains(l.Message, "  sleeping now") {
			killed = time.Now()
			kill(t, srv, "builder")
		}
		return nil
	})
	if err != nil || status != api.StatusSuccess || !lost.Load() || !strings.Contains(said.String(), "going on with the build") {
		t.Fatalf("the build ended as %q, %v; it said:\n%s", status, err, said.String())
	}
	t.Logf("%s from the kill to the end of the build, of which a step takes 4 s", time.Since(killed).Round(100*time.Millisecond))
	r, err := client.One[client.Release](t.Context(), c, client.ID("release", opened.ID), client.Query{Select: "id,status"})
	if err != nil || r.Status != api.StatusSuccess {
		t.Errorf("the release is %+v, %v", r, err)
	}
}

// kill sends SIGKILL to a role.
func kill(t *testing.T, srv *fleettest.Server, role string) {
	t.Helper()
	out, _ := exec.Command(fleettest.Program(t, "roadsteadd"), "status", "--data", srv.Dir, "-o", "json").Output() // 1 when a role is down
	var status struct {
		Roles []struct {
			Role string `json:"role"`
			PID  int    `json:"pid"`
		} `json:"roles"`
	}
	if err := json.Unmarshal(out, &status); err != nil {
		t.Fatalf("status: %v: %s", err, out)
	}
	for _, r := range status.Roles {
		if r.Role == role && r.PID > 1 {
			if err := syscall.Kill(r.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("status names no process of %s: %s", role, out)
}
