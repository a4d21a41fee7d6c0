package gitserver_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/gitserver"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// A push for machines that nobody builds for is refused at the door, in both protocols: nothing is sent first. A fetch is not.
func TestNobodyBuildsForTheFleet(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	w.keys.users["rsu_secret"] = "alice"
	nobody := errors.New("no worker of this server builds for linux/armv5e")
	var away atomic.Bool
	w.able = func(f api.BuildFleet) error {
		if f.ID != 7 || f.Arch != "amd64" {
			t.Errorf("asked about %+v", f)
		}
		if away.Load() {
			return nobody
		}
		return nil
	}
	p := w.person("alice")
	p.commit("large", strings.Repeat("0123456789abcdef", 200_000))
	p.must("push", w.url("acme/harbour"), "main")
	w.next()
	before := w.refs(7)
	away.Store(true)
	p.commit("more", "more")
	at := w.door()
	for _, url := range []string{w.url("acme/harbour"), strings.Replace(at, "http://", "http://whoever:rsu_secret@", 1) + "/acme/harbour.git"} {
		if out := p.refused(nobody.Error(), "push", "--progress", url, "main"); strings.Contains(out, "Writing objects") {
			t.Errorf("objects were sent before:\n%s", out)
		}
		p.must("fetch", url, "main")
	}
	w.nothingBuilt()
	if after := w.refs(7); after != before {
		t.Errorf("branches: %q, before %q", after, before)
	}
}

func TestAPushBuilds(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	p := w.person("alice")
	p.commit("src/main.c", "int main;")
	out := p.must("push", w.url("acme/harbour"), "main")
	for _, want := range []string{"remote: a red line", "remote: Release 1 is ready", "main -> main"} {
		if !strings.Contains(out, want) {
			t.Errorf("the pusher does not see %q:\n%s", want, out)
		}
	}
	commit := p.must("rev-parse", "HEAD")
	b := w.next()
	if b.files["Dockerfile"] != "FROM scratch\n" || b.files["src/main.c"] != "int main;" || b.address != "127.0.0.1" {
		t.Errorf("the builder was given %+v", b)
	}
	if b.authorization != "Ticket "+p.sum+"@acme/harbour" || !strings.Contains(b.query, "gitCommit="+commit) || !strings.Contains(b.query, "slug=acme%2Fharbour") {
		t.Errorf("the build was opened with %q %q", b.authorization, b.query)
	}
	if refs := w.refs(7); refs != "refs/heads/main "+commit+"\n" {
		t.Errorf("branches: %q", refs)
	}

	// The same again changes nothing; an option builds it anew, and leaves no branch.
	p.must("push", w.url("acme/harbour"), "main")
	w.nothingBuilt()
	for range 2 {
		p.must("push", w.url("acme/harbour"), "main:balena-nocache")
		if b := w.next(); !strings.Contains(b.query, "nocache=true") {
			t.Errorf("balena-nocache: %q", b.query)
		}
	}
	p.must("push", w.url("acme/harbour"), "main:balena-emulated")
	if b := w.next(); !strings.Contains(b.query, "emulated=true") {
		t.Errorf("balena-emulated: %q", b.query)
	}
	if refs := w.refs(7); refs != "refs/heads/main "+commit+"\n" {
		t.Errorf("branches after options: %q", refs)
	}

	// A history that was written anew is taken.
	p.must("commit", "-q", "--amend", "-m", "another")
	p.refused("rejected", "push", w.url("acme/harbour"), "main") // the client's own check
	p.must("push", "--force", w.url("acme/harbour"), "main")
	w.next()

	// What is there can be cloned.
	clone := filepath.Join(t.TempDir(), "clone")
	p.must("clone", "-q", w.url("acme/harbour"), clone)
	if data, err := os.ReadFile(filepath.Join(clone, "src/main.c")); err != nil || string(data) != "int main;" {
		t.Errorf("the clone: %q, %v", data, err)
	}
}

