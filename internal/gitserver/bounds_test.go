package gitserver_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/gitserver"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// noise writes files that do not compress.
func noise(t *testing.T, dir string, files int, each int) {
	t.Helper()
	source := rand.NewChaCha8([32]byte{7})
	for i := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("noise-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(f, source, int64(each)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// peak is the most memory that this process has held since forget, in KiB.
func peak(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatal("the system does not tell how much memory a process has held")
	}
	kib, _ := strconv.Atoi(string(m[1]))
	return kib
}

func forget(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

// A push takes a bounded amount of memory, however large it is: this one has more bytes in one file alone than git may have memory, which
// the kernel sees to, and the role, which is this process, holds a part of them at a time. bench/ has the figures of 1 GiB.
func TestALargePushTakesBoundedMemory(t *testing.T) {
	const (
		child = 64 // MiB that each git process may have
		role  = 32 // MiB that this process may grow by
		large = 96 // MiB of the largest file
	)
	w := newWorld(t, gitserver.Limits{Memory: child << 20})
	at := w.door()
	w.keys.users["rsu_secret"] = "alice"
	p := w.person("alice")
	noise(t, p.dir, 1, large<<20)
	for i := range 10 { // and many small ones
		dir := filepath.Join(p.dir, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		noise(t, dir, 20, 100<<10)
	}
	for _, setting := range []string{"core.compression=0", "core.bigFileThreshold=1m", "pack.window=0", "gc.auto=0", "http.postBuffer=1m"} {
		name, value, _ := strings.Cut(setting, "=")
		p.must("config", name, value)
	}
	p.must("add", "-A", ".")
	p.must("commit", "-q", "-m", "large")
	for _, over := range []struct{ name, url string }{
		{"SSH", w.url("acme/harbour")}, {"HTTPS", strings.Replace(at, "http://", "http://x:rsu_secret@", 1) + "/acme/pier.git"},
	} {
		forget(t)
		began := peak(t)
		p.must("push", over.url, "main")
		grown := peak(t) - began
		b := w.next()
		if len(b.files) != 202 { // with the Dockerfile
			t.Errorf("%s: %d files were built", over.name, len(b.files))
		}
		t.Logf("%s: %d MiB: git took less than %d MiB, the role %d MiB", over.name, large+20, child, grown>>10)
		if grown > role<<10 {
			t.Errorf("%s: the role took %d MiB of %d", over.name, grown>>10, role)
		}
	}

	// The kernel does see to it: what git holds as a whole, as it does up to 16 MiB, needs more than this.
	w.stopRun()
	w.limits.Memory = 12 << 20
	w.start()
	p.must("config", "--unset", "core.bigFileThreshold")
	if err := os.WriteFile(filepath.Join(p.dir, "whole"), bytes.Repeat([]byte("0123456789abcde\n"), 15<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	p.must("add", "whole")
	p.must("commit", "-q", "-m", "whole")
	p.refused("ut of memory", "push", w.url("acme/harbour"), "main")
}

// incoming is a push whose pack comes in as the test wants.
func incoming(t *testing.T, p *pusher, fleet string) (in io.WriteCloser, pack []byte, done <-chan error, kill func()) {
	t.Helper()
	commit := p.must("rev-parse", "HEAD")
	objects := exec.Command("git", "pack-objects", "--stdout", "--revs")
	objects.Dir, objects.Stdin = p.dir, strings.NewReader("HEAD\n")
	pack, err := objects.Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ssh", append(p.sshArgs(), "git.roadstead.test", "git-receive-pack '"+fleet+".git'")...)
	cmd.Env = p.env
	if in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	line := strings.Repeat("0", 40) + " " + commit + " refs/heads/main\x00 report-status"
	_, _ = fmt.Fprintf(in, "%04x%s0000", len(line)+4, line)
	return in, pack, ended, func() { _ = cmd.Process.Kill() }
}

func (w *world) comingIn(id int) int {
	found, _ := filepath.Glob(filepath.Join(w.repo(id), "objects", "tmp_objdir-*"))
	return len(found)
}

// While a push comes in, another one ends and the repository is packed: what has come in by then stays. And a push whose sender goes
// away leaves nothing.
func TestTidyingLeavesWhatComesIn(t *testing.T) {
	w := newWorld(t, gitserver.Limits{Commits: 4})
	slow, fast := w.person("alice"), w.person("bob")
	noise(t, slow.dir, 1, 1<<20)
	slow.must("add", "-A", ".")
	slow.must("commit", "-q", "-m", "x")
	in, pack, done, _ := incoming(t, slow, "acme/harbour")
	_, _ = in.Write(pack[:len(pack)/2])
	roletest.Eventually(t, "the first half has come", func() bool { return w.comingIn(7) == 1 })
	w.keys.mu.Lock()
	w.keys.branch = "release" // so that the two are not about the same branch
	w.keys.mu.Unlock()
	for i := range 12 {
		fast.commit("n", strings.Repeat("x", i))
	}
	fast.must("push", w.url("acme/harbour"), "main:release")
	roletest.Eventually(t, "the repository is packed", func() bool {
		text, _ := os.ReadFile(filepath.Join(w.repo(7), "shallow"))
		packs, _ := filepath.Glob(filepath.Join(w.repo(7), "objects/pack/*.pack"))
		return len(text) > 0 && len(packs) == 1
	})
	_, _ = in.Write(pack[len(pack)/2:])
	_ = in.Close()
	if err := <-done; err != nil {
		t.Errorf("the push that came in meanwhile: %v", err)
	}
	if refs := w.refs(7); !strings.Contains(refs, "refs/heads/main ") {
		t.Errorf("branches: %q", refs)
	}

	in, pack, done, kill := incoming(t, slow, "acme/pier")
	_, _ = in.Write(pack[:len(pack)/2])
	roletest.Eventually(t, "half a pack has come", func() bool { return w.comingIn(8) == 1 })
	kill()
	<-done
	_ = in.Close()
	roletest.Eventually(t, "nothing is left of it", func() bool { return w.comingIn(8) == 0 })
}

func TestLimitsOfGitAsTheOperatorWritesThem(t *testing.T) {
	var l gitserver.Limits
	if err := l.Parse("minutes=60, push_bytes=500MiB,user_sessions=3"); err != nil {
		t.Fatal(err)
	}
	if want := (gitserver.Limits{Minutes: 60, PushBytes: 500 << 20, OfUser: 3}); l != want {
		t.Errorf("got %+v, want %+v", l, want)
	}
	for text, want := range map[string]string{
		"": "there is no limit", "minute=3": "only push_bytes, ", "minutes": "whole number", "sweep_secs=1": "there is no limit",
		"push_bytes=2GB": "such as 500MiB", "commits=999999999": "limits: commits=999999999",
	} {
		if err := new(gitserver.Limits).Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
