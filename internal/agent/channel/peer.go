package channel

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"
)

// peerOf is the address at the other end of the tunnel, as the kernel has it: the server's, from which all connections by the tunnel come. The
// zero value says that it is not known.
func peerOf(name string, own netip.Addr) (netip.Addr, error) {
	nic, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("the tunnel: %w", err)
	}
	table, err := syscall.NetlinkRIB(syscall.RTM_GETADDR, syscall.AF_INET)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses of the tunnel: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses of the tunnel: %w", err)
	}
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != syscall.RTM_NEWADDR || len(m.Data) < syscall.SizeofIfAddrmsg {
			continue
		}
		if about := (*syscall.IfAddrmsg)(unsafe.Pointer(&m.Data[0])); int(about.Index) != nic.Index { //nolint:gosec // of that size, see above
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("addresses of the tunnel: %w", err)
		}
		var local, far netip.Addr
		for _, a := range attributes {
			switch a.Attr.Type {
			case syscall.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(a.Value)
			case syscall.IFA_ADDRESS:
				far, _ = netip.AddrFromSlice(a.Value)
			}
		}
		if local == own && far != own {
			return far, nil
		}
	}
	return netip.Addr{}, nil
}
