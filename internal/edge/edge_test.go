package edge_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/edge"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/web"
)

const domain = "roadstead.test"

// house is an edge with roles behind it, all on real sockets with real certificates.
type house struct {
	addr     string // of the public side
	internal string
	dir      string
	pool     *x509.CertPool
	log      *roletest.Log
}

// backend runs one role with a handler of the test's.
func backend(t *testing.T, dir, role string, ln net.Listener, h http.Handler) *http.Server {
	t.Helper()
	return roletest.Play(t, filepath.Join(dir, role), ln,
		web.Logged(slog.New(slog.DiscardHandler), func(*http.Request) bool { return true }, h))
}

// open starts an edge in front of the given roles.
func open(t *testing.T, roles map[string]http.Handler) *house {
	t.Helper()
	return openWith(t, roles)
}

// openWith is open with something to do to the edge before it runs.
func openWith(t *testing.T, roles map[string]http.Handler, change ...func(*edge.Server)) *house {
	t.Helper()
	h, peers := prepare(t), map[string]string{}
	for role, handler := range roles {
		ln := roletest.Listen(t)
		peers[role] = ln.Addr().String()
		backend(t, h.dir, role, ln, handler)
	}
	h.run(t, peers, change...)
	return h
}

// prepare makes the directories and certificates of the roles.
func prepare(t *testing.T) *house {
	t.Helper()
	h := &house{dir: t.TempDir(), pool: x509.NewCertPool(), log: &roletest.Log{}}
	if err := pki.NewTestIdentities(h.dir, "edge", "api", "registry", "builder", "dashboard", "parent"); err != nil {
		t.Fatal(err)
	}
	public, err := pki.NewAuthority("public", domain)
	if err != nil {
		t.Fatal(err)
	}
	h.pool.AppendCertsFromPEM(public.PEM())
	leaf, err := public.IssueServer(domain, "*."+domain)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"tls.pem": leaf.Cert, "tls.key": leaf.Key} {
		if err := os.WriteFile(filepath.Join(h.dir, "edge", name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *house) run(t *testing.T, peers map[string]string, change ...func(*edge.Server)) {
	t.Helper()
	pub, internal := roletest.Listen(t), roletest.Listen(t)
	h.addr, h.internal = pub.Addr().String(), internal.Addr().String()
	s, err := edge.New(edge.Config{Dir: filepath.Join(h.dir, "edge"), Site: api.Site{Domain: domain, Port: 443}, Peers: peers}, h.log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(s)
	}
	roletest.Run(t, func(ctx context.Context) error { return s.Run(ctx, pub, internal) })
}

// client speaks HTTP/1.1 or HTTP/2 to the edge, whatever name is asked for.
func (h *house) client(t *testing.T, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: h.pool},
		ForceAttemptHTTP2:  h2,
		DisableCompression: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, h.addr)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"host": r.Host, "uri": r.RequestURI, "header": r.Header, "body": string(body), "peer": pki.PeerRole(r),
		"id": web.RequestID(r.Context()),
	})
}

type echoed struct {
	Host, URI, Body, Peer, ID string
	Header                    http.Header
}

