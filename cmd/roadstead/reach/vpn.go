package reach

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

func (a reach) vpn() *cobra.Command {
	cmd := cmdline.Group("vpn", "The control channel of a device", a.vpnStatus(), a.vpnOn(), a.vpnOff(), a.vpnAuto(), a.vpnReset())
	cmd.Long = `The control channel is the connection that a device opens to the server, and through which it is reached: tunnels, SSH, actions at once. Where it is off
the device has no connection open, gets its updates by asking for them, and does what it is told when it asks next.

A device does as its fleet, unless it has a switch of its own. Who owns a device can forbid the channel on the device itself, which no switch here
overrides.`
	return cmd
}

// target is what is switched: a device, or with --fleet a fleet.
type target struct{ fleet string }

func (t *target) flag(a reach, cmd *cobra.Command) *cobra.Command {
	a.FleetFlag(cmd, &t.fleet, "switch all devices of a fleet that have no switch of their own")
	return cmd
}

// path is the address of the channel of what is named.
func (t *target) path(ctx context.Context, c *client.Client, args []string) (string, error) {
	switch {
	case (t.fleet == "") == (len(args) == 0):
		return "", cmdline.Usagef("name a device, or a fleet with --fleet")
	case t.fleet != "":
		f, err := c.FindFleet(ctx, t.fleet, client.Query{Select: "id"})
		if err != nil {
			return "", err
		}
		return "/channel/v1/fleet/" + strconv.FormatInt(f.ID, 10), nil
	}
	d, err := c.FindDevice(ctx, args[0], client.Query{Select: "id,uuid"})
	if err != nil {
		return "", err
	}
	return "/channel/v1/device/" + d.UUID, nil
}

// ask asks how a channel is, or switches it, and shows it.
func (a reach) ask(ctx context.Context, c *client.Client, t *target, args []string, change *api.ChannelSwitch) error {
	path, err := t.path(ctx, c, args)
	if err != nil {
		return err
	}
	method, body := http.MethodGet, any(nil)
	if change != nil {
		method, body = http.MethodPut, change
	}
	if t.fleet != "" {
		var mode api.ChannelMode
		if err := c.Do(ctx, method, path, body, &mode); err != nil {
			return err
		}
		return a.Show(mode, func() *terminal.Grid {
			g := &terminal.Grid{Head: []string{"", ""}}
			addMode(g, mode)
			return g
		})
	}
	var s api.ChannelStatus
	if err := c.Do(ctx, method, path, body, &s); err != nil {
		return err
	}
	return a.Show(s, func() *terminal.Grid {
		g := &terminal.Grid{Head: []string{"", ""}}
		g.Add("Connected", connected(s))
		if s.Connected {
			g.Add("Address", s.Address)
			g.Add("From", s.From)
			g.Add("Proved by", proof(s))
		} else if s.Certified {
			g.Add("Certificate", "until "+local(s.ExpiresAt))
		}
		addMode(g, s.ChannelMode)
		if s.Said != "" {
			g.Add("The device says", terminal.Printable(said(s)))
		}
		return g
	})
}

func addMode(g *terminal.Grid, m api.ChannelMode) {
	g.Add("Switch", m.Mode)
	g.Add("Wanted", terminal.Yes(m.Wanted)+", "+m.Why)
	if m.Schedule != "" {
		g.Add("Schedule", m.Schedule)
	}
	if m.Next != "" {
		g.Add("Until", local(m.Next))
	}
	if !m.Server {
		g.Add("Server", "has no control channel")
	}
}

func connected(s api.ChannelStatus) string {
	switch {
	case s.Connected:
		return "since " + local(s.Since)
	case s.Since != "":
		return "no, not since " + local(s.Since)
	}
	return "never yet"
}

func proof(s api.ChannelStatus) string {
	if s.Identity == api.IdentityCertificate {
		return "its key and a certificate, good until " + local(s.ExpiresAt)
	}
	return "its key alone (weaker: it has no certificate)"
}

func said(s api.ChannelStatus) string {
	text := s.Said
	if s.Said == api.ChannelStateLocked {
		text = "locked: its owner keeps the channel shut on the device"
	}
	if s.Reason != "" {
		text += " (" + s.Reason + ")"
	}
	return text
}

