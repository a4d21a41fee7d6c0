package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The real balena CLI, unmodified, against our server: the commands that the main job needs, each with what it must say.
func TestBalenaCLI(t *testing.T) {
	cli := os.Getenv("ROADSTEAD_BALENA_CLI")
	if cli == "" {
		t.Skip("ROADSTEAD_BALENA_CLI names no balena CLI; make test installs it")
	}
	balena := func(t *testing.T, want string, args ...string) string {
		t.Helper()
		out, stderr, code := p.try(t, cli, args...)
		if code != 0 {
			t.Fatalf("balena %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, stderr)
		}
		if !strings.Contains(out+stderr, want) {
			t.Fatalf("balena %s: got\n%s%s\nwant %q in it", strings.Join(args, " "), out, stderr, want)
		}
		return out
	}
	if out, stderr, code := p.try(t, cli, "login", "--credentials", "--email", p.admin.Email, "--password", "not the password"); code == 0 {
		t.Fatalf("login with a wrong password succeeds: %s%s", out, stderr)
	}
	balena(t, "Successfully logged in", "login", "--credentials", "--email", p.admin.Email, "--password", p.admin.Password)
	balena(t, p.admin.Username, "whoami")
	balena(t, "balena-fleet", "fleet", "create", "balena-fleet", "--type", "generic-amd64")
	if out, stderr, code := p.try(t, cli, "fleet", "create", "balena-fleet", "--type", "generic-amd64"); code == 0 || !strings.Contains(out+stderr, "already exists") {
		t.Errorf("a second fleet of the same name: exit code %d, %s%s", code, out, stderr)
	}
	balena(t, "balena-fleet", "fleet", "list")
	balena(t, "generic-amd64", "fleet", "balena-fleet")
	balena(t, "", "push", "balena-fleet", "--source", filepath.Join(p.top, "examples/hello"))
	balena(t, "success", "release", "list", "balena-fleet")

	d := newDevice(t, "balena-fleet", "e2e-balena")
	d.registered(t)
	d.running(t, "web", "writer")
	balena(t, d.uuid[:7], "device", "list")
	balena(t, d.uuid[:7], "device", "list", "--fleet", "balena-fleet")
	balena(t, "operational", "device", d.uuid)
	balena(t, "", "env", "set", "COLOUR", "blue", "--fleet", "balena-fleet")
	balena(t, "", "env", "set", "COLOUR", "green", "--fleet", "balena-fleet") // an upsert
	balena(t, "", "env", "set", "COLOUR", "red", "--device", d.uuid)
	balena(t, "", "env", "set", "SHAPE", "round", "--device", d.uuid, "--service", "web")
	if out := balena(t, "COLOUR", "env", "list", "--fleet", "balena-fleet"); !strings.Contains(out, "green") {
		t.Errorf("env list --fleet: %s", out)
	}
	if out := balena(t, "COLOUR", "env", "list", "--device", d.uuid); !strings.Contains(out, "red") || !strings.Contains(out, "SHAPE") {
		t.Errorf("env list --device: %s", out)
	}
	eventually(t, 30*time.Second, "balena device logs shows a line of the writer", func() bool {
		out, _, code := p.try(t, cli, "device", "logs", d.uuid)
		return code == 0 && strings.Contains(out, "[writer]")
	})
	balena(t, "", "device", "rename", d.uuid, "renamed-by-balena")
	balena(t, "renamed-by-balena", "device", "list")
	balena(t, "", "tag", "set", "place", "roof", "--device", d.uuid)
	balena(t, "roof", "tag", "list", "--device", d.uuid)

	t.Run("a failing build exits 1 with the compiler's words", func(t *testing.T) {
		out, stderr, code := p.try(t, cli, "push", "balena-fleet", "--source", filepath.Join(p.top, "examples/broken"))
		if code != 1 {
			t.Errorf("exit code: got %d, want 1", code)
		}
		words := brokenWords(t)
		if !strings.Contains(out+stderr, words) {
			t.Errorf("the output lacks %q:\n%s%s", words, out, stderr)
		}
		balena(t, "failed", "release", "list", "balena-fleet")
	})
	t.Run("a device that was removed is gone", func(t *testing.T) {
		balena(t, "", "device", "rm", d.uuid, "--yes")
		refusedEverywhere(t, d.uuid, d.key)
	})
}

// brokenWords is what examples/broken prints before it fails.
func brokenWords(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.top, "examples/broken/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(data), "echo \"")
	words, _, ok2 := strings.Cut(rest, "\"")
	if !ok || !ok2 {
		t.Fatalf("examples/broken prints no words: %s", data)
	}
	return words
}