func TestForwardsExactlyAndSaysItselfWhoAsks(t *testing.T) {
	h := open(t, map[string]http.Handler{"api": http.HandlerFunc(echo)})
	for _, h2 := range []bool{false, true} {
		// The form that OData clients send: ";" and unescaped quotes and spaces' escapes in the query, an escaped slash in the path.
		uri := "/v7/device(uuid='a%2Fb')?$expand=x($select=a;$top=1)&$filter=name%20eq%20'q'&a;b"
		req, err := http.NewRequest(http.MethodPost, "https://api."+domain+uri, strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{
			"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "1", "X-Real-Ip": "1.2.3.4",
			"Forwarded": "for=1.2.3.4", web.RequestIDHeader: "forged", "Authorization": "Bearer t", "X-Forwarded-Host": "evil",
		} {
			req.Header.Set(k, v)
		}
		res, err := h.client(t, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var got echoed
		err = json.NewDecoder(res.Body).Decode(&got)
		_ = res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if got.URI != uri || got.Host != "api."+domain || got.Body != "hello" || got.Peer != "edge" {
			t.Errorf("the role saw %+v, want the request as it was sent, from the edge", got)
		}
		for k, want := range map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "", "X-Real-Ip": "",
			"Forwarded": "", "Authorization": "Bearer t", "X-Forwarded-Host": "api." + domain,
		} {
			if v := got.Header.Get(k); v != want {
				t.Errorf("%s = %q at the role, want %q", k, v, want)
			}
		}
		ids := res.Header.Values(web.RequestIDHeader)
		if len(ids) != 1 || ids[0] == "forged" || ids[0] != got.ID {
			t.Errorf("request ids: client got %q, role got %q; want one, the same, not the forged one", ids, got.ID)
		}
		if res.Header.Get("Strict-Transport-Security") == "" {
			t.Error("no Strict-Transport-Security")
		}
	}
}

func TestNamesAndInternalRoutes(t *testing.T) {
	reached := 0
	h := open(t, map[string]http.Handler{
		"api":       http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }),
		"dashboard": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a page") }),
	})
	c := h.client(t, false)
	for _, tt := range []struct {
		url    string
		status int
		body   string
	}{
		{"https://api." + domain + "/internal/v1/users", 404, ""},
		{"https://api." + domain + "/internal", 404, ""},
		{"https://api." + domain + "//internal/v1/users", 404, ""},
		{"https://api." + domain + "/x/../internal/v1/users", 404, ""},
		{"https://api." + domain + "/%69nternal/v1/users", 404, ""},
		{"https://api." + domain + "/x%2F..%2F/../internal/v1/builds", 404, ""},
		{"https://api." + domain + "/healthz", 404, ""},
		{"https://signer." + domain + "/v1/pull-tokens", 404, "There is no such name here"},
		{"https://a.api." + domain + "/", 404, "api." + domain},
		{"https://dashboard." + domain + "/x", 200, "a page"},
		{"https://dashboard." + domain + "/healthz", 404, ""},
		{"https://" + domain + "/", 307, ""},
		{"https://" + domain + "/.well-known/security.txt", 200, "Contact: mailto:security@" + domain},
		{"https://api." + domain + "/.well-known/security.txt", 200, "Canonical: https://api." + domain + "/.well-known/security.txt"},
		{"https://dashboard." + domain + "/.well-known/security.txt", 200, "Contact: mailto:security@" + domain},
		{"https://signer." + domain + "/.well-known/security.txt", 404, "There is no such name here"},
	} {
		req, err := http.NewRequest(http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(req.URL.Host, "a.api.") { // no certificate for it; ask by Host alone
			req.URL.Host, req.Host = "api."+domain, "a.api."+domain
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", tt.url, err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != tt.status || !strings.Contains(string(body), tt.body) {
			t.Errorf("GET %s: %d %.80q, want %d %q", tt.url, res.StatusCode, body, tt.status, tt.body)
		}
	}
	if reached != 0 {
		t.Errorf("the role was reached %d times", reached)
	}
}

// A log stream and a build are the same to the edge: the role answers while the body still comes in, for as long as it lasts.
func TestStreamsBothWaysAtOnce(t *testing.T) {
	h := open(t, map[string]http.Handler{"builder": web.FullDuplex(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		sc := bufio.NewScanner(r.Body)
		_ = http.NewResponseController(w).Flush()
		for sc.Scan() {
			_, _ = fmt.Fprintf(w, "got %s\n", sc.Text())
			_ = http.NewResponseController(w).Flush()
		}
	}))})
	for _, h2 := range []bool{false, true} {
		pr, pw := io.Pipe()
		req, err := http.NewRequest(http.MethodPost, "https://builder."+domain+"/v3/build", pr)
		if err != nil {
			t.Fatal(err)
		}
		res, err := h.client(t, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(res.Body)
		for i := range 5 {
			if _, err := fmt.Fprintf(pw, "line %d\n", i); err != nil {
				t.Fatal(err)
			}
			line, err := in.ReadString('\n')
			if err != nil || line != fmt.Sprintf("got line %d\n", i) {
				t.Fatalf("HTTP/2 %v: read %q, %v", h2, line, err)
			}
		}
		_ = pw.Close()
		if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
			t.Errorf("the end: %q, %v", rest, err)
		}
		_ = res.Body.Close()
	}
}

