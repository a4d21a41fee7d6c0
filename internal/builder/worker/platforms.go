package worker

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/moby/buildkit/client"
)

// Platform is what images can be built for.
type Platform struct {
	Platform string `json:"platform"` // "linux/arm64", "linux/arm/v7"
	Native   bool   `json:"native"`   // false: its programs run in an emulator
}

// emulated are the platforms whose programs qemu-user-static runs, by the name that BuildKit looks for.
var emulated = map[string]string{
	"linux/amd64": "buildkit-qemu-x86_64", "linux/386": "buildkit-qemu-i386", "linux/arm64": "buildkit-qemu-aarch64",
	"linux/arm/v7": "buildkit-qemu-arm", "linux/arm/v6": "buildkit-qemu-arm",
}

// native are what this machine's processor runs by itself.
var native = map[string][]string{
	"amd64": {"linux/amd64", "linux/386"}, "arm64": {"linux/arm64"}, "arm": {"linux/arm/v7", "linux/arm/v6"}, "386": {"linux/386"},
}

// platforms asks a daemon what runs on this machine: it tries a program of every architecture.
func platforms(ctx context.Context, socket string) ([]Platform, error) {
	c, err := client.New(ctx, "unix://"+socket)
	if err != nil {
		return nil, fmt.Errorf("ask the build service for its platforms: %w", err)
	}
	defer func() { _ = c.Close() }()
	workers, err := c.ListWorkers(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the build service for its platforms: %w", err)
	}
	own := map[string]bool{}
	for _, name := range native[runtime.GOARCH] {
		own[name] = true
	}
	var list []Platform
	seen := map[string]bool{}
	add := func(name string) {
		if _, known := emulated[name]; known && !seen[name] {
			seen[name] = true
			list = append(list, Platform{Platform: name, Native: own[name]})
		}
	}
	for _, w := range workers {
		for _, p := range w.Platforms {
			name := p.OS + "/" + p.Architecture
			if p.Variant != "" && p.Architecture == "arm" {
				name += "/" + p.Variant
			}
			add(name)
		}
	}
	for _, dir := range filepath.SplitList(searchPath) {
		for name, program := range emulated {
			if _, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
				add(name)
			}
		}
	}
	return list, nil
}

// buildkitVersion is that of the client library, which the daemon is built from too.
var buildkitVersion = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/moby/buildkit" {
			return dep.Version
		}
	}
	return ""
})
