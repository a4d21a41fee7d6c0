package reach

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

func (a reach) url() *cobra.Command {
	cmd := cmdline.Group("url", "The public address of a device", a.urlOn(), a.urlOff(), a.urlShow())
	cmd.Long = `A device can have a public address, https://UUID.devices.DOMAIN, that leads to one of its ports. It is off until you switch it on. Anybody can open it
then, unless you ask for a login or a token, or name networks.`
	return cmd
}

// change sends a change, or with none asks, and prints how the address is.
func (a reach) change(ctx context.Context, c *client.Client, ref string, change *api.PublicURLChange) error {
	d, err := c.FindDevice(ctx, ref, client.Query{Select: "id,uuid,device_name"})
	if err != nil {
		return err
	}
	method, body := "GET", any(nil)
	if change != nil {
		method, body = "PUT", change
	}
	var now api.PublicURL
	if err := c.Do(ctx, method, "/device-url/v1/"+d.UUID, body, &now); err != nil {
		return err
	}
	return a.Show(now, func() *terminal.Grid {
		g := &terminal.Grid{Head: []string{"", ""}}
		g.Add("Address", now.URL)
		g.Add("On", terminal.Yes(now.Enabled))
		g.Add("Port", strconv.Itoa(now.Port))
		g.Add("Login", terminal.Yes(now.Login))
		g.Add("Token", terminal.Yes(now.HasToken))
		if now.Token != "" {
			g.Add("", now.Token+" (told only now)")
		}
		g.Add("From", strings.Join(now.Allow, ", "))
		until := ""
		if now.Until != nil {
			until = now.Until.Local().Format("2006-01-02 15:04:05")
		}
		g.Add("Until", until)
		return g
	})
}

func (a reach) urlOn() *cobra.Command {
	var (
		port         int
		login, token bool
		allow        []string
		long         string
	)
	var cmd *cobra.Command
	cmd = a.Command(cmdline.Action{
		Use: "on DEVICE", Short: "Switch the public address of a device on",
		Long: `Switch the public address of a device on, or change it. With --login, who opens it logs in, and may see the device; with --token, or knows the token that is
printed once (as the password, or in the header Roadstead-Token). Of both, one is enough. --allow names the networks that it can be opened from.
What is not given stays as it was, but for the end: without --for there is none.`,
		Example: `  roadstead device url on kitchen
  roadstead device url on kitchen --port 8080 --login --for 2h
  roadstead device url on kitchen --token --allow 192.0.2.0/24,2001:db8::/32
  roadstead device url on kitchen --login=false --token=false --allow all`,
		Least: 1, Most: 1, Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			on := true
			change := api.PublicURLChange{Enabled: &on}
			given := cmd.Flags().Changed
			if given("port") {
				change.Port = &port
			}
			if given("login") {
				change.Login = &login
			}
			if given("token") {
				change.Token = &token
			}
			if given("allow") {
				networks := allow
				if len(allow) == 1 && allow[0] == "all" {
					networks = []string{}
				}
				change.Allow = &networks
			}
			var err error
			if change.Until, err = cmdline.Expiry(long, time.Now()); err != nil {
				return err
			}
			return a.change(ctx, c, args[0], &change)
		},
	})
	cmd.Flags().IntVar(&port, "port", 80, "the port of the device that it leads to")
	cmd.Flags().BoolVar(&login, "login", false, "ask for a login")
	cmd.Flags().BoolVar(&token, "token", false, "make a token that opens it")
	cmd.Flags().StringSliceVar(&allow, "allow", nil, "the `NETWORKS` that it can be opened from; all: everywhere")
	cmd.Flags().StringVar(&long, "for", "", "how `LONG` it is on: 30m, 2d, or until a time")
	return cmd
}

func (a reach) urlOff() *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "off DEVICE", Short: "Switch the public address of a device off; who has it open is cut off",
		Example: "  roadstead device url off kitchen", Least: 1, Most: 1, Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			off := false
			return a.change(ctx, c, args[0], &api.PublicURLChange{Enabled: &off})
		},
	})
}

func (a reach) urlShow() *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "show DEVICE", Short: "Show the public address of a device, and who may open it",
		Example: "  roadstead device url show kitchen -o json", Least: 1, Most: 1, Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			return a.change(ctx, c, args[0], nil)
		},
	})
}
