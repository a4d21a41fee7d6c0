package shell_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/shell"
	"github.com/roadstead-io/roadstead/internal/sshtest"
)

// shown is a program's output, to look at while it runs.
type shown struct {
	mu   sync.Mutex // covers text
	text bytes.Buffer
}

func (s *shown) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shown) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// open starts OpenSSH's client with a terminal and waits until the remote program has said that it is there.
func (p *person) open(user, command string) (cmd *exec.Cmd, out *shown, in io.WriteCloser) {
	p.w.Helper()
	cmd = exec.CommandContext(p.w.Context(), "ssh", append(p.client().Options(), "-tt", user+"@127.0.0.1", command)...)
	out = &shown{}
	cmd.Stdout, cmd.Stderr = out, out
	in, err := cmd.StdinPipe()
	p.w.must(err)
	p.w.must(cmd.Start())
	p.w.eventually("the program is there", func() bool { return strings.Contains(out.String(), "here") })
	return cmd, out, in
}

// gone reports whether no process of a command line is left.
func gone(mark string) bool {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), mark) && !strings.HasPrefix(string(text), "ssh\x00") {
			return false
		}
	}
	return true
}

func forwarding(c *ssh.Certificate) { c.Extensions["permit-port-forwarding"] = "" }

// A device's shell, a service's, their files, and the ports that may be reached through them.
func TestSessions(t *testing.T) {
	t.Setenv("AGENT_SECRET", "1")
	d := sshtest.NewDocker(t)
	w := newWorld(t, use(d))
	p := w.certified()

	if r := p.ssh("root@127.0.0.1", "env"); r.code != 0 || strings.Contains(r.out, "SECRET") || !strings.Contains(r.out, "HOME=/root\n") {
		t.Errorf("the environment: %+v", r)
	}
	// As the balena CLI finds the container of a service, and enters it.
	r := p.ssh("ann@127.0.0.1", `"balena-engine" ps --format "{{.ID}} {{.Names}}"`)
	id, name, _ := strings.Cut(strings.TrimSpace(r.out), " ")
	if name != "main_1_2" || !strings.HasPrefix(d.Container, id) {
		t.Fatalf("the engine under balena's name: %+v", r)
	}
	for _, user := range []string{"main", "service/main", "service/" + id, id} {
		if r := p.ssh(user+"@127.0.0.1", "cat /proc/1/comm; echo oh >&2; exit 5"); r.code != 5 || r.out != "sleep\n" || r.err != "oh\n" {
			t.Errorf("in the service as %s: %+v", user, r)
		}
	}
	if told := w.last(); told.Target != "main" || told.Kind != "exec" {
		t.Errorf("told: %+v", told)
	}
	if r := p.ssh("nothing\x1b]0;owned\a@127.0.0.1", "id"); r.code == 0 || strings.Contains(r.err, "\x1b") {
		t.Errorf("a service that is not there: %+v", r)
	}
	if r := p.ssh("service/nothing@127.0.0.1", "id"); r.code != 1 || !strings.Contains(r.err, `there is no service "nothing" on this device; it has main`) {
		t.Errorf("a service that is not there: %+v", r)
	}
	if r := p.run("ssh", "tty; echo $TERM; exit 3\n", "-tt", "main@127.0.0.1"); r.code != 3 || !strings.Contains(r.out, "/dev/pts") {
		t.Errorf("a shell in the service: %+v", r)
	}
	w.files(d, p)
	w.terminals(p)
	w.forwards(p)
}

