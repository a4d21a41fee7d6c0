package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The operator is told what bounds builds on this machine, in the status of the role that runs them.
func TestStatusSaysWhatBoundsBuilds(t *testing.T) {
	buildkitd := os.Getenv("ROADSTEAD_BUILDKITD")
	if buildkitd == "" || os.Geteuid() != 0 {
		t.Skip("ROADSTEAD_BUILDKITD does not name a buildkitd, or this is not root")
	}
	s := up(t, openDir(t), "127.0.0.1:0", "--buildkitd", buildkitd, "--build-bounds", "memory=512,processes=333,disk=1024,cache=1024",
		"--build-allow", "192.168.7.0/24", "--git-bounds", "push_bytes=100MiB,user_sessions=3")
	deadline := time.Now().Add(time.Minute)
	for {
		why, state := "", ""
		for _, r := range s.status().Roles {
			if r.Role == "buildkit" {
				why, state = r.Why, string(r.State)
			}
		}
		if state == "healthy" {
			for _, want := range []string{"512 MiB of memory", "333 processes", "1.5 GiB of disk", "control group"} {
				if !strings.Contains(why, want) {
					t.Errorf("the status does not speak of %q: %s", want, why)
				}
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("buildkit is %s: %s\n%s", state, why, s.log)
		}
		<-time.After(100 * time.Millisecond)
	}
	role, err := os.ReadFile(filepath.Join(s.dir, "roles/buildkit/role.json"))
	if err != nil || !strings.Contains(string(role), "192.168.7.0/24") {
		t.Errorf("role.json: %v\n%s", err, role)
	}
	role, err = os.ReadFile(filepath.Join(s.dir, "roles/git/role.json"))
	if err != nil || !strings.Contains(string(role), `"push_bytes": 104857600`) || !strings.Contains(string(role), `"of_user": 3`) {
		t.Errorf("role.json: %v\n%s", err, role)
	}
	for _, args := range [][]string{{"--build-allow", "127.0.0.1"}, {"--build-bounds", "colour=1"}, {"--git-bounds", "colour=1"}} {
		if _, text, code := run(t, nil, append([]string{"up", "--data", t.TempDir(), "--domain", domain, "--listen", "127.0.0.1:0"}, args...)...); code == 0 || !strings.Contains(text, args[0]) {
			t.Errorf("up %v: exit %d: %s", args, code, text)
		}
	}
}
