package agent_test

import (
	"encoding/base64"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
	"github.com/roadstead-io/roadstead/internal/agent/trust/trusttest"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// far is the device's own API as the server reaches it, by the tunnel.
type far struct {
	*verifying
	url    string
	secret string
}

func reached(t *testing.T) *far {
	t.Helper()
	v := newVerifying(t, nil)
	f := &far{verifying: v}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + ln.Addr().String()
	done := make(chan error, 1)
	roletest.Eventually(t, "it has begun", func() bool { return v.log.has("new target state") })
	go func() { done <- v.agent.API().Serve(t.Context(), ln) }()
	t.Cleanup(func() { <-done })
	roletest.Eventually(t, "the key is reported", func() bool {
		if r := v.w.reported(); r.APISecret != nil {
			f.secret = *r.APISecret
		}
		return f.secret != ""
	})
	return f
}

// post asks for something with the device's key and a command.
func (f *far) post(path, body string, command []byte) (int, string) {
	f.t.Helper()
	d := &apiDevice{t: f.t, url: f.url}
	if command == nil {
		return d.ask("POST", path, f.secret, body)
	}
	return d.askWith("POST", path, f.secret, body, map[string]string{api.TrustCommandHeader: base64.StdEncoding.EncodeToString(command)})
}

// A device that verifies does what its fleet's key signed, once, and nothing else that a stolen server tells it.
func TestSignedCommands(t *testing.T) {
	f := reached(t)
	n := 0
	command := func(change func(*api.TrustCommand)) []byte {
		n++
		c := api.TrustCommand{Device: f.uuid(), Verb: api.ActRestartService, Service: "web", Nonce: strings.Repeat("n", 16) + string(rune('a'+n))}
		if change != nil {
			change(&c)
		}
		return f.fleet.Command(c)
	}
	const path, body = "/v2/applications/7/restart-service", `{"serviceName":"web"}`
	other := trusttest.New(otherUUID)
	other.Rotate()
	once := command(nil)
	for _, tt := range []struct {
		name, path, body string
		command          []byte
		status           int
		says             string
	}{
		{"none", path, body, nil, 403, "is missing"},
		{"none, with force", path, `{"serviceName":"web","force":true}`, nil, 403, "is missing"},
		{"not a command", path, body, []byte("{}"), 403, "command"},
		{"for another device", path, body, command(func(c *api.TrustCommand) { c.Device = api.DeviceUUID(strings.Repeat("d", 32)) }), 403, "device"},
		{"for another fleet", path, body, command(func(c *api.TrustCommand) { c.Fleet = otherUUID }), 403, "fleet"},
		{"of another fleet's director", path, body, other.Command(api.TrustCommand{Fleet: fleetUUID, Device: f.uuid(), Verb: api.ActRestartService, Service: "web", Nonce: "0123456789abcdef"}), 403, "threshold"},
		{"for another verb", path, body, command(func(c *api.TrustCommand) { c.Verb, c.Service = api.ActReboot, "" }), 403, "expected restart-service"},
		{"for another service", path, body, command(func(c *api.TrustCommand) { c.Service = "writer" }), 403, "for the service web"},
		{"expired", path, body, command(func(c *api.TrustCommand) { c.Expires = time.Now().Add(-time.Second) }), 403, "expired"},
		{"for ever", path, body, command(func(c *api.TrustCommand) { c.Expires = time.Now().AddDate(10, 0, 0) }), 403, "expired"},
		{"without the force that is asked for", path, `{"serviceName":"web","force":true}`, command(nil), 403, "with force"},
		{"the right one", path, body, once, 200, "OK"},
		{"the same again", path, body, once, 403, "replayed"},
		{"a new key", "/v1/regenerate-api-key", ``, nil, 403, "is missing"},
		{"a new key by another command", "/v1/regenerate-api-key", ``, command(nil), 403, "expected renew-key"},
		{"a poll needs none", "/v1/update", `{}`, nil, 204, ""},
		{"a forced update does", "/v1/update", `{"force":true}`, nil, 403, "is missing"},
		{"purge", "/v1/purge", `{"appId":7}`, nil, 403, "is missing"},
		{"reboot", "/v1/reboot", `{}`, nil, 403, "is missing"},
		{"blinking changes nothing", "/v1/blink", ``, nil, 200, ""},
	} {
		status, text := f.post(tt.path, tt.body, tt.command)
		if status != tt.status || !strings.Contains(text, tt.says) {
			t.Errorf("%s: got %d %q, want %d with %q", tt.name, status, text, tt.status, tt.says)
		}
	}
	if !f.log.has("the device API refused what was asked") {
		t.Error("the log does not say what was refused")
	}
}

// Setting the host configuration, renewing the key and removing volumes are done by command as well: once, and just what was signed.
func TestCommandsOfTheHost(t *testing.T) {
	f := reached(t)
	n := 0
	command := func(verb api.ActionVerb, sets string) map[string]string {
		n++
		c := api.TrustCommand{Device: f.uuid(), Verb: verb, Nonce: strings.Repeat("h", 16) + string(rune('a'+n))}
		if sets != "" {
			c.Digest = tuf.Digest([]byte(sets))
		}
		return map[string]string{api.TrustCommandHeader: base64.StdEncoding.EncodeToString(f.fleet.Command(c))}
	}
	d := &apiDevice{t: t, url: f.url}
	const host, porch = "/v1/device/host-config", `{"network":{"hostname":"porch"}}`
	once := command(api.ActHostConfig, `{"hostname":"porch"}`)
	volume := engine.Volume{Name: "7_left", Labels: map[string]string{engine.LabelSupervised: "true", "io.balena.app-uuid": fleetUUID}}
	if err := f.engine.CreateVolume(t.Context(), volume); err != nil {
		t.Fatal(err)
	}
	left := func() bool {
		list, err := f.engine.Volumes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list, func(v engine.Volume) bool { return v.Name == "7_left" })
	}
	clean := command(api.ActCleanVolumes, "")
	for _, tt := range []struct {
		name, method, path, body string
		headers                  map[string]string
		status                   int
		says                     string
	}{
		{"no command", "PATCH", host, porch, nil, 403, "is missing"},
		{"for another name", "PATCH", host, `{"network":{"hostname":"cellar"}}`, command(api.ActHostConfig, `{"hostname":"porch"}`), 403, "digest"},
		{"with a proxy beside", "PATCH", host, `{"network":{"hostname":"porch","proxy":{}}}`, command(api.ActHostConfig, `{"hostname":"porch"}`), 403, "digest"},
		{"with force", "PATCH", host, `{"network":{"hostname":"porch"},"force":true}`, command(api.ActHostConfig, `{"hostname":"porch"}`), 403, "with force"},
		{"without a digest", "PATCH", host, porch, command(api.ActHostConfig, ""), 403, "digest"},
		{"nothing to set", "PATCH", host, `{"force":true}`, once, 400, "network"},
		{"no network", "PATCH", host, `{"network":null}`, once, 400, "network"},
		{"a wrong field", "PATCH", host, `{"network":{"hostname":1}}`, once, 400, "host name"},
		{"the right one, written otherwise", "PATCH", host, ` { "network" : {"hostname":"po\u0072ch"} } `, once, 200, "OK"},
		{"again", "PATCH", host, porch, once, 403, "replayed"},
		{"volumes without a command", "GET", "/v2/cleanup-volumes", "", nil, 403, "is missing"},
		{"volumes without a command, by HEAD", "HEAD", "/v2/cleanup-volumes", "", nil, 403, ""},
		{"volumes by another command", "GET", "/v2/cleanup-volumes", "", command(api.ActPurge, ""), 403, "expected cleanup-volumes"},
		{"it is still there", "GET", "/v1/device/host-config", "", nil, 200, ""},
	} {
		status, text := d.askWith(tt.method, tt.path, f.secret, tt.body, tt.headers)
		if status != tt.status || !strings.Contains(text, tt.says) {
			t.Errorf("%s: got %d %q, want %d with %q", tt.name, status, text, tt.status, tt.says)
		}
	}
	if len(f.names) != 1 || <-f.names != "porch" {
		t.Error("the host name was not set once, to what was signed")
	}
	if !left() {
		t.Error("volumes were removed without their command")
	}
	if status, text := d.askWith("GET", "/v2/cleanup-volumes", f.secret, "", clean); status != 200 || left() {
		t.Errorf("remove volumes: %d %s, still there: %v", status, text, left())
	}
	renew := command(api.ActRenewKey, "")
	status, key := d.askWith("POST", "/v1/regenerate-api-key", f.secret, "", renew)
	if status != 200 || key == "" || key == f.secret {
		t.Fatalf("renew the key: %d %q", status, key)
	}
	if status, _ := d.askWith("POST", "/v1/blink", f.secret, "", nil); status != 401 {
		t.Errorf("the old key: %d", status)
	}
	if status, text := d.askWith("POST", "/v1/regenerate-api-key", key, "", renew); status != 403 || !strings.Contains(text, "replayed") {
		t.Errorf("renew it again by the same command: %d %s", status, text)
	}
	roletest.Eventually(t, "the server hears of the new key", func() bool { r := f.w.reported(); return r.APISecret != nil && *r.APISecret == key })
}

