package deviceurl_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/vpn/deviceurl"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
)

const (
	open    = "0123456789abcdef0123456789abcdef" // for everybody
	login   = "11111111111111111111111111111111"
	tokened = "22222222222222222222222222222222"
	away    = "33333333333333333333333333333333"
	empty   = "44444444444444444444444444444444" // nothing listens there
	absent  = "99999999999999999999999999999999"
)

// world is the service between an api role that knows some addresses, and one device behind all of them.
type world struct {
	*testing.T
	addr   string
	roots  *x509.CertPool
	device *httptest.Server
	over   atomic.Bool // what is open must end
	asked  atomic.Int64
}

func (w *world) Dial(ctx context.Context, device string, port int) (net.Conn, error) {
	switch {
	case device == away:
		return nil, road.ErrOffline
	case device == empty:
		return nil, road.ErrRefused
	case port != 8080:
		w.Errorf("port %d of %s is dialled", port, device)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", w.device.Listener.Addr().String())
}

// answer is what the api role says.
func (w *world) answer(ask api.ReachRequest) (status int, body any) {
	w.asked.Add(1)
	given := api.ReachPermit{Permit: fmt.Sprint(w.asked.Load()), UUID: ask.UUID, Port: 8080}
	switch {
	case ask.UUID == absent:
		return http.StatusNotFound, ""
	case ask.UUID == login && ask.Visit != "good-visit":
		return http.StatusUnauthorized, api.VisitLogin
	case ask.UUID == tokened && ask.Token != "secret":
		return http.StatusUnauthorized, api.VisitToken
	}
	given.ByToken = ask.UUID == tokened
	return http.StatusOK, given
}

func newWorld(t *testing.T, device http.HandlerFunc) *world {
	w := &world{T: t, device: httptest.NewServer(device)}
	t.Cleanup(w.device.Close)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /internal/reach/permit", func(rw http.ResponseWriter, r *http.Request) {
		var ask api.ReachRequest
		_ = json.NewDecoder(r.Body).Decode(&ask)
		status, body := w.answer(ask)
		rw.WriteHeader(status)
		_ = json.NewEncoder(rw).Encode(body)
	})
	mux.HandleFunc("POST /internal/reach/still", func(rw http.ResponseWriter, r *http.Request) {
		var ask api.ReachStill
		_ = json.NewDecoder(r.Body).Decode(&ask)
		answer := api.ReachEnd{}
		for _, one := range ask.Permits {
			if w.over.Load() {
				answer.End = append(answer.End, api.ReachOver{Permit: one, Why: "it was switched off"})
			}
		}
		_ = json.NewEncoder(rw).Encode(answer)
	})
	mux.HandleFunc("POST /internal/reach/visit", func(rw http.ResponseWriter, r *http.Request) {
		var ask api.ReachVisit
		_ = json.NewDecoder(r.Body).Decode(&ask)
		if ask.Code != "code for "+ask.State {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(rw).Encode(api.ReachVisit{Visit: "good-visit"})
	})
	role := httptest.NewServer(mux)
	t.Cleanup(role.Close)
	ca, err := pki.NewAuthority("test", "roadstead.test")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueServer("devices.roadstead.test", "*.devices.roadstead.test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(leaf.Cert, leaf.Key)
	if err != nil {
		t.Fatal(err)
	}
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(ca.PEM())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	peer := &pki.Peer{URL: role.URL, HTTP: role.Client()}
	permits := permit.New(permit.Config{API: peer, Every: 50 * time.Millisecond})
	s := deviceurl.New(deviceurl.Config{
		Permits: permits, API: peer, Dial: w, Site: api.Site{Domain: "roadstead.test", Port: 443},
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- permits.Run(ctx) }()
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// browser is a client that keeps no connection and follows no redirect.
func (w *world) browser() *http.Client {
	return &http.Client{
		Timeout: 3 * time.Minute,
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: w.roots},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", w.addr)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func at(uuid, path string) string { return "https://" + uuid + ".devices.roadstead.test" + path }

// get sends a request with headers, given in pairs.
func (w *world) get(address string, headers ...string) (*http.Response, string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, address, nil)
	if err != nil {
		w.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	res, err := w.browser().Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, _ := io.ReadAll(res.Body) // what was cut off is seen by what is there
	return res, string(body)
}

// What goes to the device and what comes back is cleaned: no cookie, token or claim of ours or about us reaches it, and nothing that it says
// has an effect beyond its own address.
func TestHeadersAreCleaned(t *testing.T) {
	var seen http.Header
	var host string
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		seen, host = r.Header.Clone(), r.Host
		h := rw.Header()
		h.Set("Strict-Transport-Security", "max-age=99999999; includeSubDomains; preload")
		h.Set("Clear-Site-Data", `"*"`)
		h.Set("Alt-Svc", `h3="evil.example:443"`)
		h.Set("X-App", "kept")
		for _, cookie := range []string{
			"app=1; Path=/; Domain=roadstead.test; Secure", "wide=2; domain = .devices.roadstead.test", "__Host-roadstead-visit=stolen; Path=/; Secure", "__host-roadstead=x",
			"=__Host-roadstead-visit=stolen", "nameless",
		} {
			h.Add("Set-Cookie", cookie)
		}
		h.Set("Location", "http://169.254.169.254/")
		rw.WriteHeader(http.StatusFound)
	})
	res, _ := w.get(at(open, "/page?x=1"), "Cookie", "app=1; __Host-roadstead-visit=v; other=2", "Cookie", "__Host-roadstead=session", "X-Forwarded-For", "1.2.3.4",
		"X_Forwarded_For", "1.2.3.4", "Forwarded", "for=1.2.3.4", "X-Real-Ip", "1.2.3.4", "Roadstead-User", "admin", "Authorization", "Bearer of-the-app", "Upgrade", "h2c", "Connection", "Upgrade, X-Secret", "X-Secret", "1",
		"Te", "trailers", "Proxy-Authorization", "Basic x")
	if res.StatusCode != http.StatusFound || res.Header.Get("Location") != "http://169.254.169.254/" { // it is handed on, and nobody went there
		t.Errorf("a redirect: %d %v", res.StatusCode, res.Header)
	}
	if got := seen.Values("Cookie"); len(got) != 1 || got[0] != "app=1; other=2" {
		t.Errorf("the device saw the cookies %q", got)
	}
	if seen.Get("X-Forwarded-For") != "127.0.0.1" || seen.Get("X-Forwarded-Proto") != "https" || host != open+".devices.roadstead.test" || seen.Get("Authorization") != "Bearer of-the-app" {
		t.Errorf("the device saw %v of %s", seen, host)
	}
	for _, name := range []string{"X_forwarded_for", "X_Forwarded_For", "Forwarded", "X-Real-Ip", "Roadstead-User", "Upgrade", "X-Secret", "Proxy-Authorization"} {
		if _, there := seen[name]; there {
			t.Errorf("the device saw %s", name)
		}
	}
	for _, name := range []string{"Strict-Transport-Security", "Clear-Site-Data", "Alt-Svc"} {
		if res.Header.Get(name) != "" {
			t.Errorf("the visitor saw %s", name)
		}
	}
	if got := strings.Join(res.Header.Values("Set-Cookie"), "|"); got != "app=1; Path=/; Secure|wide=2" || res.Header.Get("X-App") != "kept" {
		t.Errorf("the visitor got the cookies %q", got)
	}
}

// Who opens an address that is off, absent, away, or another's than the connection is for, and what a token does.
func TestWhoOpensAnAddress(t *testing.T) {
	var authorization atomic.Value
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		authorization.Store(r.Header.Get("Authorization"))
		if r.URL.Path == "/huge" {
			rw.Header().Set("X-Huge", strings.Repeat("a", 1<<20))
		}
		_, _ = io.WriteString(rw, "the app")
	})
	for what, tt := range map[string]struct {
		address string
		status  int
		body    string
		headers []string
	}{
		"on":                    {at(open, "/"), 200, "the app", nil},
		"absent":                {at(absent, "/"), 404, "No device has this address", nil},
		"no uuid":               {at("kitchen", "/"), 404, "No device has this address", nil},
		"offline":               {at(away, "/"), 503, "The device is offline", []string{"Accept", "text/html"}},
		"nothing listens":       {at(empty, "/"), 502, "nothing listens on its port 8080", nil},
		"huge headers":          {at(open, "/huge"), 502, "no answer that could be understood", nil},
		"another's connection":  {at(open, "/"), 421, "another address", []string{"Host", login + ".devices.roadstead.test"}},
		"no token":              {at(tokened, "/"), 401, "A token is needed", nil},
		"a wrong token":         {at(tokened, "/"), 401, "A token is needed", []string{"Roadstead-Token", "x"}},
		"a token":               {at(tokened, "/"), 200, "the app", []string{"Roadstead-Token", "secret", "Authorization", "Bearer of-the-app"}},
		"a token in an address": {at(tokened, "/?token=secret&Roadstead-Token=secret"), 401, "A token is needed", nil},
	} {
		res, body := w.get(tt.address, tt.headers...)
		if res.StatusCode != tt.status || !strings.Contains(body, tt.body) {
			t.Errorf("%s: got %d %q", what, res.StatusCode, body)
		}
		if what == "a token" && authorization.Load() != "Bearer of-the-app" {
			t.Errorf("the device saw %q", authorization.Load())
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, at(tokened, "/"), nil)
	req.SetBasicAuth("", "secret")
	res, err := w.browser().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK || authorization.Load() != "" {
		t.Errorf("a token as a password: %d, the device saw %q", res.StatusCode, authorization.Load())
	}
	// One visitor is asked about once, however many requests they send.
	before := w.asked.Load()
	for range 5 {
		w.get(at(open, "/"))
	}
	if n := w.asked.Load() - before; n > 1 {
		t.Errorf("the api role was asked %d times for one visitor", n)
	}
}

// A browser logs in at the dashboard and comes back with a code that is good for it alone; where it comes back to is on this address.
func TestLogin(t *testing.T) {
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "for "+r.Header.Get("Cookie"))
	})
	if res, _ := w.get(at(login, "/data.json")); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("what is no browser: %d", res.StatusCode)
	}
	res, _ := w.get(at(login, "/page?x=1"), "Accept", "text/html")
	to, err := url.Parse(res.Header.Get("Location"))
	if err != nil || res.StatusCode != http.StatusSeeOther || to.Host != "dashboard.roadstead.test" || to.Path != "/device-url/"+login || to.Query().Get("to") != "/page?x=1" {
		t.Fatalf("sent to %v, %v", to, err)
	}
	cookies := res.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || !cookies[0].Secure || cookies[0].Domain != "" || cookies[0].Value == to.Query().Get("state") {
		t.Fatalf("cookies %v", cookies)
	}
	code := url.Values{"code": {"code for " + to.Query().Get("state")}}
	back := func(to, cookie string) *http.Response {
		code.Set("to", to)
		res, _ := w.get(at(login, "/.roadstead/visit?"+code.Encode()), "Cookie", cookie)
		return res
	}
	if res := back("/", ""); res.StatusCode != http.StatusForbidden {
		t.Errorf("another browser: %d", res.StatusCode)
	}
	mine := cookies[0].Name + "=" + cookies[0].Value
	for to, want := range map[string]string{
		"/page?x=1": "/page?x=1", "": "/", "//evil.example": "/", "https://evil.example/": "/", `/\evil.example`: "/", "/%2f/evil.example": "/", "/\t/evil.example": "/",
		"javascript:alert(1)": "/", "/.roadstead/visit?code=x": "/", "evil.example": "/", "///evil.example": "/",
	} {
		if res := back(to, mine); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != want {
			t.Errorf("back to %q: %d %q, want %q", to, res.StatusCode, res.Header.Get("Location"), want)
		}
	}
	var visit string
	for _, c := range back("/page", mine).Cookies() {
		if c.MaxAge > 0 {
			visit = c.Name + "=" + c.Value
			if !strings.HasPrefix(c.Name, "__Host-") || c.Domain != "" || !c.HttpOnly {
				t.Errorf("the cookie %v", c)
			}
		}
	}
	if res, body := w.get(at(login, "/page"), "Cookie", visit+"; app=1"); res.StatusCode != http.StatusOK || body != "for app=1" {
		t.Errorf("after the login: %d %q", res.StatusCode, body)
	}
}

