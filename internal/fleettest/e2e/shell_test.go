package e2e_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
)

// entered: the owner enters the device and its services with our command line, copies files, and comes through the gateway with plain ssh;
// who was in is told, and an open session ends with what it hangs on.
func entered(t *testing.T, d *device) {
	if out, errs, code := p.try(t, "roadstead", "device", "ssh", d.uuid, "--", "id -u; exit 3"); code != 3 || out != "0\n" {
		t.Fatalf("the device's shell: %d %q %q", code, out, errs)
	}
	if out, errs, code := p.try(t, "roadstead", "device", "ssh", d.uuid, "writer", "--", "cat /proc/1/comm >/dev/null && echo in"); code != 0 || out != "in\n" {
		t.Errorf("a service's shell: %d %q %q", code, out, errs)
	}
	if _, errs, code := p.try(t, "roadstead", "device", "ssh", d.uuid, "nothing", "--", "id"); code != 1 || !strings.Contains(errs, `there is no service "nothing"`) {
		t.Errorf("a service that is not there: %d %q", code, errs)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.roadstead(t, "device", "cp", filepath.Join(dir, "f"), d.uuid+":writer:/tmp/f")
	p.roadstead(t, "device", "cp", d.uuid+":writer:/tmp/f", filepath.Join(dir, "back"))
	if text, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(text) != "content" {
		t.Errorf("what came back from the service: %q %v", text, err)
	}
	var list []api.SSHSession
	eventually(t, time.Minute, "the sessions are told of", func() bool {
		list = nil
		err := json.Unmarshal([]byte(p.roadstead(t, "device", "sessions", d.uuid, "-o", "json")), &list)
		return err == nil && len(list) >= 5 && list[0].EndedAt != ""
	})
	if last := list[len(list)-1]; last.Kind != "exec" || last.Target != "host" || last.Exit == nil || *last.Exit != 3 || last.User != "admin" {
		t.Errorf("the first of them: %+v", last)
	}
	gateway(t, d, dir)
}

// gateway comes with an uploaded key and nothing of ours.
func gateway(t *testing.T, d *device, dir string) {
	t.Helper()
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
	if err := os.WriteFile(filepath.Join(dir, "id"), pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	session := p.call(t, "POST", "api", "/login_", "", map[string]any{"username": p.admin.Email, "password": p.admin.Password}).body
	who := p.call(t, "GET", "api", "/user/v1/whoami", session, nil)
	var me struct{ ID int64 }
	_ = json.Unmarshal([]byte(who.body), &me)
	a := p.call(t, "POST", "api", "/v7/user__has__public_key", session, map[string]any{"user": me.ID, "title": "gateway", "public_key": string(ssh.MarshalAuthorizedKey(key))})
	var row struct{ ID int64 }
	if err := json.Unmarshal([]byte(a.body), &row); err != nil || row.ID == 0 {
		t.Fatalf("an SSH key: %d %s, as %s", a.status, a.body, who.body)
	}
	var known struct {
		Gateway api.SSHSite `json:"gateway"`
	}
	if err := json.Unmarshal([]byte(p.call(t, "GET", "api", "/ssh/v1/authorities", "", nil).body), &known); err != nil || known.Gateway.Address == "" {
		t.Fatalf("the gateway: %+v %v", known, err)
	}
	hosts := filepath.Join(dir, "known")
	if err := os.WriteFile(hosts, []byte(p.roadstead(t, "device", "ssh", "--known-hosts")), 0o600); err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(known.Gateway.Address, ":")
	args := []string{"-F", "none", "-i", filepath.Join(dir, "id"), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + hosts,
		"-o", "GlobalKnownHostsFile=none", "-o", "BatchMode=yes", "-p", port, "admin@" + host}
	if out, errs, code := p.try(t, "/usr/bin/ssh", append(args, "host "+d.uuid+" id -u")...); code != 0 || out != "0\n" {
		t.Errorf("through the gateway: %d %q %q", code, out, errs)
	}
	if out, errs, code := p.try(t, "/usr/bin/ssh", append(args, "service "+d.uuid+" writer echo in")...); code != 0 || out != "in\n" {
		t.Errorf("a service through the gateway: %d %q %q", code, out, errs)
	}
	balenaEnters(t, d, dir, port)
	// A key that is removed ends what it has open.
	open := exec.Command("/usr/bin/ssh", append(args, "host "+d.uuid+" echo here; sleep 4000")...)
	pipe, err := open.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := open.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Process.Kill() }()
	if _, err := pipe.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p.call(t, "DELETE", "api", "/v7/user__has__public_key("+strconv.FormatInt(row.ID, 10)+")", session, nil)
	_ = open.Wait()
	if took := time.Since(began); took > 20*time.Second || open.ProcessState.ExitCode() != 255 {
		t.Errorf("a removed key ends its session after %s with code %d", took, open.ProcessState.ExitCode())
	} else {
		t.Logf("a removed key ended its session after %s", took)
	}
	eventually(t, time.Minute, "the program on the device ends", func() bool {
		out, _ := d.exec(t, "sh", "-c", "pgrep -f '^sleep 4000' || true")
		return strings.TrimSpace(out) == ""
	})
}

// balenaEnters enters as `balena device ssh` does: the device, and a service, which it finds by asking the device's engine.
func balenaEnters(t *testing.T, d *device, dir, port string) {
	t.Helper()
	cli := os.Getenv("ROADSTEAD_BALENA_CLI")
	if cli == "" {
		return // make test sets it
	}
	socket := filepath.Join(dir, "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }()
	eventually(t, time.Minute, "the key is in ssh-agent", func() bool {
		add := exec.Command("ssh-add", "-q", filepath.Join(dir, "id"))
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		return add.Run() == nil
	})
	if out, errs, code := p.try(t, cli, "login", "--token", p.admin.APIKey); code != 0 {
		t.Fatalf("balena login: %d %s %s", code, out, errs)
	}
	for name, args := range map[string][]string{"device": {d.uuid}, "service": {d.uuid, "writer"}} {
		cmd := p.command(cli, append(append([]string{"device", "ssh"}, args...), "--port", port)...)
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
		cmd.Stdin = strings.NewReader("echo i''n the $((6*7))\nexit\n")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "in the 42") {
			t.Errorf("balena device ssh into the %s: %v %s", name, err, out)
		}
	}
}
