// Package agent is what runs on a device: it makes the device known to the server, asks it what to run, makes the container
// engine run just that, and tells the server how it goes. It decides purely (package plan) and acts through a small Engine.
// It may lose power on any line: what it must remember is in files that are replaced as a whole. It listens on the tunnel of the control
// channel while there is one, and for containers that ask for it on a bridge of their own; nowhere else.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/appkey"
	"github.com/roadstead-io/roadstead/internal/agent/channel"
	"github.com/roadstead-io/roadstead/internal/agent/clock"
	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/host"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/agent/imagegate"
	"github.com/roadstead-io/roadstead/internal/agent/proxy"
	"github.com/roadstead-io/roadstead/internal/agent/queue"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/agent/shell"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/engine"
)

// Engine is the container engine of the device: [engine.Client], or a fake one in tests.
type Engine interface {
	Containers
	Things
	Images
	Watcher
}

// Containers are made, started, stopped and removed. Listing gives only ours.
type Containers interface {
	Containers(ctx context.Context) ([]engine.Container, error)
	Create(ctx context.Context, spec engine.Spec) (id string, err error)
	Start(ctx context.Context, id string) error
	Stop(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
	Rename(ctx context.Context, id, name string) error
}

// Things are what containers share: networks and volumes. Listing gives only ours.
type Things interface {
	Networks(ctx context.Context) ([]engine.Network, error)
	CreateNetwork(ctx context.Context, n engine.Network) error
	RemoveNetwork(ctx context.Context, name string) error
	Volumes(ctx context.Context) ([]engine.Volume, error)
	CreateVolume(ctx context.Context, v engine.Volume) error
	RemoveVolume(ctx context.Context, name string) error
}

// Images are pulled and removed by digest. Listing gives everybody's.
type Images interface {
	Images(ctx context.Context) ([]string, error)
	Pull(ctx context.Context, ref string, auth engine.Auth, progress func(percent int)) error
	RemoveImage(ctx context.Context, ref string) error
}

// Watcher tells what happens to our containers.
type Watcher interface {
	Ping(ctx context.Context) error
	Events(ctx context.Context, f func(engine.Event)) error
	Logs(ctx context.Context, id string, since time.Time, f func(engine.Line)) error
}

// Config is what the agent needs to know beside config.json.
type Config struct {
	ConfigPath   string // config.json
	StateDir     string // what must survive: identity.json and state.json
	RunDir       string // what may vanish with a reboot; empty means /run/roadstead
	Downloads    string // images while they come, on a device that verifies; empty means downloads in StateDir, "none" that nothing is kept
	Engine       Engine
	EngineSocket string // path of the engine's socket, for services that ask for it
	CertsDir     string // where the engine looks for registry certificates; empty means engine.DefaultCertsDir
	Version      string // of the agent
	TPM          string // the TPM that seals the keys, where config.json wants it; empty means the system's own
	Log          *slog.Logger
	Timing       Timing
	Step         func(string) error // see identity.Provisioner

	Channel     *Channel                // the control channel; nil: the device has none, and no API of its own
	Now         func() time.Time        // the wall clock, for what expires; nil: time.Now
	Power       string                  // a program that takes the device down: it gets "reboot" or "shutdown"; empty: the system's own
	LED         string                  // the file that lights the device's light; empty: it has none
	SetHostname func(name string) error // nil: of this system
}

// Channel says how the control channel is kept. See [channel.Config] for what empty fields mean.
type Channel struct {
	Program   string // openvpn
	OwnerLock string // the file with which the owner keeps the channel shut
	Locked    bool   // shut for good
	Timing    channel.Timing
}

// Timing are the waits. A zero one has the default that its comment gives.
type Timing struct {
	Register       remote.Backoff // between attempts to register: 1 s to 30 s
	Unseal         remote.Backoff // between attempts to open sealed keys: 5 s to 5 min
	PollRetry      time.Duration  // after the first failed poll; it doubles up to the poll interval: 5 s
	ReportRetry    time.Duration  // after the first failed report; it doubles up to the poll interval: 2 s
	ReportBusy     time.Duration  // least time between reports during an update: 1 s
	ReportIdle     time.Duration  // and otherwise: 10 s
	Metrics        time.Duration  // between reports of nothing but metrics: 5 min
	Settle         time.Duration  // how long new containers run before the images of the old ones go: 1 s
	Steady         time.Duration  // how long a container that ended by itself must run to count as running: 10 s
	ApplyRetry     time.Duration  // after the first failed update; it doubles up to the poll interval: 500 ms
	LogRetry       time.Duration  // after the first failed log stream; it doubles up to the poll interval, 5 min at most: 5 s
	LogIdle        time.Duration  // a log stream without a line for so long is ended: 1 min
	LogFlush       time.Duration  // least time between flushes of a log stream: 100 ms
	UnmanagedFloor time.Duration  // least wait after the server says that it does not know this device: 1 min
}

func (t *Timing) defaults() {
	for _, d := range []struct {
		p *time.Duration
		d time.Duration
	}{
		{&t.PollRetry, 5 * time.Second}, {&t.ReportRetry, 2 * time.Second}, {&t.ReportBusy, time.Second},
		{&t.ReportIdle, 10 * time.Second}, {&t.Metrics, 5 * time.Minute}, {&t.Settle, time.Second},
		{&t.Steady, 10 * time.Second}, {&t.ApplyRetry, 500 * time.Millisecond}, {&t.LogRetry, 5 * time.Second},
		{&t.LogIdle, time.Minute}, {&t.LogFlush, 100 * time.Millisecond}, {&t.UnmanagedFloor, time.Minute},
	} {
		if *d.p == 0 {
			*d.p = d.d
		}
	}
}

// Agent is one device's agent.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	conf    *identity.Config
	who     identity.Identity
	birth   *identity.Provisioner
	root    []byte // PEM
	server  *remote.Client
	proxy   *proxy.Store
	store   *store
	room    *durable.Reserve // for what must be remembered when the disk is full
	vault   *seal.Vault      // nil: the keys are in plain files
	logs    *forwarder
	keys    *appkey.Keys
	channel *channel.Channel // nil: none
	api     *deviceapi.Server
	bridge  *bridge
	queue   *queue.Queue                // what waits at the server
	checks  *trust.Trust                // nil: this device runs what it is told, unverified
	signed  atomic.Pointer[trust.Trust] // the same, for who asks while it is being opened
	clock   *clock.Clock
	gate    *imagegate.Gate // nil like checks
	waiting waiting         // of the poll; nobody else touches it
	meter   host.Meter
	osName  string
	osKind  string

	wake    chan struct{} // the applier has something to look at
	dirty   chan struct{} // the reporter has something to say
	seen    chan struct{} // something changed on the engine
	pollNow chan struct{} // somebody wants the server asked at once
	blink   chan struct{} // somebody wants to see which device it is
	tags    chan struct{} // there are tags to send
	down    chan descent  // a reboot or shutdown to be done
	acting  chan struct{} // holds a value while somebody changes containers

	confMu sync.Mutex // covers changes of config.json

	mu sync.Mutex // covers what follows; nothing is waited for under it
	st status
}

