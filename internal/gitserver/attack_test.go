package gitserver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/internal/gitserver"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// The command that a client sends is never near a shell, and never an option or a path.
func TestCommandsThatAreRefused(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	p := w.person("alice")
	canary := filepath.Join(t.TempDir(), "canary")
	c := p.dial()
	for _, command := range []string{
		"id", "sh", "git-shell", "git", "scp -f /etc/passwd", "git-upload-archive 'acme/harbour.git'", "git receive-pack 'acme/harbour.git'",
		"git-receive-pack acme/harbour.git", `git-receive-pack "acme/harbour.git"`, "git-receive-pack  'acme/harbour.git'",
		"git-receive-pack 'acme/harbour.git' ", " git-receive-pack 'acme/harbour.git'", "git-receive-pack 'acme/harbour.git'\n",
		"git-receive-pack 'acme/harbour.git'; touch " + canary, "git-receive-pack 'acme/harbour.git' && touch " + canary,
		"git-receive-pack 'acme/harbour.git' | touch " + canary, "git-receive-pack '$(touch " + canary + ")/harbour.git'",
		"git-receive-pack '`touch " + canary + "`/harbour.git'", "git-receive-pack 'acme/harbour.git'\ntouch " + canary,
		"git-receive-pack 'acme/harbour.git''", `git-receive-pack 'acme/harb'\''our.git'`, "git-receive-pack 'acme/harbour.git' '--exec=touch " + canary + "'",
		"git-receive-pack --help", "git-upload-pack --upload-pack=id 'acme/harbour.git'", "git-upload-pack '--help'", "git-upload-pack '-oProxyCommand=id/x.git'",
		"git-upload-pack '--exec/x.git'", "GIT_DIR=/tmp git-upload-pack 'acme/harbour.git'", "env LD_PRELOAD=x git-upload-pack 'acme/harbour.git'",
		"git-receive-pack '../../etc/passwd.git'", "git-receive-pack '/etc/passwd'", "git-receive-pack '//acme/harbour.git'", "git-receive-pack 'acme/../acme/harbour.git'",
		"git-receive-pack 'acme//harbour.git'", "git-receive-pack './acme/harbour.git'", "git-receive-pack 'acme/harbour.git/'", "git-receive-pack 'acme/harbour.git/objects'",
		"git-receive-pack 'acme/harbour'", "git-receive-pack 'harbour.git'", "git-receive-pack 'acme/.git'", "git-receive-pack '/.git'", "git-receive-pack ''",
		"git-receive-pack 'acme/harbour.git\x00'", "git-receive-pack 'acme/har\u202ebour.git'", "git-receive-pack 'acme%2fharbour.git'", "git-receive-pack '~/acme/harbour.git'",
		"git-receive-pack 'acme\\harbour.git'", "git-receive-pack '" + strings.Repeat("a", 300) + "/harbour.git'", "git-receive-pack 'file:///etc/passwd.git'", "",
		strings.Repeat("A", 100_000),
	} {
		out, err := c.run(command)
		if err == nil || !strings.Contains(out, "ERROR: ") {
			t.Errorf("%.120q: %v: %q", command, err, out)
		}
		if !strings.Contains(out, "is no repository here") && !strings.Contains(out, "nothing else") {
			t.Errorf("%.120q: the client is told %q", command, out)
		}
	}
	w.keys.mu.Lock()
	defer w.keys.mu.Unlock()
	if len(w.keys.asked) != 0 {
		t.Errorf("the api role was asked %d times", len(w.keys.asked))
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a command was run")
	}
}

// client is a connection of ours, to ask for what no git client does.
type client struct {
	t *testing.T
	*ssh.Client
}

