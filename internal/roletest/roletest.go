// Package roletest gives the tests of a role what the parent gives the role, a listener and an end, and plays the other roles
// to it over real certificates.
package roletest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/pki"
)

// Log is what a role logs. The test may read it while the role writes.
type Log struct {
	mu  sync.Mutex // covers buf
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String is everything that was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Logger writes to the log.
func (l *Log) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Listen opens a port of its own.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// Run runs a role until the test is over. A role that fails fails the test.
func Run(t testing.TB, run func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the role ended: %v", err)
		}
	})
}

// Play serves a handler under the identity in dir, until the test is over or the server is closed.
func Play(t testing.TB, dir string, ln net.Listener, h http.Handler) *http.Server {
	t.Helper()
	id, err := pki.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h} //nolint:gosec // it serves one test
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(tls.NewListener(ln, id.ServerTLS())) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return srv
}

// Eventually waits until a condition holds. How long it waits says nothing: a test machine may be slow.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	const patience = 5 * time.Minute
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

// Certificate makes one for names and addresses, and says in PEM who vouches for it.
func Certificate(t testing.TB, names ...string) (cert tls.Certificate, root []byte) {
	t.Helper()
	now := time.Now()
	sign := func(tmpl, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(now.UnixNano()), now.Add(-time.Hour), now.AddDate(10, 0, 0)
		if by == nil {
			by = key
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		return key, der
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "test"}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	caKey, caDER := sign(ca, ca, nil)
	key, der := sign(leaf, ca, caKey)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
}

// Inside runs the rest of a test in networks and mounts of its own, where it is the only process; it answers false to the caller that stays outside.
func Inside(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 || os.Getenv("ROADSTEAD_DOCKER_TESTS") != "1" {
		t.Skip("needs root, and ROADSTEAD_DOCKER_TESTS=1")
	}
	if os.Getenv("ROADSTEAD_TEST_INSIDE") != "" {
		return true
	}
	t.Parallel()
	cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
		os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "20m")
	cmd.Env = append(os.Environ(), "ROADSTEAD_TEST_INSIDE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}