// ErrRunning says that another agent works with the same files.
var ErrRunning = errors.New("another agent is running with these files")

// ErrConfig says that config.json must be mended first.
var ErrConfig = errors.New("config.json cannot be used")

// New reads config.json. Nothing is started or sent.
func New(cfg Config) (*Agent, error) {
	if cfg.RunDir == "" {
		cfg.RunDir = "/run/roadstead"
	}
	if cfg.CertsDir == "" {
		cfg.CertsDir = engine.DefaultCertsDir
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.Timing.defaults()
	conf, err := identity.LoadConfig(cfg.ConfigPath)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	root, err := conf.RootPEM()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	a := &Agent{
		cfg: cfg, log: cfg.Log, conf: conf, root: root, meter: host.Meter{Disk: cfg.StateDir},
		wake: make(chan struct{}, 1), dirty: make(chan struct{}, 1), seen: make(chan struct{}, 1), st: newStatus(),
		pollNow: make(chan struct{}, 1), blink: make(chan struct{}, 1), down: make(chan descent, 1), tags: make(chan struct{}, 1), acting: make(chan struct{}, 1),
	}
	a.osName, a.osKind = a.meter.Host.OS()
	version := strings.TrimPrefix(cfg.Version, "v")
	a.cfg.Version = version[:min(20, len(version))]
	if a.proxy, err = proxy.Open(filepath.Join(cfg.StateDir, "proxy.json")); err != nil {
		a.log.Error("the proxy that was set is not used", "error", err)
	}
	a.clock = clock.New(nil, a.notBefore)
	a.server, err = remote.New(remote.Config{
		Endpoint: conf.APIEndpoint, LogsURL: conf.LogsEndpoint, RootCA: root, Proxy: a.proxy.For, Clock: a.clock,
		UserAgent: fmt.Sprintf("roadstead-agent/%s (Linux; %s)", a.cfg.Version, a.osName),
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	a.logs = newForwarder(a)
	return a, nil
}

// Run works until the context ends. It returns early only when another agent has the files, or config.json cannot be used.
func (a *Agent) Run(ctx context.Context) error {
	unlock, err := a.begin(ctx, true)
	if err != nil {
		return err
	}
	defer unlock()
	group, ctx := errgroup.WithContext(ctx)
	parts := []func(context.Context) error{a.poll, a.apply, a.watch, a.report, a.logs.Run, a.goDown, a.blinkOn, a.sendTags, a.queue.Run}
	if a.channel != nil {
		parts = append(parts, a.channel.Run)
		defer a.bridge.shut()
	}
	for _, part := range parts {
		group.Go(func() error { return part(ctx) })
	}
	err = group.Wait()
	a.server.Close()
	return err
}

// Once makes the device known, applies the target state once, reports, and returns.
func (a *Agent) Once(ctx context.Context) error {
	unlock, err := a.begin(ctx, false)
	if err != nil {
		return err
	}
	defer unlock()
	defer a.server.Close()
	if err := a.pollOnce(ctx); err != nil {
		return err
	}
	a.tell(ctx)
	applyErr := a.reconcile(ctx)
	if err := a.refresh(ctx); err != nil {
		return errors.Join(applyErr, err)
	}
	return errors.Join(applyErr, a.sendReport(ctx, &reporter{metricsDue: true}))
}

// begin takes the files, opens the keys (a patient one until they open), registers, and remembers the last target, so that the device runs it without the server.
func (a *Agent) begin(ctx context.Context, patient bool) (unlock func(), err error) {
	if err := os.MkdirAll(a.cfg.StateDir, 0o700); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.cfg.RunDir, 0o755); err != nil {
		return nil, err
	}
	held, err := lock(filepath.Join(a.cfg.StateDir, "lock"), a.cfg.ConfigPath+".lock")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			held()
		}
	}()
	if err := a.openVault(ctx, patient); err != nil {
		return nil, err
	}
	a.room = durable.NewReserve(filepath.Join(a.cfg.StateDir, "reserve"), reserved)
	a.room.Keep()
	a.store = openStore(a.cfg.StateDir, a.room, a.log)
	macs, _ := host.Addresses()
	a.birth = &identity.Provisioner{
		ConfigPath: a.cfg.ConfigPath, StateDir: a.cfg.StateDir, Server: a.server, Log: a.log, Vault: a.vault,
		Backoff: a.cfg.Timing.Register, Step: a.cfg.Step,
		About: api.Register{SupervisorVersion: a.cfg.Version, OSVersion: a.osName, OSVariant: a.osKind, MACAddress: macs},
	}
	if a.who, err = a.birth.Run(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(a.openTrust(), a.openGate()); err != nil {
		return nil, err
	}
	if err := a.reach(); err != nil { // what the device runs does not depend on being reached
		a.log.Error("there will be no control channel until the agent starts anew", "error", err)
		a.channel, a.bridge, a.keys = nil, nil, nil
	}
	if err := a.openQueue(); err != nil {
		return nil, err
	}
	if err := a.remember(); err != nil {
		a.log.Warn("the last target state cannot be used; waiting for the server's", "error", err)
	}
	return held, nil
}

// reserved is room for a copy of the files of trust, the journal and what else is replaced as a whole.
const reserved = 512 << 10

// reach makes the ways in: the channel, and the API that is reached by it. Nothing is started.
func (a *Agent) reach() error {
	if a.cfg.Channel == nil {
		return nil
	}
	var err error
	if a.keys, err = appkey.Open(a.cfg.StateDir, a.vault); err != nil {
		return err
	}
	a.api = deviceapi.New(a, a.keys, a.log)
	a.api.Commanded = a.commanded()
	a.bridge = &bridge{api: a.api, log: a.log, open: map[netip.Addr]*opening{}}
	c := a.cfg.Channel
	services := []channel.Service{{Port: deviceapi.Port, Serve: a.api.Serve}}
	var ssh *shell.Shell
	if docker, ok := a.cfg.Engine.(*engine.Client); ok { // people enter real containers
		if ssh, err = shell.New(shell.Config{
			StateDir: a.cfg.StateDir, Vault: a.vault, RunDir: a.cfg.RunDir, UUID: a.who.UUID, Key: func() string { return a.who.Key }, Server: a.server,
			Engine: docker, Docker: "unix://" + a.cfg.EngineSocket, Log: a.log, Allowed: a.checks.Shell,
		}); err != nil {
			return err
		}
		services = append(services, ssh.Service())
	}
	var allowed func() (bool, string)
	if a.checks != nil {
		allowed = a.checks.Channel
	}
	a.channel = channel.New(channel.Config{
		Allowed: allowed,
		HostKey: ssh.HostKey, Certified: ssh.Certified,
		StateDir: a.cfg.StateDir, Vault: a.vault, RunDir: a.cfg.RunDir, UUID: string(a.who.UUID), Key: a.who.Key, Host: a.conf.VPNEndpoint, Port: a.conf.VPNPort,
		Proxy: a.proxy.For,
		Certify: func(ctx context.Context, ask api.ChannelCertify) (api.ChannelIdentity, error) {
			return a.server.Certify(ctx, a.who.Key, ask)
		},
		OwnerLock: c.OwnerLock, Locked: c.Locked, Program: c.Program, Timing: c.Timing, Log: a.log, Changed: func() { poke(a.dirty) },
	}, services...)
	return nil
}

// lock takes every file or none. The kernel gives them back when the process ends, however it ends.
func lock(paths ...string) (func(), error) {
	var held []*os.File
	unlock := func() {
		for _, f := range held {
			_ = f.Close() // gives the lock back
		}
	}
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, syscall.EROFS) {
			continue // a boot partition may be read-only; the other lock holds
		}
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, f)
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor is small
			unlock()
			return nil, fmt.Errorf("%w: %s is locked", ErrRunning, path)
		}
	}
	return unlock, nil
}

// poke wakes whoever waits on the channel; it is enough to be woken once.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
