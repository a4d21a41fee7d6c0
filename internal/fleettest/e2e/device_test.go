package e2e_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// device is a virtual device: a network namespace with an engine of its own, and the real agent. Its whole disk is one file
// with a file system in it, so that a test can search the raw bytes of it.
type device struct {
	name, dir, image, config string
	uuid, key                string
	provisioningKey          string
	hosts                    []string // lines of its /etc/hosts; none: the server's
}

// newDevice makes a config.json for a fleet and boots a device with it.
func newDevice(t *testing.T, fleet, name string) *device {
	t.Helper()
	d := newDisk(t, fleet, name)
	d.up(t)
	return d
}

// newDisk makes a config.json for a fleet, and the disk of a device that was never switched on.
func newDisk(t *testing.T, fleet, name string) *device {
	t.Helper()
	d := &device{name: name, dir: filepath.Join(p.dir, name), image: filepath.Join(p.dir, name+".img"), config: filepath.Join(p.dir, name+".json")}
	p.roadstead(t, "device", "init", fleet, "--name", name, "--uses", "1", "--expires", "1h", "--force", "-o", d.config)
	var config struct {
		APIKey string `json:"apiKey"`
	}
	readJSON(t, d.config, &config)
	if config.APIKey == "" {
		t.Fatal("device init made a config.json without a provisioning key")
	}
	d.provisioningKey = config.APIKey
	p.secrets = append(p.secrets, config.APIKey)

	must(t, "mkdir", "-p", d.dir)
	must(t, "truncate", "-s", "2G", d.image)
	must(t, "mkfs.ext4", "-q", "-F", d.image)
	must(t, "mount", "-o", "loop", d.image, d.dir)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the agent's log:\n%s", tail(filepath.Join(d.dir, "log/agent.log"), 40))
			t.Logf("end of the engine's log:\n%s", tail(filepath.Join(d.dir, "log/dockerd.log"), 10))
		}
		_ = exec.Command("umount", d.dir).Run()
		_ = os.Remove(d.image)
	})
	t.Cleanup(func() { d.down(t) })
	return d
}

func (d *device) up(t *testing.T) {
	t.Helper()
	args := []string{"up", d.name, d.dir, d.config, "--drop-input", "--strict-out"}
	hosts := d.hosts
	if len(hosts) == 0 {
		hosts = []string{p.hostsLine}
	}
	for _, line := range hosts {
		args = append(args, "--hosts", line)
	}
	must(t, filepath.Join(p.top, "scripts/device.sh"), args...)
}

func (d *device) down(t *testing.T) {
	t.Helper()
	must(t, filepath.Join(p.top, "scripts/device.sh"), "down", d.name)
}

// exec runs a command on the device.
func (d *device) exec(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(filepath.Join(p.top, "scripts/device.sh"), append([]string{"exec", d.name}, args...)...).CombinedOutput()
	return string(out), err
}

// registered waits until the device has registered and learns its uuid and key from its own disk.
func (d *device) registered(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, d.name+" has registered and has destroyed its provisioning key", func() bool {
		var config struct {
			APIKey       string `json:"apiKey"`
			UUID         string `json:"uuid"`
			DeviceAPIKey string `json:"deviceApiKey"`
			DeviceID     int64  `json:"deviceId"`
		}
		data, err := os.ReadFile(filepath.Join(d.dir, "boot/config.json"))
		if err != nil || json.Unmarshal(data, &config) != nil {
			return false
		}
		d.uuid, d.key = config.UUID, config.DeviceAPIKey
		return config.APIKey == "" && config.DeviceID != 0 && d.key != ""
	})
	p.secrets = append(p.secrets, d.key)
}

// running waits until services of the fleet's newest release run.
func (d *device) running(t *testing.T, services ...string) {
	t.Helper()
	args := []string{"device", "wait", d.uuid, "--timeout", "3m"}
	for _, s := range services {
		args = append(args, "--running", s)
	}
	p.roadstead(t, args...)
}

// page reads the device's web page from inside its network namespace.
func (d *device) page(t *testing.T) string {
	t.Helper()
	out, err := d.exec(t, "curl", "-fsS", "--max-time", "5", "http://127.0.0.1/")
	if err != nil {
		return ""
	}
	return out
}

// containers lists the names of the running containers.
func (d *device) containers(t *testing.T) []string {
	t.Helper()
	out, err := d.exec(t, "docker", "ps", "--format", "{{.Names}}")
	if err != nil {
		return nil
	}
	return strings.Fields(out)
}

func must(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = p.environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
