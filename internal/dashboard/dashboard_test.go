package dashboard_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/dashboard"
	"github.com/roadstead-io/roadstead/internal/dashboard/devices"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

var site = api.Site{Domain: "roadstead.test", Port: 443}

// house is the dashboard and the api role behind it, both real.
type house struct {
	testing.TB
	dir, pages, api string
	admin           api.Admin
	log             *roletest.Log
}

func newHouse(t testing.TB) *house {
	t.Helper()
	return newHouseWith(t, "", devices.Limits{}, nil)
}

// newHouseWith has a signer at an address, and a vpn role, which prepare starts once there are identities.
func newHouseWith(t testing.TB, signer string, limits devices.Limits, prepare func(h *house, apiAddr string) (vpn string)) *house {
	t.Helper()
	h := &house{TB: t, dir: t.TempDir(), log: &roletest.Log{}}
	h.must(pki.NewTestIdentities(h.dir, api.RoleAPI, api.RoleDashboard, api.RoleEdge, api.RoleParent, api.RoleBuilder, api.RoleAdmin, api.RoleSigner, api.RoleVPN))
	h.must(os.WriteFile(filepath.Join(h.dir, api.RoleAPI, "pepper"), []byte("0123456789abcdef0123456789abcdef"), 0o600))
	h.must(dashboard.NewKey(filepath.Join(h.dir, api.RoleDashboard, dashboard.KeyFile)))
	dbtest.File(t, filepath.Join(h.dir, api.RoleAPI, "roadstead.db"), apiserver.Migrations()...)
	behind := roletest.Listen(t)
	h.api = behind.Addr().String()
	peers := map[string]string{api.RoleAPI: h.api}
	if prepare != nil {
		peers[api.RoleVPN] = prepare(h, h.api)
	}
	apiPeers := map[string]string{}
	if signer != "" {
		apiPeers[api.RoleSigner] = signer
	}
	srv, err := apiserver.New(apiserver.Config{
		Peers:        apiPeers,
		PasswordCost: password.Cost{Memory: 64, Passes: 1}, Checked: true, Dir: filepath.Join(h.dir, api.RoleAPI), Site: site, PollInterval: time.Minute,
		Channel: api.ChannelSite{Host: "cloudlink.roadstead.test", Port: 443},
	}, h.log.Logger())
	h.must(err)
	roletest.Run(t, func(ctx context.Context) error { return srv.Run(ctx, behind) })
	pages, err := dashboard.New(dashboard.Config{
		Dir: filepath.Join(h.dir, api.RoleDashboard), Site: site, Peers: peers, Terminals: limits,
	}, h.log.Logger())
	h.must(err)
	front := roletest.Listen(t)
	h.pages = front.Addr().String()
	roletest.Run(t, func(ctx context.Context) error { return pages.Run(ctx, front) })

	parent := h.peer(api.RoleParent, api.RoleAPI, h.api)
	res, err := parent.HTTP.Post(parent.URL+"/internal/v1/bootstrap", "application/json", nil)
	h.must(err)
	h.must(json.NewDecoder(res.Body).Decode(&h.admin))
	h.must(res.Body.Close())
	return h
}

func (h *house) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *house) peer(as, role, addr string) *pki.Peer {
	h.Helper()
	id, err := pki.LoadIdentity(filepath.Join(h.dir, as))
	h.must(err)
	peer := id.Client(role, addr)
	h.Cleanup(peer.HTTP.CloseIdleConnections)
	return peer
}

// browser comes through the edge, as far as the role can tell. It keeps cookies as browsers do and runs no script.
type browser struct {
	*house
	peer    *pki.Peer
	jar     http.CookieJar
	address string
}

func (h *house) browser() *browser {
	h.Helper()
	jar, err := cookiejar.New(nil)
	h.must(err)
	return &browser{house: h, peer: h.peer(api.RoleEdge, api.RoleDashboard, h.pages), jar: jar, address: "192.0.2.44"}
}

// answer is a page, read whole.
type answer struct {
	*http.Response
	text string
}

var dashboardURL, _ = url.Parse("https://dashboard.roadstead.test/")

func (b *browser) do(method, path string, form url.Values, headers ...string) answer {
	b.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, b.peer.URL+path, body)
	b.must(err)
	req.Host = "dashboard.roadstead.test"
	req.Header.Set("User-Agent", "a test's browser")
	req.Header.Set("X-Forwarded-For", b.address)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", "https://dashboard.roadstead.test")
	}
	for _, c := range b.jar.Cookies(dashboardURL) {
		req.AddCookie(c)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	res, err := b.peer.HTTP.Do(req)
	b.must(err)
	data, err := io.ReadAll(res.Body)
	b.must(err)
	b.must(res.Body.Close())
	b.jar.SetCookies(dashboardURL, res.Cookies())
	return answer{res, string(data)}
}

