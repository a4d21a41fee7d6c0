package cage

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Times of the watcher.
const (
	watchEvery = 30 * time.Second
	// A packet that has left no trace is sent again: the log of the firewall is not held to keep every one.
	attempts   = 4
	firstTrace = 250 * time.Millisecond
)

// way is one that must be closed, and a packet that would go it.
type way struct {
	name   string // what people call it
	prefix string // of the rule that closes it, see rules.nft
	packet func(id uint32) []byte
}

// ways lists them. Each packet carries a number, by which it is known again.
func (c Config) ways() []way {
	tunnels, in, out := c.tunnels()
	device := at(in.network.Addr(), 9) // the watcher plays this one
	elsewhere, neighbour := at(out.network.Addr(), 9), at(tunnels[0].network.Addr(), 9)
	internet := netip.MustParseAddr("198.51.100.7") // of no network that exists
	udp := func(src, dst netip.Addr) func(uint32) []byte {
		return func(id uint32) []byte { return ipv4(src, dst, unix.IPPROTO_UDP, 0, datagram(id)) }
	}
	return []way{
		{"device to device", "neighbour", udp(device, elsewhere)},
		{"device to a device of openvpn", "neighbour", udp(device, neighbour)},
		{"device to the server", "server", udp(device, in.server)},
		{"device to a port of the server", "connect", func(id uint32) []byte {
			return ipv4(device, in.server, unix.IPPROTO_TCP, 0, syn(device, in.server, id))
		}},
		{"device to the server by another of its addresses", "neighbour", func(id uint32) []byte {
			return ipv4(device, tunnels[0].server, unix.IPPROTO_TCP, 0, syn(device, tunnels[0].server, id))
		}},
		{"device to the server's loopback", "internet", udp(device, netip.MustParseAddr("127.0.0.1"))},
		{"device to the Internet", "internet", udp(device, internet)},
		{"device to a private network", "internet", udp(device, netip.MustParseAddr("192.168.1.1"))},
		{"device to a link-local address", "internet", udp(device, netip.MustParseAddr("169.254.169.254"))},
		{"source of another device", "spoofed", udp(neighbour, elsewhere)},
		{"source of the server", "spoofed", udp(in.server, elsewhere)},
		{"source of nobody", "spoofed", udp(internet, elsewhere)},
		{"multicast", "multicast", udp(device, netip.MustParseAddr("224.0.0.251"))},
		{"broadcast", "multicast", udp(device, netip.MustParseAddr("255.255.255.255"))},
		{"first fragment", "fragments", func(id uint32) []byte {
			return ipv4(device, in.server, unix.IPPROTO_UDP, 0x2000, datagram(id))
		}},
		{"later fragment", "fragments", func(id uint32) []byte {
			return ipv4(device, elsewhere, unix.IPPROTO_UDP, 3, datagram(id))
		}},
		{"IPv6", "ipv6", func(id uint32) []byte { return ipv6(datagram(id)) }},
	}
}

// watcher sends packets down the ways that must be closed and looks whether the firewall says that it refused each, and whether one of them,
// or an answer to it, comes out anywhere.
type watcher struct {
	cfg     Config
	log     *slog.Logger
	in, out *os.File // the two devices
	refused *os.File // the log of the firewall
	work    sync.WaitGroup

	mu     sync.Mutex // covers what follows
	traces map[uint32]string
	passed map[uint32]bool
	wake   chan struct{}
}

