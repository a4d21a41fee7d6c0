package shell

import (
	"context"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// hostKey is how a device is known over SSH where nobody vouches for it.
func (a shell) hostKey() *cobra.Command {
	path := func(ctx context.Context, c *client.Client, ref string) (*client.Device, string, error) {
		d, err := c.FindDevice(ctx, ref, client.Query{Select: "id,uuid,device_name"})
		if err != nil {
			return nil, "", err
		}
		return d, "/ssh/v1/device/" + d.UUID + "/host-key", nil
	}
	show := a.Command(cmdline.Action{
		Use: "show DEVICE", Short: "Show how a device is known over SSH", Least: 1, Most: 1, Complete: cmdline.First(a.Devices()),
		Long: `Show how a device is known over SSH: "certified" by this server, as devices with our agent are, or "remembered", which is weaker: nobody vouches for
the host key of a device with balenaOS, so the first that the gateway was shown counts.`,
		Example: "  roadstead device ssh-host-key show kitchen",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			_, path, err := path(ctx, c, args[0])
			if err != nil {
				return err
			}
			var key api.SSHHostKey
			if err := c.Do(ctx, http.MethodGet, path, nil, &key); err != nil {
				return err
			}
			return a.Show(key, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Known by", "Fingerprint", "First seen"}}
				g.Add(key.Kind, key.Fingerprint, local(key.Since))
				return g
			})
		},
	})
	forget := a.Command(cmdline.Action{
		Use: "forget DEVICE", Short: "Let the next host key of a device count as its first", Least: 1, Most: 1, Complete: cmdline.First(a.Devices()),
		Long:    `Let the next host key that the gateway is shown by a device count as its first, after the device's system was written anew.`,
		Example: "  roadstead device ssh-host-key forget kitchen",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			d, path, err := path(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := c.Do(ctx, http.MethodDelete, path, nil, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Err, "The host key of %s is forgotten.\n", d.Name)
			return err
		},
	})
	return cmdline.Group("ssh-host-key", "How a device is known over SSH", show, forget)
}