func TestAFailedBuildRefusesTheBranch(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	w.make = failing
	p := w.person("alice")
	out := p.refused("ERROR: service main: exit code: 1", "push", w.url("acme/harbour"), "main")
	if !strings.Contains(out, "step 1") {
		t.Errorf("the build's lines are missing:\n%s", out)
	}
	if refs := w.refs(7); refs != "" {
		t.Errorf("branches: %q", refs)
	}
	w.next()
	w.make = func(res http.ResponseWriter, _ *http.Request) {
		http.Error(res, "5 builds are waiting already", http.StatusTooManyRequests)
	}
	p.refused("5 builds are waiting already", "push", w.url("acme/harbour"), "main")
	w.make = func(res http.ResponseWriter, _ *http.Request) { _, _ = res.Write([]byte(`[{"message":"half"},`)) }
	p.refused("the connection to the builder was lost", "push", w.url("acme/harbour"), "main")
	if refs := w.refs(7); refs != "" {
		t.Errorf("branches: %q", refs)
	}
	w.make = nil
	p.must("push", w.url("acme/harbour"), "main")
}

func TestWhichBranchesBuild(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	p := w.person("alice")
	p.must("tag", "v1")
	p.must("tag", "-a", "-m", "x", "v2")
	for spec, words := range map[string]string{
		"main:refs/heads/feature":                          `The branch "feature" does not build; push to main or master`,
		"v1:refs/tags/v1":                                  "Tags are not kept here",
		"main:refs/notes/x":                                `"refs/notes/x" is no branch`,
		"main:refs/heads/-x":                               `The branch "-x" does not build`,
		"main:refs/heads/--upload":                         "does not build",
		"main:refs/heads/main.git/x":                       "does not build",
		"main:refs/heads/$(id)":                            "does not build",
		"main:refs/heads/;reboot":                          "does not build",
		"main:refs/replace/" + p.must("rev-parse", "main"): "is no branch",
	} {
		p.refused(words, "push", w.url("acme/harbour"), spec)
	}
	p.refused("Push one branch at a time", "push", w.url("acme/harbour"), "main", "main:master")
	if refs := w.refs(7); refs != "" {
		t.Errorf("branches: %q", refs)
	}
	w.nothingBuilt()
	p.must("push", w.url("acme/harbour"), "main:master")
	w.next()
	p.refused("A branch cannot be deleted here", "push", w.url("acme/harbour"), ":master")

	w.keys.mu.Lock()
	w.keys.branch = "stable"
	w.keys.mu.Unlock()
	p.refused("push to stable", "push", w.url("acme/pier"), "main")
	p.must("push", w.url("acme/pier"), "main:stable")
	w.next()
	clone := filepath.Join(t.TempDir(), "clone")
	p.must("clone", "-q", w.url("acme/pier"), clone)
	if _, err := os.Stat(filepath.Join(clone, "Dockerfile")); err != nil {
		t.Errorf("a clone checks nothing out: %v", err)
	}
}

func TestWhoGetsIn(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	alice, nobody, bob := w.person("alice"), w.person(""), w.person("bob")
	w.keys.mu.Lock()
	w.keys.viewer = "bob"
	w.keys.mu.Unlock()
	nobody.refused("Permission denied (publickey)", "push", w.url("acme/harbour"), "main")
	bob.refused("bob may see acme/harbour, but neither push", "push", w.url("acme/harbour"), "main")
	alice.refused(`There is no fleet "other/harbour"`, "push", w.url("other/harbour"), "main")
	out, err := alice.raw("")
	if err == nil || !strings.Contains(out, "Hello alice. This server takes `git push`") {
		t.Errorf("ssh without a command: %v: %q", err, out)
	}

	// A key that is only offered is not who somebody is: the public half of alice's key comes first, bob signs.
	both := w.person("carol")
	both.key = bob.key
	both.args = []string{"-o", "IdentityFile=" + alice.key + ".pub"}
	if err := os.Rename(alice.key, alice.key+".away"); err != nil {
		t.Fatal(err)
	}
	both.refused("bob may see", "push", w.url("acme/harbour"), "main")
	w.keys.mu.Lock()
	defer w.keys.mu.Unlock()
	if last := w.keys.asked[len(w.keys.asked)-1]; last != bob.sum {
		t.Errorf("who was let in is %s, want bob's %s", last, bob.sum)
	}
	w.nothingBuilt()
}