func newWatcher(cfg Config, log *slog.Logger) (*watcher, error) {
	fd, err := strconv.Atoi(os.Getenv(envLog))
	if err != nil {
		return nil, errors.New("the namespace was not made")
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	w := &watcher{cfg: cfg, log: log, refused: os.NewFile(uintptr(fd), "refused"), traces: map[uint32]string{}, passed: map[uint32]bool{}, wake: make(chan struct{}, 1)}
	if w.in, err = attach(probeIn); err != nil {
		return nil, err
	}
	if w.out, err = attach(probeOut); err != nil {
		return nil, err
	}
	w.work.Go(w.hear)
	w.work.Go(func() { w.look(w.in) })
	w.work.Go(func() { w.look(w.out) })
	return w, nil
}

// attach opens one of the devices that belong to this user.
func attach(device string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(device)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", device, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), device), nil
}

func (w *watcher) close() {
	_, _, _ = w.in.Close(), w.out.Close(), w.refused.Close()
	w.work.Wait()
}

// hear reads what the firewall refuses: the watcher's own packets, and a few of others', which go to the server's log.
func (w *watcher) hear() {
	buf := make([]byte, 64<<10)
	quiet := time.Time{}
	for {
		n, err := w.refused.Read(buf)
		if errors.Is(err, unix.ENOBUFS) {
			continue // some were lost
		}
		if err != nil {
			return
		}
		for _, r := range refusals(buf[:n]) {
			if id, ok := number(r.payload); ok {
				w.mu.Lock()
				w.traces[id] = r.way
				w.mu.Unlock()
				w.stir()
			} else if now := time.Now(); now.After(quiet) {
				quiet = now.Add(time.Second)
				w.log.Warn("a packet of a device was refused", "way", r.way, "packet", describe(r.payload))
			}
		}
	}
}

// look reads what comes out of one of the watcher's devices. Nothing of it may be the watcher's own, or an answer to that.
func (w *watcher) look(device *os.File) {
	buf := make([]byte, 2048)
	for {
		n, err := device.Read(buf)
		if err != nil {
			return
		}
		if id, ok := number(buf[:n]); ok {
			w.mu.Lock()
			w.passed[id] = true
			w.mu.Unlock()
			w.stir()
		}
	}
}

func (w *watcher) stir() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run tries every way, again and again. It ends with an error as soon as one is open.
func (w *watcher) Run(ctx context.Context) error {
	every := time.NewTicker(w.cfg.watch())
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
		if err := w.RunOnce(ctx); err != nil {
			w.log.Error("the firewall of the control channel does not hold; openvpn is ended", "error", err)
			return err
		}
	}
}

// RunOnce tries every way once.
func (w *watcher) RunOnce(ctx context.Context) error {
	w.mu.Lock()
	clear(w.traces)
	clear(w.passed)
	w.mu.Unlock()
	open := w.cfg.ways()
	sent := map[uint32]way{}
	for n := range attempts {
		open = w.try(ctx, open, sent, firstTrace<<n)
		if ctx.Err() != nil {
			return nil
		}
		if one, passes := w.leak(sent); passes {
			return fmt.Errorf("a packet passes that must not: %s", one.name)
		}
		if len(open) == 0 {
			return nil
		}
	}
	var names []string
	for _, one := range open {
		names = append(names, fmt.Sprintf("%s (%s)", one.name, one.prefix))
	}
	return fmt.Errorf("no rule closes these ways any more: %s", strings.Join(names, ", "))
}

// leak finds a packet that came out where none may.
func (w *watcher) leak(sent map[uint32]way) (way, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.passed {
		if one, ours := sent[id]; ours {
			return one, true
		}
	}
	return way{}, false
}

// try sends a packet down each way and waits for their traces. It gives the ways that are not known to be closed.
func (w *watcher) try(ctx context.Context, ways []way, sent map[uint32]way, patience time.Duration) (open []way) {
	ids := make([]uint32, len(ways))
	for i, one := range ways {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails, see crypto/rand
		ids[i] = binary.BigEndian.Uint32(b[:])
		sent[ids[i]] = one
		if _, err := w.in.Write(one.packet(ids[i])); err != nil {
			w.log.Warn("the watcher could not send a packet", "way", one.name, "error", err)
		}
	}
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		open = nil
		w.mu.Lock()
		for i, one := range ways {
			if w.traces[ids[i]] != one.prefix {
				open = append(open, one)
			}
		}
		w.mu.Unlock()
		if len(open) == 0 {
			return nil
		}
		select {
		case <-w.wake:
		case <-end.C:
			return open
		case <-ctx.Done():
			return open
		}
	}
}
