package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every action on a real device, over its control channel and, without one, with its next poll; by our command line and by the real one of
// balena. And what changes for a device with a channel it hears of at once.
func TestActionsOnARealDevice(t *testing.T) {
	project := copyProject(t, "hello")
	p.roadstead(t, "fleet", "create", "acts", "--type", "generic-amd64")
	p.roadstead(t, "push", "acts", project)
	d := newDevice(t, "acts", "e2e-acts")
	d.registered(t)
	d.running(t, "web", "writer")
	connected := func(want bool) func() bool {
		return func() bool {
			a := p.call(t, "GET", "api", "/v7/device(uuid='"+d.uuid+"')?$select=is_connected_to_vpn", p.admin.APIKey, nil)
			return strings.Contains(a.body, fmt.Sprintf(`"is_connected_to_vpn":%v`, want))
		}
	}
	eventually(t, time.Minute, "the device's control channel is up", connected(true))
	act := func(says string, args ...string) {
		t.Helper()
		began := time.Now()
		out, stderr, code := p.try(t, "roadstead", append([]string{"device"}, args...)...)
		if code != 0 || !strings.Contains(stderr, says) {
			t.Fatalf("device %v: exit code %d\n%s%s", args, code, out, stderr)
		}
		t.Logf("device %s: %v", args[0], time.Since(began).Round(time.Millisecond))
	}
	started := func(service string) string { return d.started(t, service) }

	t.Run("over the channel", func(t *testing.T) {
		act("answers", "ping", d.uuid)
		act("blinks", "identify", d.uuid)
		act("has sent its state", "state", d.uuid, "-o", "json")
		before := started("web")
		act("has restarted the service web", "restart", d.uuid, "web")
		eventually(t, 20*time.Second, "web was started anew", func() bool { now := started("web"); return now != "" && now != before })
		act("has stopped the service web", "stop", d.uuid, "web")
		eventually(t, 20*time.Second, "web is stopped", func() bool { return started("web") == "" })
		act("has started the service web", "start", d.uuid, "web")
		eventually(t, 20*time.Second, "web runs", func() bool { return started("web") != "" })
		act("deleted", "purge", d.uuid)
		eventually(t, 20*time.Second, "both run after the purge", func() bool { return started("web") != "" && started("writer") != "" })
		if _, stderr, code := p.try(t, "roadstead", "device", "stop", d.uuid, "nothing"); code != 1 || !strings.Contains(stderr, "failed") {
			t.Errorf("stop of a service that is not there: exit code %d: %s", code, stderr)
		}
		host(t, d, act)
		writer := started("writer")
		act("has restarted", "reboot", d.uuid)
		eventually(t, 30*time.Second, "the services run after the reboot", func() bool { now := started("writer"); return now != "" && now != writer })
		eventually(t, time.Minute, "the channel is up again", connected(true))
	})

	t.Run("in the dashboard", func(t *testing.T) { inTheDashboard(t, d, connected) })
	t.Run("by the balena CLI", func(t *testing.T) {
		cli := os.Getenv("ROADSTEAD_BALENA_CLI")
		if cli == "" {
			t.Skip("ROADSTEAD_BALENA_CLI names no balena CLI; make test installs it")
		}
		if out, stderr, code := p.try(t, cli, "login", "--credentials", "--email", p.admin.Email, "--password", p.admin.Password); code != 0 {
			t.Fatalf("balena login: %s%s", out, stderr)
		}
		for _, args := range [][]string{{"identify", d.uuid}, {"restart", d.uuid, "--service", "web"}, {"stop-service", d.uuid, "web"}, {"start-service", d.uuid, "web"}, {"purge", d.uuid}, {"restart", d.uuid}, {"reboot", d.uuid}} {
			before := started("writer")
			if out, stderr, code := p.try(t, cli, append([]string{"device"}, args...)...); code != 0 {
				t.Errorf("balena device %v: exit code %d: %s%s", args, code, out, stderr)
			}
			if args[0] == "reboot" {
				eventually(t, time.Minute, "it restarts", func() bool { now := started("writer"); return now != "" && now != before })
			}
		}
	})

	eventually(t, time.Minute, "both services run", func() bool { return started("web") != "" && started("writer") != "" })
	eventually(t, time.Minute, "the channel is up", connected(true))
	poll := func(ms string) {
		t.Helper()
		p.roadstead(t, "env", "set", "BALENA_SUPERVISOR_POLL_INTERVAL", ms, "--device", d.uuid)
		eventually(t, 20*time.Second, "the device polls every "+ms+" ms", func() bool {
			text, _ := os.ReadFile(filepath.Join(d.dir, "state/state.json"))
			return strings.Contains(string(text), `"BALENA_SUPERVISOR_POLL_INTERVAL":"`+ms+`"`)
		})
	}
	t.Run("what it should run it hears at once", func(t *testing.T) {
		poll("3600000")
		p.roadstead(t, "env", "set", "GREETING", "good morning", "--device", d.uuid)
		since := time.Now()
		eventually(t, 30*time.Second, "a device that polls every hour runs with the new variable", func() bool {
			for _, c := range d.containers(t) {
				if out, _ := d.exec(t, "docker", "inspect", "--format", "{{.Config.Env}}", c); strings.HasPrefix(c, "web_") && strings.Contains(out, "GREETING=good morning") {
					return true
				}
			}
			return false
		})
		t.Logf("from the change to the container: %v", time.Since(since).Round(10*time.Millisecond))
		poll("1000")
	})

	t.Run("without the channel it waits", func(t *testing.T) {
		p.roadstead(t, "device", "vpn", "off", d.uuid)
		eventually(t, time.Minute, "the channel is down", connected(false))
		host(t, d, func(says string, args ...string) { t.Helper(); act(says, append(args, "--wait", "--timeout", "2m")...) })
		before := started("web")
		_, stderr, code := p.try(t, "roadstead", "device", "restart", d.uuid, "web")
		if code != 0 || !strings.Contains(stderr, "is not connected") || !strings.Contains(stderr, "--cancel") {
			t.Errorf("restart without a channel: exit code %d: %s", code, stderr)
		}
		eventually(t, 20*time.Second, "web was started anew, with a poll", func() bool { now := started("web"); return now != "" && now != before })
		act("has restarted", "reboot", d.uuid, "--wait", "--timeout", "1m")
		log, err := os.ReadFile(filepath.Join(d.dir, "log/power.log"))
		if reboots := strings.Count(string(log), " reboot"); err != nil || reboots < 2 || reboots > 4 { // one by balena's CLI and one in the dashboard, if there are such
			t.Errorf("the device restarted %d times: %v", reboots, err)
		}
		states := strings.Fields(p.roadstead(t, "device", "actions", d.uuid))
		if slices.Contains(states, "queued") || slices.Contains(states, "sent") || !slices.Contains(states, "done") {
			t.Errorf("the actions: %s", states)
		}
		act("switches off", "shutdown", d.uuid, "--wait", "--timeout", "1m")
		eventually(t, time.Minute, "the device is off", func() bool { return d.shutdowns() == 1 })
	})

	t.Run("the balena CLI switches it off, which is its end", func(t *testing.T) { switchedOff(t, d, connected(true), connected(false)) })
}

