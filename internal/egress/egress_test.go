package egress_test

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/roadstead-io/roadstead/internal/egress"
)

func client(t *testing.T, cfg egress.Config) *http.Client {
	t.Helper()
	c, err := egress.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.HTTP()
}

func get(t *testing.T, c *http.Client, url string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	return string(data), err
}

func TestPublic(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "2606:4700::1111": true, "::ffff:8.8.8.8": true, "172.32.0.1": true, "100.128.0.1": true,
		"127.0.0.1": false, "127.9.9.9": false, "0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "172.16.0.1": false,
		"192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "100.100.100.200": false, "192.0.0.192": false,
		"224.0.0.1": false, "255.255.255.255": false, "240.0.0.1": false, "198.18.0.1": false, "203.0.113.9": false,
		"::1": false, "::": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false,
		"::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "::127.0.0.1": false, "64:ff9b::7f00:1": false,
		"::ffff:0:7f00:1": false, "64:ff9b:1::7f00:1": false, "64:ff9c::1": false, "5f00::1": false, "4000::1": false, "2001::1": false, "3fff::1": false,
		"2002:7f00:1::": false, "2001:db8::1": false, "fec0::1": false,
	} {
		if got := egress.Public(netip.MustParseAddr(text)); got != want {
			t.Errorf("Public(%s): got %v, want %v", text, got, want)
		}
	}
}

// Every spelling of an address of this network, and none of it is sent a byte.
func TestAddressesOfThisNetworkAreRefused(t *testing.T) {
	var reached atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	var connected atomic.Int32
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connected.Add(1)
		}
	}
	srv.StartTLS()
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c := client(t, egress.Config{Roots: roots})
	for _, host := range []string{
		"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "2130706433", "0177.0.0.1", "0x7f.0.0.1", "127.1",
		"0x7f000001", "017700000001", "0.0.0.0", "[::]", "169.254.169.254", "[fe80::1%25lo]", "10.0.0.1", "[64:ff9b::7f00:1]", "127.0.0.1.",
	} {
		if body, err := get(t, c, "https://"+host+":"+port+"/"); err == nil {
			t.Errorf("https://%s: was answered %q", host, body)
		}
	}
	if n := reached.Load() + connected.Load(); n != 0 {
		t.Errorf("the server behind was reached %d times", n)
	}
	// The same server where it is allowed: the refusals above were for the address.
	c = client(t, egress.Config{Roots: roots, Allow: []string{"127.0.0.0/8"}})
	if _, err := get(t, c, "https://127.0.0.1:"+port+"/"); err != nil || reached.Load() != 1 {
		t.Errorf("allowed: %v, reached %d times", err, reached.Load())
	}
}

func TestSchemes(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "plain") }))
	defer srv.Close()
	if _, err := get(t, client(t, egress.Config{}), srv.URL); !errors.Is(err, egress.ErrScheme) {
		t.Errorf("http: %v, want ErrScheme", err)
	}
	if _, err := get(t, client(t, egress.Config{Allow: []string{"10.0.0.0/8"}}), srv.URL); !errors.Is(err, egress.ErrScheme) {
		t.Errorf("http to another than the allowed: %v, want ErrScheme", err)
	}
	if body, err := get(t, client(t, egress.Config{Allow: []string{"127.0.0.1"}}), srv.URL); err != nil || body != "plain" {
		t.Errorf("http to the allowed: %q, %v", body, err)
	}
	for _, url := range []string{"file:///etc/passwd", "ftp://example.com/", "https://u:p@example.com/"} {
		if _, err := get(t, client(t, egress.Config{Allow: []string{"127.0.0.1"}}), url); err == nil {
			t.Errorf("%s was asked", url)
		}
	}
}

func TestRedirects(t *testing.T) {
	var inner atomic.Int32
	metadata := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inner.Add(1) }))
	defer metadata.Close()
	var to string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/end" {
			_, _ = io.WriteString(w, "end")
			return
		}
		http.Redirect(w, r, to, http.StatusFound)
	}))
	defer srv.Close()
	// Reached under a name that is allowed; the addresses that it leads to are not.
	cfg := egress.Config{Allow: []string{"provider.example.com"}, Redirects: 3, Resolver: resolver(t, map[string][]string{"provider.example.com.": {"127.0.0.1"}})}
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	_, port2, _ := net.SplitHostPort(metadata.Listener.Addr().String())
	base := "http://provider.example.com:" + port
	for _, bad := range []string{"http://169.254.169.254/latest/meta-data/", "https://169.254.169.254/", "http://127.0.0.1:" + port2 + "/",
		"https://localhost:" + port2 + "/", "https://2130706433:" + port2 + "/", "http://[::ffff:127.0.0.1]:" + port2 + "/"} {
		to = bad
		if _, err := get(t, client(t, cfg), base+"/"); err == nil {
			t.Errorf("a redirect to %s was followed", bad)
		}
	}
	if inner.Load() != 0 {
		t.Error("the inner server was reached")
	}
	to = base + "/end"
	if body, err := get(t, client(t, cfg), base+"/"); err != nil || body != "end" {
		t.Errorf("a good redirect: %q, %v", body, err)
	}
	to = base + "/again"
	if _, err := get(t, client(t, cfg), base+"/"); !errors.Is(err, egress.ErrRedirect) {
		t.Errorf("a circle: %v, want ErrRedirect", err)
	}
	cfg.Redirects, to = 0, base+"/end"
	if _, err := get(t, client(t, cfg), base+"/"); !errors.Is(err, egress.ErrRedirect) {
		t.Errorf("a redirect where none is followed: %v, want ErrRedirect", err)
	}
}

