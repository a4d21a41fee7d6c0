package agent

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/firewall"
)

// bridge answers the device API to containers: on the address of a bridge that only they are on, and on the loopback address for those
// without a network of their own. Without such a service on the device it does not listen.
type bridge struct {
	api *deviceapi.Server
	log *slog.Logger

	mu      sync.Mutex // covers what follows
	open    map[netip.Addr]*opening
	running sync.WaitGroup
}

// opening is one address that is listened on.
type opening struct {
	index int // of the bridge's interface; the engine may make it anew
	close func()
}

// ensure listens where the services of a target state need it, and nowhere else.
func (b *bridge) ensure(ctx context.Context, want *desired) {
	var bridged, local bool
	for _, svc := range want.target.Services {
		bridged = bridged || svc.API && svc.Spec.Host.NetworkMode != "host"
		local = local || svc.API && svc.Spec.Host.NetworkMode == "host"
	}
	index := 0
	if bridged {
		if nic, err := net.InterfaceByName(composition.APINetworkName); err == nil {
			index = nic.Index
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set(ctx, composition.APIAddress, composition.APISubnet, index)
	loopback := 0
	if local {
		loopback = 1
	}
	b.set(ctx, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.MustParsePrefix("127.0.0.0/8"), loopback)
}

// set brings one address to the state that is wanted: index 0 means shut. The caller holds the lock.
func (b *bridge) set(ctx context.Context, addr netip.Addr, from netip.Prefix, index int) {
	have := b.open[addr]
	if have != nil && have.index == index || have == nil && index == 0 {
		return
	}
	if have != nil {
		have.close()
		delete(b.open, addr)
		if !addr.IsLoopback() && index == 0 {
			if err := firewall.Dismiss(ctx); err != nil {
				b.log.Warn("the rule that admits containers to the device API stays", "error", err)
			}
		}
	}
	if index == 0 {
		return
	}
	lc := net.ListenConfig{}
	if !addr.IsLoopback() {
		lc.Control = func(_, _ string, conn syscall.RawConn) error {
			var err error
			ctl := conn.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), composition.APINetworkName) }) //nolint:gosec // a descriptor is small
			if ctl != nil {
				return ctl
			}
			return err
		}
		if err := firewall.Admit(ctx, composition.APINetworkName, deviceapi.Port); err != nil {
			b.log.Warn("containers may not reach the device API", "error", err)
		}
	}
	ln, err := lc.Listen(ctx, "tcp4", net.JoinHostPort(addr.String(), strconv.Itoa(deviceapi.Port)))
	if err != nil {
		b.log.Warn("containers do not reach the device API", "error", err)
		return
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.open[addr] = &opening{index: index, close: func() { cancel(); _ = ln.Close() }}
	b.running.Go(func() {
		defer cancel()
		if err := b.api.ServeFrom(serving, ln, from); serving.Err() == nil {
			b.log.Warn("the device API for containers ended", "error", err)
		}
	})
}

// shut ends all of it and waits.
func (b *bridge) shut() {
	b.mu.Lock()
	for addr, o := range b.open {
		o.close()
		delete(b.open, addr)
	}
	b.mu.Unlock()
	b.running.Wait()
}
