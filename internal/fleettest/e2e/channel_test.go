package e2e_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// connected is whether the server knows the device to be on its control channel.
func (d *device) connected(t *testing.T) bool {
	t.Helper()
	var s struct {
		Connected bool `json:"connected"`
	}
	a := p.call(t, "GET", "api", "/channel/v1/device/"+d.uuid, p.admin.APIKey, nil)
	return a.status == http.StatusOK && json.Unmarshal([]byte(a.body), &s) == nil && s.Connected
}

// throughTheChannel: a device that lets nothing in, and out only what the table of ports has, registered, pulled its images, sends its logs and
// runs already; it also keeps its control channel, and the server reaches its API by it. Switched off there is no process, no interface and no
// packet to the server's OpenVPN; the agent then works by polling.
func throughTheChannel(t *testing.T, d *device) {
	eventually(t, time.Minute, "the device is on its control channel", func() bool { return d.connected(t) })
	a := p.call(t, "POST", "api", "/supervisor/v1/device", p.admin.APIKey, map[string]any{"uuid": d.uuid, "method": "GET"})
	if a.status != http.StatusOK || !strings.Contains(a.body, `"api_port":48484`) {
		t.Errorf("the device API through the channel: %d %s", a.status, a.body)
	}
	rules, err := d.exec(t, "sh", "-c", "iptables -S INPUT; iptables -t mangle -L POSTROUTING -v -x -n")
	if err != nil || !strings.Contains(rules, "-P INPUT DROP") {
		t.Fatalf("the device's rules: %v\n%s", err, rules)
	}
	lines := strings.Split(strings.TrimSpace(rules), "\n")
	last := strings.Fields(lines[len(lines)-1])
	if len(last) < 3 || last[2] != "DROP" || last[0] != "0" {
		t.Errorf("the device tried to send something else than 53/udp, 123/udp and 443/tcp: %s", lines[len(lines)-1])
	}
	memory, err := d.exec(t, "sh", "-c", "grep VmRSS /proc/$(cat /run/agent.pid)/status")
	if f := strings.Fields(memory); err != nil || len(f) < 2 {
		t.Errorf("the agent's memory: %v %s", err, memory)
	} else if kb, _ := strconv.Atoi(f[1]); kb > 25<<10 {
		t.Errorf("the agent uses %d KiB with its channel on", kb)
	}

	t.Run("off", func(t *testing.T) {
		p.roadstead(t, "device", "vpn", "off", d.uuid)
		eventually(t, time.Minute, "no process and no interface", func() bool {
			out, _ := d.exec(t, "sh", "-c", "pgrep -l openvpn; ip -o link show roadstead-vpn 2>/dev/null")
			return strings.TrimSpace(out) == ""
		})
		eventually(t, time.Minute, "the server knows", func() bool { return !d.connected(t) })
		p.roadstead(t, "env", "set", "CHANNEL", "off", "--device", d.uuid)
		eventually(t, time.Minute, "an update arrives all the same", func() bool {
			for _, c := range d.containers(t) {
				if strings.HasPrefix(c, "web_") {
					out, _ := d.exec(t, "docker", "inspect", "--format", "{{.Config.Env}}", c)
					return strings.Contains(out, "CHANNEL=off")
				}
			}
			return false
		})
		p.roadstead(t, "device", "vpn", "on", d.uuid)
		eventually(t, time.Minute, "and on again", func() bool { return d.connected(t) })
	})
}