// A device whose key was revoked goes on sending its log. The role answers; the edge must not wait for the device.
func TestAnAnswerEndsAStreamThatGoesOn(t *testing.T) {
	h := open(t, map[string]http.Handler{"api": web.FullDuplex(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 10))
		web.WriteError(w, api.Errorf(api.Unauthorized, "revoked"))
	}))})
	for _, h2 := range []bool{false, true} {
		pr, pw := io.Pipe()
		go func() { _, _ = io.WriteString(pw, "a line of log\n") }() // and then nothing, without an end
		req, err := http.NewRequest(http.MethodPost, "https://api."+domain+"/device/v2/x/log-stream", pr)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		res, err := h.client(t, h2).Do(req.WithContext(ctx))
		if err != nil {
			t.Fatalf("HTTP/2 %v: %v", h2, err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusUnauthorized || string(body) != `"revoked"` {
			t.Errorf("HTTP/2 %v: %d %s, %v", h2, res.StatusCode, body, err)
		}
		_ = res.Body.Close()
		_ = pw.Close()
		cancel()
	}
}

func TestUpgradePassesThrough(t *testing.T) {
	h := open(t, map[string]http.Handler{"api": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "tcp" {
			t.Errorf("Upgrade = %q", r.Header.Get("Upgrade"))
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "tcp")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("Hijack: %v", err)
			return
		}
		defer func() { _ = conn.Close() }()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString("echo " + line)
		_ = rw.Flush()
	})})
	conn, err := tls.Dial("tcp", h.addr, &tls.Config{RootCAs: h.pool, ServerName: "api." + domain})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = fmt.Fprintf(conn, "GET /x HTTP/1.1\r\nHost: api.%s\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", domain)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("answer: %v, %v", res, err)
	}
	_, _ = io.WriteString(conn, "hi\n")
	if line, err := in.ReadString('\n'); line != "echo hi\n" {
		t.Errorf("read %q, %v", line, err)
	}
}

func TestADeadRoleIsSaidAndARestartedOneIsWaitedFor(t *testing.T) {
	h := &house{dir: t.TempDir(), pool: x509.NewCertPool(), log: &roletest.Log{}}
	ln := roletest.Listen(t)
	outer := open(t, map[string]http.Handler{}) // for its certificates
	h.dir, h.pool = outer.dir, outer.pool
	dead := roletest.Listen(t)
	deadAddr := dead.Addr().String()
	_ = dead.Close()
	h.run(t, map[string]string{"api": ln.Addr().String(), "builder": deadAddr})
	c := h.client(t, false)

	res, err := c.Post("https://builder."+domain+"/v3/build", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	want := `"the builder role is not answering; it is being restarted"`
	if res.StatusCode != http.StatusServiceUnavailable || string(body) != want || res.Header.Get("Retry-After") != "2" {
		t.Errorf("a dead role: %d %s, Retry-After %q; want 503 %s, 2", res.StatusCode, body, res.Header.Get("Retry-After"), want)
	}

	// The role's socket outlives the role: a request made while nobody accepts waits, and is answered by the next process.
	answers := make(chan int, 2)
	for _, method := range []string{http.MethodGet, http.MethodPatch} {
		go func() {
			req, err := http.NewRequest(method, "https://api."+domain+"/", strings.NewReader("{}"))
			if err != nil {
				t.Error(err)
			}
			res, err := c.Do(req)
			if err != nil {
				t.Errorf("%s: %v", method, err)
				answers <- 0
				return
			}
			_ = res.Body.Close()
			answers <- res.StatusCode
		}()
	}
	backend(t, h.dir, "api", ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	for range 2 {
		if got := <-answers; got != 204 {
			t.Errorf("status %d, want 204", got)
		}
	}
}

// A role that is killed leaves dead connections behind. Small requests that meet one are sent again.
func TestKilledRoleIsNotSeenBySmallRequests(t *testing.T) {
	outer := open(t, map[string]http.Handler{}) // for its certificates
	ln := roletest.Listen(t)
	addr := ln.Addr().String()
	file, err := ln.(*net.TCPListener).File() // what the parent holds
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(204)
	})
	first := backend(t, outer.dir, "api", ln, ok)
	h := &house{dir: outer.dir, pool: outer.pool, log: &roletest.Log{}}
	h.run(t, map[string]string{"api": addr})
	c := h.client(t, false)
	for _, method := range []string{http.MethodGet, http.MethodPatch} {
		for range 2 { // the second finds the first's connections closed
			req, err := http.NewRequest(method, "https://api."+domain+"/", strings.NewReader(`{"a":1}`))
			if err != nil {
				t.Fatal(err)
			}
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != 204 {
				t.Errorf("%s: %d", method, res.StatusCode)
			}
			_ = first.Close()
			again, err := net.FileListener(file)
			if err != nil {
				t.Fatal(err)
			}
			first = backend(t, outer.dir, "api", again, ok)
		}
	}
}

