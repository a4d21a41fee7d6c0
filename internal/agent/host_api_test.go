package agent_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// A service reads and sets the device's tags; what it sets while the server is away arrives when it is back.
func TestTagsThroughTheDeviceAPI(t *testing.T) {
	d := newAPIDevice(t)
	web := d.keyOf("web")
	d.w.mu.Lock()
	d.w.tags = map[string]string{"place": "roof"}
	d.w.mu.Unlock()
	d.want("GET", "/v2/device/tags", "", 200, `"status":"success"`, `{"id":1,"name":"place","value":"roof"}`)
	d.w.setAnswer(func(r *http.Request) int {
		if strings.Contains(r.URL.Path, "tag") {
			return http.StatusServiceUnavailable
		}
		return 0
	})
	d.want("GET", "/v2/device/tags", "", 500, `"status":"failed"`)
	if status, text := d.ask("PATCH", "/v2/device/tags", web, `{"floor":"2","place":"cellar"}`); status != 202 || !strings.Contains(text, "success") {
		t.Errorf("set tags: %d %s", status, text)
	}
	for body, field := range map[string]string{`{"a b":"1"}`: `"a b"`, `{"a":1}`: `"a"`, `{}`: "between 1 and 100", `{"":"x"}`: `""`} {
		d.want("PATCH", "/v2/device/tags", body, 400, field)
	}
	d.w.setAnswer(nil)
	tags := func() map[string]string { d.w.mu.Lock(); defer d.w.mu.Unlock(); return d.w.tags }
	roletest.Eventually(t, "the tags arrive", func() bool { return tags()["floor"] == "2" && tags()["place"] == "cellar" })
	roletest.Eventually(t, "and are forgotten", func() bool {
		text, err := os.ReadFile(filepath.Join(d.dir, "state", "state.json"))
		return err == nil && !strings.Contains(string(text), `"floor"`)
	})
	t.Log("what the server refuses for good is not sent for ever")
	d.want("PATCH", "/v2/device/tags", `{"io.balena.x":"1"}`, 202)
	roletest.Eventually(t, "the refusal is in the log", func() bool { return d.w.logged("Could not set tags") })
	d.want("PATCH", "/v2/device/tags", `{"after":"1"}`, 202)
	roletest.Eventually(t, "the next one arrives", func() bool { return tags()["after"] == "1" })
}

// Volumes that no release names any more are removed when somebody asks for it: of one's own fleet only, and none that a container has.
func TestCleanupVolumes(t *testing.T) {
	d := newAPIDevice(t)
	volume := func(name, fleet string) {
		if err := d.engine.CreateVolume(t.Context(), engine.Volume{Name: name, Labels: map[string]string{engine.LabelSupervised: "true", "io.balena.app-uuid": fleet}}); err != nil {
			t.Fatal(err)
		}
	}
	names := func() (out []string) {
		list, err := d.engine.Volumes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range list {
			out = append(out, v.Name)
		}
		return out
	}
	volume("7_left", fleetUUID)
	volume("8_left", otherUUID)
	if status, text := d.ask("GET", "/v2/cleanup-volumes", d.keyOf("web"), ""); status != 200 || !strings.Contains(text, "success") {
		t.Errorf("got %d %s", status, text)
	}
	if got := names(); !slices.Equal(got, []string{"7_data", "8_data", "8_left"}) {
		t.Errorf("a fleet's key leaves %v", got)
	}
	d.want("GET", "/v2/cleanup-volumes", "", 200)
	if got := names(); !slices.Equal(got, []string{"7_data", "8_data"}) {
		t.Errorf("the device's key leaves %v", got)
	}
	if status, _ := d.ask("GET", "/v2/cleanup-volumes", "", ""); status != 401 {
		t.Errorf("without a key: %d", status)
	}
}

func TestNoLocalMode(t *testing.T) {
	d := newAPIDevice(t)
	for _, call := range []string{"GET /v2/local/target-state", "POST /v2/local/target-state", "GET /v2/local/logs"} {
		method, path, _ := strings.Cut(call, " ")
		d.want(method, path, `{}`, 400, `"status":"failed"`, "no local mode")
	}
}

// through is an HTTP proxy for CONNECT that alone knows where api.device.test is.
type through struct {
	ln net.Listener

	mu   sync.Mutex // covers what follows
	used int
	open map[net.Conn]bool
}

func newThrough(t *testing.T) *through {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &through{ln: ln, open: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.open[conn] = true
			p.mu.Unlock()
			all.Go(func() { p.one(conn) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.mu.Lock()
		for conn := range p.open {
			_ = conn.Close()
		}
		p.mu.Unlock()
		all.Wait()
	})
	return p
}

func (p *through) one(conn net.Conn) {
	defer conn.Close()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil || req.Method != http.MethodConnect {
		return
	}
	_, port, _ := net.SplitHostPort(req.Host)
	to, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil || !strings.HasPrefix(req.Host, "api.device.test:") {
		return
	}
	defer to.Close()
	p.mu.Lock()
	p.used++
	p.mu.Unlock()
	fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(to, conn); _ = to.Close() }()
	_, _ = io.Copy(conn, to)
	_ = conn.Close()
	<-done
}