func (b *browser) get(path string) answer { b.Helper(); return b.do("GET", path, nil) }

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// send fills in the form of a page and sends it.
func (b *browser) send(page, action string, fields ...string) answer {
	b.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	if m := csrfField.FindStringSubmatch(b.get(page).text); m != nil {
		form.Set("csrf", m[1])
	}
	return b.do("POST", action, form)
}

func (b *browser) login() answer {
	b.Helper()
	return b.send("/login?next=/account", "/login", "username", b.admin.Email, "password", b.admin.Password, "next", "/account")
}

func (a answer) want(t testing.TB, status int, text string) {
	t.Helper()
	where := a.text + " → " + a.Header.Get("Location")
	if a.StatusCode != status || !strings.Contains(where, text) {
		t.Errorf("%s %s: got %d %s, want %d with %q", a.Request.Method, a.Request.URL.Path, a.StatusCode, where, status, text)
	}
}

func TestLogInAndOut(t *testing.T) {
	h := newHouse(t)
	b := h.browser()
	b.get("/").want(t, 303, "/login?next=%2F")
	b.send("/login", "/login", "username", h.admin.Email, "password", "wrong").want(t, 401, "Wrong e-mail address")
	b.get("/account").want(t, 303, "/login?next=%2Faccount")
	b.login().want(t, 303, "/account")
	b.get("/").want(t, 200, "no fleet yet")
	b.get("/account").want(t, 200, "192.0.2.44") // where the session comes from, not where the dashboard is
	// What the browser keeps is nobody's token.
	for _, c := range b.jar.Cookies(dashboardURL) {
		req, err := http.NewRequest(http.MethodGet, h.peer(api.RoleEdge, api.RoleAPI, h.api).URL+"/user/v1/whoami", nil)
		h.must(err)
		req.Header.Set("Authorization", "Bearer "+c.Value)
		res, err := h.peer(api.RoleEdge, api.RoleAPI, h.api).HTTP.Do(req)
		h.must(err)
		h.must(res.Body.Close())
		if res.StatusCode != http.StatusUnauthorized || strings.Count(c.Value, ".") == 2 {
			t.Errorf("the cookie %s is a token: %d", c.Name, res.StatusCode)
		}
	}
	// Revoked elsewhere, it ends here.
	other := h.browser()
	other.login().want(t, 303, "/account")
	id := regexp.MustCompile(`/account/sessions/(\d+)/end`).FindStringSubmatch(other.get("/account").text)
	if id == nil {
		t.Fatal("the first session is not listed")
	}
	other.send("/account", id[0]).want(t, 303, "done=ended")
	b.get("/account").want(t, 303, "/login")
	other.send("/account", "/logout").want(t, 303, "/login")
	other.get("/account").want(t, 303, "/login")
	if log := h.log.String(); strings.Contains(log, h.admin.Password) || strings.Contains(log, "eyJ") {
		t.Error("a password or a token is in the log")
	}
}

func TestHeadersAndCookies(t *testing.T) {
	h := newHouse(t)
	b := h.browser()
	for _, path := range []string{"/login", "/", "/nowhere", "/forgot", "/reset", "/invite/org", "/static/style.css", "/static/pages.js"} {
		a := b.get(path)
		csp := a.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy %q lacks %s", path, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") {
			t.Errorf("%s: %q", path, csp)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"} {
			if a.Header.Get(name) != want {
				t.Errorf("%s: %s is %q", path, name, a.Header.Get(name))
			}
		}
		if !strings.HasPrefix(path, "/static/") && a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be kept: %q", path, a.Header.Get("Cache-Control"))
		}
		if strings.Contains(a.text, "<script>") || regexp.MustCompile(`\son[a-z]+=|style=`).MatchString(a.text) {
			t.Errorf("%s: something inline", path)
		}
	}
	for _, c := range b.login().Cookies() {
		if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("cookie %+v", c)
		}
	}
}

// Who logs in while a session is there has one afterwards, not two of which one is in no cookie any more.
func TestALoginTakesThePlaceOfASession(t *testing.T) {
	h := newHouse(t)
	b := h.browser()
	b.login().want(t, 303, "/account")
	b.send("/account", "/login", "username", b.admin.Email, "password", b.admin.Password, "next", "/account").want(t, 303, "/account")
	if n := strings.Count(b.get("/account").text, "<td>192.0.2.44</td>"); n != 1 {
		t.Errorf("%d sessions are listed, want 1", n)
	}
}