// A WebSocket goes both ways, and what goes on and on ends when the address is switched off.
func TestWhatGoesOnEnds(t *testing.T) {
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "websocket" {
			conn, rest, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\nStrict-Transport-Security: max-age=9\r\n\r\n")
			_, _ = io.Copy(conn, rest)
			return
		}
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := io.WriteString(rw, "and on\n"); err != nil || http.NewResponseController(rw).Flush() != nil {
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	conn, err := tls.Dial("tcp", w.addr, &tls.Config{RootCAs: w.roots, ServerName: open + ".devices.roadstead.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
	_, _ = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s.devices.roadstead.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n", open)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Strict-Transport-Security") != "" {
		t.Fatalf("a WebSocket: %v, %v", res, err)
	}
	_, _ = io.WriteString(conn, "hello\n")
	if line, err := in.ReadString('\n'); line != "hello\n" || err != nil {
		t.Errorf("over the WebSocket came %q, %v", line, err)
	}
	ended := make(chan struct{})
	started := make(chan struct{})
	go func() {
		defer close(ended)
		req, _ := http.NewRequest(http.MethodGet, at(open, "/stream"), nil)
		res, err := w.browser().Do(req)
		close(started)
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}()
	<-started
	began := time.Now()
	w.over.Store(true)
	_, _ = io.Copy(io.Discard, in)
	<-ended
	t.Logf("it was cut after %s", time.Since(began))
}
