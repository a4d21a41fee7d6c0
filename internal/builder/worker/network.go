package worker

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

//go:embed net.sh
var netScript string // sets the rules and starts buildkitd

//go:embed step.sh
var stepScript []byte // gives a step its network

// private are the networks that no build reaches: this machine, its neighbours, and those who hear everything. IPv6 needs no
// list: builds have none.
var private = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
}

// never are networks that no operator can allow: the namespace's own, the machine's own, and what is no single place.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("224.0.0.0/3"),
}

// allowed reads the networks that the operator lets builds reach although they are private.
func (c Config) allowed() ([]string, error) {
	var list []string
	for _, text := range c.Allow {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			ip, ipErr := netip.ParseAddr(text)
			if ipErr != nil {
				return nil, fmt.Errorf("allow: %q is neither a network like 192.168.7.0/24 nor an address", text)
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		if !p.Addr().Is4() {
			return nil, fmt.Errorf("allow: %q: builds have no IPv6", text)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("allow: %q has bits beyond its length; %s is the network", text, p.Masked())
		}
		for _, n := range never {
			if n.Bits() <= p.Bits() && n.Overlaps(p) || p.Bits() < 8 {
				return nil, fmt.Errorf("allow: %q can never be reached by builds", text)
			}
		}
		list = append(list, p.String())
	}
	return list, nil
}

// hostAddresses lists every address of this machine that could be reached from the outside. That of a private network is listed
// too: the network may be allowed.
func hostAddresses() ([]string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this machine: %w", err)
	}
	var list []string
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			list = append(list, p.Addr().String())
		}
	}
	return list, nil
}

// layNetwork writes what the daemon makes its steps' networks with.
func (m *Manager) layNetwork(p place) error {
	for name, mode := range map[string]os.FileMode{"step": 0o755, "loopback": 0o755} {
		if err := os.WriteFile(filepath.Join(p.plugins(), name), stepScript, mode); err != nil {
			return fmt.Errorf("write the build service's network: %w", err)
		}
		if err := os.Chmod(filepath.Join(p.plugins(), name), mode); err != nil {
			return fmt.Errorf("write the build service's network: %w", err)
		}
	}
	conf, err := json.Marshal(map[string]string{"cniVersion": "0.4.0", "name": "roadstead", "type": "step"})
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.network(), conf, 0o644); err != nil {
		return fmt.Errorf("write the build service's network: %w", err)
	}
	return os.Chmod(p.network(), 0o644)
}

// netCommand is what runs inside the namespaces before buildkitd.
func (m *Manager) netCommand() ([]string, error) {
	allowed, err := m.cfg.allowed()
	if err != nil {
		return nil, err
	}
	host, err := hostAddresses()
	if err != nil {
		return nil, err
	}
	return []string{"/bin/sh", "-c", netScript, "sh", strings.Join(allowed, " "), strings.Join(host, " "), strings.Join(private, " ")}, nil
}
