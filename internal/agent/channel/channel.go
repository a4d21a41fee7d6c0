// Package channel keeps the device's control channel: an OpenVPN connection to the server over which the server reaches the
// device's own services. It runs the real openvpn program as a child, only while the channel is wanted; off means that there is
// neither a process nor a socket.
package channel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/firewall"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/channel/when"
)

// Interface is the name of the tunnel's interface on the device.
const Interface = "roadstead-vpn"

// OwnerLock is the file with which a device's owner keeps the channel shut, whatever the server says.
const OwnerLock = "/etc/roadstead/no-channel"

// Service is something that the device offers on its tunnel address, and nowhere else.
type Service struct {
	Port  int
	Serve func(ctx context.Context, ln net.Listener) error
}

// Config is what a channel needs to know. Where a field may be empty, its comment says what that means.
type Config struct {
	StateDir string      // for its key, certificate and clock
	Vault    *seal.Vault // keeps the key
	RunDir   string      // for the socket by which it talks with openvpn
	UUID     string
	Key      string // the device's, which is the password
	// Certify asks the server for a certificate.
	Certify func(ctx context.Context, ask api.ChannelCertify) (api.ChannelIdentity, error)
	// Host and Port are what config.json says; empty: what the server says with the certificate.
	Host string
	Port int
	// Proxy answers the HTTP proxy for an address; nil: what the environment says.
	Proxy func(*http.Request) (*url.URL, error)
	// HostKey is the device's SSH host key, to be certified with the rest; Certified hears the answer, also the stored one.
	HostKey   func() string
	Certified func(api.ChannelIdentity)
	// Allowed says whether the channel may stand, whatever the settings want, and why not; nil: it may.
	Allowed   func() (ok bool, why string)
	OwnerLock string // empty: [OwnerLock]
	Locked    bool   // by a flag of the agent
	Program   string // empty: openvpn, from the PATH or /usr/sbin
	Changed   func() // called after [Channel.Status] has changed; it must not wait
	Log       *slog.Logger
	Timing    Timing
	Now       func() time.Time // the wall clock; nil: time.Now
}

// Timing are the waits. A zero one has the default that its comment gives.
type Timing struct {
	Retry   remote.Backoff // between connections: 1 s to 1 min
	Refused remote.Backoff // after the server refused the device or its certificate: 10 s to 15 min
	Steady  time.Duration  // a connection that lasted so long was a good one: 30 s
	Look    time.Duration  // how often the owner's lock and the end of a limited time are looked at while the channel is on: 2 s
	Locked  time.Duration  // how often the lock is looked at while it holds: 30 s
	Connect time.Duration  // until a connection stands: 1 min
	Renew   time.Duration  // how often it is looked whether the certificate must be renewed while a connection stands: 1 h
}

func (t *Timing) defaults() {
	if t.Retry.Max == 0 {
		t.Retry = remote.Backoff{Min: time.Second, Max: time.Minute}
	}
	if t.Refused.Max == 0 {
		t.Refused = remote.Backoff{Min: 10 * time.Second, Max: 15 * time.Minute}
	}
	for _, d := range []struct {
		p *time.Duration
		d time.Duration
	}{{&t.Steady, 30 * time.Second}, {&t.Look, 2 * time.Second}, {&t.Locked, 30 * time.Second}, {&t.Connect, time.Minute}, {&t.Renew, time.Hour}} {
		if *d.p == 0 {
			*d.p = d.d
		}
	}
}

// Channel is the channel of one device.
type Channel struct {
	cfg      Config
	log      *slog.Logger
	services []Service
	clock    *clock
	identity *identity
	changed  chan struct{} // the settings did

	mu     sync.Mutex // covers what follows; nothing is waited for under it
	set    bool
	want   when.Switch
	bad    error // the settings cannot be read
	status Status
}

// Status is how the channel is.
type Status struct {
	State   string // one of the api.ChannelState… constants
	Reason  string
	Address netip.Addr // in the tunnel, while connected
}

// Wanted reports whether the channel is to stand, whether or not it does.
func (s Status) Wanted() bool {
	return s.State != api.ChannelStateOff && s.State != api.ChannelStateLocked
}

