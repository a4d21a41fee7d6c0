package cage

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"time"
)

// DefaultNetwork is where devices get their tunnel addresses from.
const DefaultNetwork = "10.240.0.0/12"

const (
	maxInstances = 16
	program      = "/usr/sbin/openvpn"
)

// Config is the configuration of the process around openvpn.
type Config struct {
	// Dir is its own directory: the certificate of the server (tls.pem, tls.key) and, in clients.pem, the authority whose certificates
	// devices may present.
	Dir string `json:"dir"`
	// OpenVPN is the program; empty means /usr/sbin/openvpn.
	OpenVPN string `json:"openvpn,omitempty"`
	// Instances is how many openvpn processes share the devices.
	Instances int `json:"instances"`
	// Network holds the tunnel addresses of all devices, which each instance gives, and of the server.
	Network string `json:"network"`
	// Watch is how often every closed way is tried, in milliseconds; 0 means 30 seconds.
	Watch int `json:"watch,omitempty"`
}

// Validate names the first field that is wrong.
func (c Config) Validate() error {
	if c.Dir == "" {
		return errors.New("dir: is empty")
	}
	if c.Instances < 1 || c.Instances > maxInstances {
		return fmt.Errorf("instances: %d: 1 to %d", c.Instances, maxInstances)
	}
	p, err := netip.ParsePrefix(c.Network)
	switch {
	case err != nil || !p.Addr().Is4() || p.Masked() != p:
		return fmt.Errorf("network: %q is no IPv4 network like %s", c.Network, DefaultNetwork)
	case p.Bits() < 8 || p.Bits() > 16:
		return fmt.Errorf("network: %s: between /8 and /16", c.Network)
	}
	return nil
}

func (c Config) watch() time.Duration {
	if c.Watch > 0 {
		return time.Duration(c.Watch) * time.Millisecond
	}
	return watchEvery
}

func (c Config) program() string {
	if c.OpenVPN != "" {
		return c.OpenVPN
	}
	return program
}

// Available says why this machine cannot run the control channel; nil when it can.
func Available(c Config) error {
	if os.Geteuid() != 0 {
		return errors.New("it needs a server that is started as root")
	}
	for _, p := range []string{c.program(), "nft", "ip"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("it needs the program %s, which is not here", p)
		}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return errors.New("it needs /dev/net/tun, which is not here")
	}
	return nil
}
