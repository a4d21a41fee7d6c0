package dashboard_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/dashboard"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// street is a dashboard that serves browsers itself, with the api role behind it.
type street struct {
	*house
	addr string
	pool *x509.CertPool
}

func openStreet(t *testing.T) *street {
	t.Helper()
	s := &street{house: newHouse(t), pool: x509.NewCertPool()}
	own := filepath.Join(s.dir, api.RoleDashboard)
	public, err := pki.NewAuthority("public", site.Domain)
	s.must(err)
	s.pool.AppendCertsFromPEM(public.PEM())
	leaf, err := public.IssueServer("dashboard." + site.Domain)
	s.must(err)
	s.must(os.WriteFile(filepath.Join(own, "tls.pem"), leaf.Cert, 0o600))
	s.must(os.WriteFile(filepath.Join(own, "tls.key"), leaf.Key, 0o600))
	role, err := dashboard.New(dashboard.Config{
		Dir: own, Site: site, Peers: map[string]string{api.RoleAPI: s.api}, SecurityContact: "https://example.com/report",
	}, s.log.Logger())
	s.must(err)
	inside, outside := roletest.Listen(t), roletest.Listen(t)
	s.must(role.TakePublic(outside))
	s.addr = outside.Addr().String()
	roletest.Run(t, func(ctx context.Context) error { return role.Run(ctx, inside) })
	return s
}

// client connects as browsers do; a certificate of a role may be shown.
func (s *street) client(role string, h2 bool) *http.Client {
	s.Helper()
	conf := &tls.Config{RootCAs: s.pool}
	if role != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(s.dir, role, "cert.pem"), filepath.Join(s.dir, role, "key.pem"))
		s.must(err)
		conf.Certificates = []tls.Certificate{pair}
	}
	tr := &http.Transport{
		TLSClientConfig: conf, ForceAttemptHTTP2: h2,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.addr)
		},
	}
	s.Cleanup(tr.CloseIdleConnections)
	jar, err := cookiejar.New(nil)
	s.must(err)
	return &http.Client{Transport: tr, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (s *street) ask(c *http.Client, method, path string, form url.Values, headers ...string) answer {
	s.Helper()
	req, err := http.NewRequest(method, "https://dashboard.roadstead.test"+path, strings.NewReader(form.Encode()))
	s.must(err)
	req.Header.Set("X-Forwarded-For", "203.0.113.66") // forged
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", "https://dashboard.roadstead.test")
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		if req.Header.Set(name, value); name == "Host" {
			req.Host = value
		}
	}
	res, err := c.Do(req)
	s.must(err)
	data, err := io.ReadAll(res.Body)
	s.must(err)
	s.must(res.Body.Close())
	return answer{res, string(data)}
}

// A browser that is connected to the role itself signs in and is seen where it is, whatever it says of that.
func TestBrowsersOnConnectionsOfTheirOwn(t *testing.T) {
	s := openStreet(t)
	for _, h2 := range []bool{true, false} {
		c := s.client("", h2)
		page := s.ask(c, "GET", "/login", nil)
		page.want(t, 200, "Log in")
		if page.Proto != map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[h2] || page.Header.Get("Strict-Transport-Security") == "" ||
			!strings.Contains(page.Header.Get("Content-Security-Policy"), "default-src 'none'") || page.Header.Get("X-Request-Id") == "" {
			t.Errorf("the page: %s %v", page.Proto, page.Header)
		}
		form := url.Values{"csrf": {csrfField.FindStringSubmatch(page.text)[1]}, "username": {s.admin.Email}, "password": {s.admin.Password}, "next": {"/account"}}
		s.ask(c, "POST", "/login", form).want(t, 303, "/account")
		account := s.ask(c, "GET", "/account", nil, "X-Request-Id: forged")
		account.want(t, 200, "<td>127.0.0.1</td>")
		if strings.Contains(account.text, "203.0.113.66") || account.Header.Get("X-Request-Id") == "forged" {
			t.Errorf("a header of the browser's was believed: %s", account.text)
		}
	}
	s.ask(s.client("", true), "GET", "/.well-known/security.txt", nil).want(t, 200, "Contact: https://example.com/report\n")
}

// What is for other names, or for roles, is not there: not even with a role's certificate, which nobody asks for.
func TestTheDashboardsOwnDoor(t *testing.T) {
	s := openStreet(t)
	for host, want := range map[string]int{
		"dashboard.roadstead.test": 200, "Dashboard.Roadstead.Test:8443": 200, "dashboard.roadstead.test.": 200, "api.roadstead.test": 421,
		"roadstead.test": 421, "127.0.0.1": 421, "dashboard.roadstead.test.evil.example.com": 421,
	} {
		if a := s.ask(s.client("", false), "GET", "/login", nil, "Host: "+host); a.StatusCode != want {
			t.Errorf("Host %s: got %d, want %d", host, a.StatusCode, want)
		}
	}
	for _, role := range []string{"", api.RoleParent, api.RoleEdge} {
		for _, path := range []string{"/healthz", "/HEALTHZ", "//healthz", "/x/../healthz", "/internal/v1/users"} {
			if a := s.ask(s.client(role, false), "GET", path, nil); a.StatusCode != http.StatusNotFound {
				t.Errorf("certificate %q, %s: got %d, want 404", role, path, a.StatusCode)
			}
		}
	}
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.pool, ServerName: "dashboard.roadstead.test", MaxVersion: tls.VersionTLS11}) //nolint:gosec // too old is the point
	if err == nil {
		_ = conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
}