// New starts nothing.
func New(cfg Config, services ...Service) *Channel {
	cfg.Timing.defaults()
	if cfg.OwnerLock == "" {
		cfg.OwnerLock = OwnerLock
	}
	if cfg.Proxy == nil {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.StateDir, cfg.RunDir = filepath.Join(cfg.StateDir, "channel"), filepath.Join(cfg.RunDir, "channel")
	return &Channel{
		cfg: cfg, log: cfg.Log, services: services, changed: make(chan struct{}, 1),
		clock:    openClock(filepath.Join(cfg.StateDir, "clock"), cfg.Now),
		identity: &identity{path: filepath.Join(cfg.StateDir, "identity.json"), vault: cfg.Vault},
		status:   Status{State: api.ChannelStateOff, Reason: "no target state is known yet"},
	}
}

// Set takes the configuration of a target state.
func (c *Channel) Set(config map[string]string) {
	want, err := when.Read(config)
	c.mu.Lock()
	c.want, c.bad, c.set = want, err, true
	c.mu.Unlock()
	c.Look()
}

// Look decides anew, because what [Config.Allowed] says may have changed.
func (c *Channel) Look() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Status tells how the channel is.
func (c *Channel) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

func (c *Channel) tell(s Status) {
	c.mu.Lock()
	before := c.status
	c.status = s
	c.mu.Unlock()
	if before != s {
		c.log.Info("control channel", "state", s.State, "reason", s.Reason)
		c.cfg.Changed()
	}
}

// decision is whether the channel is wanted at a moment, and after how long to ask anew; negative: when the settings change.
type decision struct {
	on    bool
	state string
	why   string
	again time.Duration
}

// decide reads the owner's lock first: nobody else's word counts against it.
func (c *Channel) decide() decision {
	if c.cfg.Locked {
		return decision{state: api.ChannelStateLocked, why: "the agent was started with the channel locked", again: -1}
	}
	if _, err := os.Lstat(c.cfg.OwnerLock); err == nil {
		return decision{state: api.ChannelStateLocked, why: "the device's owner has locked it with " + c.cfg.OwnerLock, again: c.cfg.Timing.Locked}
	}
	c.mu.Lock()
	want, set, bad := c.want, c.set, c.bad
	c.mu.Unlock()
	switch {
	case !set:
		return decision{state: api.ChannelStateOff, why: "no target state is known yet", again: -1}
	case bad != nil:
		return decision{state: api.ChannelStateOff, why: bad.Error(), again: -1}
	}
	now := c.cfg.Now()
	if !want.Until.IsZero() && !c.clock.Before(want.Until) {
		want.Until = time.Time{} // it is over, even where the clock was set back since
	}
	on, why := want.On(now)
	if on && c.cfg.Allowed != nil {
		if ok, no := c.cfg.Allowed(); !ok {
			return decision{state: api.ChannelStateOff, why: no, again: c.cfg.Timing.Locked}
		}
	}
	d := decision{on: on, state: api.ChannelStateOff, why: why, again: -1}
	if on {
		d.again = c.cfg.Timing.Look
	} else if next := want.Next(now); !next.IsZero() {
		d.again = min(next.Sub(now), 10*time.Minute) // the clock may be set meanwhile
	}
	return d
}

// Run keeps the channel as it is wanted until the context ends. When it returns, no process is left.
func (c *Channel) Run(ctx context.Context) error {
	retry, refused := c.cfg.Timing.Retry, c.cfg.Timing.Refused
	if _, err := os.Stat(c.cfg.StateDir); err == nil { // an agent that was killed may have left its rules
		if err := firewall.Lower(ctx); err != nil {
			c.log.Warn("old firewall rules stay", "error", err)
		}
	}
	for ctx.Err() == nil {
		d := c.decide()
		if !d.on {
			c.tell(Status{State: d.state, Reason: d.why})
			retry.Reset()
			refused.Reset()
			c.await(ctx, d.again)
			continue
		}
		began := time.Now()
		connected, err := c.keep(ctx)
		if ctx.Err() != nil || err == nil {
			continue // it is not wanted any more
		}
		if connected && time.Since(began) > c.cfg.Timing.Steady {
			retry.Reset()
			refused.Reset()
		}
		wait := time.Duration(0)
		state := api.ChannelStateWaiting
		var no refusal
		if errors.As(err, &no) {
			wait, state = remote.Wait(refused.Next(), err), api.ChannelStateFailed
		} else {
			wait = retry.Next()
		}
		c.log.Warn("the control channel does not stand", "error", err, "again_in", wait.Round(time.Millisecond))
		c.tell(Status{State: state, Reason: shorten(err.Error())})
		c.rest(ctx, wait)
	}
	c.tell(Status{State: api.ChannelStateOff, Reason: "the agent ends"})
	return nil
}

func shorten(text string) string { return text[:min(len(text), 200)] }

// await waits for other settings, for the time if it is not negative, or for the end.
func (c *Channel) await(ctx context.Context, wait time.Duration) {
	var timeout <-chan time.Time
	if wait >= 0 {
		t := time.NewTimer(max(wait, 10*time.Millisecond))
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-ctx.Done():
	case <-timeout:
	case <-c.changed:
	}
}

// rest waits before the next attempt, or until the channel is not wanted any more.
func (c *Channel) rest(ctx context.Context, wait time.Duration) {
	end := time.Now().Add(wait)
	for ctx.Err() == nil && c.decide().on {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		c.await(ctx, min(left, c.cfg.Timing.Locked))
	}
}

// refusal is an error that a quick repetition does not mend.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// keep makes one connection and holds it until it ends, which is an error, or until it is not wanted, which is none.
func (c *Channel) keep(ctx context.Context) (connected bool, err error) {
	wanted, cancel := context.WithCancel(ctx)
	defer cancel()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		for wanted.Err() == nil {
			d := c.decide()
			if !d.on {
				cancel()
				return
			}
			c.await(wanted, d.again)
		}
	})
	c.tell(Status{State: api.ChannelStateWaiting, Reason: "connecting"})
	connected, err = c.connect(wanted)
	if wanted.Err() != nil {
		return connected, nil
	}
	return connected, err
}