// files copies to and fro, of the device and of the service, with scp and sftp.
func (w *world) files(d *sshtest.Docker, p *person) {
	w.Helper()
	from, to := w.TempDir(), w.TempDir()
	w.must(os.MkdirAll(filepath.Join(from, "a/b"), 0o755))
	big := strings.Repeat("0123456789abcdef", 40_000)
	w.must(os.WriteFile(filepath.Join(from, "a/b/big"), []byte(big), 0o640))
	for _, user := range []string{"root", "main"} {
		at := user + "@127.0.0.1:" + to + "/x"
		if user == "main" {
			at = user + "@127.0.0.1:/x"
		}
		if r := p.run("scp", "", "-r", "-p", filepath.Join(from, "a"), at); r.code != 0 {
			w.Fatalf("scp to %s: %+v", user, r)
		}
		back := filepath.Join(w.TempDir(), "back")
		if r := p.run("scp", "", "-r", "-p", at, back); r.code != 0 {
			w.Fatalf("scp from %s: %+v", user, r)
		}
		got, err := os.ReadFile(filepath.Join(back, "b/big"))
		info, _ := os.Stat(filepath.Join(back, "b/big"))
		if err != nil || string(got) != big || info.Mode().Perm() != 0o640 {
			w.Errorf("%s: what came back is not what was sent: %d bytes, %v", user, len(got), err)
		}
	}
	if told := w.last(); told.Kind != "sftp" || told.Target != "main" || told.BytesOut < int64(len(big)) {
		w.Errorf("told: %+v", told)
	}
	// A link in a container leads nowhere but into the container.
	secret := filepath.Join(to, "secret")
	w.must(os.WriteFile(secret, []byte("the device's"), 0o644))
	d.Run("exec", "main_1_2", "sh", "-c", "mkdir -p /inside && echo mine >/inside/f && ln -s /inside /abs && ln -s "+secret+" /out && ln -s ../../../../../../.."+secret+" /up && ln -s /loop /loop")
	if r := p.run("scp", "", "main@127.0.0.1:/abs/f", filepath.Join(to, "f")); r.code != 0 {
		w.Errorf("an absolute link: %+v", r)
	}
	for _, link := range []string{"/out", "/up", "/loop", "/proc/1/root/../../../../../.." + secret} {
		if r := p.run("scp", "", "main@127.0.0.1:"+link, filepath.Join(to, "stolen")); r.code == 0 {
			w.Errorf("%s leads out of the container: %+v", link, r)
		}
	}
	batch := filepath.Join(to, "batch")
	w.must(os.WriteFile(batch, []byte("mkdir /s\nput "+secret+" /s/one\nrename /s/one /s/two\nsymlink /s/two /s/three\nchmod 600 /s/two\nls -l /s\nrm /s/three\nrm /s/two\nrmdir /s\n"), 0o600))
	if r := p.run("sftp", "", "-b", batch, "main@127.0.0.1"); r.code != 0 || !strings.Contains(r.out, "-rw-------") {
		w.Errorf("sftp: %+v", r)
	}
}

func (p *person) dial(user string) *ssh.Client {
	p.w.Helper()
	signer := p.key
	if p.cert != nil {
		var err error
		signer, err = ssh.NewCertSigner(p.cert, p.key)
		p.w.must(err)
	}
	check := ssh.CertChecker{IsHostAuthority: func(auth ssh.PublicKey, _ string) bool {
		return sshtest.Line(auth) == sshtest.Line(p.w.hosts.PublicKey())
	}}
	client, err := ssh.Dial("tcp", p.w.addr, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyAlgorithms: []string{ssh.CertAlgoED25519v01},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			return check.CheckHostKey(uuid+":22", nil2{}, key)
		},
	})
	p.w.must(err)
	p.w.Cleanup(func() { _ = client.Close() })
	return client
}

// nil2 is an address that says nothing.
type nil2 struct{}

func (nil2) Network() string { return "" }
func (nil2) String() string  { return "" }

// terminals change their size, and programs get signals.
func (w *world) terminals(p *person) {
	w.Helper()
	client := p.dial("root")
	session, err := client.NewSession()
	w.must(err)
	out := &shown{}
	session.Stdout = out
	in, err := session.StdinPipe()
	w.must(err)
	w.must(session.RequestPty("xterm", 30, 100, ssh.TerminalModes{}))
	w.must(session.Start("trap 'stty size' WINCH; stty size; while read -r x; do echo got $x; done"))
	w.eventually("the size of the terminal", func() bool { return strings.Contains(out.String(), "30 100") })
	w.must(session.WindowChange(40, 120))
	w.eventually("its new size", func() bool {
		_, _ = io.WriteString(in, "\n") // the trap runs once the read has ended
		return strings.Contains(out.String(), "40 120")
	})
	w.must(session.Close())
	session, err = client.NewSession()
	w.must(err)
	w.must(session.Start("exec sleep 1000.5"))
	w.eventually("it runs", func() bool { return !gone("sleep\x001000.5") })
	w.must(session.Signal(ssh.SIGTERM))
	var exit *ssh.ExitError
	if err := session.Wait(); err == nil || !strings.Contains(err.Error(), "TERM") {
		w.Errorf("a signal: %v %v", err, exit)
	}
	w.must(client.Close())
}

// forwards are for whoever may, and lead to the device and no further.
func (w *world) forwards(p *person) {
	w.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	w.Cleanup(func() { _ = ln.Close() })
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello\n")
			_ = c.Close()
		}
	}()
	port := fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)
	if r := p.ssh("-W", "127.0.0.1:"+port, "root@127.0.0.1"); r.code == 0 || r.out != "" {
		w.Errorf("a port without the permission: %+v", r)
	}
	may := w.certified(forwarding)
	if r := may.ssh("-W", "localhost:"+port, "root@127.0.0.1"); r.out != "hello\n" {
		w.Errorf("a port with the permission: %+v", r)
	}
	for _, to := range []string{"192.0.2.1:80", "example.com:80", "0.0.0.0:" + port, "169.254.169.254:80", "nothing:80"} {
		if r := may.ssh("-W", to, "root@127.0.0.1"); r.out != "" || r.code == 0 {
			w.Errorf("%s through the device: %+v", to, r)
		}
	}
	if r := may.ssh("-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:"+port, "root@127.0.0.1", "echo in"); r.out != "" {
		w.Errorf("a port that listens on the device: %+v", r)
	}
}

