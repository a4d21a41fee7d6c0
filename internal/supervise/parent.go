package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/handover"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/sandbox"
)

// How a stop goes: the door first, the others a moment later, and by force before the operator's patience ends at ten
// seconds.
const (
	doorGrace = 3 * time.Second
	stopLimit = 8 * time.Second
)

// Parent is the parent process.
type Parent struct {
	cfg    Config
	layout Layout
	log    *slog.Logger
	stderr io.Writer
	user   string

	internal *pki.Authority // of the roles
	outside  *pki.Authority // of the public names
	site     api.Site
	public   *net.TCPListener
	own      map[string]*net.TCPListener // of roles that have a public port of their own
	id       *pki.Identity
	children []*child
	shared   map[string]*os.File     // the listener of each kind of role
	peers    map[string]string       // its address
	alive    *os.File                // the children's end of a pipe into which nobody writes: its end means that the parent is gone
	hold     *os.File                // the other end, which only this process has
	channels map[string]channel      // from the public role to those that serve a public name, by its first label
	lines    map[string]channel      // between two roles, see Role.Line; the first role of the list has the giver's end
	giveUp   context.CancelCauseFunc // ends the server for a reason that a person must see
	isReady  atomic.Bool
	began    time.Time
	stopping atomic.Int64 // when the stop began, in Unix nanoseconds
	saving   sync.Mutex   // covers run/roles.json
}

// channel is the two ends over which the public role hands connections to the role that serves their name.
type channel struct{ giver, taker *os.File }

// New checks the configuration; Run does everything else.
func New(cfg Config) (*Parent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Parent{cfg: cfg, layout: Layout(cfg.Dir), log: cfg.Log, stderr: &oneAtATime{to: cfg.Stderr}, user: currentUser(), began: time.Now()}, nil
}

// Run makes what is missing in the data directory, runs every role until the context ends, and then ends them all.
func (p *Parent) Run(ctx context.Context) error {
	if err := p.claim(); err != nil {
		return err
	}
	held, err := lock(p.layout.lockFile())
	if err != nil {
		return err
	}
	defer func() { _ = held.Close() }()
	p.endLeftovers(ctx)
	if err := p.open(); err != nil {
		return err
	}
	defer p.close()
	if err := p.furnishAll(); err != nil {
		return fmt.Errorf("prepare %s: %w", p.layout, err)
	}
	return p.serve(ctx)
}

// open opens every listening socket. They live as long as the parent: a role that is started again finds its own, and who
// connects meanwhile waits in its queue.
func (p *Parent) open() error {
	var err error
	if p.cfg.Alone == "" {
		if p.public, err = listen("--listen", p.cfg.Listen); err != nil {
			return err
		}
		p.site = api.Site{Domain: p.cfg.Domain, Port: p.public.Addr().(*net.TCPAddr).Port}
	}
	if err := p.openOwn(); err != nil {
		return err
	}
	if p.alive, p.hold, err = os.Pipe(); err != nil {
		return err
	}
	p.channels, p.lines = map[string]channel{}, map[string]channel{}
	for _, r := range p.cfg.Roles {
		for _, label := range append([]string{r.Serves}, r.Takes...) {
			if err := pair(p.channels, label); err != nil {
				return err
			}
		}
		if err := pair(p.lines, r.Line); err != nil {
			return err
		}
	}
	p.shared = map[string]*os.File{}
	p.peers = map[string]string{}
	for _, r := range p.cfg.Roles {
		c, err := p.newChild(r)
		if err != nil {
			return fmt.Errorf("listen for %s: %w", r.Name, err)
		}
		p.children = append(p.children, c)
	}
	return nil
}

// pair makes the two ends of a channel that is not there yet.
func pair(channels map[string]channel, name string) error {
	if _, there := channels[name]; name == "" || there {
		return nil
	}
	var c channel
	var err error
	if c.giver, c.taker, err = handover.Pair(); err != nil {
		return err
	}
	channels[name] = c
	return nil
}

// listen opens a public port, in words for whoever said the flag.
func listen(flag, address string) (*net.TCPListener, error) {
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", flag, address, err)
	}
	ln, err := net.ListenTCP("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s %s: the port is in use by another program%w", flag, address, silent{err})
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s %s: a port below 1024 needs root; choose another, or start as root (the roles give it up)", flag, address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s %s: this machine has no such address", flag, address)
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w", flag, address, err)
	}
	return ln, nil
}

// silent is an error that adds nothing to the words of the one around it.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }

