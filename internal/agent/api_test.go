package agent_test

import (
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
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

const otherUUID = "22222222222222222222222222222222"

// apiDevice is a device with two fleets on it and its own API on a port of this machine.
type apiDevice struct {
	*device
	t      *testing.T
	w      *world
	url    string
	secret string
	power  string // the file that the power command writes
	names  chan string
}

func newAPIDevice(t *testing.T) *apiDevice {
	t.Helper()
	w := newWorld(t)
	d := &apiDevice{device: newDevice(t, w), t: t, w: w, names: make(chan string, 1)}
	d.power = filepath.Join(d.dir, "power.log")
	command := filepath.Join(d.dir, "power")
	if err := os.WriteFile(command, []byte("#!/bin/sh\necho $1 >>"+d.power+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	conf := d.settings()
	conf.Channel, conf.Power, conf.SetHostname = &agent.Channel{Locked: true}, command, func(name string) error { d.names <- name; return nil }
	a, err := agent.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
	for n := range 5 {
		d.engine.Publish(ref(n))
	}
	roletest.Eventually(t, "registered", registered(w))
	target := release(commitA, map[string]string{"web": ref(1), "writer": ref(2)}, map[string]string{"writer": `{"volumes":["data:/data"]}`})
	label := map[string]string{"io.balena.features.supervisor-api": "1"}
	target.Apps[fleetUUID].Releases[commitA].Services["web"].Labels = label
	other := release(commitB, map[string]string{"solo": ref(3)}, nil).Apps[fleetUUID]
	other.ID, other.Name = 8, "other"
	other.Releases[commitB].Services["solo"].Labels = label
	target.Apps[otherUUID] = other
	w.setTarget(target)
	roletest.Eventually(t, "all run", func() bool { return slices.Equal(d.running(), []string{"solo b", "web a", "writer a"}) })
	roletest.Eventually(t, "the key is reported", func() bool {
		r := w.reported()
		if r.APISecret != nil && r.APIPort != nil && *r.APIPort == 48484 {
			d.secret = *r.APISecret
		}
		return d.secret != ""
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.url = "http://" + ln.Addr().String()
	go func() { done <- a.API().ServeFrom(ctx, ln, netip.MustParsePrefix("127.0.0.1/32")) }()
	return d
}

// ask makes a request with a key and answers status and body.
func (d *apiDevice) ask(method, path, key, body string) (int, string) {
	d.t.Helper()
	return d.askWith(method, path, key, body, nil)
}

func (d *apiDevice) askWith(method, path, key, body string, headers map[string]string) (int, string) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for name, val := range headers {
		req.Header.Set(name, val)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(text))
}

// want makes a request with the device's own key.
func (d *apiDevice) want(method, path, body string, status int, contains ...string) {
	d.t.Helper()
	got, text := d.ask(method, path, d.secret, body)
	if got != status {
		d.t.Errorf("%s %s %s: got %d %q, want %d", method, path, body, got, text, status)
	}
	for _, part := range contains {
		if !strings.Contains(text, part) {
			d.t.Errorf("%s %s: got %q, want %q in it", method, path, text, part)
		}
	}
}

// keyOf is the key that a container finds in its environment.
func (d *apiDevice) keyOf(service string) string {
	for _, b := range d.engine.Boxes() {
		if strings.HasPrefix(b.Name, service+"_") {
			for _, line := range b.Spec.Config.Env {
				if key, ok := strings.CutPrefix(line, "BALENA_SUPERVISOR_API_KEY="); ok {
					return key
				}
			}
		}
	}
	return ""
}

func (d *apiDevice) id(service string) string {
	for _, b := range d.engine.Boxes() {
		if strings.HasPrefix(b.Name, service+"_") {
			return b.ID
		}
	}
	return ""
}

// Every call of the supervisor's API does what it says, and says it as balena's supervisor does.
func TestDeviceAPI(t *testing.T) {
	d := newAPIDevice(t)
	roletest.Eventually(t, "the owner's lock is told", func() bool {
		got := d.w.reported().Channel
		return got != nil && got.State == api.ChannelStateLocked
	})
	t.Run("who asks", func(t *testing.T) { whoAsks(t, d) })
	t.Run("a crowd of idle connections", func(t *testing.T) { crowd(t, strings.TrimPrefix(d.url, "http://")) })
	t.Run("services", func(t *testing.T) {
		before := d.id("web")
		d.want("POST", "/v2/applications/7/restart-service", `{"serviceName":"web"}`, 200, "OK")
		if after := d.id("web"); after == before || after == "" {
			t.Errorf("restart left the container %s", after)
		}
		d.want("POST", "/v2/applications/7/stop-service", `{"imageId":20}`, 200, "OK")
		d.w.setTarget(d.renamed("another name")) // the applier looks anew, and must let it be
		roletest.Eventually(t, "the new target", func() bool {
			_, text := d.ask("GET", "/v2/device/name", d.secret, "")
			return strings.Contains(text, "another name")
		})
		if got := d.running(); !slices.Equal(got, []string{"solo b", "web a"}) {
			t.Errorf("after stop-service run %v", got)
		}
		d.want("POST", "/v2/applications/7/start-service", `{"serviceName":"writer"}`, 200, "OK")
		roletest.Eventually(t, "writer runs", func() bool { return slices.Contains(d.running(), "writer a") })
		d.want("POST", "/v2/applications/7/stop-service", `{"serviceName":"none"}`, 404)
		d.want("POST", "/v2/applications/7/stop-service", `{}`, 400)
		d.want("POST", "/v1/apps/8/stop", ``, 200, d.id("solo"))
		d.want("POST", "/v1/apps/8/start", ``, 200, "containerId")
		d.want("POST", "/v1/restart", `{"appId":"7"}`, 200, "OK")
		roletest.Eventually(t, "all run", func() bool { return len(d.running()) == 3 })
	})
	t.Run("purge", func(t *testing.T) {
		d.engine.Calls()
		d.want("POST", "/v1/purge", `{"appId":7}`, 200, `{"Data":"OK","Error":""}`)
		roletest.Eventually(t, "all run again", func() bool { return len(d.running()) == 3 })
		calls := strings.Join(d.engine.Calls(), "\n")
		if !strings.Contains(calls, "remove volume 7_data") || strings.Contains(calls, "volume 8_") {
			t.Errorf("purge did: %s", calls)
		}
	})
	t.Run("update locks", func(t *testing.T) { updateLocks(t, d) })
	t.Run("update asks the server at once", func(t *testing.T) {
		target := release(commitB, map[string]string{"web": ref(4), "writer": ref(2)}, nil)
		target.Config["RESIN_SUPERVISOR_POLL_INTERVAL"] = "86400000"
		d.w.setTarget(target)
		polls := func() int { d.w.mu.Lock(); defer d.w.mu.Unlock(); return d.w.states }
		full := func() int { d.w.mu.Lock(); defer d.w.mu.Unlock(); return d.w.full }
		seen := full()
		roletest.Eventually(t, "the long interval is known", func() bool { return full() > seen })
		before := polls()
		d.want("POST", "/v1/update", ``, 204)
		roletest.Eventually(t, "a poll", func() bool { return polls() > before })
	})
	t.Run("a service that an update kept", func(t *testing.T) {
		roletest.Eventually(t, "the release before", func() bool { return slices.Equal(d.running(), []string{"web b", "writer b"}) })
		same := strings.Replace(ref(4), "/v2/", "/v2/again-", 1) // what runs, by the name that it has in the next release
		d.w.setTarget(release(commitA, map[string]string{"web": same, "writer": ref(1)}, nil))
		d.want("POST", "/v1/update", ``, 204)
		roletest.Eventually(t, "the next release", func() bool { return slices.Equal(d.running(), []string{"web a", "writer a"}) })
		d.want("POST", "/v2/applications/7/restart-service", `{"serviceName":"web"}`, 200, "OK")
		d.want("POST", "/v1/restart", `{"appId":"7"}`, 200, "OK")
		roletest.Eventually(t, "all run", func() bool { return len(d.running()) == 2 })
	})
	t.Run("the machine", func(t *testing.T) {
		d.want("POST", "/v1/blink", "", 200, "OK")
		d.want("POST", "/v1/reboot", "", 202, `{"Data":"OK","Error":null}`)
		roletest.Eventually(t, "the power command", func() bool { text, _ := os.ReadFile(d.power); return string(text) == "reboot\n" })
		d.want("PATCH", "/v1/device/host-config", `{"network":{"hostname":"porch"}}`, 200, "OK")
		if got := <-d.names; got != "porch" {
			t.Errorf("host name %q", got)
		}
		d.want("PATCH", "/v1/device/host-config", `{"network":{"hostname":"a; reboot"}}`, 400)
		d.want("PATCH", "/v1/device/host-config", `{"network":{"proxy":{"type":"socks5"}}}`, 400, "network.proxy.ip")
		d.want("GET", "/v1/device/host-config", "", 200, `"hostname"`)
		d.want("GET", "/v2/device/vpn", "", 200, `"enabled":false`)
		d.want("GET", "/v2/version", "", 200, "0.1.0-test")
		text, err := os.ReadFile(d.config)
		var conf map[string]json.RawMessage
		if err != nil || json.Unmarshal(text, &conf) != nil || string(conf["hostname"]) != `"porch"` || conf["someoneElse"] == nil {
			t.Errorf("config.json is %s, %v", text, err)
		}
	})
	t.Run("a renewed key", func(t *testing.T) {
		status, fresh := d.ask("POST", "/v1/regenerate-api-key", d.secret, "")
		if status != 200 || fresh == d.secret {
			t.Fatalf("got %d %q", status, fresh)
		}
		if status, _ := d.ask("GET", "/v1/device", d.secret, ""); status != 401 {
			t.Errorf("the old key: got %d", status)
		}
		roletest.Eventually(t, "the server hears of it", func() bool { s := d.w.reported().APISecret; return s != nil && *s == fresh })
	})
}

// renamed is the target of the device under another name.
func (d *apiDevice) renamed(name string) api.DeviceTarget {
	d.t.Helper()
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	var target api.DeviceTarget
	for _, k := range d.w.devices {
		if err := json.Unmarshal([]byte(k.target), &target); err != nil {
			d.t.Fatal(fmt.Errorf("the target: %w", err))
		}
	}
	target.Name = name
	return target
}

func whoAsks(t *testing.T, d *apiDevice) {
	t.Helper()
	web, solo := d.keyOf("web"), d.keyOf("solo")
	if web == "" || solo == "" || web == solo || web == d.secret {
		t.Fatalf("keys of the two fleets: %q, %q", web, solo)
	}
	if d.keyOf("writer") != "" {
		t.Error("a service that did not ask for the API has a key")
	}
	for _, c := range []struct {
		method, path, key, body string
		status                  int
	}{
		{"GET", "/ping", "", "", 200},
		{"GET", "/v1/healthy", "", "", 200},
		{"GET", "/v1/device", "", "", 401},
		{"POST", "/v1/reboot", strings.Repeat("0", 32), "", 401},
		{"GET", "/v1/device?apikey=" + d.secret, "", "", 200},
		{"GET", "/v1/device?apikey=" + web, "", "", 200},
		{"POST", "/v2/applications/7/restart-service", web, `{"serviceName":"web"}`, 200},
		{"POST", "/v2/applications/8/restart-service", web, `{"serviceName":"solo"}`, 401}, // another fleet's
		{"POST", "/v2/applications/7/purge", solo, ``, 401},
		{"POST", "/v1/restart", solo, `{"appId":7}`, 401},
		{"POST", "/v1/apps/8/stop", web, ``, 401},
		{"GET", "/v1/apps/8", web, "", 401},
		{"GET", "/v2/applications/8/state", web, "", 401},
		{"POST", "/v2/applications/9/restart", web, ``, 401}, // there is none: it looks the same
		{"POST", "/v2/journal-logs", web, `{"count":1}`, 401},
		{"POST", "/v2/applications/9/restart", d.secret, ``, 404},
		{"POST", "/v1/restart", d.secret, `{`, 400},
		{"POST", "/v1/restart", d.secret, `{"pad":"` + strings.Repeat("x", 2<<20) + `"}`, 413},
		{"GET", "/nothing", d.secret, "", 404},
	} {
		if got, text := d.ask(c.method, c.path, c.key, c.body); got != c.status {
			t.Errorf("%s %s: got %d %.200q, want %d", c.method, c.path, got, text, c.status)
		}
	}
	for _, path := range []string{"/v2/applications/state", "/v2/state/status", "/v2/containerId"} {
		if _, text := d.ask("GET", path, web, ""); !strings.Contains(text, "writer") || strings.Contains(text, "solo") {
			t.Errorf("GET %s with the key of one fleet: %s", path, text)
		}
	}
	if _, text := d.ask("GET", "/v1/apps/8", solo, ""); strings.Contains(text, solo) || !strings.Contains(text, `"A":"b"`) {
		t.Errorf("the environment that it tells: %s", text)
	}
}

func updateLocks(t *testing.T, d *apiDevice) {
	t.Helper()
	lock := filepath.Join(d.dir, "run", "services", "7", "writer", "updates.lock")
	if err := os.MkdirAll(filepath.Dir(lock), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(lock, []byte("busy"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/reboot", "/v1/shutdown", "/v2/applications/7/restart", "/v2/applications/7/purge", "/v2/applications/7/stop-service"} {
		d.want("POST", path, `{"serviceName":"web"}`, 423, "locked")
	}
	d.want("POST", "/v2/applications/8/restart", ``, 200) // another fleet's lock
	d.want("POST", "/v2/applications/7/restart-service", `{"serviceName":"web","force":true}`, 200)
	t.Log("an update waits for the lock, until it is forced")
	d.w.setTarget(release(commitB, map[string]string{"web": ref(4), "writer": ref(2)}, nil))
	roletest.Eventually(t, "it says why it waits", func() bool { return d.w.logged("updates are locked by service") })
	if got := d.running(); !slices.Contains(got, "web a") {
		t.Errorf("while updates are locked run %v", got)
	}
	d.want("POST", "/v1/update", `{"force":true}`, 204)
	roletest.Eventually(t, "the update", func() bool { return slices.Contains(d.running(), "web b") })
	if err := os.Remove(lock); err != nil {
		t.Fatalf("the service's lock is gone: %v", err)
	}
}

// crowd: connections that ask nothing are bounded in number, so that none of them costs the agent its memory.
func crowd(t *testing.T, address string) {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	var conns []net.Conn
	for range 200 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		conns = append(conns, conn)
	}
	open := 0
	roletest.Eventually(t, "those beyond the bound are closed", func() bool {
		open = 0
		for _, conn := range conns {
			_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				open++
			}
		}
		return open <= 64
	})
	t.Logf("%d of 200 idle connections stay open", open)
	for _, conn := range conns {
		_ = conn.Close()
	}
	roletest.Eventually(t, "there is room again", func() bool { // when the server has seen that they are closed
		resp, err := http.Get("http://" + address + "/ping")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
}