// hanging is a builder that goes on until its client is gone.
func hanging(begun chan<- bool, ended chan<- bool) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`[{"message":"it goes on"}`))
		_ = http.NewResponseController(w).Flush()
		begun <- true
		<-r.Context().Done()
		ended <- true
	}
}

func TestAClientThatGoesAwayCancels(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	begun, ended := make(chan bool, 1), make(chan bool, 1)
	w.make = hanging(begun, ended)
	p := w.person("alice")
	ctx, stop := context.WithCancel(t.Context())
	var pushing sync.WaitGroup
	pushing.Go(func() { _, _ = p.gitContext(ctx, "push", w.url("acme/harbour"), "main") })
	wait(t, begun, "the build begins")
	stop()
	wait(t, ended, "the build is cancelled")
	pushing.Wait()
	if refs := w.refs(7); refs != "" {
		t.Errorf("branches: %q", refs)
	}
	w.make = nil
	<-w.built
	p.must("push", w.url("acme/harbour"), "main")
}

func wait(t *testing.T, c <-chan bool, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(3 * time.Minute):
		t.Fatal("not after 3 min: " + what)
	}
}

// A key that is removed ends what is done with it: within two seconds, whether it builds or uploads.
func TestARemovedKeyEndsItsSession(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	begun, ended := make(chan bool, 1), make(chan bool, 1)
	w.make = hanging(begun, ended)
	p := w.person("alice")
	out := make(chan string, 1)
	go func() {
		text, _ := p.git("push", w.url("acme/harbour"), "main")
		out <- text
	}()
	wait(t, begun, "the build begins")
	w.keys.mu.Lock()
	delete(w.keys.users, p.sum)
	w.keys.mu.Unlock()
	removed := time.Now()
	wait(t, ended, "the build is cancelled")
	text := <-out
	if took := time.Since(removed); took > 2*time.Second {
		t.Errorf("the session ended after %s", took)
	}
	if !strings.Contains(text, "your right to use this repository has ended") {
		t.Errorf("the pusher is told: %s", text)
	}
	p.refused("Permission denied (publickey)", "push", w.url("acme/harbour"), "main")
}

