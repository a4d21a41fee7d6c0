package engine

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/client"
)

// An engine that was killed while it started a container may have forgotten that it did: the container's processes run, and the engine neither
// knows them nor can start or stop them. Their shim, the process between them and the engine, ends them when it is killed: containerd cleans up after it.

// endForgotten ends what runs of a container that the engine says does not run, and reports whether there was anything.
func (c *Client) endForgotten(ctx context.Context, id string) bool {
	got, err := c.docker.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil || got.Container.State == nil || got.Container.State.Running {
		return false
	}
	id = got.Container.ID
	pid := shimOf(id)
	if pid == 0 {
		return false
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	defer func() { _ = p.Release() }()
	if !isShim(pid, id) { // it ended between, and its number is somebody else's
		return false
	}
	return p.Kill() == nil
}

// until tries again for some seconds: containerd cleans up behind the shim.
func until(ctx context.Context, try func() error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-late:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// shimOf finds the process; 0 means none. Where the agent does not see the engine's processes there is none.
func shimOf(id string) int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && isShim(pid, id) {
			return pid
		}
	}
	return 0
}

func isShim(pid int, id string) bool {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || !bytes.Contains(line, []byte(id)) {
		return false
	}
	args := strings.Split(string(line), "\x00")
	at := slices.Index(args, "-id")
	return strings.Contains(filepath.Base(args[0]), "containerd-shim") && at > 0 && at+1 < len(args) && args[at+1] == id
}