// Only the edge brings browsers, and a form counts only when it is one of this browser's.
func TestWhoIsLetIn(t *testing.T) {
	h := newHouse(t)
	for _, role := range []string{api.RoleAPI, api.RoleParent, api.RoleBuilder, api.RoleDashboard} {
		peer := h.peer(role, api.RoleDashboard, h.pages)
		for path, want := range map[string]int{"/login": 403, "/static/style.css": 403, "/healthz": 200} {
			res, err := peer.HTTP.Get(peer.URL + path)
			h.must(err)
			h.must(res.Body.Close())
			if res.StatusCode != want {
				t.Errorf("%s asks for %s: %d, want %d", role, path, res.StatusCode, want)
			}
		}
	}
	b, other := h.browser(), h.browser()
	good := url.Values{"username": {h.admin.Email}, "password": {h.admin.Password}}
	token := func(b *browser) string { return csrfField.FindStringSubmatch(b.get("/login").text)[1] }
	mine, theirs := token(b), token(other)
	for what, send := range map[string]func() answer{
		"no token":        func() answer { return b.do("POST", "/login", good) },
		"another's token": func() answer { return b.do("POST", "/login", with(good, "csrf", theirs)) },
		"from another site": func() answer {
			return b.do("POST", "/login", with(good, "csrf", mine), "Origin: https://evil.example.com")
		},
		"a sibling's site":       func() answer { return b.do("POST", "/login", with(good, "csrf", mine), "Sec-Fetch-Site: same-site") },
		"the token in the query": func() answer { return b.do("POST", "/login?csrf="+mine, good) },
	} {
		a := send()
		a.want(t, 403, "out of date")
		for _, c := range a.Cookies() {
			if c.Name == "__Host-roadstead" {
				t.Errorf("%s: a session was opened", what)
			}
		}
	}
	b.do("POST", "/login", with(good, "csrf", mine)).want(t, 303, "/")
	// Another role's key, or a changed cookie, opens nothing.
	for _, value := range []string{"", "x", strings.Repeat("A", 80)} {
		c := h.browser()
		c.jar.SetCookies(dashboardURL, []*http.Cookie{{Name: "__Host-roadstead", Value: value, Secure: true, Path: "/"}})
		c.get("/account").want(t, 303, "/login")
	}
}

func with(form url.Values, name, value string) url.Values {
	out := url.Values{name: {value}}
	for k, v := range form {
		out[k] = v
	}
	return out
}

func TestNextStaysHere(t *testing.T) {
	h := newHouse(t)
	for _, next := range []string{"https://evil.example.com/", "//evil.example.com", "/\\evil.example.com", "javascript:alert(1)", "evil", "/\t/evil.example.com", "\\\\evil"} {
		b := h.browser()
		a := b.send("/login", "/login", "username", h.admin.Email, "password", h.admin.Password, "next", next)
		if to := a.Header.Get("Location"); a.StatusCode != 303 || to != "/" {
			t.Errorf("next %q leads to %q", next, to)
		}
	}
}

func TestAuthorizeACommandLine(t *testing.T) {
	h := newHouse(t)
	b := h.browser()
	const back = "http://127.0.0.1:8989/auth"
	path := "/login/cli/" + strings.ReplaceAll(url.PathEscape(back), "%", "%25") // as the balena CLI writes it
	path = strings.ReplaceAll(path, ":", "%253A")
	b.get(path).want(t, 303, "/login?next=%2Flogin%2Fcli%2F")
	b.login()
	page := b.get(path)
	page.want(t, 200, "127.0.0.1:8989")
	if strings.Contains(page.text, "eyJ") {
		t.Error("a token before anybody pressed the button")
	}
	done := b.send(path, "/login/cli", "callback", back)
	done.want(t, 200, `action="`+back+`"`)
	if csp := done.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "form-action "+back+";") {
		t.Errorf("the policy: %s", csp)
	}
	m := regexp.MustCompile(`name="token" value="([^"]+)"`).FindStringSubmatch(done.text)
	if m == nil {
		t.Fatalf("no token: %s", done.text)
	}
	edge := h.peer(api.RoleEdge, api.RoleAPI, h.api)
	req, err := http.NewRequest(http.MethodGet, edge.URL+"/user/v1/whoami", nil)
	h.must(err)
	req.Header.Set("Authorization", "Bearer "+m[1])
	res, err := edge.HTTP.Do(req)
	h.must(err)
	h.must(res.Body.Close())
	if res.StatusCode != http.StatusOK {
		t.Errorf("the token: %d", res.StatusCode)
	}
	b.get("/account").want(t, 200, "command line, authorized in")
	for _, bad := range []string{
		"https://evil.example.com/", "http://evil.example.com:80/", "https://127.0.0.1:8989/auth", "http://127.0.0.1/auth", "http://127.0.0.1:0/",
		"http://127.0.0.1:8989@evil.example.com:80/", "http://user@127.0.0.1:8989/", "javascript:alert(1)", "http://127.0.0.1.evil.example.com:80/", "",
		"http://0.0.0.0:8989/", "http://127.0.0.1:99999/", "//127.0.0.1:80/", "http://127.0.0.1:80/; form-action *", "http://localhost.:80/", "http://[::1]:80/",
	} {
		b.send(path, "/login/cli", "callback", bad).want(t, 400, "not one of this computer")
		b.get("/login/cli/"+url.PathEscape(url.PathEscape(bad)+" ")).want(t, 400, "not")
	}
	b.do("POST", "/login/cli", url.Values{"callback": {back}}).want(t, 403, "out of date")
}

