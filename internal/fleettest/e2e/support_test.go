package e2e_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
)

// helper is somebody of the support staff, with a key of their own.
type helper struct {
	name, session, key string
	upload             func()
}

func newHelper(t *testing.T, name string) *helper {
	t.Helper()
	h := &helper{name: name, key: filepath.Join(t.TempDir(), "id")}
	const secret = "a long enough pass phrase"
	add := p.command("roadsteadd", "admin", "user", "add", name+"@example.com", "--username", name, "--password-stdin", "--data", p.data)
	add.Stdin = strings.NewReader(secret + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("add a user: %v %s", err, out)
	}
	if out, errs, code := p.try(t, "roadsteadd", "admin", "user", "support", name, "--data", p.data); code != 0 {
		t.Fatalf("support staff: %d %s %s", code, out, errs)
	}
	h.session = p.call(t, "POST", "api", "/login_", "", map[string]any{"username": name, "password": secret}).body
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.key+".pub", ssh.MarshalAuthorizedKey(key), 0o600); err != nil {
		t.Fatal(err)
	}
	h.upload = func() {
		if out, code := h.run(t, "ssh-key", "add", "help", h.key+".pub"); code != 0 {
			t.Fatalf("upload the key: %d %s", code, out)
		}
	}
	return h
}

// command is our command line in the hands of the helper.
func (h *helper) command(args ...string) *exec.Cmd {
	cmd := p.command("roadstead", args...)
	cmd.Env = append(cmd.Env, "ROADSTEAD_TOKEN="+h.session, "SSH_AUTH_SOCK=")
	return cmd
}

func (h *helper) run(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	base := h.command(args...)
	cmd := exec.CommandContext(ctx, base.Path, args...)
	cmd.Env, cmd.Dir = base.Env, base.Dir
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// TestSupportEntersByKeyAndGrant is support staff at a real device with our command line: with a grant and an uploaded key, through the gateway, as
// long as the grant lasts and no longer; the owner sees all of it.
func TestSupportEntersByKeyAndGrant(t *testing.T) {
	p.roadstead(t, "fleet", "create", "helped", "--type", "generic-amd64")
	p.roadstead(t, "env", "set", "ROADSTEAD_SSH_RECORD", "true", "--fleet", "helped")
	d := newDevice(t, "helped", "e2e-support")
	d.registered(t)
	eventually(t, time.Minute, "the device is on the control channel", func() bool {
		got := p.call(t, "GET", "api", "/v7/device?$select=is_connected_to_vpn&$filter=uuid%20eq%20%27"+d.uuid+"%27", p.admin.APIKey, nil)
		return strings.Contains(got.body, `"is_connected_to_vpn":true`)
	})
	h := newHelper(t, "helper")
	if out, code := h.run(t, "device", "ssh", d.uuid, "--", "id"); code == 0 || strings.Contains(out, "uid=") {
		t.Fatalf("without a grant: %d %s", code, out)
	}
	p.roadstead(t, "support", "enable", d.uuid, "--for", "1h")
	if out, code := h.run(t, "device", "ssh", d.uuid, "--", "id"); code != 1 || !strings.Contains(out, "you uploaded none") {
		t.Errorf("without an uploaded key: %d %s", code, out)
	}
	h.upload()
	if out, code := h.run(t, "device", "ssh", d.uuid, "--", "id"); code != 1 || !strings.Contains(out, "none is at hand") {
		t.Errorf("without their key: %d %s", code, out)
	}
	if out, code := h.run(t, "device", "ssh", d.uuid, "-i", h.key, "--", "id -u; exit 7"); code != 7 || out != "0\n" {
		t.Errorf("a command: %d %s", code, out)
	}
	if out, code := h.run(t, "device", "ssh", d.uuid, "-i", h.key, "-L", "8080:localhost:80"); code != 1 || !strings.Contains(out, "forwards no ports") {
		t.Errorf("a forwarded port: %d %s", code, out)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := h.run(t, "device", "cp", "-i", h.key, file, d.uuid+":/tmp/f"); code != 0 {
		t.Errorf("a file to the device: %d %s", code, out)
	}
	if out, code := h.run(t, "device", "cp", "-i", h.key, d.uuid+":/tmp/f", file+"2"); code != 0 {
		t.Errorf("a file from the device: %d %s", code, out)
	}
	if text, err := os.ReadFile(file + "2"); err != nil || string(text) != "content" {
		t.Errorf("what came back: %q %v", text, err)
	}

	open := h.command("device", "ssh", d.uuid, "-i", h.key, "--", "echo here; sleep 4001")
	pipe, err := open.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	open.Stderr = &errs
	if err := open.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Process.Kill() }()
	if _, err := pipe.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	p.roadstead(t, "support", "disable", d.uuid)
	_ = open.Wait()
	if code := open.ProcessState.ExitCode(); code != 255 || !strings.Contains(errs.String(), "the session was ended") {
		t.Errorf("when the grant ends: %d %s", code, errs.String())
	}
	if out, code := h.run(t, "device", "ssh", d.uuid, "-i", h.key, "--", "id"); code == 0 {
		t.Errorf("after the grant: %s", out)
	}

	var list []api.SSHSession
	eventually(t, time.Minute, "the owner sees who was in", func() bool {
		list = nil
		err := json.Unmarshal([]byte(p.roadstead(t, "device", "sessions", d.uuid, "-o", "json")), &list)
		return err == nil && len(list) == 4 && list[0].EndedAt != ""
	})
	for _, one := range list {
		if !one.Support || one.User != "helper" {
			t.Errorf("a session of support: %+v", one)
		}
	}
	if last := list[3]; !last.Recording || last.Exit == nil || *last.Exit != 7 {
		t.Errorf("the first of them: %+v", last)
	}
}
