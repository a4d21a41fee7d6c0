package cage

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// instance keeps one openvpn process running.
type instance struct {
	cfg    Config
	number int
	tunnel tunnel
	log    *slog.Logger
	flows  *flows

	mu   sync.Mutex // covers what follows
	why  error      // it does not run
	last string     // what it said last
}

func newInstance(cfg Config, number int, t tunnel, log *slog.Logger) *instance {
	return &instance{cfg: cfg, number: number, tunnel: t, log: log, flows: &flows{open: map[int]*flow{}}, why: errors.New("openvpn is starting")}
}

// address is where it listens, inside the namespace.
func (i *instance) address() string { return fmt.Sprintf("127.0.0.1:%d", firstPort+i.number) }

// socket is its management interface, in the role's directory, which only this user can enter.
func (i *instance) socket() string { return fmt.Sprintf("management-%d.sock", i.number) }

func (i *instance) file() string { return fmt.Sprintf("openvpn-%d.conf", i.number) }

//go:embed server.conf
var serverConf string

// settings is openvpn's configuration.
func (i *instance) settings() string {
	certificates := "verify-client-cert none"
	if _, err := os.Stat(ClientCA); err == nil {
		certificates = "verify-client-cert optional\nca " + ClientCA + "\nremote-cert-tls client"
	} else {
		certificates += "\nca " + ServerCert // it wants one, and asks nobody for a certificate of it
	}
	return strings.NewReplacer(
		"$port", fmt.Sprint(firstPort+i.number), "$device", i.tunnel.device, "$server", i.tunnel.server.String(), "$peer", i.tunnel.server.Next().String(),
		"$cert", ServerCert, "$key", ServerKey, "$management", i.socket(), "$clients", certificates,
	).Replace(serverConf)
}

// Times between starts.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 5 * time.Second
	steady     = 30 * time.Second
)

// Run keeps it running until the context ends, whatever it dies of.
func (i *instance) Run(ctx context.Context) error {
	if err := os.WriteFile(i.file(), []byte(i.settings()), 0o600); err != nil {
		return fmt.Errorf("openvpn %d: %w", i.number, err)
	}
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, lastPause) {
		began := time.Now()
		err := i.once(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > steady {
			pause = firstPause
		}
		i.mu.Lock()
		i.why = fmt.Errorf("openvpn %d ended: %w; its last words: %s", i.number, err, i.last)
		i.log.Warn("openvpn ended", "instance", i.number, "error", err, "last_words", i.last, "again_in", pause)
		i.mu.Unlock()
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

func (i *instance) once(ctx context.Context) error {
	if err := os.Remove(i.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	cmd := exec.CommandContext(ctx, i.cfg.program(), "--config", i.file())
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	runtime.LockOSThread() // which starts it: it ends with this thread
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	var reading sync.WaitGroup
	reading.Go(func() { i.hear(out) })
	defer func() { _ = in.Close(); reading.Wait() }()
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Wait()
}

// hear takes what openvpn says. It is full of what strangers send: it goes no further than the last line, until openvpn ends.
func (i *instance) hear(out io.Reader) {
	lines := bufio.NewReaderSize(out, 4<<10)
	for {
		text, long, err := lines.ReadLine()
		if err != nil {
			return
		}
		if word := strings.TrimSpace(string(text)); word != "" && !long && !strings.HasPrefix(word, "Use --help") {
			i.mu.Lock()
			i.last = strings.ToValidUTF8(word, "?")
			i.mu.Unlock()
		}
	}
}

// healthy says why it does not run.
func (i *instance) healthy() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.why
}

// management connects to the management interface. openvpn talks to one at a time: the next one waits.
func (i *instance) management(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	if err := os.Chmod(i.socket(), 0o600); err != nil { // openvpn leaves it open to everybody, behind the directory's door
		return nil, err
	}
	conn, err := d.DialContext(ctx, "unix", i.socket())
	i.mu.Lock()
	defer i.mu.Unlock()
	if err == nil {
		i.why = nil
	}
	return conn, err
}
