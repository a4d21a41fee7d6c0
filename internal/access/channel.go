package access

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// Channels is a set of the ways on which a key may come. None given means all.
type Channels int

// The channels. Their numbers are stored.
const (
	API         Channels = 1 << iota // requests to the API
	Git                              // git push
	Registry                         // docker login and pull
	Tunnel                           // SSH and tunnels to devices
	AllChannels = Tunnel<<1 - 1
)

var channelNames = []string{"api", "git", "registry", "tunnel"}

// Names lists them as they are said to people and on the wire.
func (c Channels) Names() []string {
	names := []string{}
	for i, name := range channelNames {
		if c&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

func (c Channels) String() string { return strings.Join(c.Names(), ", ") }

// ParseChannels reads a list of names; an empty one is all.
func ParseChannels(names []string) (c Channels, err error) {
	for _, name := range names {
		i := slices.Index(channelNames, name)
		if i < 0 {
			return 0, fmt.Errorf("%q is no channel: %s", name, strings.Join(channelNames, ", "))
		}
		c |= Channels(1) << i
	}
	if c == 0 {
		c = AllChannels
	}
	return c, nil
}

// Uses reports whether the caller's key may come by a channel. Whoever has no key that says so may come by all.
func (c Caller) Uses(ch Channels) bool { return c.Channels == 0 || c.Channels&ch == ch }

// Comes refuses a key on a channel, or from a network, that it is not for. Who has it in the wrong place is told as little as somebody
// who has none at all.
func (c Caller) Comes(ch Channels, address string) error {
	if c.Networks != "" {
		addr, err := netip.ParseAddr(address)
		if err != nil || !slices.ContainsFunc(strings.Fields(c.Networks), func(text string) bool {
			prefix, err := netip.ParsePrefix(text)
			return err == nil && prefix.Contains(addr.Unmap().WithZone(""))
		}) {
			return api.ErrUnauthorized
		}
	}
	if !c.Uses(ch) {
		return api.Errorf(api.Forbidden, "this key is not for the channel %s", ch)
	}
	return nil
}

// ParseNetworks reads network prefixes and writes them in one form: 192.0.2.0/24, 2001:db8::/32; an address alone is itself.
func ParseNetworks(list []string) (string, error) {
	out := make([]string, 0, len(list))
	for _, text := range list {
		prefix, err := netip.ParsePrefix(text)
		if addr, wrong := netip.ParseAddr(text); wrong == nil && addr.Zone() == "" {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return "", fmt.Errorf("%q is no network: write 192.0.2.0/24 or 2001:db8::/32", text)
		}
		if prefix.Addr().Is4In6() {
			if prefix.Bits() < 96 {
				return "", fmt.Errorf("%q is no network: write IPv4 as 192.0.2.0/24", text)
			}
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
		out = append(out, prefix.Masked().String())
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " "), nil
}
