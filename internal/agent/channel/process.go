package channel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one run of openvpn. It is a child of the agent with one capability, that over network interfaces, and ends with it.
type process struct {
	program        string
	dir            string // for the management socket
	user, password string
	log            *slog.Logger
	within         time.Duration // until it is connected

	mu   sync.Mutex // covers last
	last string     // line that it wrote
}

// comeAgain is what a server says that does not refuse the device but cannot ask anybody about it just now.
const comeAgain = "come again"

// nobody is whom openvpn runs as where the device has no user for it.
const nobody = 65534

// run starts openvpn, answers its questions, and calls up once it is connected, with a context that ends with the connection. It returns
// when the process has ended and up has returned.
func (p *process) run(ctx context.Context, config string, up func(context.Context, netip.Addr) error) error {
	uid := p.uid()
	ln, err := p.listen(uid)
	if err != nil {
		return err
	}
	defer func() { _ = ln.Close() }() // and removes the socket's file
	cmd := exec.Command(p.program, "--config", "stdin", "--management", ln.Addr().String(), "unix", "--management-client",
		"--management-query-passwords", "--management-signal")
	cmd.Env, cmd.Dir, cmd.Stdin = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "/", strings.NewReader(config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if uid >= 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)} //nolint:gosec // not negative
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
	}
	said, out := io.Pipe()
	cmd.Stdout, cmd.Stderr = out, out
	ended := make(chan error, 1)
	started := make(chan error, 1)
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() { p.note(said) })
	following.Go(func() {
		runtime.LockOSThread() // the kernel ends the child with the thread that made it, so that thread stays for it alone
		defer runtime.UnlockOSThread()
		defer func() { _ = out.Close() }() // it never fails
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	})
	if err := <-started; err != nil {
		return fmt.Errorf("start openvpn: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var talking sync.WaitGroup
	talk := errors.New("it said nothing")
	talking.Go(func() {
		defer cancel() // without somebody to talk to, it is to end
		talk = p.talk(ctx, ln, cmd.Process.Pid, up)
	})
	var exit error
	select {
	case exit = <-ended:
	case <-ctx.Done():
		exit = p.stop(cmd.Process, ended)
	}
	cancel()
	_ = ln.Close()
	talking.Wait()
	if talk != nil && !errors.Is(talk, io.EOF) {
		return talk
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	how := "by itself"
	if exit != nil {
		how = exit.Error()
	}
	return fmt.Errorf("openvpn ended (%s): %s", how, p.last)
}

// uid is whom openvpn runs as, -1 for the agent's own user.
func (p *process) uid() int {
	info, err := os.Stat("/dev/net/tun")
	if os.Geteuid() != 0 || err != nil || info.Mode().Perm()&0o006 != 0o006 {
		return -1
	}
	users, _ := os.ReadFile("/etc/passwd") // without it there is no such user
	for line := range strings.Lines(string(users)) {
		if f := strings.Split(line, ":"); len(f) > 3 && f[0] == "openvpn" {
			if id, err := strconv.Atoi(f[2]); err == nil && id > 0 {
				return id
			}
		}
	}
	return nobody
}

// listen makes the socket that openvpn, and nobody else, is to call.
func (p *process) listen(uid int) (*net.UnixListener, error) {
	if err := os.MkdirAll(p.dir, 0o711); err != nil {
		return nil, err
	}
	path := filepath.Join(p.dir, "openvpn.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	err = os.Chmod(path, 0o600)
	if err == nil && uid >= 0 {
		err = os.Chown(path, uid, uid)
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// note keeps the last line of what openvpn writes, to say why it ended.
func (p *process) note(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		text := strings.ToValidUTF8(strings.TrimSpace(lines.Text()), "?")
		text = text[:min(len(text), 300)]
		p.log.Debug("openvpn", "says", text)
		if text == "" || strings.HasPrefix(text, "SIGTERM") || strings.HasPrefix(text, "NOTE") {
			continue
		}
		p.mu.Lock()
		p.last = text
		p.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r) // a line too long for the scanner must not stop the process
}

// stop ends the process: by asking, then by force.
func (p *process) stop(child *os.Process, ended <-chan error) error {
	_ = child.Signal(syscall.SIGTERM) // it may have ended
	t := time.NewTimer(3 * time.Second)
	defer t.Stop()
	select {
	case err := <-ended:
		return err
	case <-t.C:
		_ = child.Kill()
		return <-ended
	}
}

// talk answers openvpn's questions until it hangs up.
func (p *process) talk(ctx context.Context, ln *net.UnixListener, pid int, up func(context.Context, netip.Addr) error) error {
	conn, err := p.accept(ctx, ln, pid)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(p.within))
	if _, err := io.WriteString(conn, "state on\n"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	served := make(chan error, 1)
	isUp := false
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 16<<10)
	for lines.Scan() {
		event, text, _ := strings.Cut(lines.Text(), ":")
		switch {
		case event == ">PASSWORD" && strings.HasPrefix(text, "Need 'Auth'"):
			if _, err := fmt.Fprintf(conn, "username \"Auth\" \"%s\"\npassword \"Auth\" \"%s\"\n", quote(p.user), quote(p.password)); err != nil {
				return err
			}
		case event == ">PASSWORD" && strings.HasPrefix(text, "Need "):
			return refusal{errors.New("openvpn asks for another password than the device's: " + shorten(text))}
		case event == ">PASSWORD" && strings.HasPrefix(text, "Verification Failed") && strings.Contains(text, comeAgain):
			return errors.New("the server cannot decide now: " + shorten(text))
		case event == ">PASSWORD" && strings.HasPrefix(text, "Verification Failed"):
			return refusal{errors.New("the server refuses the device: " + shorten(text))}
		case event == ">STATE" && !isUp:
			address, connected, err := readState(text)
			if err != nil {
				return err
			}
			if !connected {
				continue
			}
			isUp = true
			_ = conn.SetDeadline(time.Time{})
			if ctx.Err() != nil {
				return nil
			}
			serving.Go(func() {
				served <- up(ctx, address)
				_ = conn.SetDeadline(time.Unix(1, 0)) // and with that the reading ends
			})
		}
	}
	select {
	case err := <-served:
		return err
	default:
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("openvpn did not connect in time: %w", err)
	}
	return nil
}

// accept takes the call of the process, and of no other.
func (p *process) accept(ctx context.Context, ln *net.UnixListener, pid int) (*net.UnixConn, error) {
	stop := context.AfterFunc(ctx, func() { _ = ln.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = ln.SetDeadline(time.Now().Add(p.within))
	for {
		conn, err := ln.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil, io.EOF // what it wrote before it ended says more
			}
			return nil, err
		}
		if peer(conn) == pid {
			return conn, nil
		}
		_ = conn.Close()
	}
}

func peer(conn *net.UnixConn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil { //nolint:gosec // a descriptor is small
			pid = int(cred.Pid)
		}
	})
	return pid
}

// readState reads one state of openvpn: time, name, detail, the address in the tunnel and more.
func readState(text string) (address netip.Addr, connected bool, err error) {
	f := strings.Split(strings.TrimSpace(text), ",")
	if len(f) < 4 || f[1] != "CONNECTED" {
		return netip.Addr{}, false, nil
	}
	if f[2] != "SUCCESS" {
		return netip.Addr{}, false, fmt.Errorf("openvpn is connected with %s", shorten(f[2]))
	}
	address, err = netip.ParseAddr(f[3])
	shared := netip.MustParsePrefix("100.64.0.0/10")
	if err != nil || !address.Is4() || !address.IsPrivate() && !shared.Contains(address) {
		return netip.Addr{}, false, fmt.Errorf("%q is no address for a tunnel", shorten(f[3]))
	}
	return address, true, nil
}

// quote writes a text as the management interface reads it within quotes.
func quote(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", "", "\r", "").Replace(text)
}
