package main

import (
	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// deviceTypeView is the JSON form of a device type.
type deviceTypeView struct {
	Slug string `json:"slug"`
	Name string `json:"name"`
	Arch string `json:"arch"`
}

func (a *app) deviceTypeCommand() *cobra.Command {
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
	return cmdline.Group("device-type", "Kinds of hardware", list)
}