// connect does all that a connection needs, in order, and undoes it.
func (c *Channel) connect(ctx context.Context) (connected bool, err error) {
	program, err := c.program()
	if err != nil {
		return false, refusal{err}
	}
	id, err := c.identity.load(ctx, c.cfg, c.clock.Now())
	if status := remote.StatusOf(err); status >= 400 && status < 500 && status != http.StatusTooManyRequests {
		return false, refusal{err}
	}
	if err != nil {
		return false, err
	}
	if c.cfg.Certified != nil {
		c.cfg.Certified(id.Answer)
	}
	text, err := c.options(id)
	if err != nil {
		return false, refusal{err}
	}
	rules := firewall.Rules{Interface: Interface, Ports: c.ports()}
	defer func() {
		if lowerErr := firewall.Lower(context.WithoutCancel(ctx)); lowerErr != nil {
			c.log.Warn("the tunnel's firewall rules stay", "error", lowerErr)
		}
	}()
	if err := firewall.Raise(ctx, rules); err != nil {
		return false, refusal{fmt.Errorf("no channel without its firewall: %w", err)}
	}
	p := &process{program: program, dir: c.cfg.RunDir, user: c.cfg.UUID, password: c.cfg.Key, log: c.log, within: c.cfg.Timing.Connect}
	err = p.run(ctx, text, func(ctx context.Context, address netip.Addr) error {
		rules.Address = address
		var err error
		if rules.Peer, err = peerOf(Interface, address); err != nil {
			c.log.Warn("ports that are closed do not say so", "error", err) // whoever tries one waits
		}
		if err := firewall.Raise(ctx, rules); err != nil {
			return err
		}
		connected = true
		c.tell(Status{State: api.ChannelStateOn, Address: address})
		serving, cancel := context.WithCancel(ctx)
		var renewing sync.WaitGroup
		defer renewing.Wait()
		defer cancel()
		renewing.Go(func() { c.renew(serving, id) })
		return c.serve(ctx, address)
	})
	if errors.As(err, new(refusal)) {
		c.identity.doubt() // it may have been reset on the server
	}
	return connected, err
}

// renew has the certificate renewed while a connection stands, which goes on with the one that it began with: when that one ends, the next
// connection has another, whether or not the server can be asked just then. So has the SSH server for its host key.
func (c *Channel) renew(ctx context.Context, id *known) {
	for remote.Sleep(ctx, c.cfg.Timing.Renew) == nil {
		if c.clock.Now().Before(id.Renew) {
			continue
		}
		next, err := c.identity.load(ctx, c.cfg, c.clock.Now())
		if err != nil || !next.Renew.After(id.Renew) {
			continue // load has logged why, or openvpn is about to
		}
		id = next
		c.log.Info("the channel's certificate is renewed", "again", id.Renew)
		if c.cfg.Certified != nil {
			c.cfg.Certified(id.Answer)
		}
	}
}

func (c *Channel) ports() []int {
	var out []int
	for _, s := range c.services {
		out = append(out, s.Port)
	}
	return out
}

// serve runs the services on the tunnel address until the context ends.
func (c *Channel) serve(ctx context.Context, address netip.Addr) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lc := net.ListenConfig{Control: onlyFrom(Interface)}
	failed := make(chan error, len(c.services))
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, s := range c.services {
		ln, err := lc.Listen(ctx, "tcp4", netip.AddrPortFrom(address, uint16(s.Port)).String()) //nolint:gosec // a port
		if err != nil {
			return err
		}
		running.Go(func() {
			defer func() { _ = ln.Close() }()
			if err := s.Serve(ctx, ln); ctx.Err() == nil {
				failed <- fmt.Errorf("the service on port %d ended: %w", s.Port, err)
			}
		})
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}