func (p *through) count() int { p.mu.Lock(); defer p.mu.Unlock(); return p.used }
func (p *through) port() int  { return p.ln.Addr().(*net.TCPAddr).Port }

// A proxy that is set through the device API is gone through from then on, also after a restart; one that would cut the device off is
// refused, and so is leaving the one without which the server is not reached.
func TestProxyThroughTheDeviceAPI(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	d := &device{dir: dir, engine: newDevice(t, w).engine}
	d.config, d.key = w.config(dir, "https://api.device.test:"+w.Port, nil)
	one, two := newThrough(t), newThrough(t)
	setting := func(p *through) string {
		return fmt.Sprintf(`{"type":"http-connect","ip":"127.0.0.1","port":%d,"login":"porter","password":"secret","noProxy":["192.0.2.0/24"]}`, p.port())
	}
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state", "proxy.json"), []byte(setting(one)), 0o600); err != nil {
		t.Fatal(err)
	}
	a := serveAPI(t, w, d)
	if one.count() == 0 {
		t.Error("the device registered, but not through the proxy that was set before")
	}
	a.want("GET", "/v1/device/host-config", "", 200, `"type":"http-connect"`, `"login":"porter"`, `"noProxy":["192.0.2.0/24"]`, fmt.Sprintf(`"port":%d`, one.port()))
	if _, text := a.ask("GET", "/v1/device/host-config", a.secret, ""); strings.Contains(text, "secret") {
		t.Errorf("the proxy's password is told: %s", text)
	}
	for body, say := range map[string]string{
		`{"network":{"proxy":{"port":1}}}`:              "network.proxy: the server would not be reached",
		`{"network":{"proxy":{}}}`:                      "network.proxy: the server would not be reached",
		`{"network":{"proxy":{"type":"socks4"}}}`:       "network.proxy.type",
		`{"network":{"proxy":{"dns":true}}}`:            "network.proxy.dns",
		`{"network":{"hostname":"a b","proxy":{}}}`:     "no host name",
		`{"network":{"proxy":{"noProxy":["a b"]}}}`:     "network.proxy.noProxy",
		`{"network":{"proxy":"http://192.0.2.1:3128"}}`: "network.proxy",
	} {
		a.want("PATCH", "/v1/device/host-config", body, 400, say)
	}
	a.want("PATCH", "/v1/device/host-config", `{"network":{"proxy":`+setting(two)+`}}`, 200, "OK")
	before := one.count()
	roletest.Eventually(t, "the new proxy is used", func() bool { return two.count() > 1 })
	text, err := os.ReadFile(filepath.Join(dir, "state", "proxy.json"))
	var kept struct{ Port int }
	if err != nil || json.Unmarshal(text, &kept) != nil || kept.Port != two.port() {
		t.Errorf("proxy.json: %s, %v", text, err)
	}
	a.want("PATCH", "/v1/device/host-config", `{"network":{"proxy":{}},"force":true}`, 200, "OK")
	if _, err := os.Stat(filepath.Join(dir, "state", "proxy.json")); !os.IsNotExist(err) {
		t.Errorf("a proxy that was removed by force is still there: %v", err)
	}
	a.want("GET", "/v1/device/host-config", "", 200, `{"network":{"hostname"`)
	if after := one.count(); after != before {
		t.Errorf("the old proxy was used %d times after it was replaced", after-before)
	}
}

// serveAPI runs the agent of a device until it is registered, with its API on a port of this machine.
func serveAPI(t *testing.T, w *world, d *device) *apiDevice {
	t.Helper()
	out := &apiDevice{device: d, t: t, w: w}
	conf := d.settings()
	conf.Channel, conf.SetHostname = &agent.Channel{Locked: true}, func(string) error { return nil }
	a, err := agent.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- a.Run(ctx) }()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	roletest.Eventually(t, "registered", registered(w))
	w.setTarget(api.DeviceTarget{Name: "a-name", Config: map[string]string{}, Apps: map[string]*api.AppTarget{}})
	roletest.Eventually(t, "the key is reported", func() bool {
		if r := w.reported(); r.APISecret != nil {
			out.secret = *r.APISecret
		}
		return out.secret != ""
	})
	served := make(chan struct{})
	go func() { defer close(served); _ = a.API().ServeFrom(ctx, ln, netip.MustParsePrefix("127.0.0.1/32")) }()
	t.Cleanup(func() { cancel(); <-served })
	out.url = "http://" + ln.Addr().String()
	return out
}