func TestTwoPushesToOneFleet(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	release := make(chan bool)
	begun := make(chan bool, 2)
	w.make = func(res http.ResponseWriter, _ *http.Request) {
		begun <- true
		<-release
		_, _ = res.Write([]byte(`[{"message":"ready"}]`))
	}
	alice, bob := w.person("alice"), w.person("bob")
	bob.commit("other", "x")
	var said [2]roletest.Log
	results := make(chan error, 2)
	push := func(p *pusher, say *roletest.Log) {
		results <- p.gitTo(t.Context(), say, "push", w.url("acme/harbour"), "main")
	}
	go push(alice, &said[0])
	wait(t, begun, "the first builds")
	go push(bob, &said[1])
	// The second waits for the first, and is then told that it came too late.
	roletest.Eventually(t, "the second waits", func() bool { return strings.Contains(said[1].String(), "this one waits for it") })
	select {
	case <-begun:
		t.Fatal("both build at once")
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	first, second := <-results, <-results
	if first != nil || second == nil || !strings.Contains(said[1].String(), "Somebody else pushed to main meanwhile") {
		t.Errorf("the first: %v %s\nthe second: %v %s", first, said[0].String(), second, said[1].String())
	}
	if refs := w.refs(7); refs != "refs/heads/main "+alice.must("rev-parse", "HEAD")+"\n" {
		t.Errorf("branches: %q", refs)
	}
}

func TestFleetsThatAreGone(t *testing.T) {
	w := newWorld(t, gitserver.Limits{SweepSecs: 1})
	p := w.person("alice")
	p.must("push", w.url("acme/harbour"), "main")
	p.must("push", w.url("acme/pier"), "main")
	w.keys.mu.Lock()
	w.keys.gone[7] = true
	w.keys.mu.Unlock()
	roletest.Eventually(t, "the repository of the fleet that is gone is removed", func() bool {
		_, err := os.Stat(w.repo(7))
		return os.IsNotExist(err)
	})
	if refs := w.refs(8); refs == "" {
		t.Error("another fleet's repository was removed")
	}
	roletest.Eventually(t, "nothing is left of it", func() bool {
		entries, err := os.ReadDir(filepath.Join(w.dir, api.RoleGit, "repositories"))
		return err == nil && len(entries) == 1
	})
}

// What a role that was killed left half done is gone when it starts again, and pushes go on.
func TestLeftoversOfAKilledRole(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	p := w.person("alice")
	p.must("push", w.url("acme/harbour"), "main")
	w.next()
	w.stopRun()
	for _, name := range []string{"objects/tmp_objdir-incoming-abc/pack/tmp_pack_1", "objects/pack/tmp_pack_2", "HEAD.lock", "refs/heads/main.lock", "shallow.lock"} {
		file := filepath.Join(w.repo(7), name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(w.repo(7), "refs/heads/balena-nocache"), []byte(p.must("rev-parse", "HEAD")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(w.repo(9)+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	w.start()
	p.commit("more", "x")
	p.must("push", w.url("acme/harbour"), "main")
	p.must("push", w.url("acme/harbour"), "main:balena-nocache")
	left, err := filepath.Glob(filepath.Join(w.repo(7), "objects", "tmp_objdir-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What a fetch began with stays until it ends: a history that is cut meanwhile would leave it with objects that it does not expect.
func TestAFetchEndsBeforeHistoryIsCut(t *testing.T) {
	w := newWorld(t, gitserver.Limits{Commits: 8})
	p := w.person("alice")
	p.must("push", w.url("acme/harbour"), "main")
	slow, err := p.dial().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.Close() }()
	asks, err := slow.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	told, err := slow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := slow.Start("git-upload-pack 'acme/harbour.git'"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(told, make([]byte, 4)); err != nil { // it is told what there is
		t.Fatal(err)
	}
	for i := range 30 {
		p.commit("n", strings.Repeat("x", i))
	}
	p.must("push", w.url("acme/harbour"), "main")
	cut := func() bool {
		_, err := os.Stat(filepath.Join(w.repo(7), "shallow"))
		return err == nil
	}
	for range 10 {
		clone := filepath.Join(t.TempDir(), "clone")
		p.must("clone", "-q", w.url("acme/harbour"), clone) // others need not wait
		if cut() {
			t.Fatal("the history was cut while it was fetched")
		}
	}
	_, err = io.WriteString(asks, "0000") // nothing is wanted
	if err := errors.Join(err, slow.Wait()); err != nil {
		t.Error(err)
	}
	roletest.Eventually(t, "the history is cut", cut)
}

// A repository keeps so many commits; pushes, forced ones too, and clones go on.
func TestHistoryIsBounded(t *testing.T) {
	w := newWorld(t, gitserver.Limits{Commits: 8})
	p := w.person("alice")
	old := ""
	for i := range 30 {
		p.commit("n", strings.Repeat("x", i))
		if i == 3 {
			old = p.must("rev-parse", "HEAD")
		}
	}
	p.must("push", w.url("acme/harbour"), "main")
	count := func() int {
		clone := filepath.Join(t.TempDir(), "clone")
		p.must("clone", "-q", w.url("acme/harbour"), clone)
		return len(strings.Fields(p.must("-C", clone, "rev-list", "HEAD")))
	}
	roletest.Eventually(t, "the history is cut to 8 commits", func() bool { return count() == 8 })
	p.commit("n", "next")
	p.must("push", w.url("acme/harbour"), "main")
	// From before the cut: the client thinks that we have it, and learns that all of it must come again.
	p.refused("older than the history that is kept here", "push", "--force", w.url("acme/harbour"), old+":main")
	p.must("push", w.url("acme/harbour"), old+":refs/heads/main")
	p.must("push", "--force", w.url("acme/harbour"), "main")

	// A client that has not all of its history itself pushes too.
	shallow := w.person("alice")
	shallow.must("clone", "-q", "--depth=2", "file://"+p.dir, filepath.Join(shallow.dir, "c"))
	shallow.dir = filepath.Join(shallow.dir, "c")
	shallow.commit("from", "a shallow clone")
	shallow.must("push", w.url("acme/pier"), "main")
}