// openOwn opens the public ports that roles have of their own.
func (p *Parent) openOwn() error {
	p.own = map[string]*net.TCPListener{}
	for _, r := range p.cfg.Roles {
		if r.Own == "" {
			continue
		}
		ln, err := listen(r.OwnFlag, r.Own)
		if errors.Is(err, syscall.EADDRINUSE) && r.OwnElsewhere {
			host, _, _ := net.SplitHostPort(r.Own)
			if ln, err = listen(r.OwnFlag, net.JoinHostPort(host, "0")); err == nil {
				p.log.Warn("a port is in use by another program, and another one was taken; choose one that stays", "role", r.Name,
					"flag", r.OwnFlag, "wanted", r.Own, "taken", ln.Addr().String())
			}
		}
		if err != nil {
			return err
		}
		p.own[r.Name] = ln
	}
	return nil
}

// ownAddress is the address of a role's own public port; "" when it has none.
func (p *Parent) ownAddress(role string) string {
	if ln := p.own[role]; ln != nil {
		return ln.Addr().String()
	}
	return ""
}

// several reports whether a role has more than one process.
func (p *Parent) several(kind string) bool {
	return slices.ContainsFunc(p.cfg.Roles, func(r Role) bool { return r.Of == kind })
}

// newChild opens what a child finds open, see FDListener.
func (p *Parent) newChild(r Role) (*child, error) {
	c := &child{role: r, state: Starting, since: time.Now(), changed: make(chan struct{}), files: []*os.File{nil, p.alive}}
	if r.Line != "" {
		end := p.lines[r.Line].taker
		if slices.IndexFunc(p.cfg.Roles, func(o Role) bool { return o.Line == r.Line }) == slices.IndexFunc(p.cfg.Roles, func(o Role) bool { return o.Name == r.Name }) {
			end = p.lines[r.Line].giver
		}
		c.files, c.more = append(c.files, end), append(c.more, MoreLine)
	}
	if r.Quiet {
		return c, nil // its pipe is made anew for every start
	}
	kind := r.kind()
	if p.shared[kind] == nil {
		f, addr, err := loopback()
		if err != nil {
			return nil, err
		}
		p.shared[kind], p.peers[kind] = f, addr
	}
	c.files[0], c.addr = p.shared[kind], p.peers[kind]
	if p.several(kind) {
		f, addr, err := loopback()
		if err != nil {
			return nil, err
		}
		c.addr, c.files, c.more = addr, append(c.files, f), append(c.more, MoreOwn)
	}
	if r.Public {
		f, err := p.public.File()
		if err != nil {
			return nil, err
		}
		c.files, c.more = append(c.files, f), append(c.more, MorePublic)
		for _, label := range slices.Sorted(maps.Keys(p.channels)) {
			c.files, c.more = append(c.files, p.channels[label].giver), append(c.more, MoreGiver+label)
		}
	}
	if ln := p.own[r.Name]; ln != nil {
		f, err := ln.File()
		if err != nil {
			return nil, err
		}
		c.files, c.more = append(c.files, f), append(c.more, MorePublic)
	}
	if r.Serves != "" {
		c.files, c.more = append(c.files, p.channels[r.Serves].taker), append(c.more, MoreTaker)
	}
	for _, label := range r.Takes {
		c.files, c.more = append(c.files, p.channels[label].taker), append(c.more, MoreTakes+label)
	}
	return c, nil
}

// loopback opens a listening socket that children inherit.
func loopback() (*os.File, string, error) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, "", err
	}
	f, err := ln.File()
	return f, ln.Addr().String(), errors.Join(err, ln.Close()) // the file is the socket
}

func (p *Parent) close() {
	for _, c := range p.children {
		for _, f := range c.files {
			if f != nil && f != p.alive {
				_ = f.Close()
			}
		}
	}
	if p.public != nil {
		_ = p.public.Close()
	}
	for _, ln := range p.own {
		_ = ln.Close()
	}
	_ = p.alive.Close()
	_ = p.hold.Close()
}