// host has a device that verifies set its host name, remove a volume that nobody has, and replace its key.
func host(t *testing.T, d *device, act func(says string, args ...string)) {
	t.Helper()
	name := "porch"
	if out, _ := d.exec(t, "hostname"); strings.TrimSpace(out) == name {
		name = "cellar"
	}
	act("has its host configuration", "host-config", d.uuid, "--hostname", name)
	if out, err := d.exec(t, "hostname"); err != nil || strings.TrimSpace(out) != name {
		t.Errorf("the host is %q, want %s: %v", out, name, err)
	}
	if out, err := d.exec(t, "docker", "volume", "create", "--label", "io.balena.supervised=true", "--label", "io.balena.app-uuid=x", "1_left"); err != nil {
		t.Fatalf("docker volume create: %s: %v", out, err)
	}
	act("has deleted its unused volumes", "cleanup-volumes", d.uuid)
	if out, err := d.exec(t, "docker", "volume", "ls", "-q"); err != nil || strings.Contains(out, "1_left") {
		t.Errorf("volumes: %s: %v", out, err)
	}
	secret := func() string {
		text, err := os.ReadFile(filepath.Join(d.dir, "state", "keys.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	before := secret()
	act("has a new key", "renew-key", d.uuid)
	if secret() == before {
		t.Error("the device has its old key")
	}
	eventually(t, time.Minute, "the server has the new key, and the device takes it", func() bool {
		_, stderr, code := p.try(t, "roadstead", "device", "state", d.uuid, "-o", "json", "--wait", "--timeout", "1m")
		return code == 0 && strings.Contains(stderr, "has sent its state")
	})
}

// switchedOff switches a device on again that is off, and off by the real balena CLI.
func switchedOff(t *testing.T, d *device, connected, gone func() bool) {
	t.Helper()
	cli := os.Getenv("ROADSTEAD_BALENA_CLI")
	if cli == "" {
		t.Skip("ROADSTEAD_BALENA_CLI names no balena CLI; make test installs it")
	}
	p.roadstead(t, "device", "vpn", "auto", d.uuid)
	d.down(t)
	d.up(t)
	eventually(t, 2*time.Minute, "the channel is up after somebody switched the device on", connected)
	if out, stderr, code := p.try(t, cli, "device", "shutdown", d.uuid); code != 0 {
		t.Fatalf("balena device shutdown: exit code %d: %s%s", code, out, stderr)
	}
	eventually(t, time.Minute, "the device is off", func() bool { return d.shutdowns() == 2 })
	eventually(t, 2*time.Minute, "and is known to be", gone)
}

// shutdowns is how often the device was told to switch itself off.
func (d *device) shutdowns() int {
	log, _ := os.ReadFile(filepath.Join(d.dir, "log/power.log"))
	return strings.Count(string(log), " shutdown")
}

// started says since when which container of a service runs; nothing when none does.
func (d *device) started(t *testing.T, service string) string {
	t.Helper()
	for _, c := range d.containers(t) {
		if strings.HasPrefix(c, service+"_") {
			out, _ := d.exec(t, "docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", c)
			return out
		}
	}
	return ""
}
