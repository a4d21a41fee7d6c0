package sshgate_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/sshtest"
)

// foreign is a device whose SSH server is none of ours: OpenSSH's, set up as balenaOS does. Whoever gives another name than root's is root, when
// the server says that their key is one of that person's.
type foreign struct {
	w   *world
	dir string
	cmd *exec.Cmd
	log string
}

const foreignID = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

func newForeign(w *world, path string) *foreign {
	w.Helper()
	sshd := "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil || os.Getuid() != 0 {
		w.Skip("it needs root and OpenSSH's server, which make test installs")
	}
	dir, err := os.MkdirTemp("/run", "roadstead-sshd-") // sshd runs no command that lies where others may write
	w.must(err)
	f := &foreign{w: w, dir: dir, log: filepath.Join(dir, "log")}
	w.Cleanup(func() {
		f.stop()
		if w.Failed() {
			text, _ := os.ReadFile(f.log)
			w.Logf("sshd: %s", text)
		}
		w.must(os.RemoveAll(dir))
	})
	asked := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { // as GET /auth/v1/public-keys/:username
		w.mu.Lock()
		defer w.mu.Unlock()
		name := strings.TrimPrefix(r.URL.Path, "/auth/v1/public-keys/")
		w.asks = append(w.asks, name)
		if name == "ann" {
			_, _ = fmt.Fprintln(rw, w.given)
		}
	}))
	w.Cleanup(asked.Close)
	f.write("keys.sh", "#!/bin/sh\nexec curl -sS --noproxy '*' \""+asked.URL+"/auth/v1/public-keys/$1\"\n", 0o700)
	f.write("passwd", "root:x:0:0::/root:/bin/sh\nsshd:x:65533:65533::/nonexistent:/bin/false\nann:x:0:0::/root:/bin/sh\n", 0o644) // in the place of libnss-ato
	f.start(path)
	return f
}

func (f *foreign) write(name, text string, mode os.FileMode) {
	f.w.Helper()
	f.w.must(os.WriteFile(filepath.Join(f.dir, name), []byte(text), mode))
}