func (p *pusher) dial() client {
	p.w.t.Helper()
	data, err := os.ReadFile(p.key)
	if err != nil {
		p.w.t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		p.w.t.Fatal(err)
	}
	c, err := ssh.Dial("tcp", p.w.ssh, &ssh.ClientConfig{User: "x", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // the test's own server
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.w.t.Cleanup(func() { _ = c.Close() })
	return client{p.w.t, c}
}

func (c client) run(command string) (string, error) {
	c.t.Helper()
	s, err := c.NewSession()
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	out, err := s.CombinedOutput(command)
	return string(out), err
}

// There is nothing on the port but git: no terminal, no environment, no agent, no subsystem, no way through to anywhere.
func TestNothingButGit(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	p := w.person("alice")
	c := p.dial()
	for _, what := range []string{"tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com", "hostkeys-prove-00@openssh.com", "anything"} {
		ok, _, err := c.SendRequest(what, true, ssh.Marshal(struct {
			Addr string
			Port uint32
		}{"0.0.0.0", 0}))
		if ok || err != nil {
			t.Errorf("%s: %t, %v", what, ok, err)
		}
	}
	target := struct {
		Host string
		Port uint32
		From string
		At   uint32
	}{"127.0.0.1", 22, "127.0.0.1", 1}
	for _, what := range []string{"direct-tcpip", "forwarded-tcpip", "direct-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "tun@openssh.com"} {
		if _, _, err := c.OpenChannel(what, ssh.Marshal(target)); err == nil || !strings.Contains(err.Error(), "forwards nothing") {
			t.Errorf("a channel %s: %v", what, err)
		}
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for what, payload := range map[string][]byte{
		"pty-req":                    ssh.Marshal(struct{ Term, A, B string }{"xterm", "", ""}),
		"x11-req":                    nil,
		"auth-agent-req@openssh.com": nil,
		"subsystem":                  ssh.Marshal(struct{ Name string }{"sftp"}),
		"env":                        ssh.Marshal(struct{ Name, Value string }{"GIT_DIR", "/tmp"}),
	} {
		if ok, err := s.SendRequest(what, true, payload); ok || err != nil {
			t.Errorf("%s: %t, %v", what, ok, err)
		}
	}
	for _, name := range []string{"GIT_TRACE", "GIT_CONFIG_COUNT", "GIT_SSH_COMMAND", "GIT_EXEC_PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "HOME", "GIT_PROTOCOL"} {
		if s.Setenv(name, "/tmp/x") == nil {
			t.Errorf("the environment variable %s was taken", name)
		}
	}
	_ = s.Close()
	// Whoever asks without end is cut off.
	s, err = c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err = s.SendRequest("env", true, ssh.Marshal(struct{ Name, Value string }{"A", "b"})); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("a session that asks a hundred times goes on")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	p.args = []string{"-o", "SetEnv=GIT_TRACE=" + trace, "-A", "-R", "0:127.0.0.1:1"}
	p.must("push", w.url("acme/harbour"), "main") // such a client's push is a push nevertheless
	if _, err := os.Stat(trace); err == nil {
		t.Error("a variable of the client's reached git")
	}
	held := 0
	for range 10 {
		ch, requests, err := c.OpenChannel("session", nil)
		if err != nil {
			continue
		}
		go ssh.DiscardRequests(requests)
		defer func() { _ = ch.Close() }()
		held++
	}
	if held > 4 {
		t.Errorf("%d sessions at once on one connection", held)
	}
}

// Only keys let in, and nothing weak is agreed on.
func TestWeakAlgorithmsAreRefused(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	p := w.person("alice")
	for _, opts := range [][]string{
		{"KexAlgorithms=diffie-hellman-group14-sha1"}, {"KexAlgorithms=diffie-hellman-group1-sha1"}, {"KexAlgorithms=diffie-hellman-group-exchange-sha1"},
		{"Ciphers=aes128-cbc"}, {"Ciphers=3des-cbc"}, {"Ciphers=aes128-ctr"}, {"HostKeyAlgorithms=ssh-rsa"}, {"HostKeyAlgorithms=rsa-sha2-256"},
		{"PreferredAuthentications=password"}, {"PreferredAuthentications=keyboard-interactive"}, {"PreferredAuthentications=none"},
		{"PreferredAuthentications=hostbased"},
	} {
		p.args = []string{"-o", "LogLevel=INFO"}
		for _, o := range opts {
			p.args = append(p.args, "-o", o)
		}
		out, err := p.raw("", "id")
		if err == nil || !strings.Contains(out, "no matching") && !strings.Contains(out, "Permission denied (publickey)") {
			t.Errorf("%v: %v: %q", opts, err, out)
		}
	}
	// A key that signs with SHA-1.
	file := filepath.Join(t.TempDir(), "rsa")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-N", "", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	line, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line) //nolint:dogsled // only the key counts
	if err != nil {
		t.Fatal(err)
	}
	w.keys.mu.Lock()
	w.keys.users[ssh.FingerprintSHA256(key)] = "alice"
	w.keys.mu.Unlock()
	p.key = file
	p.args = nil
	p.must("push", w.url("acme/harbour"), "main")
	p.args = []string{"-o", "PubkeyAcceptedAlgorithms=ssh-rsa"}
	p.refused("", "push", w.url("acme/pier"), "main")
	w.next()
	w.nothingBuilt()
}

// Two thousand connections that say nothing: they cost a bounded amount, and whoever pushes meanwhile does.
func TestSilentConnections(t *testing.T) {
	w := newWorld(t, gitserver.Limits{Undecided: 64})
	p := w.person("alice")
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	for i := range 2000 {
		c, err := net.Dial("tcp", w.ssh)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		held = append(held, c)
		if i%3 == 0 {
			_, _ = io.WriteString(c, "SSH-2.0-slow\r\n") // the server may have closed it
		}
	}
	began := time.Now()
	p.must("push", w.url("acme/harbour"), "main")
	t.Logf("a push beside 2,000 silent connections took %s", time.Since(began))
	open := len(held)
	for open > 64 && time.Since(began) < 20*time.Second { // those that were sent away last may still be on their way out
		open = 0
		for _, c := range held {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := io.Copy(io.Discard, c); err != nil && os.IsTimeout(err) {
				open++
			}
		}
	}
	if open > 64 {
		t.Errorf("%d silent connections are open; 64 have a place", open)
	}
}

// A connection that never says who it is ends by itself.
func TestGraceEnds(t *testing.T) {
	w := newWorld(t, gitserver.Limits{GraceSecs: 1, IdleSecs: 1})
	c, err := net.Dial("tcp", w.ssh)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, c); os.IsTimeout(err) {
		t.Error("a silent connection is open after ten times its grace")
	}
	idle := w.person("alice").dial()
	ended := make(chan bool, 1)
	go func() { _ = idle.Wait(); ended <- true }()
	wait(t, ended, "an idle connection ends")
}

// Objects that would harm whoever checks them out are refused as they come in.
func TestHostileObjects(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	blob := func(p *pusher, text string) string {
		cmd := exec.Command("git", "hash-object", "-w", "--stdin")
		cmd.Dir, cmd.Stdin = p.dir, strings.NewReader(text)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	tree := func(p *pusher, entries string) string {
		cmd := exec.Command("git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally")
		var raw bytes.Buffer
		for line := range strings.Lines(entries) {
			var mode, name, id string
			if _, err := fmt.Sscanf(line, "%s %s %s", &mode, &name, &id); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&raw, "%s %s\x00", mode, name)
			for i := 0; i < len(id); i += 2 {
				var b byte
				_, _ = fmt.Sscanf(id[i:i+2], "%02x", &b)
				raw.WriteByte(b)
			}
		}
		cmd.Dir, cmd.Stdin = p.dir, &raw
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	for name, made := range map[string]func(p *pusher) string{
		"a submodule's address that is an option": func(p *pusher) string {
			return tree(p, "100644 .gitmodules "+blob(p, "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n"))
		},
		"a submodule's name that leads out": func(p *pusher) string {
			return tree(p, "100644 .gitmodules "+blob(p, "[submodule \"../../x\"]\n\tpath = x\n\turl = https://example.com/x.git\n"))
		},
		"a submodule's path that is an option": func(p *pusher) string {
			return tree(p, "100644 .gitmodules "+blob(p, "[submodule \"x\"]\n\tpath = -x\n\turl = https://example.com/x.git\n"))
		},
		"a .gitmodules that is a link": func(p *pusher) string { return tree(p, "120000 .gitmodules "+blob(p, "/etc/passwd")) },
		"a .git":                       func(p *pusher) string { return tree(p, "100644 .git "+blob(p, "x")) },
		"a .GIT":                       func(p *pusher) string { return tree(p, "100644 .GIT "+blob(p, "x")) },
		"a git~1":                      func(p *pusher) string { return tree(p, "100644 git~1 "+blob(p, "x")) },
		"..":                           func(p *pusher) string { return tree(p, "100644 .. "+blob(p, "x")) },
		"a name with a slash":          func(p *pusher) string { return tree(p, "100644 a/b "+blob(p, "x")) },
		"a name that comes twice":      func(p *pusher) string { return tree(p, "100644 a "+blob(p, "x")+"\n100644 a "+blob(p, "y")) },
	} {
		p := w.person("alice")
		commit := p.must("commit-tree", "-m", "x", made(p))
		out := p.refused("", "push", w.url("acme/harbour"), commit+":refs/heads/main")
		if !strings.Contains(out, "fsck error") && !strings.Contains(out, "unpacker error") {
			t.Errorf("%s: %s", name, out)
		}
	}
	w.nothingBuilt()

	// A submodule that is well-formed is refused too, with a reason; where they are allowed its directory is empty.
	with := func(p *pusher) {
		p.must("update-index", "--add", "--cacheinfo", "160000,"+p.must("rev-parse", "HEAD")+",vendor/lib")
		p.must("commit", "-q", "-m", "a submodule")
	}
	p := w.person("alice")
	with(p)
	p.refused("vendor/lib is a submodule, and submodules are not built here", "push", w.url("acme/harbour"), "main")
	w.nothingBuilt()
	allowed := newWorld(t, gitserver.Limits{Submodules: true})
	p = allowed.person("alice")
	with(p)
	if out := p.must("push", allowed.url("acme/harbour"), "main"); !strings.Contains(out, "its directory is empty in the build") {
		t.Errorf("the pusher is not told: %s", out)
	}
}

// What is small on the wire and large afterwards, and what is large at once.
func TestBombs(t *testing.T) {
	w := newWorld(t, gitserver.Limits{PushBytes: 1 << 20, Objects: 500, TreeFiles: 1000, TreeBytes: 8 << 20, Memory: 256 << 20})
	began := time.Now()
	p := w.person("alice")
	if err := os.Truncate(zeros(t, p, 64<<20), 64<<20); err != nil {
		t.Fatal(err)
	}
	p.must("add", "-A", ".")
	p.must("commit", "-q", "-m", "zeros")
	p.refused("The files of the commit have more than 8 MiB (limit source_bytes)", "push", w.url("acme/harbour"), "main")

	// Trees in trees: 10^6 files of a dozen objects.
	p = w.person("alice")
	cmd := exec.Command("git", "hash-object", "-w", "--stdin")
	cmd.Dir, cmd.Stdin = p.dir, strings.NewReader("x")
	id, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	mode, kind, entry := "100644", "blob", strings.TrimSpace(string(id))
	for range 6 {
		var list strings.Builder
		for i := range 10 {
			fmt.Fprintf(&list, "%s %s %s\tf%d\n", mode, kind, entry, i)
		}
		cmd := exec.Command("git", "mktree")
		cmd.Dir, cmd.Stdin = p.dir, strings.NewReader(list.String())
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		mode, kind, entry = "040000", "tree", strings.TrimSpace(string(out))
	}
	p.refused("The commit has more than 1000 files (limit source_entries)", "push", w.url("acme/harbour"), p.must("commit-tree", "-m", "x", entry)+":refs/heads/main")

	// Too many objects are refused before they come, too many bytes as they do.
	p = w.person("alice")
	for i := range 600 {
		if err := os.WriteFile(filepath.Join(p.dir, fmt.Sprint(i)), fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.must("add", "-A", ".")
	p.must("commit", "-q", "-m", "many")
	p.refused("at most 500 are taken (limit push_objects)", "push", w.url("acme/harbour"), "main")
	p = w.person("alice")
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(rand.Uint32()) //nolint:gosec // it must not compress, that is all
	}
	p.commit("noise", string(noise))
	p.refused("larger than 1 MiB (limit push_bytes)", "push", w.url("acme/harbour"), "main")
	if refs := w.refs(7); refs != "" {
		t.Errorf("branches: %q", refs)
	}
	w.nothingBuilt()
	if left, _ := filepath.Glob(filepath.Join(w.repo(7), "objects", "tmp_objdir-*")); len(left) > 0 {
		t.Errorf("refused objects are left: %v", left)
	}
	t.Logf("all of it took %s", time.Since(began))
}

func zeros(t *testing.T, p *pusher, _ int64) string {
	t.Helper()
	file := filepath.Join(p.dir, "zeros")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A pack that was changed on the way, or that claims what it is not.
func TestBadPacks(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	p := w.person("alice")
	commit := p.must("rev-parse", "HEAD")
	cmd := exec.Command("git", "pack-objects", "--stdout", "--revs")
	cmd.Dir, cmd.Stdin = p.dir, strings.NewReader("HEAD\n")
	pack, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	line := func(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }
	zero := strings.Repeat("0", 40)
	head := line(zero+" "+commit+" refs/heads/main\x00 report-status") + "0000"
	flipped := func(i int) string {
		b := bytes.Clone(pack)
		b[i] ^= 0x40
		return string(b)
	}
	many := bytes.Clone(pack)
	copy(many[8:12], []byte{0xff, 0xff, 0xff, 0xff})
	for name, input := range map[string]string{
		"a flipped byte in the middle":   head + flipped(len(pack)/2),
		"a flipped byte in the checksum": head + flipped(len(pack)-1),
		"cut":                            head + string(pack[:len(pack)/2]),
		"four billion objects":           head + string(many),
		"no pack":                        head + "PARK" + string(pack[4:]),
		"no end of the list":             strings.Repeat(line(zero+" "+commit+" refs/heads/main"), 100_000),
		"no packet line":                 "zzzz" + string(pack),
		"a commit that does not come":    line(zero+" "+strings.Repeat("1", 40)+" refs/heads/main\x00 report-status") + "0000" + string(pack),
		"a name with a line break":       line(zero+" "+commit+" refs/heads/main\n"+zero+" "+commit+" refs/heads/x\x00 report-status") + "0000" + string(pack),
		"nothing":                        "",
	} {
		_, _ = p.raw(input, "git-receive-pack 'acme/harbour.git'") // what it says is judged by what it did
		if refs := w.refs(7); refs != "" {
			t.Fatalf("%s: branches: %q", name, refs)
		}
	}
	w.nothingBuilt()
	if _, err := p.raw(head+string(pack), "git-receive-pack 'acme/harbour.git'"); err != nil { // the same, whole
		t.Errorf("the pack itself: %v", err)
	}
	w.next()
}

// The number of sessions of one person is bounded; others get in.
func TestSessionsArePeoplesShare(t *testing.T) {
	w := newWorld(t, gitserver.Limits{OfUser: 2, Sessions: 3})
	begun, ended := make(chan bool, 9), make(chan bool, 9)
	w.make = hanging(begun, ended)
	ctx, stop := context.WithCancel(t.Context())
	alice, bob, carol := w.person("alice"), w.person("bob"), w.person("carol")
	done := make(chan bool, 3)
	hold := func(p *pusher, fleet string) {
		go func() { _, _ = p.gitContext(ctx, "push", w.url(fleet), "main"); done <- true }()
		wait(t, begun, "it builds")
	}
	w.keys.mu.Lock()
	w.keys.fleets["acme/quay"] = 9
	w.keys.mu.Unlock()
	hold(alice, "acme/harbour")
	hold(alice, "acme/pier")
	alice.refused("You have 2 pushes and fetches under way; wait until one has ended (limit user_sessions)", "push", w.url("acme/quay"), "main")
	hold(bob, "acme/quay")
	carol.refused("The git server is busy", "push", w.url("acme/quay"), "main")
	stop()
	for range 3 {
		wait(t, done, "the clients end")
		wait(t, ended, "the builds end")
	}
	w.make = func(res http.ResponseWriter, _ *http.Request) { _, _ = res.Write([]byte(`[]`)) }
	roletest.Eventually(t, "there is room again", func() bool { _, err := carol.git("push", w.url("acme/quay"), "main"); return err == nil })
}
