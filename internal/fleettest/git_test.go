package fleettest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// gitUser is a person who pushes with the real git and ssh.
type gitUser struct {
	t   *testing.T
	srv *fleettest.Server
	c   *client.Client // a session
	dir string
	env []string
}

func newGitUser(t *testing.T, srv *fleettest.Server, username, password string) *gitUser {
	t.Helper()
	token, err := srv.ClientAs("").Login(t.Context(), username, password)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	u := &gitUser{t: t, srv: srv, c: srv.ClientAs(token), dir: filepath.Join(home, "project")}
	known := filepath.Join(home, "known_hosts")
	site, err := u.c.Git(t.Context())
	if err != nil || site.Fingerprint == "" {
		t.Fatalf("where git is: %+v, %v", site, err)
	}
	if err := os.WriteFile(known, []byte(site.KnownHosts+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.run("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(home, "id"))
	u.env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "GIT_TERMINAL_PROMPT=0", "GIT_SSL_CAINFO=" + srv.CA, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
		// The host key is known, as it is told to people, and no other is taken.
		"GIT_SSH_COMMAND=ssh -F none -i " + filepath.Join(home, "id") + " -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + known}
	if err := os.Mkdir(u.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	u.must("init", "-q", "-b", "main")
	return u
}

func (u *gitUser) run(dir, name string, args ...string) {
	u.t.Helper()
	cmd := exec.CommandContext(u.t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		u.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (u *gitUser) git(args ...string) (string, error) {
	cmd := exec.CommandContext(u.t.Context(), "git", args...)
	cmd.Dir, cmd.Env = u.dir, u.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (u *gitUser) must(args ...string) string {
	u.t.Helper()
	out, err := u.git(args...)
	if err != nil {
		u.t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

func (u *gitUser) refused(words string, args ...string) {
	u.t.Helper()
	if out, err := u.git(args...); err == nil || !strings.Contains(out, words) {
		u.t.Errorf("git %s: %v, want it refused with %q: %s", strings.Join(args, " "), err, words, out)
	}
}

func (u *gitUser) commit(dockerfile string) {
	u.t.Helper()
	if err := os.WriteFile(filepath.Join(u.dir, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		u.t.Fatal(err)
	}
	u.must("add", "-A", ".")
	u.must("commit", "-q", "-m", "x")
}

// addKey gives the account the SSH key and says its id.
func (u *gitUser) addKey() int64 {
	u.t.Helper()
	var who struct {
		ID int64 `json:"id"`
	}
	if err := u.c.Do(u.t.Context(), "GET", "/user/v1/whoami", nil, &who); err != nil {
		u.t.Fatal(err)
	}
	line, err := os.ReadFile(filepath.Join(filepath.Dir(u.dir), "id.pub"))
	if err != nil {
		u.t.Fatal(err)
	}
	made, err := client.Create[struct {
		ID int64 `json:"id"`
	}](u.t.Context(), u.c, "user__has__public_key", map[string]any{"title": "laptop", "public_key": string(line), "user": who.ID})
	if err != nil {
		u.t.Fatal(err)
	}
	return made.ID
}

func newFleet(t *testing.T, c *client.Client, name string) (slug string, id int64) {
	t.Helper()
	types, err := client.Get[client.DeviceType](t.Context(), c, "device_type", client.Query{Select: "id", Filter: "slug eq 'generic-amd64'"})
	if err != nil || len(types) != 1 {
		t.Fatalf("device type: %v, %v", types, err)
	}
	orgs, err := client.Get[client.Organization](t.Context(), c, "organization", client.Query{Select: "id,handle"})
	if err != nil || len(orgs) != 1 {
		t.Fatalf("organizations: %v, %v", orgs, err)
	}
	f, err := client.Create[client.Fleet](t.Context(), c, "application", map[string]any{
		"app_name": name, "organization": orgs[0].ID, "is_for__device_type": types[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	return f.Slug, f.ID
}

// releases are the statuses of a fleet's, newest first.
func releases(t *testing.T, c *client.Client, fleet int64) (list []string) {
	t.Helper()
	rows, err := client.Get[client.Release](t.Context(), c, "release", client.Query{
		Select: "id,status", Filter: fmt.Sprintf("belongs_to__application eq %d", fleet), OrderBy: "id desc"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		list = append(list, r.Status)
	}
	return list
}

// What a person does with git, on a whole server with the real programs.
func TestGitPush(t *testing.T) {
	srv := fleettest.NewServerWith(t, fleettest.Options{Builds: true})
	u := newGitUser(t, srv, srv.Admin.Username, srv.Admin.Password)
	slug, fleet := newFleet(t, u.c, "harbour")
	site, err := u.c.Git(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	overSSH, overHTTPS := u.c.Remote(site, slug)
	u.commit("FROM base/busybox\nRUN echo hello from the build\n")
	u.refused("Permission denied (publickey)", "push", overSSH, "main")
	key := u.addKey()
	began := time.Now()
	out := u.must("push", overSSH, "main")
	t.Logf("the first push took %s", time.Since(began))
	for _, want := range []string{"remote: [main]", "hello from the build", "is ready"} {
		if !strings.Contains(out, want) {
			t.Errorf("the pusher does not see %q: %s", want, out)
		}
	}
	if got := releases(t, u.c, fleet); len(got) != 1 || got[0] != api.StatusSuccess {
		t.Errorf("releases: %v", got)
	}
	u.commit("FROM base/busybox\nRUN false\n")
	u.refused("ERROR: service main", "push", overSSH, "main")
	if got := releases(t, u.c, fleet); len(got) != 2 || got[0] != api.StatusFailed {
		t.Errorf("releases after a failed build: %v", got)
	}
	t.Run("over HTTPS", func(t *testing.T) { pushOverHTTPS(t, u, overHTTPS, fleet) })
	t.Run("another tenant", func(t *testing.T) { pushOfAnother(t, srv, overSSH, slug) })
	t.Run("the role is killed", func(t *testing.T) { pushAndKill(t, u, overSSH, fleet) })
	t.Run("the last use of a key is known", func(t *testing.T) {
		fleettest.Eventually(t, 90*time.Second, func() error { // they are written down now and then
			rows, err := client.Get[struct {
				At   string `json:"last_used_at"`
				From string `json:"last_used_from"`
			}](t.Context(), u.c, "user__has__public_key", client.Query{Select: "last_used_at,last_used_from"})
			if err != nil || len(rows) != 1 || rows[0].At == "" || rows[0].From != "127.0.0.1" {
				return fmt.Errorf("keys: %+v, %w", rows, err)
			}
			return nil
		})
	})
	t.Run("a removed key", func(t *testing.T) { pushWithRemovedKey(t, u, overSSH, fleet, key) })
	t.Run("a fleet that is renamed, and one that is removed", func(t *testing.T) {
		u.addKey()
		if err := u.c.Patch(t.Context(), client.ID("application", fleet), client.Query{}, map[string]any{"app_name": "quay"}); err != nil {
			t.Fatal(err)
		}
		u.refused("There is no fleet", "ls-remote", overSSH)
		renamed := strings.Replace(overSSH, "harbour", "quay", 1)
		if out := u.must("ls-remote", renamed); !strings.Contains(out, "refs/heads/main") {
			t.Errorf("the renamed fleet's branches: %q", out)
		}
		if err := u.c.Delete(t.Context(), client.ID("application", fleet), client.Query{}); err != nil {
			t.Fatal(err)
		}
		u.refused("There is no fleet", "ls-remote", renamed)
		u.kill(t) // a role that starts looks at once; otherwise it does so every minute
		fleettest.Eventually(t, 90*time.Second, func() error {
			if _, err := os.Stat(filepath.Join(srv.Dir, "roles/git/repositories", fmt.Sprintf("%d.git", fleet))); !os.IsNotExist(err) {
				return errors.New("the repository is there still")
			}
			return nil
		})
	})
}

// pushOverHTTPS pushes with keys: they must be for the channel git, and have the verb.
func pushOverHTTPS(t *testing.T, u *gitUser, remote string, fleet int64) {
	key := func(k api.NewKey) string {
		secret, err := u.c.CreateUserKey(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Replace(remote, "https://", "https://anyone:"+secret+"@", 1)
	}
	u.commit("FROM base/busybox\nRUN echo over HTTPS\n")
	u.refused("this key is not for the channel git", "push", key(api.NewKey{Name: "api", Channels: []string{"api"}}), "main")
	u.refused("but neither push to it nor clone it", "push", key(api.NewKey{Name: "reads", Level: "observer"}), "main")
	u.refused("Authentication failed", "push", key(api.NewKey{Name: "elsewhere", Networks: []string{"192.0.2.0/24"}}), "main")
	u.refused("Authentication failed", "push", strings.Replace(remote, "https://", "https://anyone:wrong@", 1), "main")
	before := len(releases(t, u.c, fleet))
	for range 2 { // the second says that there is nothing to do
		out := u.must("push", key(api.NewKey{Name: "git " + fmt.Sprint(time.Now().UnixNano()), Channels: []string{"git"}, Verbs: []string{"releases"}}), "main")
		if !strings.Contains(out, "over HTTPS") && !strings.Contains(out, "up-to-date") {
			t.Errorf("the push: %s", out)
		}
	}
	if got := releases(t, u.c, fleet); len(got) != before+1 || got[0] != api.StatusSuccess {
		t.Errorf("releases: %v", got)
	}
}

// pushOfAnother pushes as somebody who has nothing to do with the fleet, and then as one who only looks at it.
func pushOfAnother(t *testing.T, srv *fleettest.Server, remote, slug string) {
	cmd := exec.CommandContext(t.Context(), fleettest.Program(t, "roadsteadd"), "admin", "user", "add", "bob@example.com", "--username", "bob",
		"--password-stdin", "--data", srv.Dir)
	cmd.Stdin = strings.NewReader("plover tin 44 rhubarb stair")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	bob := newGitUser(t, srv, "bob", "plover tin 44 rhubarb stair")
	bob.addKey()
	bob.commit("FROM base/busybox\n")
	bob.refused(fmt.Sprintf("There is no fleet %q", slug), "push", remote, "main")
	bob.refused(fmt.Sprintf("There is no fleet %q", slug), "ls-remote", remote)
	srv.RunAdmin("user", "disable", "bob")
	bob.refused("Permission denied (publickey)", "push", remote, "main")
}

// slow is a build that goes on until it is ended.
const slow = "FROM base/busybox\nRUN echo it goes on && sleep 300 && echo "

// begin pushes in the background, and comes back when the build runs.
func (u *gitUser) begin(t *testing.T, remote string, fleet int64) <-chan string {
	t.Helper()
	before := len(releases(t, u.c, fleet))
	done := make(chan string, 1)
	ctx := context.WithoutCancel(t.Context())
	var out roletest.Log // which may be read while it is written
	go func() {
		cmd := exec.CommandContext(ctx, "git", "push", remote, "main")
		cmd.Dir, cmd.Env = u.dir, u.env
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		done <- fmt.Sprintf("%s(%v)", out.String(), err)
	}()
	fleettest.Eventually(t, time.Minute, func() error {
		got := releases(t, u.c, fleet)
		if len(got) != before+1 || got[0] != api.StatusRunning || !strings.Contains(out.String(), "it goes on") {
			return fmt.Errorf("releases: %v: %s", got, out.String())
		}
		return nil
	})
	return done
}

// kill kills the role; the parent starts it again.
func (u *gitUser) kill(t *testing.T) {
	t.Helper()
	st, err := supervise.Ask(t.Context(), supervise.Layout(u.srv.Dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range st.Roles {
		if r.Role == api.RoleGit {
			if err := syscall.Kill(r.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// pushAndKill kills the role in the middle of a push: the build ends, the branch is where it was, and the next push goes.
func pushAndKill(t *testing.T, u *gitUser, remote string, fleet int64) {
	before := u.must("ls-remote", remote)
	u.commit(slow + "killed\n")
	done := u.begin(t, remote, fleet)
	u.kill(t)
	<-done
	fleettest.Eventually(t, 30*time.Second, func() error {
		if got := releases(t, u.c, fleet); got[0] != api.StatusCancelled {
			return fmt.Errorf("releases: %v", got)
		}
		return nil
	})
	if after := u.must("ls-remote", remote); after != before {
		t.Errorf("branches: %q, before %q", after, before)
	}
	u.commit("FROM base/busybox\nRUN echo after the kill\n")
	u.must("push", remote, "main")
}

// pushWithRemovedKey removes the key in the middle of a build.
func pushWithRemovedKey(t *testing.T, u *gitUser, remote string, fleet, key int64) {
	u.commit(slow + "removed\n")
	done := u.begin(t, remote, fleet)
	if err := u.c.Delete(t.Context(), client.ID("user__has__public_key", key), client.Query{}); err != nil {
		t.Fatal(err)
	}
	removed := time.Now()
	out := <-done
	if took := time.Since(removed); took > 3*time.Second { // two, and the machine's own slowness
		t.Errorf("the push ended %s after its key was removed", took)
	}
	if !strings.Contains(out, "right") {
		t.Errorf("the pusher is told: %s", out)
	}
	fleettest.Eventually(t, 10*time.Second, func() error {
		if got := releases(t, u.c, fleet); got[0] != api.StatusCancelled {
			return fmt.Errorf("releases: %v", got)
		}
		return nil
	})
	u.refused("Permission denied (publickey)", "push", remote, "main")
}
