//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/fleettest/vm/guest"
)

// engineSocket is where the engine listens.
const engineSocket = "/run/docker.sock"

// dockerd is the engine, as scripts/device.sh runs it. It starts containerd by itself.
var dockerd = []string{
	"/usr/sbin/dockerd", "--host", "unix://" + engineSocket, "--data-root", "/disk/docker", "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid",
	"--exec-opt", "native.cgroupdriver=cgroupfs", "--userland-proxy=false", "--storage-driver", "overlay2", "--log-level", "warn",
}

// furnish mounts the engine's programs, and what containers need.
func furnish() error {
	if err := awaited("/dev/vdb"); err != nil {
		return err
	}
	if err := os.MkdirAll("/usr", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/dev/vdb", "/usr", "ext4", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount the programs: %w", err)
	}
	for _, name := range []string{"/lib", "/lib64", "/sbin"} {
		if err := os.Symlink("usr"+name, name); err != nil {
			return err
		}
	}
	for _, m := range []struct{ kind, at string }{{"cgroup2", "/sys/fs/cgroup"}, {"devpts", "/dev/pts"}, {"tmpfs", "/dev/shm"}, {"mqueue", "/dev/mqueue"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := os.MkdirAll("/var", 0o755); err != nil {
		return err
	}
	return os.Symlink("/run", "/var/run")
}

// openDoor lets the test talk with the engine.
func openDoor() error {
	ln, err := net.Listen("tcp", ":"+strconv.Itoa(guest.Door))
	if err != nil {
		return err
	}
	onward := &httputil.ReverseProxy{
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", engineSocket)
		}},
		ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" },
	}
	go func() { say("machine: the door: %v", http.Serve(ln, onward)) }() //nolint:gosec // nobody but the test is there
	return nil
}