func TestTLSAndHeaderBounds(t *testing.T) {
	h := open(t, map[string]http.Handler{"api": http.HandlerFunc(echo)})
	old := &tls.Config{RootCAs: h.pool, ServerName: "api." + domain, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if conn, err := tls.Dial("tcp", h.addr, old); err == nil {
		_ = conn.Close()
		t.Error("TLS 1.1 was accepted")
	}
	weak := &tls.Config{RootCAs: h.pool, ServerName: "api." + domain, MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}
	if conn, err := tls.Dial("tcp", h.addr, weak); err == nil {
		_ = conn.Close()
		t.Error("a cipher without forward secrecy or authentication was accepted")
	}
	res, err := http.Get("http://" + h.addr + "/")
	if err == nil {
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP: %d %s", res.StatusCode, body)
		}
	}
	req, err := http.NewRequest(http.MethodGet, "https://api."+domain+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Big", strings.Repeat("x", 80<<10))
	if res, err := h.client(t, false).Do(req); err == nil {
		_ = res.Body.Close()
		if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("80 KiB of headers: %d", res.StatusCode)
		}
	}
}

func TestHealthIsForRolesAlone(t *testing.T) {
	h := open(t, map[string]http.Handler{"api": http.HandlerFunc(echo)})
	id, err := pki.LoadIdentity(filepath.Join(h.dir, "parent"))
	if err != nil {
		t.Fatal(err)
	}
	peer := id.Client("edge", h.internal)
	res, err := peer.HTTP.Get(peer.URL + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("healthz: %d", res.StatusCode)
	}
	if strings.Contains(h.log.String(), "/healthz") {
		t.Error("health checks are logged")
	}
}

// A certificate that nobody renewed is said, not left for clients to find out.
func TestAnEndedCertificateIsUnhealthy(t *testing.T) {
	outer := open(t, nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ended := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{domain}, NotAfter: time.Date(2020, 2, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, ended, ended, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"tls.pem": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(filepath.Join(outer.dir, "edge", name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := &house{dir: outer.dir, pool: outer.pool, log: &roletest.Log{}}
	h.run(t, nil)
	id, err := pki.LoadIdentity(filepath.Join(h.dir, "parent"))
	if err != nil {
		t.Fatal(err)
	}
	peer := id.Client("edge", h.internal)
	defer peer.HTTP.CloseIdleConnections()
	res, err := peer.HTTP.Get(peer.URL + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "2020-02-01") {
		t.Errorf("healthz: %d %s", res.StatusCode, body)
	}
}

func TestConfigNamesTheField(t *testing.T) {
	good := edge.Config{Dir: "d", Site: api.Site{Domain: domain}}
	if err := good.Validate(); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	for field, change := range map[string]func(*edge.Config){
		"dir": func(c *edge.Config) { c.Dir = "" }, "site.domain": func(c *edge.Config) { c.Site.Domain = "" },
	} {
		bad := good
		change(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("without %s: %v", field, err)
		}
	}
}