// A command that was done stays done over a start of the agent.
func TestCommandsAreRememberedOverAStart(t *testing.T) {
	v, stop := begun(t, nil)
	command := v.fleet.Command(api.TrustCommand{Device: v.uuid(), Verb: api.ActPurge, Nonce: "0123456789abcdef"})
	what := api.TrustCommand{Verb: api.ActPurge}
	stop()
	if err := v.opened().Command(what, command); err != nil {
		t.Fatal(err)
	}
	if err := v.opened().Command(what, command); err == nil || !strings.Contains(err.Error(), "replayed") {
		t.Errorf("after a start: got %v, want that it is replayed", err)
	}
	v.clock.set(0, 20*365*24*time.Hour) // a clock that runs ahead forgets nothing
	ahead := v.fleet.Command(api.TrustCommand{Device: v.uuid(), Verb: api.ActPurge, Nonce: "fedcba9876543210", Expires: v.clock.ofDevice().Add(time.Minute)})
	if err := v.opened().Command(what, ahead); err == nil {
		t.Error("with an expired root a command counts")
	}
	v.clock.set(0, 0)
	if err := v.opened().Command(what, command); err == nil || !strings.Contains(err.Error(), "replayed") {
		t.Errorf("after the clock was set back: got %v, want that it is replayed", err)
	}
}

