package engine_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/engine/enginetest"
)

// started makes a container that runs.
func started(t *testing.T, d *enginetest.Daemon, name string) (id string) {
	t.Helper()
	id, err := d.Client.Create(t.Context(), engine.Spec{
		Name: name, Host: container.HostConfig{NetworkMode: "none"},
		Config: container.Config{Image: "orphan", Cmd: []string{"sh", "-c", "sleep 100000"}, Labels: map[string]string{engine.LabelSupervised: "true"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Client.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

// forget makes an engine that does not run say that a container never started, as one does that was killed before it wrote that down.
func forget(t *testing.T, d *enginetest.Daemon, id string) {
	t.Helper()
	path := filepath.Join(d.Dir, "containers", id, "config.v2.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]json.RawMessage
	var state map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(config["State"], &state); err != nil {
		t.Fatal(err)
	}
	state["Running"], state["Pid"] = false, 0
	if config["State"], err = json.Marshal(state); err != nil {
		t.Fatal(err)
	}
	if text, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// shims counts the shims of a container.
func shims(t *testing.T, id string) int {
	t.Helper()
	out, _ := exec.Command("pgrep", "-f", "containerd-shim.* -id "+id).Output() // 1 means none
	return len(strings.Fields(string(out)))
}

// An engine that was killed while it started a container does not know that it runs, cannot start it and does not end it: the client does.
func TestContainersThatTheEngineForgot(t *testing.T) {
	image := os.Getenv("ROADSTEAD_BASE_BUSYBOX")
	if image == "" {
		t.Skip("ROADSTEAD_BASE_BUSYBOX does not name the base image; `make test` makes it and sets it")
	}
	d := enginetest.NewDaemon(t)
	if out, err := exec.Command("docker", "-H", "unix://"+d.Socket, "import", image, "orphan").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	starts, goes := started(t, d, "starts"), started(t, d, "goes")
	d.Kill()
	forget(t, d, starts)
	forget(t, d, goes)
	d.Start()
	if n, m := shims(t, starts), shims(t, goes); n != 1 || m != 1 {
		t.Fatalf("%d and %d shims, want what the engine forgot", n, m)
	}
	if err := d.Client.Start(t.Context(), starts); err != nil {
		t.Fatal(err)
	}
	list, err := d.Client.Containers(t.Context())
	if i := slices.IndexFunc(list, func(c engine.Container) bool { return c.ID == starts }); err != nil || i < 0 || list[i].State != "running" {
		t.Fatalf("%+v %v, want one that runs", list, err)
	}
	if err := d.Client.Remove(t.Context(), goes); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(time.Minute); shims(t, goes) > 0; <-tick.C {
		if time.Now().After(late) {
			t.Fatal("what the engine forgot runs on after the container was removed")
		}
	}
}
