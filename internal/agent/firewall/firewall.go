// Package firewall says what may come into a device by the control channel: the ports of the device's own services and the published
// ports of its containers. Nothing is passed on from the tunnel to the network around the device or the other way about, and nobody
// around the device reaches the tunnel address. What is closed is silent; only to the server's own end of the tunnel it says that it is closed. It uses nftables by the program nft, else iptables; the rules stand before the tunnel does.
package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
)

// ErrNone says that the device has neither nft nor iptables. Then there is no channel.
var ErrNone = errors.New("there is neither nft nor iptables to guard the tunnel with")

// Rules are about one tunnel.
type Rules struct {
	Interface string
	Ports     []int      // TCP, of the device itself
	Address   netip.Addr // of the device in the tunnel; the zero value until it is known: then nothing published is reached
	Peer      netip.Addr // of the server in the tunnel, whose connections to closed ports are refused at once; the zero value: nobody's are
}

// table is ours alone, so that it can be replaced as a whole.
const table = "roadstead_channel"

// Raise puts the rules in the place of those that were there.
func Raise(ctx context.Context, r Rules) error {
	err := r.raise(ctx)
	if err != nil && r.Peer.IsValid() {
		r.Peer = netip.Addr{} // the kernel may be unable to refuse; dropping is as safe
		return r.raise(ctx)
	}
	return err
}

func (r Rules) raise(ctx context.Context) error {
	nft, iptables := found("nft"), found("iptables")
	switch {
	case nft != "":
		if err := run(ctx, r.nft(), nft, "-f", "-"); err != nil {
			return err
		}
		r.Peer = netip.Addr{} // which is done with
	case iptables == "":
		return ErrNone
	}
	if iptables == "" {
		return nil
	}
	if err := r.admit(ctx, iptables); err != nil { // first, for it refuses what the other lets through to be refused
		return err
	}
	if nft != "" {
		return nil
	}
	return r.mangle(ctx, iptables)
}

// refusing reports whether there is somebody to whom closed ports say so.
func (r Rules) refusing() bool { return r.Peer.IsValid() && r.Address.IsValid() }

// Lower removes the rules. What is not there is fine.
func Lower(ctx context.Context) error {
	var errs []error
	if nft := found("nft"); nft != "" {
		errs = append(errs, run(ctx, "table inet "+table+"\ndelete table inet "+table+"\n", nft, "-f", "-"))
	}
	return errors.Join(append(errs, lower(ctx, admitted, arriving, passing))...)
}

// Dismiss removes what Admit did.
func Dismiss(ctx context.Context) error { return lower(ctx, inward) }

func lower(ctx context.Context, places ...place) error {
	var errs []error
	for _, name := range []string{"iptables", "ip6tables"} {
		iptables := found(name)
		if iptables == "" {
			continue
		}
		for _, place := range places {
			if run(ctx, "", iptables, "-w", "5", "-t", place.table, "-D", place.hook, "-j", place.name) != nil {
				continue // it was not there
			}
			errs = append(errs, run(ctx, "", iptables, "-w", "5", "-t", place.table, "-F", place.name), run(ctx, "", iptables, "-w", "5", "-t", place.table, "-X", place.name))
		}
	}
	return errors.Join(errs...)
}

// Admit opens a port of the device to a network of its own containers, where the filter table may drop by default.
func Admit(ctx context.Context, nic string, port int) error {
	iptables := found("iptables")
	if iptables == "" {
		return nil
	}
	return set(ctx, iptables, inward.with(fmt.Sprintf("-i %s -p tcp --dport %d -j ACCEPT", nic, port)))
}

// place is a chain of ours and where it is called from.
type place struct{ table, hook, name string }

var (
	inward   = place{"filter", "INPUT", "ROADSTEAD-BRIDGE"}
	admitted = place{"filter", "INPUT", "ROADSTEAD-TUNNEL"}
	arriving = place{"mangle", "INPUT", "ROADSTEAD-ARRIVING"} // before the filter table, where the container engine and others put their own rules first
	passing  = place{"mangle", "FORWARD", "ROADSTEAD-PASSING"}
)