// A name with a public address and one of ours: the one of ours is never tried, whichever comes first.
func TestNamesWithMixedAddresses(t *testing.T) {
	var reached atomic.Int32
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	names := map[string][]string{
		"inside.example.com.": {"127.0.0.1"},
		"mixed.example.com.":  {"198.51.100.7", "127.0.0.1", "::1", "::ffff:127.0.0.1"},
		"meta.example.com.":   {"169.254.169.254"},
	}
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c := client(t, egress.Config{Roots: roots, Resolver: resolver(t, names), Timeout: 5 * time.Second})
	for name := range names {
		_, err := get(t, c, "https://"+strings.TrimSuffix(name, ".")+":"+port+"/")
		if !errors.Is(err, egress.ErrAddress) {
			t.Errorf("%s: %v, want ErrAddress", name, err)
		}
	}
	if reached.Load() != 0 {
		t.Error("the inner server was reached")
	}
}

func TestBounds(t *testing.T) {
	hold := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/known":
			w.Header().Set("Content-Length", "2000")
			_, _ = w.Write(make([]byte, 2000))
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 500)); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
			}
		case "/fits":
			_, _ = w.Write(make([]byte, 1000))
		case "/slow":
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		}
	}))
	defer srv.Close()
	cfg := egress.Config{Allow: []string{"127.0.0.1"}, MaxBody: 1000, Timeout: 300 * time.Millisecond, Concurrent: 1}
	c := client(t, cfg)
	for _, path := range []string{"/known", "/endless"} {
		if _, err := get(t, c, srv.URL+path); !errors.Is(err, egress.ErrTooLarge) {
			t.Errorf("%s: %v, want ErrTooLarge", path, err)
		}
	}
	if body, err := get(t, c, srv.URL+"/fits"); err != nil || len(body) != 1000 {
		t.Errorf("/fits: %d bytes, %v", len(body), err)
	}
	began := time.Now()
	if _, err := get(t, c, srv.URL+"/slow"); err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("/slow: %v after %s", err, time.Since(began))
	}
	// One at a time: the second waits for a place until its own time is over.
	c = client(t, egress.Config{Allow: []string{"127.0.0.1"}, Concurrent: 1, Timeout: 10 * time.Second})
	started := make(chan error, 1)
	go func() { _, err := get(t, c, srv.URL+"/slow"); started <- err }()
	deadline := time.Now().Add(5 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/fits", nil)
		res, err := c.Do(req)
		cancel()
		if err != nil {
			break
		}
		_ = res.Body.Close()
		if time.Now().After(deadline) {
			t.Fatal("the second request never had to wait")
		}
	}
	close(hold)
	if err := <-started; err != nil {
		t.Error(err)
	}
	if _, err := get(t, c, srv.URL+"/fits"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A proxy of the environment would go where it likes.
func TestNoProxyOfTheEnvironment(t *testing.T) {
	var proxied atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Add(1) }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	c := client(t, egress.Config{Resolver: resolver(t, map[string][]string{"far.example.com.": {"10.9.9.9"}})})
	if _, err := get(t, c, "https://far.example.com/"); !errors.Is(err, egress.ErrAddress) {
		t.Errorf("got %v, want ErrAddress", err)
	}
	if proxied.Load() != 0 {
		t.Error("the proxy was asked")
	}
}

func TestAllowIsRead(t *testing.T) {
	for _, bad := range []string{"", "10.0.0.0/99", "http://x", "*.example.com", "a b"} {
		if _, err := egress.New(egress.Config{Allow: []string{bad}}); err == nil {
			t.Errorf("allow %q was taken", bad)
		}
	}
}

// resolver asks a name server of the test's own.
func resolver(t *testing.T, names map[string][]string) *net.Resolver {
	t.Helper()
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() { defer func() { _ = theirs.Close() }(); answer(theirs, names) }()
		return ours, nil
	}}
}

// answer serves questions on a connection in the form that DNS has over TCP.
func answer(conn net.Conn, names map[string][]string) {
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
		m.Response = true
		m.Additionals = nil
		q := m.Questions[0]
		list, known := names[q.Name.String()]
		if !known {
			m.RCode = dnsmessage.RCodeNameError
		}
		for _, text := range list {
			ip := netip.MustParseAddr(text)
			h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
			switch {
			case q.Type == dnsmessage.TypeA && ip.Is4():
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
			case q.Type == dnsmessage.TypeAAAA && ip.Is6():
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
			}
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