// local writes a time as people read it here.
func local(stamp string) string {
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return stamp
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func (a reach) vpnStatus() *cobra.Command {
	var t target
	return t.flag(a, a.Command(cmdline.Action{
		Use: "status [DEVICE]", Short: "Show the control channel of a device: connected or not, how it proved itself, and whether it is wanted",
		Example: "  roadstead device vpn status kitchen\n  roadstead device vpn status kitchen -o json\n  roadstead device vpn status --fleet hello",
		Most:    1, Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error { return a.ask(ctx, c, &t, args, nil) },
	}))
}

func (a reach) vpnOn() *cobra.Command {
	var (
		t              target
		long, schedule string
	)
	cmd := t.flag(a, a.Command(cmdline.Action{
		Use: "on [DEVICE]", Short: "Switch the control channel on: for good, for a time, or at some times of the week",
		Long: `Switch the control channel on. A device hears of it when it asks for its target state next. With --for it goes back by itself to how it was, also when the
server cannot be reached then. With --schedule it is on at these times only, in UTC or at an offset from it; a span may go over midnight.`,
		Example: `  roadstead device vpn on kitchen --for 30m
  roadstead device vpn on kitchen
  roadstead device vpn on --fleet hello --schedule 'Mon-Fri 08:00-18:00 UTC; Sat,Sun 10:00-12:00 +01:00'`,
		Most: 1, Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			now, change := time.Now(), api.ChannelSwitch{Mode: api.ChannelOn, Schedule: schedule}
			end, err := cmdline.Expiry(long, now)
			if err != nil {
				return err
			}
			if end != nil { // a distance, for the server's clock is the one that counts
				change.Seconds = max(1, int64(end.Sub(now).Round(time.Second)/time.Second))
			}
			return a.ask(ctx, c, &t, args, &change)
		},
	}))
	cmd.Flags().StringVar(&long, "for", "", "how `LONG` it is on: 30m, 2d, or until a time")
	cmd.Flags().StringVar(&schedule, "schedule", "", "at which `TIMES` of the week: 'Mon-Fri 08:00-18:00 UTC'")
	cmd.MarkFlagsMutuallyExclusive("for", "schedule")
	return cmd
}

func (a reach) vpnOff() *cobra.Command {
	var t target
	return t.flag(a, a.Command(cmdline.Action{
		Use: "off [DEVICE]", Short: "Switch the control channel off; who is connected is cut off at once",
		Example: "  roadstead device vpn off kitchen\n  roadstead device vpn off --fleet hello",
		Most:    1, Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			return a.ask(ctx, c, &t, args, &api.ChannelSwitch{Mode: api.ChannelOff})
		},
	}))
}

func (a reach) vpnAuto() *cobra.Command {
	var t target
	return t.flag(a, a.Command(cmdline.Action{
		Use: "auto [DEVICE]", Short: "Take a switch away: a device does as its fleet, a fleet as by default (on; off for blocks)",
		Example: "  roadstead device vpn auto kitchen\n  roadstead device vpn auto --fleet hello",
		Most:    1, Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			return a.ask(ctx, c, &t, args, &api.ChannelSwitch{Mode: api.ChannelAuto})
		},
	}))
}

func (a reach) vpnReset() *cobra.Command {
	var sure bool
	cmd := a.Command(cmdline.Action{
		Use: "reset DEVICE", Short: "Forget the certificate of a device that has lost its key for the channel",
		Long: `Forget the certificate of a device. A device that was given one does not get into the control channel without it, and no other key of it is certified. After
a reset it may come by its API key alone once more, and have another key certified: whoever has the device's API key can, so make sure
that the device alone has it.`,
		Example: "  roadstead device vpn reset kitchen",
		Least:   1, Most: 1, Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			path, err := (&target{}).path(ctx, c, args)
			if err != nil {
				return err
			}
			if err := a.Confirm(sure, fmt.Sprintf("Forget the certificate of %s? It may come by its key alone then.", args[0])); err != nil {
				return err
			}
			if err := c.Do(ctx, http.MethodPost, path+"/reset", nil, nil); err != nil {
				return err
			}
			a.Say("The certificate of %s is forgotten.", args[0])
			return nil
		},
	})
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}
