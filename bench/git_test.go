package bench_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// gitUser pushes with the real git and ssh.
type gitUser struct {
	*cliUser
	s          *server
	ssh, https string // remotes
	dir        string
	gitEnv     []string
}

// newGitUser starts a server, with a fleet to push to.
func newGitUser(b *testing.B, dir string, args ...string) *gitUser {
	b.Helper()
	probe := listen(b)
	at := probe.Addr().String()
	probe.Close()
	s, _ := start(b, publicDir(b), append(args, "--git-listen", at)...)
	g := &gitUser{cliUser: newUser(b, s, newMeter(b, s.address)), s: s, dir: dir}
	key := filepath.Join(g.home, "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	g.env = append(g.env, "ROADSTEAD_TOKEN=")
	g.run("login", "--email", g.admin.Email, "--password-stdin")
	g.run("ssh-key", "add", "bench", key+".pub")
	g.run("fleet", "create", "large", "--type", "generic-amd64")
	var fleet struct {
		Git struct {
			SSH   string `json:"ssh"`
			HTTPS string `json:"https"`
			Known string `json:"known_hosts"`
		} `json:"git"`
	}
	if err := json.Unmarshal([]byte(g.run("fleet", "show", "large", "-o", "json")), &fleet); err != nil {
		b.Fatal(err)
	}
	known := filepath.Join(g.home, "known_hosts")
	if err := os.WriteFile(known, []byte(fleet.Git.Known+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	g.ssh = fleet.Git.SSH
	g.https = strings.Replace(fleet.Git.HTTPS, "https://", "https://x:"+g.admin.APIKey+"@", 1)
	host, port, _ := net.SplitHostPort(at)
	_, web, _ := net.SplitHostPort(s.address)
	g.gitEnv = append(slices.Clone(g.env), "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_SSL_CAINFO="+filepath.Join(s.dir, "ca.pem"),
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "HTTPS_PROXY=",
		"GIT_SSH_COMMAND=ssh -F none -i "+key+" -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile="+known+
			" -o HostName="+host+" -o Port="+port+" -o HostKeyAlias=["+regexp.MustCompile(`git\.[^:/]+`).FindString(g.ssh)+"]:"+port)
	g.git("init", "-q", "-b", "main")
	for _, setting := range []string{"core.compression=0", "core.bigFileThreshold=1m", "pack.window=0", "gc.auto=0", "http.postBuffer=1m",
		"http.curloptResolve=git." + benchDomain + ":" + web + ":127.0.0.1"} {
		name, value, _ := strings.Cut(setting, "=")
		g.git("config", name, value)
	}
	g.git("add", "-A", ".")
	g.git("commit", "-q", "-m", "first")
	return g
}

func (g *gitUser) git(args ...string) string {
	g.b.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = g.dir, g.gitEnv
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.b.Fatalf("git %v: %v: %s", args, err, out)
	}
	return string(out)
}

// watch notes the most memory (RSS) that each role held, and of git's processes the largest, until the returned function is called.
func (g *gitUser) watch() (most func() map[string]float64) {
	reset := func(_ *used, id int) { _ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", id), []byte("5"), 0) } // as root
	spent(g.b, g.s.cmd.Process.Pid, reset)
	stop, done := make(chan bool), make(chan bool)
	found := map[string]float64{}
	look := func() {
		spent(g.b, g.s.cmd.Process.Pid, func(_ *used, id int) {
			name := roleOf(id)
			if name == "" {
				comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", id))
				if name = strings.TrimSpace(string(comm)); name == "git" {
					name = "a git process"
				}
			}
			found[name] = max(found[name], highest(id))
		})
	}
	go func() {
		defer close(done)
		for {
			look()
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() map[string]float64 { close(stop); <-done; return found }
}

// highest is the most memory that a process has held, in MiB.
func highest(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib / 1024
		}
	}
	return 0
}

// BenchmarkGitPushOfAGigabyte pushes 1 GiB that does not compress, one file of it 256 MiB, over SSH and over HTTPS, and prints what the
// processes held at most. ROADSTEAD_BENCH_GIT_MIB makes it smaller. Bound: that of --git-bounds memory_bytes for git, and about that of
// an idle role for the roles.
func BenchmarkGitPushOfAGigabyte(b *testing.B) {
	size := 1024
	if text := os.Getenv("ROADSTEAD_BENCH_GIT_MIB"); text != "" {
		size, _ = strconv.Atoi(text)
	}
	dir := largeProject(b, projectFiles, size*3/4<<20)
	f, err := os.Create(filepath.Join(dir, "one"))
	if err == nil {
		_, err = io.CopyN(f, rand.NewChaCha8([32]byte{2}), int64(size/4<<20))
	}
	if err != nil {
		b.Fatal(err)
	}
	_ = f.Close()
	g := newGitUser(b, dir)
	for b.Loop() { // with -benchtime 1x
		g.run("fleet", "create", "again", "--type", "generic-amd64")
		again := strings.Replace(g.https, "/large.git", "/again.git", 1) // to which all of it comes again
		for _, over := range []struct{ name, url string }{{"SSH", g.ssh}, {"HTTPS", again}} {
			most := g.watch()
			began := time.Now()
			g.git("push", over.url, "main")
			took := time.Since(began)
			found := most()
			var line []string
			for _, name := range slices.Sorted(maps.Keys(found)) {
				line = append(line, fmt.Sprintf("%s %.0f", name, found[name]))
			}
			b.Logf("%d MiB over %s in %.1f s; at most, in MiB: %s", size, over.name, took.Seconds(), strings.Join(line, ", "))
			b.ReportMetric(found[api.RoleGit], "MiB-role-"+over.name)
			b.ReportMetric(found["a git process"], "MiB-git-"+over.name)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkGitPushUntilTheBuildBegins is the time from `git push` of a small change to the first line of its build, as the pusher sees
// it: ssh, the pack, the check of the tree, the archive, the builder's record of the release. Budget: 1 s.
func BenchmarkGitPushUntilTheBuildBegins(b *testing.B) {
	g := newGitUser(b, largeProject(b, 50, 5<<20))
	g.git("push", g.ssh, "main")
	var total, longest time.Duration
	n := 0
	for b.Loop() {
		if err := os.WriteFile(filepath.Join(g.dir, "change"), fmt.Append(nil, n), 0o600); err != nil {
			b.Fatal(err)
		}
		g.git("add", "-A", ".")
		g.git("commit", "-q", "-m", "change")
		cmd := exec.Command("git", "push", g.ssh, "main")
		cmd.Dir, cmd.Env = g.dir, g.gitEnv
		out, err := cmd.StderrPipe()
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		var all bytes.Buffer
		begins := time.Duration(0)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if fmt.Fprintln(&all, lines.Text()); begins == 0 && strings.Contains(lines.Text(), "Building release") {
				begins = time.Since(began)
			}
		}
		if err := cmd.Wait(); err != nil || begins == 0 {
			b.Fatalf("git push: %v: %s", err, all.String())
		}
		total += begins
		longest = max(longest, begins)
		n++
	}
	b.ReportMetric(total.Seconds()/float64(n), "s/begin")
	b.ReportMetric(longest.Seconds(), "s/longest")
	b.ReportMetric(0, "ns/op")
}