// A program's code: typed, looked at, approved; the program gets a session.
func TestApproveADevice(t *testing.T) {
	h := newHouse(t)
	edge := h.peer(api.RoleEdge, api.RoleAPI, h.api)
	post := func(path, body string, into any) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, edge.URL+path, bytes.NewReader([]byte(body)))
		h.must(err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("X-Forwarded-For", "198.51.100.77")
		res, err := edge.HTTP.Do(req)
		h.must(err)
		defer func() { _ = res.Body.Close() }()
		h.must(json.NewDecoder(res.Body).Decode(into))
		return res.StatusCode
	}
	var code api.DeviceCode
	post("/auth/v1/device/code", "client_id=<b>a+program</b>", &code)
	b := h.browser()
	b.get("/device").want(t, 303, "/login")
	b.login()
	b.send("/device", "/device", "code", "BBBB-BBBB").want(t, 303, "/device?code=BBBB-BBBB")
	b.get("/device?code=BBBB-BBBB").want(t, 404, "nobody waits")
	b.get("/device?code="+code.UserCode).want(t, 200, "198.51.100.77")
	b.get("/device?code="+code.UserCode).want(t, 200, "&lt;b&gt;a program")
	b.send("/device", "/device", "code", code.UserCode, "answer", "approve").want(t, 200, "signed in as you")
	var token api.DeviceToken
	if status := post("/auth/v1/device/token", "grant_type=urn:ietf:params:oauth:grant-type:device_code&device_code="+code.DeviceCode, &token); status != 200 || token.AccessToken == "" {
		t.Errorf("the program got %d %+v", status, token)
	}
	if status := post("/auth/v1/device/token", "device_code="+code.DeviceCode, &token); status != 400 || token.Error != api.DeviceExpired {
		t.Errorf("and once more: %d %+v", status, token)
	}
}

// What is not ours, or breaks, is shown as a page that tells nothing.
func TestErrors(t *testing.T) {
	h := newHouse(t)
	b := h.browser()
	b.login()
	b.get("/nowhere").want(t, 404, "no such page")
	b.get("/login/callback/corp?code=x&state=y").want(t, 403, "not begun in this browser")
	b.send("/account", "/account/sessions/1%2F..%2F..%2Fx/end").want(t, 404, "no such thing")
	b.send("/account", "/account/password", "current", "x", "new", "one", "again", "two").want(t, 400, "not the same")
	b.do("POST", "/login", url.Values{"username": {strings.Repeat("x", 100_000)}}).want(t, 400, "cannot be read")
	b.send("/invite/org", "/invite/org", "token", "nonsense").want(t, 404, "")
	c := h.browser()
	c.send("/invite/org", "/invite/org", "token", "nonsense").want(t, 303, "/login?next=%2Finvite%2Forg")
	c.get("/invite/org").want(t, 200, `value="nonsense"`)
	c.get("/invite/other").want(t, 404, "")
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	for want, cfg := range map[string]dashboard.Config{
		"dir": {}, "site.domain": {Dir: dir}, "peers.api": {Dir: dir, Site: site},
		"terminals.per_user": {Dir: dir, Site: site, Peers: map[string]string{api.RoleAPI: "x"}, Terminals: devices.Limits{PerUser: -1}},
		"identity":           {Dir: dir, Site: site, Peers: map[string]string{api.RoleAPI: "x"}},
	} {
		if _, err := dashboard.New(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want it to speak of %s", cfg, err, want)
		}
	}
}
