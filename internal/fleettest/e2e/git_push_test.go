package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// laptop is somebody's machine: a network namespace of its own, with a key and git.
type laptop struct {
	netns, home, project string
	env                  []string
}

// newLaptop connects a machine to ours with a cable.
func newLaptop(t *testing.T, n int, known string) *laptop {
	t.Helper()
	home := t.TempDir()
	l := &laptop{netns: fmt.Sprintf("rslaptop%d-%d", n, os.Getpid()), home: home, project: copyProject(t, "hello")}
	ours, theirs := fmt.Sprintf("10.214.%d.1", n), fmt.Sprintf("10.214.%d.2", n)
	cable := fmt.Sprintf("rsl%d-%d", n, os.Getpid())
	must(t, "ip", "netns", "add", l.netns)
	t.Cleanup(func() { must(t, "ip", "netns", "del", l.netns) }) // and with it the cable
	must(t, "ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", l.netns)
	must(t, "ip", "address", "add", ours+"/30", "dev", cable)
	must(t, "ip", "link", "set", cable, "up")
	must(t, "ip", "-n", l.netns, "address", "add", theirs+"/30", "dev", "eth0")
	must(t, "ip", "-n", l.netns, "link", "set", "eth0", "up")
	must(t, "ip", "-n", l.netns, "route", "add", "default", "via", ours)
	key, hosts := filepath.Join(home, "id"), filepath.Join(home, "known_hosts")
	must(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	if err := os.WriteFile(hosts, []byte(known+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
		"GIT_SSH_COMMAND=ssh -F none -i " + key + " -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + hosts}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-A", "."}, {"commit", "-q", "-m", "first"}} {
		if out, err := l.git(args...); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	return l
}

// git runs git there. What it prints is what stands on the terminal.
func (l *laptop) git(args ...string) (string, error) {
	cmd := exec.Command("ip", append([]string{"netns", "exec", l.netns, "git"}, args...)...)
	cmd.Dir, cmd.Env = l.project, l.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (l *laptop) refused(t *testing.T, words string, args ...string) {
	t.Helper()
	if out, err := l.git(args...); err == nil || !strings.Contains(out, words) {
		t.Errorf("git %v: %v, want it refused with %q: %s", args, err, words, out)
	}
}

// as runs our command line with somebody's session, which is kept in their home.
func (l *laptop) as(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := p.command("roadstead", args...)
	cmd.Env = append(cmd.Env, "ROADSTEAD_TOKEN=", "HOME="+l.home, "XDG_CONFIG_HOME="+l.home)
	cmd.Stdin = strings.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("roadstead %v: %v: %s%s", args, err, out, errs.String())
	}
	return string(out)
}

// From another machine, with the real git and ssh: a push builds, its log is on the pusher's terminal, and a device runs what was built.
// Who has no key, a member whose role does not allow it, and whose key was removed are refused.
func TestGitPushFromAnotherMachine(t *testing.T) {
	p.roadstead(t, "fleet", "create", "pushed", "--type", "generic-amd64")
	var fleet struct {
		Slug string `json:"slug"`
		Git  struct {
			SSH   string `json:"ssh"`
			Known string `json:"known_hosts"`
		} `json:"git"`
	}
	if err := json.Unmarshal([]byte(p.roadstead(t, "fleet", "show", "pushed", "-o", "json")), &fleet); err != nil {
		t.Fatal(err)
	}
	l := newLaptop(t, 1, fleet.Git.Known)
	l.refused(t, "Permission denied (publickey)", "push", fleet.Git.SSH, "main")
	l.as(t, p.admin.Password+"\n", "login", "--email", p.admin.Email, "--password-stdin")
	l.as(t, "", "ssh-key", "add", "laptop", filepath.Join(l.home, "id.pub"))
	out, err := l.git("push", fleet.Git.SSH, "main")
	if err != nil {
		t.Fatalf("git push: %v: %s", err, out)
	}
	for _, want := range []string{"remote: [web]", "remote: [writer]", "is ready", "main -> main"} {
		if !strings.Contains(out, want) {
			t.Errorf("the terminal does not show %q: %s", want, out)
		}
	}
	d := newDevice(t, "pushed", "e2e-pushed")
	d.registered(t)
	d.running(t, "web", "writer")

	// The next push reaches the device too.
	index := filepath.Join(l.project, "web", "index.html")
	text, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(index, append(text, []byte("<p>pushed with git</p>\n")...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"commit", "-q", "-a", "-m", "second"}, {"push", fleet.Git.SSH, "main"}} {
		if out, err := l.git(args...); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	eventually(t, time.Minute, "the device shows the second push", func() bool { return strings.Contains(d.page(t), "pushed with git") })

	t.Run("a member without the role", func(t *testing.T) { memberWithoutTheRole(t, l, fleet.Git.SSH, fleet.Git.Known, fleet.Slug) })
	l.as(t, "", "ssh-key", "rm", "laptop", "--yes")
	l.refused(t, "Permission denied (publickey)", "push", fleet.Git.SSH, "main")
}

// memberWithoutTheRole is somebody of the organization who may look at the fleet, and then becomes a developer of it.
func memberWithoutTheRole(t *testing.T, admin *laptop, remote, known, slug string) {
	const password = "plover tin 44 rhubarb stair"
	add := p.command("roadsteadd", "admin", "user", "add", "vera@example.com", "--username", "vera", "--password-stdin", "--data", p.data)
	add.Stdin = strings.NewReader(password)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	v := newLaptop(t, 2, known)
	v.as(t, password+"\n", "login", "--email", "vera@example.com", "--password-stdin")
	v.as(t, "", "ssh-key", "add", "laptop", filepath.Join(v.home, "id.pub"))
	v.refused(t, fmt.Sprintf("There is no fleet %q", slug), "push", remote, "main")
	var invitation struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal([]byte(admin.as(t, "", "invite", "create", "vera@example.com", "--fleet", slug, "--role", "operator", "--token", "-o", "json")), &invitation); err != nil || invitation.Token == "" {
		t.Fatalf("the invitation: %+v, %v", invitation, err)
	}
	v.as(t, "", "invite", "accept", invitation.Token)
	v.refused(t, "vera may see "+slug+", but neither push to it nor clone it", "push", remote, "main")
	v.refused(t, "vera may see "+slug+", but neither push to it nor clone it", "ls-remote", remote)
	admin.as(t, "", "member", "set", "vera", "--fleet", slug, "--role", "developer")
	if out, err := v.git("ls-remote", remote); err != nil || !strings.Contains(out, "refs/heads/main") {
		t.Errorf("as a developer: %v: %s", err, out)
	}
	admin.as(t, "", "member", "rm", "vera", "--fleet", slug, "--yes")
	v.refused(t, fmt.Sprintf("There is no fleet %q", slug), "ls-remote", remote)
}
