package cage

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/internal/vpn/line"
)

// firstPort is that of the first openvpn process, on the namespace's own loopback.
const firstPort = 1194

// Devices of the watcher: it sends on one what must not come out of the other.
const (
	probeIn  = "probe0"
	probeOut = "probe1"
)

// tunnel is one device of the namespace and the network whose addresses arrive there.
type tunnel struct {
	device  string
	network netip.Prefix
	server  netip.Addr // the server's own end
	table   int        // of routes for what the server's end begins; 0: the namespace's own
}

// firstTable is the first instance's table of routes.
const firstTable = 101

// tunnels divides the network. Its first half is the devices', of each instance alike: a device has the same address wherever it comes in. What is
// meant for it goes through the instance that has it, because it comes from that instance's own end. The ends are the first address, and in the other
// half those of the further instances. The network's last addresses are for the two devices of the watcher.
func (c Config) tunnels() (instances []tunnel, in, out tunnel) {
	pool := netip.MustParsePrefix(c.Network)
	half := uint32(1) << (31 - pool.Bits())
	devices := netip.PrefixFrom(pool.Addr(), pool.Bits()+1)
	for i := range c.Instances {
		t := tunnel{fmt.Sprintf("tun%d", i), devices, devices.Addr().Next(), firstTable + i}
		if i > 0 {
			t.server = at(pool.Addr(), half+4*uint32(i))
		}
		instances = append(instances, t)
	}
	end := at(pool.Addr(), 2*half-256)
	return instances, newProbe(probeIn, end), newProbe(probeOut, at(end, 128))
}

func newProbe(device string, first netip.Addr) tunnel {
	return tunnel{device: device, network: netip.PrefixFrom(first, 25), server: first.Next()}
}

// at is the n-th address after one.
func at(first netip.Addr, n uint32) netip.Addr {
	b := first.As4()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b[:])+n)))
}

// Instances tells the vpn role what there is.
func (c Config) instances() (list []line.Instance) {
	tunnels, _, _ := c.tunnels()
	for i, t := range tunnels {
		list = append(list, line.Instance{Number: i, Network: t.network.String(), Server: t.server.String()})
	}
	return list
}

// device reports whether an address is one that a device can have.
func (c Config) device(a netip.Addr) bool {
	tunnels, _, _ := c.tunnels()
	t := tunnels[0]
	return t.network.Contains(a) && a != t.server && a != t.network.Addr()
}

// definitions is what rules.nft builds on.
func (c Config) definitions() string {
	list, in, out := c.tunnels()
	list = append(list, in, out)
	var devices, sources, servers []string
	for _, t := range list {
		devices = append(devices, fmt.Sprintf("%q", t.device))
		sources = append(sources, fmt.Sprintf("%q . %s", t.device, t.network))
		servers = append(servers, fmt.Sprintf("%q . %s", t.device, t.server))
	}
	set := func(of []string) string { return "{ " + strings.Join(of, ", ") + " }" }
	return fmt.Sprintf("define tunnels = %s\ndefine sources = %s\ndefine servers = %s\ndefine probe = %q\ndefine pool = %s\n",
		set(devices), set(sources), set(servers), probeIn, c.Network)
}

// commands are those of `ip -batch` that make the devices. Tunnels of openvpn belong to the user that it runs as.
func (c Config) commands(uid, gid int) string {
	list, in, out := c.tunnels()
	var b strings.Builder
	b.WriteString("link set lo up\n")
	for _, t := range append(list, in, out) {
		fmt.Fprintf(&b, "tuntap add dev %s mode tun user %d group %d\n", t.device, uid, gid)
		fmt.Fprintf(&b, "link set %s mtu 1500 up\naddress add %s/32 dev %s\n", t.device, t.server, t.device)
		table := "main"
		if t.table > 0 {
			table = strconv.Itoa(t.table)
			fmt.Fprintf(&b, "rule add from %s lookup %s\n", t.server, table)
		}
		fmt.Fprintf(&b, "route add %s dev %s src %s table %s\n", t.network, t.device, t.server, table)
	}
	// What would leave for elsewhere, were anything let through, comes out where the watcher sees it.
	fmt.Fprintf(&b, "route add default dev %s\n", out.device)
	return b.String()
}
