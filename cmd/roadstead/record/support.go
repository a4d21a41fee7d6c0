package record

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

const until = "is_accessible_by_support_until__date"

func (a record) support() *cobra.Command {
	cmd := cmdline.Group("support", "Let support staff reach devices for a time, and see what they did", a.supportEnable(), a.supportDisable(),
		a.supportClose(), a.supportList(), a.supportLog())
	cmd.Long = `Support staff see nothing of yours until you open a device or a fleet to them for a time, at most 30 days. Until that is over they may look at it, change its
devices and their variables, act on them and enter them. They make, delete and move no device, make no key, and cannot prolong it. It ends by
itself, and open connections with it; everything that they do and look at is in the audit log.`
	return cmd
}

// target is what is opened or closed: devices, or a fleet.
type target struct{ fleet string }

func (t *target) register(a record, cmd *cobra.Command) {
	a.FleetFlag(cmd, &t.fleet, "the whole fleet")
}

// set writes until when support staff may reach what is meant; nil ends it.
func (t *target) set(ctx context.Context, a record, c *client.Client, devices []string, at *time.Time) error {
	var value any
	if at != nil {
		value = at.UnixMilli()
	}
	fields := map[string]any{until: value}
	var named []string
	if len(devices) == 0 {
		if cmdline.FleetOr(t.fleet) == "" {
			return cmdline.Usagef("name devices, or a fleet with --fleet")
		}
		f, err := c.FindFleet(ctx, cmdline.FleetOr(t.fleet), client.Query{Select: "id,slug"})
		if err != nil {
			return err
		}
		if err := c.Patch(ctx, client.ID("application", f.ID), client.Query{}, fields); err != nil {
			return err
		}
		named = append(named, "fleet "+f.Slug)
	}
	for _, ref := range devices {
		d, err := c.FindDevice(ctx, ref, client.Query{Select: "id,device_name"})
		if err != nil {
			return err
		}
		if err := c.Patch(ctx, client.ID("device", d.ID), client.Query{}, fields); err != nil {
			return err
		}
		named = append(named, "device "+d.Name)
	}
	for _, name := range named {
		if at == nil {
			a.Say("Support staff no longer reach %s.", name)
		} else {
			a.Say("Support staff may reach %s until %s.", name, at.Local().Format("2006-01-02 15:04:05"))
		}
	}
	return nil
}

func (a record) supportEnable() *cobra.Command {
	var t target
	var long string
	cmd := a.Command(cmdline.Action{
		Use: "enable [DEVICE...]", Short: "Let support staff reach devices, or a whole fleet, for a time", Most: -1, Complete: a.Devices(),
		Example: "  roadstead support enable kitchen --for 4h\n  roadstead support enable --fleet hello --for 2d",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			at, err := cmdline.Expiry(long, time.Now())
			if err != nil {
				return err
			}
			if at == nil {
				return cmdline.Usagef("--for %q: support access has an end, at most 30 days from now", long)
			}
			return t.set(ctx, a, c, args, at)
		},
	})
	t.register(a, cmd)
	cmd.Flags().StringVar(&long, "for", "24h", "how `LONG`: 4h, 2d, or until a time; at most 30 days")
	return cmd
}

func (a record) supportDisable() *cobra.Command {
	var t target
	cmd := a.Command(cmdline.Action{
		Use: "disable [DEVICE...]", Short: "End that support staff reach devices, or a whole fleet", Most: -1, Complete: a.Devices(),
		Example: "  roadstead support disable kitchen\n  roadstead support disable --fleet hello",
		Do:      func(ctx context.Context, c *client.Client, args []string) error { return t.set(ctx, a, c, args, nil) },
	})
	t.register(a, cmd)
	return cmd
}

func (a record) supportClose() *cobra.Command {
	var sure bool
	cmd := a.Command(cmdline.Action{
		Use: "close FLEET", Short: "Shut support staff out of a fleet for good", Least: 1, Most: 1, Complete: a.Fleets(),
		Long: `Shut support staff out of a fleet and of its devices for good. Nobody opens it to them again: neither you nor whoever runs the server, by no
command and no grant. A device that is to be reached by support some day has to be moved to another fleet.`,
		Example: "  roadstead support close hello",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			f, err := c.FindFleet(ctx, args[0], client.Query{Select: "id,slug"})
			if err != nil {
				return err
			}
			if err := a.Confirm(sure, "Shut support staff out of fleet "+f.Slug+" for good? This cannot be undone."); err != nil {
				return err
			}
			if err := c.Patch(ctx, client.ID("application", f.ID), client.Query{}, map[string]any{"is_closed_to_support": true}); err != nil {
				return err
			}
			a.Say("Support staff are shut out of fleet %s for good.", f.Slug)
			return nil
		},
	})
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}

type grant struct {
	Kind  string `json:"kind"` // fleet or device
	Name  string `json:"name"`
	UUID  string `json:"uuid"`
	Until string `json:"until"`
}

func (a record) supportList() *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List what is open to support staff just now",
		Long:    "List the fleets and devices that are open to support staff just now. Support staff see here what they may reach.",
		Example: "  roadstead support list",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			open := client.Where(until+" gt ?", time.Now())
			fleets, err := client.Get[struct {
				Slug  string `json:"slug"`
				UUID  string `json:"uuid"`
				Until string `json:"is_accessible_by_support_until__date"`
			}](ctx, c, "application", client.Query{Select: "id,slug,uuid," + until, Filter: open, OrderBy: "slug asc"})
			if err != nil {
				return err
			}
			devices, err := client.Get[struct {
				Name  string `json:"device_name"`
				UUID  string `json:"uuid"`
				Until string `json:"is_accessible_by_support_until__date"`
			}](ctx, c, "device", client.Query{Select: "id,device_name,uuid," + until, Filter: open, OrderBy: "device_name asc"})
			if err != nil {
				return err
			}
			list := []grant{}
			for _, f := range fleets {
				list = append(list, grant{"fleet", f.Slug, f.UUID, f.Until})
			}
			for _, d := range devices {
				list = append(list, grant{"device", d.Name, d.UUID, d.Until})
			}
			return a.Show(list, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Kind", "Name", "UUID", "Until"}}
				for _, v := range list {
					g.Add(v.Kind, v.Name, terminal.Short(v.UUID), local(v.Until))
				}
				return g
			})
		},
	})
}

func (a record) supportLog() *cobra.Command {
	var f filter
	cmd := a.Command(cmdline.Action{
		Use: "log", Short: "List what support staff did and looked at",
		Long:    `List what support staff did and looked at. Each act is there; of looking, one line an hour for the same session and device or fleet.`,
		Example: "  roadstead support log --since 7d\n  roadstead support log --fleet hello -o json",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			return a.print(ctx, c, &f, "is_support eq true")
		},
	})
	f.register(a, cmd)
	return cmd
}
