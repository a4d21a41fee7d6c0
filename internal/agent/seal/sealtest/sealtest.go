// Package sealtest gives tests a TPM in software: Debian's swtpm.
package sealtest

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TPM is one in software. It keeps what it knows in a directory, and is the same one when it is started there again.
type TPM struct {
	Dir  string
	Path string // the socket on which it takes commands

	stop func()
}

// New makes a TPM and starts it.
func New(t *testing.T) *TPM {
	t.Helper()
	tpm := &TPM{Dir: t.TempDir()}
	tpm.Start(t)
	return tpm
}

// Start powers it on: its registers are zero.
func (p *TPM) Start(t *testing.T) {
	t.Helper()
	p.stop, p.Path = Run(t, p.Dir, "--server", "--flags", "not-need-init,startup-clear")
}

// Stop powers it off.
func (p *TPM) Stop() { p.stop() }

// Run starts swtpm with its state in a directory, listening as the kind says: --server for commands, --ctrl for QEMU. It ends with the test.
func Run(t *testing.T, dir, kind string, args ...string) (stop func(), path string) {
	t.Helper()
	short, err := os.MkdirTemp("", "tpm") // the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	path = filepath.Join(short, "s")
	ctx, cancel := context.WithCancel(context.Background())
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "swtpm", append([]string{"socket", "--tpm2", "--tpmstate", "dir=" + dir, kind, "type=unixio,path=" + path}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatalf("%v: scripts/install.sh test installs it", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := new(net.Dialer).DialContext(t.Context(), "unix", path); err == nil {
			_ = conn.Close() // it listens
			return stop, path
		}
		select {
		case <-ended:
			t.Fatalf("swtpm ended: %s", &out)
		case <-t.Context().Done():
			t.Fatal("swtpm does not listen")
		case <-tick.C:
		}
	}
}
