//go:build linux

package firewall_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/agent/firewall"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

const tunnel = "roadstead-vpn"

func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// in runs something in a network; what it opens stays there.
func in(t *testing.T, network string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its network
		file, err := os.Open("/run/netns/" + network)
		if err == nil {
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET) //nolint:gosec // a descriptor is small
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// The rules are put in the place of others again and again while somebody at the other end of the tunnel, and somebody in the network beside the
// device, sends without a pause what is to be dropped: none of it ever comes through, of neither IP.
func TestRulesAreReplacedWithoutAGap(t *testing.T) {
	if !roletest.Inside(t) {
		return
	}
	// The device is .1 or ::1 of both networks, and passes on between them.
	sh(t, `mount -t tmpfs none /run; mkdir /run/netns; ip link set lo up
		for n in srv:77:`+tunnel+` lan:88:lan0; do
			IFS=: read -r ns net nic <<-END
				$n
			END
			ip netns add $ns; ip -n $ns link set lo up
			ip link add $nic address 02:00:00:00:00:$net type veth peer name eth0 netns $ns
			ip address add 192.168.$net.1/24 dev $nic; ip address add fd00:$net::1/64 dev $nic nodad; ip link set $nic up
			ip -n $ns address add 192.168.$net.2/24 dev eth0; ip -n $ns address add fd00:$net::2/64 dev eth0 nodad; ip -n $ns link set eth0 up
			ip -n $ns neigh add fd00:$net::1 lladdr 02:00:00:00:00:$net dev eth0 # a tunnel has no neighbours to ask for
			ip -n $ns route add default via 192.168.$net.1; ip -n $ns route add default via fd00:$net::1
		done
		echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
		mount --bind /dev/null $(readlink -f $(command -v nft || echo /usr/sbin/nft))`)
	ways := []*way{
		{name: "into the device", to: "192.168.77.1"}, {name: "into the device by IPv6", to: "fd00:77::1"},
		{name: "through the device", to: "192.168.88.2"}, {name: "through the device by IPv6", to: "fd00:88::2"},
	}
	var round atomic.Int64 // of which each packet is
	var ends []net.Conn
	for i, w := range ways {
		var ear *net.UDPConn
		listen := func() (err error) {
			ear, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(w.to), Port: 9999})
			return err
		}
		if i < 2 {
			if err := listen(); err != nil {
				t.Fatal(err)
			}
		} else {
			in(t, "lan", listen)
		}
		t.Cleanup(func() { _ = ear.Close() })
		go func() {
			for b := make([]byte, 16); ; {
				if _, err := ear.Read(b); err != nil {
					return
				}
				if int64(b[0]) == round.Load() { // and none that was on its way before
					w.heard.Add(1)
				}
			}
		}()
		in(t, "srv", func() error {
			c, err := net.Dial("udp", net.JoinHostPort(w.to, "9999"))
			ends = append(ends, c)
			return err
		})
	}
	stop := make(chan struct{})
	var sending sync.WaitGroup
	var sent atomic.Int64
	sending.Go(func() {
		tick := time.NewTicker(100 * time.Microsecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for _, c := range ends {
				_, _ = c.Write([]byte{byte(round.Load())}) // a refusal of the one before is an error of this one
			}
			sent.Add(1)
		}
	})
	defer func() { close(stop); sending.Wait() }()
	t.Run("iptables", func(t *testing.T) { replace(t, ways, &sent, &round) })
	if exec.Command("iptables-legacy", "-t", "mangle", "-L").Run() != nil {
		return // this kernel has the newer kind alone
	}
	t.Run("older iptables", func(t *testing.T) {
		dir := t.TempDir()
		sh(t, `for p in iptables iptables-restore ip6tables ip6tables-restore; do ln -s "$(command -v "${p%%-*}-legacy${p#*tables}")" `+dir+`/$p; done`)
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		replace(t, ways, &sent, &round)
	})
}

// way is one that is closed, and what came by it.
type way struct {
	name, to string
	heard    atomic.Int64
}

// replace puts rules in the place of others while something is sent, and at the end removes them.
func replace(t *testing.T, ways []*way, sent, round *atomic.Int64) {
	rules := firewall.Rules{Interface: tunnel, Ports: []int{48484, 22222}}
	raise := func() {
		t.Helper()
		if err := firewall.Raise(t.Context(), rules); err != nil {
			t.Fatal(err)
		}
	}
	raise()
	round.Add(1)
	for _, w := range ways {
		w.heard.Store(0)
	}
	for n := range 15 {
		before := sent.Load()
		rules.Address, rules.Peer = netip.Addr{}, netip.Addr{}
		if n%2 == 0 {
			rules.Address, rules.Peer = netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("192.168.77.2")
		}
		raise()
		roletest.Eventually(t, "something is sent meanwhile", func() bool { return sent.Load() > before })
	}
	for _, w := range ways {
		if n := w.heard.Load(); n > 0 {
			t.Errorf("%d packets came %s while the rules were replaced", n, w.name)
		}
	}
	if err := firewall.Lower(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, w := range ways { // it was the rules that held them up, and nothing else
		roletest.Eventually(t, fmt.Sprint("it comes ", w.name), func() bool { return w.heard.Load() > 0 })
	}
	if out, err := exec.Command("sh", "-c", "iptables-save; ip6tables-save").Output(); err != nil || strings.Contains(string(out), "ROADSTEAD") {
		t.Errorf("%v; what is left: %s", err, out)
	}
}
