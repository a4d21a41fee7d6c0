// Package sshtest is what tests of SSH into devices share: keys and certificates as the signer makes them, OpenSSH's client with nothing but what a
// test gives it, and a container engine of the test's own.
package sshtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Signer makes a key.
func Signer(t testing.TB) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return s, private
}

// Line is a public key as authorized_keys has it.
func Line(key ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) }

// Parse reads such a line.
func Parse(t testing.TB, line string) ssh.PublicKey {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)) //nolint:dogsled // only the key counts
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// KeyFile makes a key and writes it as ssh-keygen does.
func KeyFile(t testing.TB, file string) ssh.Signer {
	t.Helper()
	s, private := Signer(t)
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// Certify signs a certificate for five minutes, but for what a test changes.
func Certify(t testing.TB, by ssh.Signer, key ssh.PublicKey, kind uint32, id string, names []string, change ...func(*ssh.Certificate)) *ssh.Certificate {
	t.Helper()
	now := time.Now()
	cert := &ssh.Certificate{
		Key: key, CertType: kind, KeyId: id, ValidPrincipals: names,
		ValidAfter: uint64(now.Add(-time.Minute).Unix()), ValidBefore: uint64(now.Add(5 * time.Minute).Unix()), //nolint:gosec // after 1970
	}
	if kind == ssh.UserCert {
		cert.Extensions = map[string]string{"permit-pty": ""}
	}
	for _, f := range change {
		f(cert)
	}
	if err := cert.SignCert(rand.Reader, by); err != nil {
		t.Fatal(err)
	}
	return cert
}

// Client is OpenSSH's client with one key, for one host whom one file vouches for.
type Client struct{ Address, Key, Known, Alias string }

// Options are those with which it uses these and nothing else of the machine.
func (c Client) Options() []string {
	_, port, _ := net.SplitHostPort(c.Address)
	return []string{
		"-F", "none", "-i", c.Key, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-o", "Port=" + port, "-o", "LogLevel=ERROR",
		"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + c.Known, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "HostKeyAlias=" + c.Alias,
	}
}

// Result is what came of a program.
type Result struct {
	Out, Err string
	Code     int
}

// Run runs ssh, scp or sftp, with some input.
func (c Client) Run(t testing.TB, program, input string, args ...string) Result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, append(c.Options(), args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SECRET=1")
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	late := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	var exit *exec.ExitError
	err := cmd.Run()
	if !late.Stop() {
		t.Errorf("%s %v does not end: %s %s", program, args, out.String(), errs.String())
	}
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %v: %v", program, args, err)
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// Eventually waits for a condition, which is looked at under a lock.
func Eventually(t testing.TB, lock sync.Locker, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(3 * time.Minute); ; {
		lock.Lock()
		ok := f()
		lock.Unlock()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: not after 3 min", what)
		}
	}
}
