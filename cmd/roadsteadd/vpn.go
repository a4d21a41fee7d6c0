package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/handover"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/supervise"
	"github.com/roadstead-io/roadstead/internal/vpn"
	"github.com/roadstead-io/roadstead/internal/vpn/cage"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/sshgate"
)

// roleOpenVPN is the process around openvpn, in a network namespace of its own. It talks to the vpn role alone.
const roleOpenVPN = "openvpn"

// vpnFlags are those of the control channel.
type vpnFlags struct {
	mode, network, program string
	ssh                    string // where the SSH gateway listens
	limits                 permit.Limits
	instances              int
	why                    string // it is off
}

func (f *vpnFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.mode, "vpn", "auto", "the control channel: on, off, or auto: on where this machine can and the server is started as root")
	fs.IntVar(&f.instances, "vpn-instances", 1, "how many openvpn processes share the devices")
	fs.StringVar(&f.network, "vpn-network", cage.DefaultNetwork, "the `NETWORK` that devices get their tunnel addresses from")
	fs.Func("vpn-limits", "bounds of what people have open to devices, `NAME=N,…`; see the chapter on tunnels", f.limits.Parse)
	fs.StringVar(&f.ssh, "ssh-listen", "", "`ADDR:PORT` of the SSH gateway into devices, or off; empty means port "+sshPort+" of the address of --listen")
	fs.StringVar(&f.program, "openvpn", "", "`PATH` of the program openvpn; empty means /usr/sbin/openvpn")
}

// sshPort is where the SSH gateway listens unless somebody says otherwise: the usual port of SSH is the machine's own.
const sshPort = "2223"

// sshAddress is where the gateway listens; "" is nowhere. Nobody asked for the default, so another port does when it is taken.
func (f *vpnFlags) sshAddress(listen string) (addr string, elsewhere bool) {
	switch f.ssh {
	case "off":
		return "", false
	case "":
		host, _, err := net.SplitHostPort(listen)
		if err != nil {
			return "", false // refused for what it is elsewhere
		}
		return net.JoinHostPort(host, sshPort), true
	}
	return f.ssh, false
}

// decide finds out whether the control channel runs here.
func (f *vpnFlags) decide() error {
	cfg := f.cage("/")
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("--vpn-instances, --vpn-network: %w", err)
	}
	switch f.mode {
	case "off":
		f.why = "--vpn is off"
		return nil
	case "on", "auto":
		err := cage.Available(cfg)
		if err != nil && f.mode == "on" {
			return fmt.Errorf("--vpn on: %w", err)
		}
		if err != nil {
			f.why = err.Error()
		}
		return nil
	}
	return fmt.Errorf("--vpn %q: on, off or auto", f.mode)
}

func (f *vpnFlags) off() []supervise.Off {
	if f.why == "" {
		return nil
	}
	return []supervise.Off{{Name: api.RoleVPN, Why: f.why}, {Name: roleOpenVPN, Why: f.why}}
}

func (f *vpnFlags) cage(dir string) cage.Config {
	return cage.Config{Dir: dir, OpenVPN: f.program, Instances: f.instances, Network: f.network}
}

// channelName is the first label of the server's name in the control channel.
const channelName = "cloudlink"

// site is how devices reach the control channel; nowhere, when it is off.
func (f *vpnFlags) site(site api.Site) api.ChannelSite {
	if f.why != "" {
		return api.ChannelSite{}
	}
	return api.ChannelSite{Host: channelName + "." + site.Domain, Port: site.Port}
}

// roles are the two processes of the control channel; none where it is off.
func (f *vpnFlags) roles(listen string) []supervise.Role {
	if f.why != "" {
		return nil
	}
	ssh, elsewhere := f.sshAddress(listen)
	return []supervise.Role{
		{
			Name: roleOpenVPN, Quiet: true, Optional: true, Line: roleOpenVPN,
			Names: func(domain string) []string { return []string{channelName + "." + domain, "vpn." + domain} },
			Prepare: func(dir string) error {
				return cage.Prepare(dir, filepath.Join(dir, "..", api.RoleSigner, signer.ChannelCAFile))
			},
			Config: func(e supervise.Env) any { return f.cage(e.Dir) },
		},
		{
			Name: api.RoleVPN, Needs: []string{api.RoleAPI}, Line: roleOpenVPN, Takes: vpn.Labels,
			Own: ssh, OwnFlag: "--ssh-listen", OwnElsewhere: elsewhere, Prepare: sshgate.Prepare, Tells: tellsSSH,
			Names: func(domain string) []string {
				return []string{"tunnel." + domain, "devices." + domain, "*.devices." + domain}
			},
			Config: func(e supervise.Env) any {
				return vpn.Config{Dir: e.Dir, Site: e.Site, Peers: e.Peers, Limits: f.limits}
			},
		},
	}
}

func runVPN(ctx context.Context, in inherited, log *slog.Logger) error {
	cfg, err := load[vpn.Config](in.dir)
	if err != nil {
		return err
	}
	if in.line == nil {
		return errors.New("it needs a parent that gives it the line to the process of openvpn")
	}
	s, err := vpn.New(cfg, in.line, log)
	if err != nil {
		return err
	}
	public := map[string]net.Listener{}
	if in.public != nil {
		public[vpn.LabelSSH] = in.public
	}
	for label, end := range in.takers {
		if public[label], err = handover.NewTaker(end); err != nil {
			return err
		}
	}
	return s.Run(ctx, in.ln, public)
}

// tellsSSH says in the status how the gateway is reached.
func tellsSSH(dir string, site api.Site, own string) (string, error) {
	at, err := sshgate.Public(dir, site, own)
	if err != nil || at.Address == "" {
		return "no SSH gateway (--ssh-listen is off)", err
	}
	return "SSH gateway at " + at.Address + ", host key " + at.Fingerprint, nil
}

// runOpenVPN watches over the namespace and keeps openvpn running in it.
func runOpenVPN(ctx context.Context, in inherited, log *slog.Logger) error {
	cfg, err := load[cage.Config](in.dir)
	if err != nil {
		return err
	}
	c, err := cage.New(cfg, in.line, log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { tell(ctx, in.report, c.Healthy, c.Tells); return nil })
	group.Go(func() error { return c.Run(ctx) })
	return group.Wait()
}
