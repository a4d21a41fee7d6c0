package cage

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/vpn/line"
)

// Files in the role's directory.
const (
	ServerCert = "tls.pem"
	ServerKey  = "tls.key"
	ClientCA   = "clients.pem"
)

// Prepare gives the role the authority whose certificates devices may present, from the file of the role that signs them. Without it, devices
// have none.
func Prepare(dir, authority string) error {
	to := filepath.Join(dir, ClientCA)
	data, err := os.ReadFile(authority)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Remove(to); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	return durable.WriteFile(to, data, 0o600)
}

// Cage is the process.
type Cage struct {
	cfg       Config
	log       *slog.Logger
	end       *os.File // of the line to the vpn role
	boot      string
	instances []*instance
	watcher   *watcher
}

// New makes it, in the namespace that [Build] has made.
func New(cfg Config, end *os.File, log *slog.Logger) (*Cage, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("openvpn: %w", err)
	}
	if end == nil {
		return nil, errors.New("openvpn: it needs a parent that gives it the line to the vpn role")
	}
	if err := os.Chdir(cfg.Dir); err != nil { // a socket's path has room for 107 bytes: its name alone does
		return nil, fmt.Errorf("openvpn: %w", err)
	}
	w, err := newWatcher(cfg, log)
	if err != nil {
		return nil, fmt.Errorf("openvpn: watcher: %w", err)
	}
	boot := make([]byte, 8)
	_, _ = rand.Read(boot) // never fails, see crypto/rand
	c := &Cage{cfg: cfg, log: log, end: end, boot: hex.EncodeToString(boot), watcher: w}
	tunnels, _, _ := cfg.tunnels()
	for i, t := range tunnels {
		c.instances = append(c.instances, newInstance(cfg, i, t, log))
	}
	return c, nil
}

// Run tests the firewall, runs the openvpn processes and answers the vpn role, until the context ends or a way is open that must be closed.
func (c *Cage) Run(ctx context.Context) error {
	defer c.watcher.close()
	if err := c.watcher.RunOnce(ctx); err != nil {
		return fmt.Errorf("openvpn is not started: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.watcher.Run(ctx) })
	for _, i := range c.instances {
		group.Go(func() error { return i.Run(ctx) })
	}
	group.Go(func() error { return line.Serve(ctx, c.end, c.handle) })
	err := group.Wait()
	for _, i := range c.instances {
		i.flows.closeAll()
	}
	return err
}

// Healthy says what is wrong.
func (c *Cage) Healthy(context.Context) error {
	for _, i := range c.instances {
		if err := i.healthy(); err != nil {
			return err
		}
	}
	return nil
}

// Tells is for people.
func (c *Cage) Tells() string {
	return fmt.Sprintf("%d openvpn in a namespace of its own, devices in %s, every closed way tested each %s", len(c.instances), c.cfg.Network, c.cfg.watch())
}

var errNoInstance = errors.New("there is no such instance")

// handle answers the vpn role.
func (c *Cage) handle(ctx context.Context, r line.Request, file *os.File) (a line.Answer, conn net.Conn, err error) {
	if file != nil {
		defer func() { _ = file.Close() }()
	}
	if r.Verb == line.VerbHello {
		return line.Answer{Hello: &line.Hello{Boot: c.boot, Instances: c.cfg.instances()}}, nil, nil
	}
	if r.Instance < 0 || r.Instance >= len(c.instances) {
		return a, nil, errNoInstance
	}
	i := c.instances[r.Instance]
	switch r.Verb {
	case line.VerbDial:
		conn, err = c.dial(ctx, i.tunnel, r.Address, r.Port)
	case line.VerbManagement:
		conn, err = i.management(ctx)
	case line.VerbTake:
		if file == nil {
			return a, nil, errors.New("no connection came along")
		}
		a.Port, err = i.take(ctx, file, r.From, r.Read)
	case line.VerbFlows:
		a.Flows = i.flows.list(r.After, line.FlowsAtOnce)
	case line.VerbNote:
		err = i.flows.note(r.Port, r.Note)
	case line.VerbDrop:
		i.flows.drop(r.Port)
	default:
		err = fmt.Errorf("%q is not known here", r.Verb)
	}
	return a, conn, err
}

// dialTime bounds how long a device may take to answer a connection.
const dialTime = 10 * time.Second

// dial connects to a device through the tunnel of one instance, by which it also has to answer. Only an address that a device can have is ever connected to; the firewall lets no other out either.
func (c *Cage) dial(ctx context.Context, through tunnel, address string, port int) (net.Conn, error) {
	a, err := netip.ParseAddr(address)
	if err != nil || port < 1 || port > 65535 {
		return nil, line.ErrForbidden
	}
	if !c.cfg.device(a) {
		return nil, line.ErrForbidden
	}
	d := net.Dialer{Timeout: dialTime, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(through.server, 0))}
	conn, err := d.DialContext(ctx, "tcp4", netip.AddrPortFrom(a, uint16(port)).String())
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, line.ErrRefused
	case err != nil:
		return nil, fmt.Errorf("%w: %w", line.ErrUnreachable, err)
	}
	return conn, nil
}
