package upstream_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/gitserver/upstream"
)

// names is a name server whose answer to a question may change.
type names func(name string) (address string)

func (n names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() { defer func() { _ = theirs.Close() }(); n.serve(theirs) }()
		return ours, nil
	}}
}

// serve answers questions in the form that DNS has over TCP.
func (n names) serve(conn net.Conn) {
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		raw := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, raw); err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(raw) != nil {
			return
		}
		m.Response, m.Additionals = true, nil
		q := m.Questions[0]
		if q.Type == dnsmessage.TypeA {
			ip := netip.MustParseAddr(n(strings.TrimSuffix(q.Name.String(), ".")))
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: ip.As4()},
			})
		}
		out, err := m.Pack()
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return
		}
	}
}

// serve runs a git that asks what there is, and gives what became of it.
func serve(t *testing.T, w *upstream.Ways, r upstream.Remote) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ours, git := net.Pipe()
	done := make(chan error, 1)
	go func() {
		err := w.Serve(ctx, r, ours)
		_ = ours.Close()
		done <- err
	}()
	in := bufio.NewReader(git)
	if _, err := in.Peek(4); err == nil {
		go func() { _, _ = io.Copy(io.Discard, in) }()
		_, _ = io.WriteString(git, "0014command=ls-refs\n0000")
	}
	err := <-done
	_ = git.Close()
	return err
}

// A name that stands for something else by the time of the second request leads nowhere: each connection is judged where it is made.
func TestANameThatChanges(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Connection", "close") // the next request needs another connection
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		if r.Method == http.MethodPost {
			t.Error("the second request arrived")
		}
		_, _ = io.WriteString(w, "000eversion 2\n0000")
	}))
	srv.Listener = listen(t, "127.0.0.2:0")
	srv.StartTLS()
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	var lookups atomic.Int32
	w, err := upstream.New(upstream.Config{Allow: []string{"127.0.0.2"}, Roots: roots, MaxBytes: 1 << 20, Resolver: names(func(string) string {
		if lookups.Add(1) == 1 {
			return "127.0.0.2"
		}
		return "127.0.0.1"
	}).resolver()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	err = serve(t, w, upstream.Remote{URL: "https://example.com:" + port + "/app.git"}) // the name that the test's certificate has
	if err == nil || !strings.Contains(err.Error(), "not at a public address") || asked.Load() != 1 {
		t.Errorf("got %v after %d requests and %d look-ups", err, asked.Load(), lookups.Load())
	}
}

// Whatever a name stands for, inside is not reached by it: neither over HTTPS nor over SSH, and not a byte is sent there.
func TestNamesOfWhatIsInside(t *testing.T) {
	inside := listen(t, "127.0.0.1:0")
	defer func() { _ = inside.Close() }()
	go func() {
		for {
			conn, err := inside.Accept()
			if err != nil {
				return
			}
			t.Error("something connected")
			_ = conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(inside.Addr().String())
	for _, address := range []string{"127.0.0.1", "10.1.2.3", "169.254.169.254", "100.100.100.200", "0.0.0.0"} {
		w, err := upstream.New(upstream.Config{MaxBytes: 1 << 20, Resolver: names(func(string) string { return address }).resolver()})
		if err != nil {
			t.Fatal(err)
		}
		for _, scheme := range []string{"https://", "ssh://git@"} {
			err := serve(t, w, upstream.Remote{URL: scheme + "git.example.com:" + port + "/app.git", Key: key(t), HostKey: public(t)})
			if err == nil || !strings.Contains(err.Error(), "not at a public address") {
				t.Errorf("%s to %s: got %v", scheme, address, err)
			}
		}
		w.Close()
	}
}

// A host that does not answer, or that stops in the middle, holds nobody up for long; it may be different the next time.
func TestHostsThatSayNothing(t *testing.T) {
	stalled := make(chan struct{})
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			_, _ = io.WriteString(w, "000eversion 2\n0000")
			return
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		_, _ = io.WriteString(w, "0008")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-stalled:
		}
	}))
	defer srv.Close()
	defer close(stalled)
	silent := listen(t, "127.0.0.1:0")
	defer func() { _ = silent.Close() }()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	w, err := upstream.New(upstream.Config{Allow: []string{"127.0.0.1"}, Roots: roots, MaxBytes: 1 << 20, Patience: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for address, words := range map[string]string{
		srv.URL + "/app.git": "has sent nothing for 300ms",
		"ssh://git@" + silent.Addr().String() + "/app.git": "could not be spoken to",
	} {
		err := serve(t, w, upstream.Remote{URL: address, Key: key(t), HostKey: public(t)})
		if api.AsError(err).Code != api.Unavailable || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: got %v, want %q", address, err, words)
		}
	}
}

func TestWhatIsAllowedIsChecked(t *testing.T) {
	for _, bad := range []string{"", "https://git.example.com", "10.0.0.0/99", "a b"} {
		if _, err := upstream.New(upstream.Config{Allow: []string{bad}}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func key(t *testing.T) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

func public(t *testing.T) string {
	t.Helper()
	signer, err := ssh.ParsePrivateKey([]byte(key(t)))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}
