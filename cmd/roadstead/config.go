package main

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// settingView is one variable that configures devices.
type settingView struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Description string `json:"description"`
	WillReboot  bool   `json:"will_reboot"`
}

func (a *app) configCommand() *cobra.Command {
	var deviceType string
	names := a.Command(cmdline.Action{
		Use: "names", Short: "List the variables that configure devices", Example: "  roadstead config names --type raspberrypi4-64",
		Long: "List the names that `roadstead env set` takes to configure devices themselves, in place of their services.",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			path := "/config/vars"
			if deviceType != "" {
				path += "?deviceType=" + url.QueryEscape(deviceType)
			}
			var vars struct {
				Schema struct {
					Properties map[string]struct {
						Type        any    `json:"type"`
						Description string `json:"description"`
						WillReboot  bool   `json:"will_reboot"`
					} `json:"properties"`
				} `json:"configVarSchema"`
			}
			if err := c.Do(ctx, http.MethodGet, path, nil, &vars); err != nil {
				return err
			}
			views := []settingView{}
			for name, p := range vars.Schema.Properties {
				kind, _ := p.Type.(string)
				views = append(views, settingView{Name: name, Type: kind, Description: p.Description, WillReboot: p.WillReboot})
			}
			slices.SortFunc(views, func(a, b settingView) int { return strings.Compare(a.Name, b.Name) })
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Name", "Type", "Restarts the device", "What it does"}}
				for _, v := range views {
					g.Add(v.Name, v.Type, terminal.Yes(v.WillReboot), v.Description)
				}
				return g
			})
		},
	})
	names.Flags().StringVarP(&deviceType, "type", "t", "", "with those of this device type")
	_ = names.RegisterFlagCompletionFunc("type", a.DeviceTypes()) // fails only for a flag that is not there
	generate := a.deviceInitCommand()
	generate.Use, generate.Example = "generate [FLEET]", strings.ReplaceAll(generate.Example, "device init", "config generate")
	generate.Short = "Write the config.json with which a new device joins a fleet (as `device init`)"
	return cmdline.Group("config", "What configures devices", generate, names)
}
