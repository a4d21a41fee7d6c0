package main_test

import (
	"encoding/json"

	"strings"

	"testing"

	"github.com/roadstead-io/roadstead/internal/supervise"
)

// What does not run is shown with the reason, and is nothing to be alarmed about.
func TestAControlChannelThatIsOff(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0", "--vpn", "off")
	out, text, code := run(t, nil, "status", "--data", s.dir, "-o", "json")
	var status supervise.Status
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatalf("%v: %s%s", err, out, text)
	}
	shown := 0
	for _, r := range status.Roles {
		if r.Role == "vpn" || r.Role == "openvpn" {
			shown++
			if r.State != supervise.NotHere || r.Why != "--vpn is off" || r.PID != 0 {
				t.Errorf("%+v", r)
			}
		}
	}
	if shown != 2 {
		t.Errorf("%d of two roles are shown: %s", shown, out)
	}
	_ = code // of the build daemon's health, which is not there everywhere
	for args, want := range map[string]string{
		"--vpn maybe": "on, off or auto", "--vpn-network 10.0.0.0/24": "between /8 and /16", "--vpn-instances 99": "1 to 16", "--vpn on --openvpn /nowhere/openvpn": "--vpn on: it needs",
	} {
		if _, text, code := run(t, nil, append([]string{"up", "--data", t.TempDir(), "--domain", domain, "--listen", "127.0.0.1:0"}, strings.Fields(args)...)...); code != 2 || !strings.Contains(text, want) {
			t.Errorf("%s: exit %d, %s; want %q", args, code, text, want)
		}
	}
}
