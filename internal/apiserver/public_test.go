package apiserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/web"
)

// street is an api role that serves the public itself.
type street struct {
	addr string
	dir  string
	pool *x509.CertPool
}

func openStreet(t *testing.T, bounds ...apiserver.Admission) *street {
	t.Helper()
	s := &street{dir: t.TempDir(), pool: x509.NewCertPool()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	own := filepath.Join(s.dir, api.RoleAPI)
	must(pki.NewTestIdentities(s.dir, api.RoleAPI, api.RoleEdge, api.RoleParent))
	must(os.WriteFile(filepath.Join(own, "pepper"), []byte("0123456789abcdef0123456789abcdef"), 0o600))
	public, err := pki.NewAuthority("public", "roadstead.test")
	must(err)
	s.pool.AppendCertsFromPEM(public.PEM())
	leaf, err := public.IssueServer("api.roadstead.test")
	must(err)
	must(os.WriteFile(filepath.Join(own, "tls.pem"), leaf.Cert, 0o600))
	must(os.WriteFile(filepath.Join(own, "tls.key"), leaf.Key, 0o600))
	cfg := apiserver.Config{
		PasswordCost: password.Cost{Memory: 64, Passes: 1}, Checked: checked.Swap(true),
		Dir: own, Site: api.Site{Domain: "roadstead.test", Port: 8443}, SQL: dbtest.Config(t, apiserver.Migrations()...).DSN,
	}
	for _, cfg.Admission = range bounds {
	}
	srv, err := apiserver.New(cfg, slog.New(slog.DiscardHandler))
	must(err)
	ln, outside := roletest.Listen(t), roletest.Listen(t)
	must(srv.TakePublic(outside))
	s.addr = outside.Addr().String()
	roletest.Run(t, func(ctx context.Context) error { return srv.Run(ctx, ln) })
	return s
}

// client connects as anybody does; a certificate of a role may be shown.
func (s *street) client(t *testing.T, role string) *http.Client {
	t.Helper()
	cfg := &tls.Config{RootCAs: s.pool, ServerName: "api.roadstead.test"}
	if role != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(s.dir, role, "cert.pem"), filepath.Join(s.dir, role, "key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	tr := &http.Transport{
		TLSClientConfig: cfg, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.addr)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func knock(t *testing.T, c *http.Client, method, url, host string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res
}

func TestThePublicsOwnConnections(t *testing.T) {
	s := openStreet(t)
	const base = "https://api.roadstead.test:8443"
	res := knock(t, s.client(t, ""), "GET", base+"/ping", "", web.RequestIDHeader+": forged")
	if res.StatusCode != http.StatusOK || res.Proto != "HTTP/1.1" || res.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("/ping: %s %s %v", res.Proto, res.Status, res.Header)
	}
	if id := res.Header.Get(web.RequestIDHeader); id == "" || id == "forged" {
		t.Errorf("request id %q", id)
	}
	for host, want := range map[string]int{
		"api.roadstead.test": 200, "API.Roadstead.Test:8443": 200, "api.roadstead.test.": 200,
		"registry2.roadstead.test": 421, "roadstead.test": 421, "127.0.0.1": 421, "api.roadstead.test.evil.example.com": 421,
	} {
		if res := knock(t, s.client(t, ""), "GET", base+"/ping", host); res.StatusCode != want {
			t.Errorf("Host %s: %d, want %d", host, res.StatusCode, want)
		}
	}
}

// What roles say to each other is not for the public, not even with a role's certificate.
func TestInternalRoutesAreNotForThePublic(t *testing.T) {
	s := openStreet(t)
	const base = "https://api.roadstead.test"
	for _, role := range []string{"", api.RoleParent, api.RoleEdge} {
		c := s.client(t, role)
		for _, r := range apiserver.Routes() {
			if !r.Internal {
				continue
			}
			method, path := r.Method, strings.NewReplacer("{id}", "1").Replace(r.Path)
			for _, p := range []string{path, strings.ToUpper(path), "/" + path, "/x/.." + path, strings.Replace(path, "/i", "/%69", 1)} {
				if res := knock(t, c, method, base+p, ""); res.StatusCode != http.StatusNotFound {
					t.Errorf("certificate %q: %s %s: %d", role, method, p, res.StatusCode)
				}
			}
		}
	}
}

// Who and where somebody is, the connection says and no header.
func TestForwardedHeadersOfThePublicAreNotBelieved(t *testing.T) {
	s := openStreet(t)
	c := s.client(t, "")
	refused := 0
	for n := range 60 { // each from another address, if one believed the header; the throttle counts addresses
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://api.roadstead.test/login_",
			strings.NewReader(`{"username":"u`+strings.Repeat("x", n)+`","password":"wrong"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Forwarded-For", "192.0.2."+string(rune('0'+n%10)))
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("60 failed logins from one address were never throttled: the X-Forwarded-For header was believed")
	}
}

func TestASlowHeaderEnds(t *testing.T) {
	s := openStreet(t)
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.pool, ServerName: "api.roadstead.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "GET /ping HTTP/1.1\r\nHost: api.road")
	_ = conn.SetReadDeadline(time.Now().Add(15 * time.Second))
	began := time.Now()
	answer, err := io.ReadAll(conn)
	if took := time.Since(began); err != nil || took > 14*time.Second {
		t.Errorf("after %s: %q, %v; want the connection's end after 10 s", took, answer, err)
	}
}

// Connections with nothing to do are bounded: the one that was idle for longest ends when there is one too many.
func TestIdleConnectionsAreBounded(t *testing.T) {
	s := openStreet(t, apiserver.Admission{IdleConnections: 1})
	dial := func() *tls.Conn {
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.pool, ServerName: "api.roadstead.test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = conn.Write([]byte("GET /ping HTTP/1.1\r\nHost: api.roadstead.test\r\n\r\n"))
		if err == nil {
			_, err = conn.Read(make([]byte, 4096))
		}
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	first := dial()
	dial()
	if _, err := io.Copy(io.Discard, first); err != nil {
		t.Errorf("the first connection is still open: %v", err)
	}
}
