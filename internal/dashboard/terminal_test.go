package dashboard_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/agent/shell"
	"github.com/roadstead-io/roadstead/internal/dashboard/devices"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
	"github.com/roadstead-io/roadstead/internal/vpn/tunnel"
	"github.com/roadstead-io/roadstead/internal/web"
)

// harbour is a yard with a real signer, the real tunnel service and the SSH server of a real agent; only OpenVPN between them is not there.
type harbour struct {
	*yard
	device api.Registered
	cut    atomic.Bool            // the way to the device
	vpn    string                 // where the vpn role listens
	sshd   atomic.Pointer[string] // where the device's SSH server listens
}

// Dial is the road to the one device.
func (h *harbour) Dial(ctx context.Context, uuid string, port int) (net.Conn, error) {
	at := h.sshd.Load()
	if at == nil || uuid != string(h.device.UUID) || port != api.PortSSH {
		return nil, road.ErrOffline
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", *at)
	return &wire{Conn: conn, cut: &h.cut}, err
}

// wire is a connection that carries nothing once it is cut, and says nothing of it.
type wire struct {
	net.Conn
	cut *atomic.Bool
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	for err == nil && w.cut.Load() {
		n, err = w.Conn.Read(p)
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	if w.cut.Load() {
		return len(p), nil
	}
	return w.Conn.Write(p)
}

func newHarbour(t *testing.T, limits devices.Limits) *harbour {
	t.Helper()
	h := &harbour{}
	signs := roletest.Listen(t)
	house := newHouseWith(t, signs.Addr().String(), limits, func(house *house, apiAddr string) string {
		dir := filepath.Join(house.dir, api.RoleSigner)
		for file, create := range map[string]func(string) error{
			signer.KeyFile: signer.NewKey, signer.AuditKeyFile: signer.NewAuditKey, signer.StatementKeyFile: signer.NewStatementKey, signer.ChannelCAFile: signer.NewChannelAuthority,
			signer.TrustKeyFile: signer.NewTrustKey,
		} {
			house.must(create(filepath.Join(dir, file)))
		}
		s, err := signer.New(signer.Config{Dir: dir, Site: site, Peers: map[string]string{api.RoleAPI: apiAddr}}, house.log.Logger())
		house.must(err)
		roletest.Run(t, func(ctx context.Context) error { return s.Run(ctx, signs) })

		id, err := pki.LoadIdentity(filepath.Join(house.dir, api.RoleVPN))
		house.must(err)
		permits := permit.New(permit.Config{API: id.Client(api.RoleAPI, apiAddr), Log: house.log.Logger(), Every: 50 * time.Millisecond})
		roletest.Run(t, permits.Run)
		tunnels := tunnel.New(tunnel.Config{Permits: permits, Dial: h, Log: house.log.Logger()})
		ln := roletest.Listen(t)
		roletest.Run(t, func(ctx context.Context) error {
			conf := id.ServerTLS()
			conf.NextProtos = append([]string{api.TunnelProtocol}, conf.NextProtos...)
			srv := &http.Server{Handler: http.NotFoundHandler(), TLSConfig: conf, TLSNextProto: tunnels.Roles(ctx), ReadHeaderTimeout: time.Minute}
			return web.Serve(ctx, srv, func() error { return srv.ServeTLS(ln, "", "") }, time.Second)
		})
		h.vpn = ln.Addr().String()
		return h.vpn
	})
	h.yard = newYardIn(house)
	h.device = h.yard.device(1, "kitchen")
	h.enterable(t)
	return h
}

// enterable starts the SSH server of the device's agent.
func (h *harbour) enterable(t *testing.T) {
	t.Helper()
	docker, err := engine.New("unix:///nonexistent/docker.sock")
	h.must(err)
	s, err := shell.New(shell.Config{
		StateDir: t.TempDir(), RunDir: t.TempDir(), UUID: h.device.UUID, Key: func() string { return h.device.APIKey }, Server: agentSide{h}, Engine: docker,
		Log: slog.New(slog.DiscardHandler), Every: 50 * time.Millisecond,
	})
	h.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	h.must(err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	h.must(err)
	var made api.ChannelIdentity
	h.ask(h.device.APIKey, "POST", "/device/v3/channel", api.ChannelCertify{
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), SSHHostKey: s.HostKey(),
	}, &made)
	h.must(s.Trust(made.SSHUserCA, made.SSHHostCertificate))
	ln := roletest.Listen(t)
	at := ln.Addr().String()
	h.sshd.Store(&at)
	roletest.Run(t, func(ctx context.Context) error { return s.Serve(ctx, ln) })
	h.exec(`UPDATE device SET is_connected_to_vpn = 1`)
}

// agentSide is how the agent talks to the server.
type agentSide struct{ h *harbour }

func (a agentSide) call(path, key string, in, out any) error {
	status, text := a.h.asked(key, "POST", "/device/v3/ssh/"+path, in)
	if status/100 != 2 {
		return &api.Error{Code: api.CodeOf(status), Text: text}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal([]byte(text), out)
}

func (a agentSide) SSHKey(_ context.Context, key string, ask api.SSHKeyAsk) (out api.SSHKeyAnswer, err error) {
	return out, a.call("key", key, ask, &out)
}

func (a agentSide) SSHBegin(_ context.Context, key string, ask api.SSHBegin) (out api.SSHBegun, err error) {
	return out, a.call("begin", key, ask, &out)
}

func (a agentSide) SSHStill(_ context.Context, key string, ask api.SSHStill) (out api.SSHStill, err error) {
	return out, a.call("still", key, ask, &out)
}
func (a agentSide) SSHEnd(_ context.Context, told api.SSHProgress) error {
	return a.call("end", "", told, nil)
}
func (agentSide) SSHRecording(context.Context, int64, string, []byte) error { return nil }

// window is a terminal in a browser.
type window struct {
	*harbour
	conn *websocket.Conn
	text strings.Builder // what it has shown
	end  string          // how it ended, once it has
}

// patience is long: a machine may do much before its shell says anything.
const patience = 3 * time.Minute

// dial opens a WebSocket as a browser's page does.
func (b *browser) dial(query string, headers ...string) (*websocket.Conn, *http.Response, error) {
	b.Helper()
	h := http.Header{"Origin": {"https://dashboard.roadstead.test"}, "X-Forwarded-For": {b.address}}
	for _, c := range b.jar.Cookies(dashboardURL) {
		h.Add("Cookie", c.Name+"="+c.Value)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		if h.Del(name); value != "" {
			h.Set(name, value)
		}
	}
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	return websocket.Dial(ctx, strings.Replace(b.peer.URL, "https:", "wss:", 1)+query, &websocket.DialOptions{HTTPClient: b.peer.HTTP, Host: "dashboard.roadstead.test", HTTPHeader: h})
}

func (h *harbour) window(b *browser, service string) *window {
	h.Helper()
	conn, _, err := b.dial(h.socket(service))
	h.must(err)
	conn.SetReadLimit(1 << 20)
	h.Cleanup(func() { _ = conn.CloseNow() })
	return &window{harbour: h, conn: conn}
}

func (h *harbour) socket(service string) string {
	return "/devices/" + string(h.device.UUID) + "/terminal/socket?cols=80&rows=24&service=" + service
}

func (w *window) send(kind websocket.MessageType, text string) {
	w.Helper()
	w.must(w.conn.Write(w.Context(), kind, []byte(text)))
}

// key types.
func (w *window) key(text string) { w.Helper(); w.send(websocket.MessageBinary, text) }

// next takes one message; false: the terminal has ended.
func (w *window) next() bool {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	kind, data, err := w.conn.Read(ctx)
	if err != nil {
		if ctx.Err() != nil {
			w.Fatalf("nothing more comes; so far: %q", w.text.String())
		}
		return false
	}
	if kind == websocket.MessageBinary {
		w.text.Write(data)
		return true
	}
	var told struct {
		Open bool
		End  string
	}
	w.must(json.Unmarshal(data, &told))
	w.end += told.End
	return true
}

// shows waits for a text.
func (w *window) shows(text string) {
	w.Helper()
	for !strings.Contains(w.text.String(), text) {
		if !w.next() {
			w.Fatalf("it ended (%s) without %q: %q", w.end, text, w.text.String())
		}
	}
}

// ends waits for the end, and what is said of it.
func (w *window) ends(why string) {
	w.Helper()
	for w.next() {
	}
	if !strings.Contains(w.end, why) {
		w.Errorf("it ended with %q, want %q; shown: %q", w.end, why, w.text.String())
	}
}

func (h *harbour) sessions() (list []api.SSHSession) {
	h.Helper()
	h.ask(h.admin.APIKey, "GET", "/ssh/v1/device/"+string(h.device.UUID)+"/sessions", nil, &list)
	return list
}

// until waits for something to be so.
func (h *harbour) until(what string, so func() bool) {
	h.Helper()
	for began := time.Now(); !so(); {
		if time.Since(began) > patience {
			h.Fatalf("it is not so: %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// A terminal is the device's own shell: it has the size of the page, its program ends with the page, and who was in is listed.
func TestTerminal(t *testing.T) {
	h := newHarbour(t, devices.Limits{})
	b := h.browser()
	b.login()
	page := b.get("/devices/" + string(h.device.UUID) + "/terminal")
	page.want(t, 200, `src="/static/terminal.js"`)
	if csp := page.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "connect-src 'self' wss://dashboard.roadstead.test") || strings.Contains(csp, "unsafe") {
		t.Errorf("the policy: %s", csp)
	}
	w := h.window(b, "")
	w.key("echo $((6*7)) $(id -u); stty size; echo $PPID-$$-shell\n")
	w.shows("42 0")
	w.shows("24 80")
	w.send(websocket.MessageText, `{"cols":132,"rows":50}`)
	w.key("while [ \"$(stty size)\" != '50 132' ]; do :; done; echo now=$(stty size)\n")
	w.shows("now=50 132")
	open := h.sessions()
	if len(open) != 1 || open[0].EndedAt != "" || open[0].User != "admin" || open[0].From != b.address {
		t.Errorf("the sessions: %+v", open)
	}
	// The tab is closed, and the program ends.
	mark := fmt.Sprintf("%s/alive", t.TempDir())
	w.key("sh -c 'trap \"echo gone >" + mark + "; exit\" HUP; echo r''eady; while :; do sleep 0.1; done'\n")
	w.shows("ready")
	h.must(w.conn.CloseNow())
	h.until("the program is gone", func() bool { return exists(mark) })
	h.until("the session has ended", func() bool { return h.sessions()[0].EndedAt != "" })

	w = h.window(b, "")
	w.key("exit 3\n")
	w.ends("code 3")
	w = h.window(b, "nothing")
	w.ends("code 1")
	if !strings.Contains(w.text.String(), "the container engine of the device does not answer") { // why the device lets nobody into the service
		t.Errorf("a service that cannot be entered: %q %q", w.text.String(), w.end)
	}
	var acts struct {
		D []struct{ Act, Address string }
	}
	h.ask(h.admin.APIKey, "GET", "/v7/audit_entry?$select=act,address&$filter=startswith(act,'device.ssh')%20or%20startswith(act,'tunnel.')", nil, &acts)
	text := fmt.Sprint(acts.D)
	for _, act := range []string{"device.ssh_certificate " + b.address, "device.ssh_begin", "device.ssh_end", "tunnel.open " + b.address} {
		if !strings.Contains(text, act) {
			t.Errorf("the audit log lacks %s: %s", act, text)
		}
	}
}

// What is not from the page of somebody who may is refused before anything is opened.
func TestWhoGetsNoTerminal(t *testing.T) {
	h := newHarbour(t, devices.Limits{})
	b := h.browser()
	b.login()
	refused := func(b *browser, status int, query string, headers ...string) {
		t.Helper()
		conn, res, err := b.dial(query, headers...)
		if err == nil {
			_ = conn.CloseNow()
			t.Errorf("%s %v: a terminal opens", query, headers)
			return
		}
		if res == nil || res.StatusCode != status {
			t.Errorf("%s %v: %v, want %d", query, headers, err, status)
		}
	}
	good, page := h.socket(""), "/devices/"+string(h.device.UUID)+"/terminal"
	refused(b, 403, good, "Origin: https://evil.example.com")
	refused(b, 403, good, "Origin: https://"+string(h.device.UUID)+".devices.roadstead.test")
	refused(b, 403, good, "Origin: https://dashboard.roadstead.test:8443")
	refused(b, 403, good, "Origin: ")
	refused(b, 303, good, "Cookie: ")
	for _, bad := range []string{"cols=0&rows=24", "cols=80&rows=1001", "cols=80", "cols=80&rows=24&service=../x", "cols=80&rows=24&service=" + strings.Repeat("x", 200)} {
		refused(b, 400, page+"/socket?"+bad)
	}
	refused(b, 404, strings.Replace(good, string(h.device.UUID), strings.Repeat("e", 32), 1))
	bob, ann, ops := h.member("bob", ""), h.member("ann", "observer"), h.member("olga", "operator")
	refused(bob, 404, good)
	bob.get(page).want(t, 404, "no such device")
	refused(ann, 403, good)
	ann.get(page).want(t, 403, "may not enter")
	ann.do("GET", good, nil, "Sec-Fetch-Site: same-origin").want(t, 403, "needs the verb shell")
	for _, from := range []string{"cross-site", "same-site", "none", ""} {
		b.do("GET", good, nil, "Sec-Fetch-Site: "+from).want(t, 403, "from the dashboard's own page")
	}
	if n := len(h.sessions()); n != 0 {
		t.Errorf("%d sessions were begun", n)
	}
	// And no other role asks the vpn role for anybody.
	for _, role := range []string{api.RoleEdge, api.RoleBuilder, api.RoleAPI} {
		id, err := pki.LoadIdentity(filepath.Join(h.dir, role))
		h.must(err)
		conn, err := id.Dial(t.Context(), api.RoleVPN, h.vpn, api.TunnelProtocol)
		if err == nil {
			ask := client.TunnelAsk{UUID: h.device.UUID, Port: api.PortSSH, Token: h.admin.APIKey, From: "192.0.2.9"}
			if err = ask.Over(conn); err == nil {
				t.Errorf("%s has a tunnel", role)
			}
			_ = conn.Close()
		}
	}
	w := h.window(ops, "")
	w.key("echo $((6*7))\n")
	w.shows("42")
	w.send(websocket.MessageText, "no message")
	w.ends("what is no message")
	w = h.window(ops, "")
	w.shows("#")
	_ = w.conn.Write(t.Context(), websocket.MessageBinary, make([]byte, 1<<20))
	w.ends("")
	h.exec(`UPDATE device SET is_connected_to_vpn = 0`)
	h.sshd.Store(nil)
	w = h.window(b, "")
	w.ends("offline")
}

// What a terminal hangs on ends it: an order, the login, the role.
func TestWhatEndsATerminal(t *testing.T) {
	h := newHarbour(t, devices.Limits{})
	b := h.browser()
	b.login()
	opened := func(b *browser) *window {
		t.Helper()
		w := h.window(b, "")
		w.key("echo $((6*7))\n")
		w.shows("42")
		return w
	}
	page := "/devices/" + string(h.device.UUID)
	w := opened(b)
	b.send(page+"/summary", fmt.Sprintf("%s/sessions/%d/end", page, h.sessions()[0].ID)).want(t, 303, "done=ended")
	w.ends("ended")
	olga := h.member("olga", "operator")
	w = opened(olga)
	h.exec(`DELETE FROM user_application_membership`)
	w.ends("ended")
	w = opened(b)
	b.send("/account", "/logout").want(t, 303, "/login")
	w.ends("ended")
	h.until("all sessions have ended", func() bool {
		for _, s := range h.sessions() {
			if s.EndedAt == "" {
				return false
			}
		}
		return true
	})
}

// A program that writes without end waits for the page; the page that does not read costs a bounded amount, and its keys still get through.
func TestATerminalWaitsForItsPage(t *testing.T) {
	h := newHarbour(t, devices.Limits{})
	b := h.browser()
	b.login()
	w := h.window(b, "")
	w.key("echo $((6*7))\n")
	w.shows("42")
	w.key("yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n")
	// Nothing is said to be seen: what comes is bounded, and then nothing does.
	const most = 256 << 10
	for w.text.Len() < most-(64<<10) {
		if !w.next() {
			t.Fatalf("it ended: %s", w.end)
		}
	}
	look, cancel := context.WithTimeout(t.Context(), time.Second) // on a slow machine less would come than could
	defer cancel()
	n := w.text.Len()
	for {
		_, data, err := w.conn.Read(look)
		if err != nil {
			break
		}
		n += len(data)
	}
	if n > most {
		t.Errorf("%d bytes came to a page that has seen nothing, at most %d may", n, most)
	}
	// One that says what it has seen gets more than that, and can end it.
	w = h.window(b, "")
	w.key("yes bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n")
	for told := 0; w.text.Len() < 4*most; {
		if !w.next() {
			t.Fatalf("it ended: %s", w.end)
		}
		if n := w.text.Len() - told; n > 64<<10 {
			w.send(websocket.MessageText, fmt.Sprintf(`{"seen":%d}`, n))
			told += n
		}
	}
	w.send(websocket.MessageText, `{"seen":100000000}`)
	w.key("\x03")
	w.key("exit 7\n")
	for w.end == "" {
		n := w.text.Len()
		if !w.next() {
			break
		}
		if more := w.text.Len() - n; more > 0 {
			w.send(websocket.MessageText, fmt.Sprintf(`{"seen":%d}`, more))
		}
	}
	if !strings.Contains(w.end, "code 7") {
		t.Errorf("it ended with %q", w.end)
	}
}

// Terminals are few, of each person and in all; where one ends there is room for another.
func TestTerminalsAreBounded(t *testing.T) {
	h := newHarbour(t, devices.Limits{Most: 2, PerUser: 1})
	b, olga, otto := h.browser(), h.member("olga", "operator"), h.member("otto", "operator")
	b.login()
	full := func(b *browser) {
		t.Helper()
		if conn, res, err := b.dial(h.socket("")); err == nil || res == nil || res.StatusCode != http.StatusTooManyRequests {
			t.Errorf("one more than there may be: %v", err)
			if conn != nil {
				_ = conn.CloseNow()
			}
		}
	}
	w := h.window(b, "")
	w.shows("#")
	full(b)
	b.do("GET", h.socket(""), nil, "Sec-Fetch-Site: same-origin").want(t, 429, "1 terminals open already")
	h.window(olga, "").shows("#")
	full(otto)
	_ = w.conn.CloseNow()
	h.until("there is room again", func() bool {
		conn, _, err := otto.dial(h.socket(""))
		if err == nil {
			_ = conn.CloseNow()
		}
		return err == nil
	})
}

// A terminal in which nothing is typed or shown ends.
func TestAnIdleTerminalEnds(t *testing.T) {
	h := newHarbour(t, devices.Limits{IdleSeconds: 3})
	b := h.browser()
	b.login()
	h.window(b, "").ends("Nothing was typed or shown for 3s")
	h.until("the session has ended", func() bool { return h.sessions()[0].EndedAt != "" })
}

// A device that vanishes without a word ends its terminals.
func TestATerminalOfAVanishedDeviceEnds(t *testing.T) {
	h := newHarbour(t, devices.Limits{PingSeconds: 3})
	b := h.browser()
	b.login()
	w := h.window(b, "")
	w.shows("#")
	h.cut.Store(true)
	w.ends("The device does not answer.")
}