// start starts it with a new host key.
func (f *foreign) start(path string) {
	w := f.w
	w.Helper()
	_ = os.Remove(filepath.Join(f.dir, "host"))
	sshtest.KeyFile(w, filepath.Join(f.dir, "host"))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	address := ln.Addr().String()
	w.must(ln.Close())
	_, port, _ := net.SplitHostPort(address)
	f.write("conf", strings.Join([]string{
		"ListenAddress 127.0.0.1", "Port " + port, "HostKey " + f.dir + "/host", "PidFile none", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no",
		"AuthorizedKeysFile none", "AuthorizedKeysCommand " + f.dir + "/keys.sh %u", "AuthorizedKeysCommandUser root", "Subsystem sftp internal-sftp", "LogLevel VERBOSE",
		"SetEnv PATH=" + path + ":/usr/bin:/bin", "",
	}, "\n"), 0o600)
	w.must(os.MkdirAll("/run/sshd", 0o755))
	f.cmd = exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", "mount --bind "+f.dir+"/passwd /etc/passwd && exec /usr/sbin/sshd -D -E "+f.log+" -f "+f.dir+"/conf")
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	w.must(f.cmd.Start())
	w.eventually("sshd answers", func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devices[foreignID] = address
}

func (f *foreign) stop() {
	if f.cmd == nil {
		return
	}
	_ = syscall.Kill(-f.cmd.Process.Pid, syscall.SIGKILL)
	_ = f.cmd.Wait()
	f.cmd = nil
}

// The gateway enters a device whose SSH server is OpenSSH's, as the person and with a key that is theirs for this one session; what the device
// shows first is remembered, and nothing else passes for it.
func TestADeviceWithItsOwnSSHServer(t *testing.T) {
	w := newWorld(t)
	f := newForeign(w, "/nonexistent")
	if out, errs, code := w.ssh("", "ann@127.0.0.1", "host", foreignID, "id -u; echo oh >&2; exit 5"); code != 5 || out != "0\n" || errs != "oh\n" {
		t.Fatalf("a command: %q %q %d", out, errs, code)
	}
	w.mu.Lock()
	first, asks, key := w.saw, w.asks, w.given
	w.mu.Unlock()
	if !strings.HasPrefix(first, "ssh-ed25519 ") || len(asks) == 0 || slices.ContainsFunc(asks, func(name string) bool { return name != "ann" }) {
		t.Errorf("it remembers %q, and was asked for the keys of %q", first, asks)
	}
	if out, errs, code := w.ssh("tty; echo $((6*7)); exit 4\n", "-tt", "ann@127.0.0.1", "host "+foreignID); code != 4 || !strings.Contains(out, "42") || !strings.Contains(out, "/dev/pts/") {
		t.Errorf("a shell: %q %q %d", out, errs, code)
	}
	w.mu.Lock()
	if w.given == key || w.saw != first {
		t.Errorf("the next session has the same key, or the device another: %q", w.saw)
	}
	w.mu.Unlock()
	there := filepath.Join(t.TempDir(), "there")
	if out, code := w.scp(filepath.Join(w.dir, "known"), foreignID+"@127.0.0.1:"+there); code != 0 {
		t.Errorf("a file to the device: %d %s", code, out)
	}
	if out, code := w.scp(filepath.Join(w.dir, "known"), foreignID+"+web@127.0.0.1:"+there); code == 0 || !strings.Contains(out, "knows no files of services") {
		t.Errorf("a file to a service: %d %s", code, out)
	}
	if _, errs, code := w.ssh("", "ann@127.0.0.1", "service "+foreignID+" web id"); code != 1 && code != 127 || !strings.Contains(errs, "there is no ") {
		t.Errorf("a service that is not there: %q %d", errs, code)
	}
	w.eventually("the audit log is told of the command", func() bool {
		for _, e := range w.ended {
			if e.Detail["command"] == "id -u; echo oh >&2; exit 5" {
				return true
			}
		}
		return false
	})

	// Another host key is another device, whoever has written its system anew; when the first is forgotten, the next one is the first.
	f.stop()
	f.start("/nonexistent")
	if out, errs, code := w.ssh("", "ann@127.0.0.1", "host", foreignID, "id -u"); code != 255 || out != "" || !strings.Contains(errs, "another host key") || !strings.Contains(errs, "ssh-host-key forget "+foreignID) {
		t.Errorf("another host key: %q %q %d", out, errs, code)
	}
	w.mu.Lock()
	w.saw = ""
	w.mu.Unlock()
	if out, errs, code := w.ssh("", "ann@127.0.0.1", "host", foreignID, "id -u"); code != 0 || out != "0\n" {
		t.Errorf("after it was forgotten: %q %q %d", out, errs, code)
	}

	// A permit that ends puts out, there as well; and a device that is given no key lets nobody in.
	cmd := w.command("-tt", "ann@127.0.0.1", "host "+foreignID+" echo here; sleep 3000.2")
	pipe, err := cmd.StdoutPipe()
	w.must(err)
	in, err := cmd.StdinPipe() // an open end, so that nothing else ends it
	w.must(err)
	defer func() { _ = in.Close() }()
	w.must(cmd.Start())
	if _, err := pipe.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.end = true
	w.mu.Unlock()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 255 {
		t.Errorf("the code of a session that was ended is %d", code)
	}
	w.eventually("the program ends with it", func() bool { return exec.Command("pgrep", "-f", "^sleep 3000.2").Run() != nil })
	w.mu.Lock()
	w.end, w.mean = false, true
	w.mu.Unlock()
	if out, errs, code := w.ssh("", "ann@127.0.0.1", "host", foreignID, "id -u"); code != 255 || out != "" || !strings.Contains(errs, "lets nobody in") {
		t.Errorf("without a key: %q %q %d", out, errs, code)
	}
}

// A service on such a device is entered by its container engine: by its name, or by the id of its container, as the balena CLI does.
func TestAServiceOfADeviceWithItsOwnSSHServer(t *testing.T) {
	d := sshtest.NewDocker(t)
	w := newWorld(t)
	path := t.TempDir()
	w.must(os.WriteFile(filepath.Join(path, "balena-engine"), []byte("#!/bin/sh\nexec docker --host "+d.Host+" \"$@\"\n"), 0o755))
	newForeign(w, path)
	for name, tt := range map[string]struct {
		input string
		args  []string
		out   string
		says  string
		code  int
	}{
		"a command":              {args: []string{"service " + foreignID + ` main cat /proc/1/comm; echo "it's $((6*7))" '*'; exit 3`}, out: "sleep\nit's 42 *\n", code: 3},
		"a shell":                {input: "cat /proc/1/comm\nexit 6\n", args: []string{"service " + foreignID + " main"}, out: "sleep\n", code: 6},
		"no such service":        {args: []string{"service " + foreignID + " mai id"}, says: `there is no service "mai"`, code: 1},
		"a container by its id":  {input: "cat /proc/1/comm\nexit 7\n", args: []string{"enter " + foreignID + " " + d.Container[:12]}, out: "sleep\n", code: 7},
		"a container, not there": {args: []string{"enter " + foreignID + " 0123456789ab"}, says: "No such container", code: 1},
	} {
		out, errs, code := w.ssh(tt.input, append([]string{"ann@127.0.0.1"}, tt.args...)...)
		if out != tt.out || code != tt.code || !strings.Contains(errs, tt.says) {
			t.Errorf("%s: %q %q %d", name, out, errs, code)
		}
	}
	if out, errs, code := w.ssh("tty; exit 8\n", "-tt", "ann@127.0.0.1", "service "+foreignID+" main"); code != 8 || !strings.Contains(out, "/dev/pts/") {
		t.Errorf("a terminal: %q %q %d", out, errs, code)
	}
}

// lastTold is how the last session on a foreign device ended, once that is told of n of them.
func (w *world) lastTold(n int) (told api.SSHProgress) {
	w.Helper()
	w.eventually("the end of a session is told", func() bool {
		if len(w.told) < n {
			return false
		}
		told = w.told[n-1]
		return true
	})
	return told
}

// Such a device tells of nobody who is in, so the gateway does: that somebody is, what they run, how much goes to and fro, and how it ended. An end
// that is ordered is one.
func TestTheGatewayTellsOfSessionsOnADeviceWithItsOwnSSHServer(t *testing.T) {
	w := newWorld(t)
	newForeign(w, "/nonexistent")
	if _, errs, code := w.ssh("four", "ann@127.0.0.1", "host", foreignID, "cat; exit 5"); code != 5 {
		t.Fatalf("a command: %q %d", errs, code)
	}
	if got := w.lastTold(1); got.Session != 1 || got.Token != "t" || got.Kind != "exec" || got.Target != "host" || got.BytesIn != 4 || got.BytesOut != 4 ||
		got.Exit == nil || *got.Exit != 5 || got.Why != "closed" || !slices.Equal(got.Commands, []string{"cat; exit 5"}) || got.CommandCount != 1 {
		t.Errorf("of a command it is told %+v", got)
	}
	if out, code := w.scp(filepath.Join(w.dir, "known"), foreignID+"@127.0.0.1:"+filepath.Join(t.TempDir(), "there")); code != 0 {
		t.Errorf("a file to the device: %d %s", code, out)
	}
	if got := w.lastTold(2); got.Kind != "sftp" || got.Target != "host" || got.BytesIn == 0 || len(got.Commands) > 0 {
		t.Errorf("of a file it is told %+v", got)
	}
	for n, c := range []struct {
		why   string
		order func(on bool)
	}{{"somebody ended it", func(on bool) { w.cut = on }}, {"the key was removed", func(on bool) { w.end = on }}} {
		set := func(on bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.open = api.SSHProgress{}
			c.order(on)
		}
		set(false)
		cmd := w.command("-tt", "ann@127.0.0.1", "host "+foreignID)
		in, err := cmd.StdinPipe()
		w.must(err)
		w.must(cmd.Start())
		_, err = io.WriteString(in, "exec sleep 3000.3\n")
		w.must(err)
		w.eventually("it is told that somebody is in", func() bool {
			return w.open.Kind == "shell" && w.open.Session == int64(3+n) && w.open.BytesOut > 0 && w.open.Exit == nil
		})
		set(true)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 255 {
			t.Errorf("%s: the code is %d", c.why, code)
		}
		_ = in.Close()
		if got := w.lastTold(3 + n); !strings.Contains(got.Why, c.why) || got.Exit != nil || got.Kind != "shell" {
			t.Errorf("%s: it is told %+v", c.why, got)
		}
		set(false)
		w.eventually("the program ends with it", func() bool { return exec.Command("pgrep", "-f", "^sleep 3000.3").Run() != nil })
	}
	w.mu.Lock()
	w.full = true
	w.mu.Unlock()
	if out, errs, code := w.ssh("", "ann@127.0.0.1", "host", foreignID, "id -u"); code != 255 || out != "" || !strings.Contains(errs, "too many SSH sessions") {
		t.Errorf("nobody could be told of it, and yet: %q %q %d", out, errs, code)
	}
}