// opened is what the device believes, while its agent does not run.
func (v *verifying) opened() *trust.Trust {
	v.t.Helper()
	dir := filepath.Join(v.dir, "state")
	who, err := identity.Read(dir)
	if err != nil {
		v.t.Fatal(err)
	}
	checks, err := trust.Open(trust.Config{StateDir: dir, UUID: who.UUID, Mark: who.Trust, Now: v.clock.ofDevice, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		v.t.Fatal(err)
	}
	return checks
}

// The metadata say whether the server's word opens the SSH server, and the director's statement whether the channel may stand.
func TestShellAndChannelAreTheOwners(t *testing.T) {
	v := newVerifying(t, nil)
	roletest.Eventually(t, "it has begun", func() bool { return v.log.has("new target state") })
	checks := v.agent.Checks()
	if ok, why := checks.Channel(); !checks.Shell() || !ok {
		t.Errorf("allowed: shell %v, channel %v %s", checks.Shell(), ok, why)
	}
	v.fleet.Alter(func(f *trusttest.Fleet) { f.Shell, f.Channel = "forbidden", &api.TrustChannel{} })
	v.release(commitB, 2)
	v.runs("b")
	if ok, why := checks.Channel(); checks.Shell() || ok || !strings.Contains(why, "does not want it") {
		t.Errorf("forbidden: shell %v, channel %v %s", checks.Shell(), ok, why)
	}
	// A variable alone asks anew, and does not open it.
	told := target(commitB, 2)
	told.Config["ROADSTEAD_VPN_CONTROL"] = "true"
	asked := len(v.fleet.Asked())
	v.w.setTarget(told)
	roletest.Eventually(t, "it asks what is wanted", func() bool { return len(v.fleet.Asked()) > asked })
	if ok, _ := checks.Channel(); ok {
		t.Error("a variable opens the channel")
	}
	v.fleet.Alter(func(f *trusttest.Fleet) { f.Channel = &api.TrustChannel{Wanted: true} })
	told.Config["ROADSTEAD_VPN_CONTROL"] = "on"
	v.w.setTarget(told)
	roletest.Eventually(t, "the statement opens it", func() bool { ok, _ := checks.Channel(); return ok })
	v.clock.set(0, 8*24*time.Hour)
	if ok, why := checks.Channel(); ok || !strings.Contains(why, "expired") {
		t.Errorf("after the statement's life: %v %s", ok, why)
	}
}

// What waits at the server needs its command, too.
func TestWaitingActionsNeedTheirCommand(t *testing.T) {
	v := newVerifying(t, nil)
	command := v.fleet.Command(api.TrustCommand{Device: v.uuid(), Verb: api.ActRestartService, Service: "web", Nonce: "0123456789abcdef"})
	host := func(name string, nonce byte) []byte {
		return v.fleet.Command(api.TrustCommand{Device: v.uuid(), Verb: api.ActHostConfig, Nonce: "0123456789abcde" + string(nonce),
			Digest: tuf.Digest([]byte(`{"hostname":"` + name + `"}`))})
	}
	before := ""
	roletest.Eventually(t, "the key is reported", func() bool {
		r := v.w.reported()
		if r.APISecret != nil {
			before = *r.APISecret
		}
		return before != ""
	})
	v.w.queue(
		api.QueuedAction{ID: 1, Verb: api.ActPurge, Fleet: 7, Expires: 600},
		api.QueuedAction{ID: 2, Verb: api.ActPurge, Fleet: 7, Expires: 600, Command: command},
		api.QueuedAction{ID: 3, Verb: api.ActRestartService, Service: "web", Fleet: 7, Expires: 600, Command: command},
		api.QueuedAction{ID: 4, Verb: api.ActRestartService, Service: "web", Fleet: 7, Expires: 600, Command: command},
		api.QueuedAction{ID: 5, Verb: api.ActState, Expires: 600},
		api.QueuedAction{ID: 6, Verb: api.ActHostConfig, Network: []byte(`{"hostname":"cellar"}`), Expires: 600, Command: host("cellar", 'a')},
		api.QueuedAction{ID: 7, Verb: api.ActHostConfig, Network: []byte(`{"hostname":"roof"}`), Expires: 600, Command: host("cellar", 'b')},
		api.QueuedAction{ID: 8, Verb: api.ActHostConfig, Network: []byte(`{"hostname":"attic"}`), Expires: 600},
		api.QueuedAction{ID: 9, Verb: api.ActHostConfig, Network: []byte(`7`), Expires: 600, Command: host("cellar", 'c')},
		api.QueuedAction{ID: 10, Verb: api.ActRenewKey, Expires: 600},
		api.QueuedAction{ID: 11, Verb: api.ActCleanVolumes, Expires: 600},
		api.QueuedAction{ID: 12, Verb: api.ActRenewKey, Expires: 600, Command: v.fleet.Command(api.TrustCommand{Device: v.uuid(), Verb: api.ActRenewKey, Nonce: "0123456789abcdeg"})},
		api.QueuedAction{ID: 13, Verb: api.ActCleanVolumes, Expires: 600, Command: v.fleet.Command(api.TrustCommand{Device: v.uuid(), Verb: api.ActCleanVolumes, Nonce: "0123456789abcdeh"})},
	)
	told := target(commitA, 1)
	told.Name = "another"
	v.w.setTarget(told) // a new tag: the device asks
	for id, want := range map[int64]string{1: "has no command", 2: "expected purge", 3: "", 4: "replayed", 5: "",
		6: "", 7: "digest", 8: "has no command", 9: "digest", 10: "has no command", 11: "has no command", 12: "", 13: ""} {
		roletest.Eventually(t, "a result", func() bool { return v.w.became(id).State != "" })
		got := v.w.became(id)
		if want == "" && got.State != api.ActionDone || want != "" && (got.State != api.ActionFailed || !strings.Contains(got.Message, want)) {
			t.Errorf("action %d: got %s %q, want %q", id, got.State, got.Message, want)
		}
	}
	if len(v.names) != 1 || <-v.names != "cellar" {
		t.Error("the host name was not set once, to what was signed")
	}
	roletest.Eventually(t, "the server hears of the new key", func() bool { r := v.w.reported(); return r.APISecret != nil && *r.APISecret != before })
	if text := read(t, filepath.Join(v.dir, "state", "actions.json")); strings.Contains(string(text), "cellar") {
		t.Error("what was set is still in the journal")
	}
}

// A device without a root of trust does as it always did.
func TestUnverifiedDevicesNeedNothing(t *testing.T) {
	d := newAPIDevice(t)
	d.want("POST", "/v2/applications/7/restart-service", `{"serviceName":"web"}`, 200)
	if _, err := os.Stat(filepath.Join(d.dir, "state", "trust")); err == nil {
		t.Error("it has files of trust")
	}
	if got := d.w.said(); got.State != "" {
		t.Errorf("it reports %+v", got)
	}
}

// A root that comes later, with a new config.json, makes a device verify from then on; without it in config.json it stays so.
func TestVerifyingStaysSo(t *testing.T) {
	v, stop := begun(t, nil)
	stop = v.again(stop, func() {
		text := string(read(t, v.config))
		at := strings.Index(text, `"roadsteadTrust"`)
		if at < 0 {
			t.Fatal("config.json lost its root")
		}
		write(t, v.config, []byte(strings.Replace(text, `"roadsteadTrust"`, `"roadsteadTrustX"`, 1)))
	})
	defer stop()
	v.build(commitB, 2)
	v.w.setTarget(target(commitB, 3))
	v.refuses("a", "digest")
	if got := v.running(); !slices.Equal(got, []string{"web a"}) {
		t.Errorf("runs %v", got)
	}
}
