// Package hardware holds the commands about the kinds of hardware that devices are, and the operating systems for them.
package hardware

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// hardware adds its commands to what they stand on.
type hardware struct{ *cmdline.App }

// Commands are the commands of this package.
func Commands(app *cmdline.App) []*cobra.Command {
	a := hardware{app}
	return []*cobra.Command{a.deviceTypeCommand(), a.osCommand()}
}

// deviceTypeView is the JSON form of a device type.
type deviceTypeView struct {
	Slug string `json:"slug"`
	Name string `json:"name"`
	Arch string `json:"arch"`
}

func (a hardware) deviceTypeCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the kinds of hardware that the server knows",
		Example: "  roadstead device-type list",
		Args:    cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			found, err := client.Get[client.DeviceType](cmd.Context(), c, "device_type",
				client.Query{Select: "id,slug,name", Expand: "is_of__cpu_architecture($select=id,slug)", OrderBy: "slug asc"})
			if err != nil {
				return err
			}
			views := make([]deviceTypeView, len(found))
			for i, t := range found {
				views[i] = deviceTypeView{Slug: t.Slug, Name: t.Name, Arch: t.Arch.Get().Slug}
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Device type", "Name", "Architecture"}}
				for _, v := range views {
					g.Add(v.Slug, v.Name, v.Arch)
				}
				return g
			})
		},
	}
	show := a.Command(cmdline.Action{
		Use: "show DEVICE-TYPE", Short: "Show a kind of hardware", Example: "  roadstead device-type show raspberrypi4-64 -o json",
		Least: 1, Most: 1, Complete: cmdline.First(a.DeviceTypes()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			id, err := FindDeviceType(ctx, c, args[0])
			if err != nil {
				return err
			}
			t, err := client.One[deviceTypeRow](ctx, c, client.ID("device_type", id), client.Query{Select: "id,slug,name,contract",
				Expand: "is_of__cpu_architecture($select=id,slug),device_type_alias($select=is_referenced_by__alias)"})
			if err != nil {
				return err
			}
			v := deviceTypeDetails{deviceTypeView: deviceTypeView{Slug: t.Slug, Name: t.Name, Arch: t.Arch.Get().Slug},
				Aliases: []string{}, Contract: t.Contract}
			for _, alias := range t.Aliases {
				if alias.Alias != t.Slug {
					v.Aliases = append(v.Aliases, alias.Alias)
				}
			}
			return a.Show(v, func() *terminal.Grid {
				return &terminal.Grid{Rows: [][]string{{"Device type", v.Slug}, {"Name", v.Name}, {"Architecture", v.Arch},
					{"Also called", strings.Join(v.Aliases, " ")}}}
			})
		},
	})
	return cmdline.Group("device-type", "Kinds of hardware", list, show)
}

// deviceTypeRow is a device type with all that is known of it.
type deviceTypeRow struct {
	client.DeviceType
	Contract json.RawMessage `json:"contract"`
	Aliases  []struct {
		Alias string `json:"is_referenced_by__alias"`
	} `json:"device_type_alias"`
}

// deviceTypeDetails is its JSON form.
type deviceTypeDetails struct {
	deviceTypeView
	Aliases  []string        `json:"aliases"`
	Contract json.RawMessage `json:"contract"`
}

// FindDeviceType finds a kind of hardware by its slug or one of its other names.
func FindDeviceType(ctx context.Context, c *client.Client, name string) (int64, error) {
	found, err := client.Get[client.DeviceType](ctx, c, "device_type", client.Query{Select: "id", Top: 1,
		Filter: client.Where("device_type_alias/any(dta:dta/is_referenced_by__alias eq ?)", name)})
	if err != nil {
		return 0, err
	}
	if len(found) == 0 {
		return 0, api.Errorf(api.Invalid, "there is no device type %q; `roadstead device-type list` shows all", name)
	}
	return found[0].ID, nil
}