// nft is the whole of the table. A packet that it accepts still has to pass the tables of others.
func (r Rules) nft() string {
	ports := make([]string, len(r.Ports))
	for i, p := range r.Ports {
		ports[i] = strconv.Itoa(p)
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("table inet %s", table)
	line("delete table inet %s", table)
	line("table inet %s {", table)
	line("chain arriving {")
	line("type filter hook input priority -160; policy accept;")
	if r.Address.IsValid() {
		line("iifname != { %q, \"lo\" } ip daddr %s counter drop", r.Interface, r.Address)
	}
	line("iifname %q ct state established,related accept", r.Interface)
	if len(ports) > 0 {
		line("iifname %q meta nfproto ipv4 tcp dport { %s } accept", r.Interface, strings.Join(ports, ", "))
	}
	if r.refusing() {
		line("iifname %q ip saddr %s ip daddr %s meta l4proto tcp ct state new counter reject with tcp reset", r.Interface, r.Peer, r.Address)
	}
	line("iifname %q counter drop", r.Interface)
	line("}")
	line("chain passing {")
	line("type filter hook forward priority -160; policy accept;")
	if r.Address.IsValid() {
		line("iifname %q ct status dnat ct original ip daddr %s accept", r.Interface, r.Address)
		line("oifname %q ct status dnat ct state established,related ct original ip daddr %s accept", r.Interface, r.Address)
	}
	line("iifname %q counter drop", r.Interface)
	line("oifname %q counter drop", r.Interface)
	line("}")
	line("}")
	return b.String()
}

// mangle does the same with iptables.
func (r Rules) mangle(ctx context.Context, iptables string) error {
	in := []string{"-i lo -j RETURN"}
	if r.Address.IsValid() {
		in = append(in, fmt.Sprintf("-d %s ! -i %s -j DROP", r.Address, r.Interface))
	}
	in = append(in, fmt.Sprintf("-i %s -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN", r.Interface))
	for _, p := range r.Ports {
		in = append(in, fmt.Sprintf("-i %s -p tcp --dport %d -j RETURN", r.Interface, p))
	}
	if r.refusing() { // only the filter table can refuse: see admit
		in = append(in, r.knocks()+" -j RETURN")
	}
	in = append(in, fmt.Sprintf("-i %s -j DROP", r.Interface))
	var through []string
	if r.Address.IsValid() {
		through = append(through,
			fmt.Sprintf("-i %s -m conntrack --ctstate DNAT --ctorigdst %s -j RETURN", r.Interface, r.Address),
			fmt.Sprintf("-o %s -m conntrack --ctstate DNAT --ctdir REPLY --ctorigdst %s -j RETURN", r.Interface, r.Address))
	}
	drop := []string{fmt.Sprintf("-i %s -j DROP", r.Interface), fmt.Sprintf("-o %s -j DROP", r.Interface)}
	if err := set(ctx, iptables, arriving.with(in...), passing.with(append(through, drop...)...)); err != nil {
		return err
	}
	ip6tables := found("ip6tables")
	if ip6tables == "" {
		return nil // then there is no IPv6 to filter
	}
	return set(ctx, ip6tables, arriving.with(drop[:1]...), passing.with(drop...))
}

// knocks is what of the server's connections no service is there for, in a chain that has dealt with the others.
func (r Rules) knocks() string {
	return fmt.Sprintf("-i %s -s %s -d %s -p tcp -m conntrack --ctstate NEW", r.Interface, r.Peer, r.Address)
}

// admit opens the services' ports in a filter table that may drop by default, and refuses what mangle lets through to be refused.
func (r Rules) admit(ctx context.Context, iptables string) error {
	var rules []string
	for _, p := range r.Ports {
		rules = append(rules, fmt.Sprintf("-i %s -p tcp --dport %d -j ACCEPT", r.Interface, p))
	}
	if r.refusing() {
		rules = append(rules, r.knocks()+" -j REJECT --reject-with tcp-reset")
	}
	return set(ctx, iptables, admitted.with(rules...))
}

// chain is a place and what it is to hold.
type chain struct {
	place
	rules []string
}

func (p place) with(rules ...string) chain { return chain{p, rules} }

// set fills chains of one table and has them called first, all in one step: a packet meets what was there or what is there now, and never a chain
// that is half full.
func set(ctx context.Context, iptables string, chains ...chain) error {
	var declared, filled, called strings.Builder
	for _, c := range chains {
		fmt.Fprintf(&declared, ":%s - [0:0]\n", c.name) // made, or emptied
		for _, rule := range c.rules {
			fmt.Fprintf(&filled, "-A %s %s\n", c.name, rule)
		}
		if run(ctx, "", iptables, "-w", "5", "-t", c.table, "-C", c.hook, "-j", c.name) != nil {
			fmt.Fprintf(&called, "-I %s 1 -j %s\n", c.hook, c.name)
		}
	}
	input := "*" + chains[0].table + "\n" + declared.String() + filled.String() + called.String() + "COMMIT\n"
	return run(ctx, input, iptables+"-restore", "-w", "5", "--noflush")
}

// found gives the path of a program, or nothing.
func found(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // which a service's PATH may lack
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	return ""
}

func run(ctx context.Context, input, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(out.String())
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, text[:min(len(text), 300)])
	}
	return nil
}