// furnishAll makes keys, users, directories and configurations.
func (p *Parent) furnishAll() error {
	if p.cfg.Alone == "" {
		err := p.authorities()
		if err != nil {
			return err
		}
		if err := p.callers(); err != nil {
			return err
		}
		if p.id, err = pki.LoadIdentity(p.layout.Role(api.RoleParent)); err != nil {
			return err
		}
	}
	if os.Geteuid() == 0 {
		if err := p.accounts(); err != nil {
			return err
		}
	} else {
		p.log.Warn("not started as root: all roles run as one user, which can read every role's secrets; production needs root",
			"user", p.user)
	}
	for _, c := range p.children { // one after the other: one role's public key is made from another's secret
		if err := p.secrets(c); err != nil {
			return fmt.Errorf("role %s: %w", c.role.Name, err)
		}
	}
	var group errgroup.Group // at once: most of the time goes into waiting for the disk
	for _, c := range p.children {
		group.Go(func() error {
			if err := p.furnish(c, p.peers); err != nil {
				return fmt.Errorf("role %s: %w", c.role.Name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return p.record()
}

// accounts finds or makes the Unix users, and what each child becomes.
func (p *Parent) accounts() error {
	byRole := map[string]*account{}
	for _, c := range p.children {
		a, err := ensureAccount(c.role.user())
		if err != nil {
			return err
		}
		c.account, byRole[c.role.Name] = a, a
		if c.role.PrepareUser != nil {
			if err := c.role.PrepareUser(a.name); err != nil {
				p.log.Warn("a role's user could not be prepared", "role", c.role.Name, "error", err)
			}
		}
	}
	show := append([]string{string(p.layout), p.cfg.Exe}, p.cfg.Show...)
	for _, c := range p.children {
		c.plan = sandbox.Plan{UID: c.account.uid, GID: c.account.gid, Setuid: c.role.Setuid, Show: show}
		for _, other := range c.role.InGroupOf {
			if a := byRole[other]; a != nil {
				c.plan.Groups = append(c.plan.Groups, a.gid)
			}
		}
	}
	return nil
}

// serve runs the children, the status socket and the periodic chores until the context ends, then stops them in order.
func (p *Parent) serve(ctx context.Context) error {
	ctx, p.giveUp = context.WithCancelCause(ctx)
	defer p.giveUp(nil)
	status, err := p.listenStatus()
	if err != nil {
		return err
	}
	var group errgroup.Group
	rest, stopRest := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRest()
	door := make(chan struct{})
	var doors sync.WaitGroup
	for _, c := range p.children {
		if c.role.Public || c.role.Own != "" || c.role.Name == api.RoleBuilder { // those who take work from outside
			doors.Go(func() { p.keep(ctx, c) })
			continue
		}
		group.Go(func() error { p.keep(rest, c); return nil })
	}
	group.Go(func() error { doors.Wait(); close(door); return nil })
	group.Go(func() error {
		if err := p.serveStatus(rest, status); err != nil {
			p.log.Error("`roadsteadd status` gets no answer any more", "error", err) // no reason to stop the platform
		}
		return nil
	})
	group.Go(func() error { return p.announce(ctx) })
	if p.cfg.Alone == "" {
		group.Go(func() error { p.renew(ctx); return nil })
	}
	group.Go(func() error {
		<-ctx.Done()
		p.stopping.Store(time.Now().UnixNano())
		t := time.NewTimer(doorGrace)
		defer t.Stop()
		select {
		case <-door:
		case <-t.C:
		}
		stopRest()
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	var why refusal
	if errors.As(context.Cause(ctx), &why) {
		return why
	}
	return nil
}

// killAt is when patience with children ends.
func (p *Parent) killAt() time.Time {
	if began := p.stopping.Load(); began != 0 {
		return time.Unix(0, began).Add(stopLimit)
	}
	return time.Now().Add(stopLimit)
}

// announce makes the first administrator and says that the server is ready.
func (p *Parent) announce(ctx context.Context) error {
	if err := p.ready(ctx); err != nil {
		return nil //nolint:nilerr // the server was stopped before it was ready
	}
	if p.cfg.Alone != "" {
		p.isReady.Store(true)
		p.cfg.Ready(p.cfg.Alone)
		return nil
	}
	if err := p.bootstrap(ctx); err != nil && ctx.Err() == nil {
		p.log.Error("the first administrator could not be made", "error", err)
	}
	if ctx.Err() == nil {
		p.isReady.Store(true)
		p.cfg.Ready(fmt.Sprintf("https://dashboard.%s:%d", p.site.Domain, p.site.Port))
	}
	return nil
}

// bootstrap asks the api role for the first administrator and writes down what it answers. It is asked at every start until
// the file is there.
func (p *Parent) bootstrap(ctx context.Context) error {
	file := p.layout.AdminFile()
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	var addr string
	for _, c := range p.children {
		if c.role.Name == api.RoleAPI {
			addr = c.addr
		}
	}
	if addr == "" {
		return errors.New("there is no api role")
	}
	peer := p.id.Client(api.RoleAPI, addr)
	defer peer.HTTP.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, peer.URL+"/internal/v1/bootstrap", nil)
	if err != nil {
		return err
	}
	res, err := peer.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the api role answered %s", res.Status)
	}
	var admin api.Admin
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&admin); err != nil {
		return err
	}
	if admin.Email == "" {
		p.log.Warn("there are users, but no "+filepath.Base(file)+": a first start was cut short, or the file was removed after somebody had logged in",
			"help", "roadsteadd admin user password admin@"+p.cfg.Domain)
		return nil
	}
	data, err := json.MarshalIndent(admin, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(file, append(data, '\n'), 0o600)
}