// Who may stay no longer is put out, with what they had started.
func TestSessionsEnd(t *testing.T) {
	d := sshtest.NewDocker(t)
	quick := func(c *shell.Config) { c.Away = 2 * time.Second }
	w := newWorld(t, use(d), quick)
	ends := func(why, user, mark string, how func()) {
		t.Helper()
		cmd, out, _ := w.certified().open(user, "echo here; sleep "+mark)
		w.eventually("it is asked about", func() bool { return len(w.open) == 1 })
		began := time.Now()
		w.locked(how)
		_ = cmd.Wait() // the code says how
		t.Logf("%s: it took %s", why, time.Since(began))
		if code := cmd.ProcessState.ExitCode(); code != 255 || !strings.Contains(out.String(), why) {
			t.Errorf("%s: code %d, %q", why, code, out)
		}
		w.eventually("the program ends", func() bool { return gone("sleep\x00" + mark) })
		w.eventually("the end is told", func() bool {
			told, ok := w.ended[w.next]
			return ok && strings.Contains(told.Why, why) && told.BytesOut > 0
		})
	}
	ends("the right to be here ended", "root", "2000.1", func() { w.cut[w.next] = true })
	ends("the key is gone?[2J", "main", "2000.2", func() { w.why, w.cut[w.next] = "the key is gone\x1b[2J", true })
	w.locked(func() {
		if n := strings.Count(strings.Join(w.heard, "\n"), "sleep 2000.2"); n == 0 {
			t.Errorf("a command was not told of while it ran: %q", w.heard)
		}
	})
	// A device that is deleted tells of the end nevertheless.
	ends("does not know this device", "root", "2000.3", func() { w.deleted = true })
	w.locked(func() { w.deleted = false })
	var back *time.Timer
	ends("the server cannot be asked", "root", "2000.4", func() {
		w.away = true // for longer than it is borne
		back = time.AfterFunc(6*time.Second, func() { w.locked(func() { w.away = false }) })
	})
	back.Stop()
	w.locked(func() { w.away = false })

	// A client that goes away ends what it had started, too.
	cmd, _, in := w.certified().open("main", "echo here; sleep 2000.5")
	w.must(in.Close())
	w.must(cmd.Process.Kill())
	_ = cmd.Wait()
	w.eventually("the program ends", func() bool { return gone("sleep\x002000.5") })

	// A grant's end ends the session by itself; and so does silence.
	guest := w.person()
	w.locked(func() {
		w.keys[ssh.FingerprintSHA256(guest.key.PublicKey())] = api.SSHKeyAnswer{User: "sue"}
		w.guest = 4 * time.Second
	})
	if r := guest.ssh("sue@127.0.0.1", "sleep 2000.6"); r.code != 255 || !strings.Contains(r.err, "the permission ended") {
		t.Errorf("a grant: %+v", r)
	}
	still := newWorld(t, func(c *shell.Config) { c.Idle = 3 * time.Second })
	if r := still.certified().ssh("root@127.0.0.1", "sleep 2000.7"); r.code != 255 || !strings.Contains(r.err, "nothing went over it") {
		t.Errorf("an idle session: %+v", r)
	}
}

// What a session shows is recorded if the server says so, and sent at its end; what is typed is not.
func TestRecording(t *testing.T) {
	w := newWorld(t)
	w.locked(func() { w.record = true })
	cmd, out, in := w.certified().open("root", `stty -echo; printf 'h\303\251llo here\n'; read -r x; head -c 3000000 /dev/zero | tr '\0' x; echo the end`)
	_, err := io.WriteString(in, "s3cret\n")
	w.must(err)
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "the end") {
		t.Fatalf("%d bytes, %v", len(out.String()), err)
	}
	var text string
	w.eventually("the recording comes", func() bool { text = w.shown[w.next]; return text != "" })
	lines := strings.Split(strings.TrimSpace(text), "\n")
	var head struct{ Version, Width, Height int }
	if err := json.Unmarshal([]byte(lines[0]), &head); err != nil || head.Version != 2 || head.Width != 80 {
		t.Errorf("%s: %v", lines[0], err)
	}
	var all strings.Builder
	for _, l := range lines[1:] {
		var event [3]any
		w.must(json.Unmarshal([]byte(l), &event))
		all.WriteString(event[2].(string))
	}
	if got := all.String(); !strings.Contains(got, "héllo") || strings.Contains(got, "s3cret") || !strings.HasSuffix(got, "it is full") || len(text) > api.MaxSSHRecording {
		t.Errorf("%d bytes: %.100q … %q", len(text), got, got[max(0, len(got)-60):])
	}
	w.stop()
	if left, _ := filepath.Glob(filepath.Join(w.dir, "state", "ssh-recordings", "*")); len(left) > 0 {
		t.Errorf("left on the device: %v", left)
	}
}
