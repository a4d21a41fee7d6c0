package act

import (
	"context"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

// actionsCommand is `roadstead device actions`.
func actionsCommand(a *cmdline.App) *cobra.Command {
	var cancel []int64
	var limit int
	var open bool
	cmd := a.Command(cmdline.Action{
		Use: "actions DEVICE", Short: "List what a device was told to do and what became of it, newest first, or take back what waits",
		Least: 1, Most: 1, Complete: cmdline.First(a.Devices()),
		Example: "  roadstead device actions kitchen\n  roadstead device actions kitchen --open -o json\n  roadstead device actions kitchen --cancel 17",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.FindDevice(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			if len(cancel) > 0 {
				return takeBack(ctx, a, c, d, cancel)
			}
			q := client.Query{Select: rowFields, Expand: "device($select=id,uuid,device_name)", Filter: client.Where("device eq ?", d.ID),
				OrderBy: "id desc", Top: limit}
			if open {
				q.Filter += " and (state eq 'queued' or state eq 'sent')"
			}
			return cmdline.List(ctx, a, c, "device_action", q, row.view, []string{"ID", "When", "Action", "Service", "State", "Says", "Until"},
				func(v view) []string {
					until := ""
					if v.State.Open() {
						until = v.ExpiresAt
					}
					return []string{fmt.Sprint(v.ID), v.CreatedAt, v.Verb, text(v.Service), string(v.State), v.Message, until}
				})
		},
	})
	cmd.Flags().Int64SliceVar(&cancel, "cancel", nil, "take back the action with this `ID`, if the device has not got it yet; may be given several times")
	cmd.Flags().BoolVar(&open, "open", false, "only those that wait, or are not over")
	cmd.Flags().IntVar(&limit, "limit", 20, "at most so many")
	return cmd
}

// takeBack cancels actions of a device.
func takeBack(ctx context.Context, a *cmdline.App, c *client.Client, d *client.Device, ids []int64) error {
	rows, err := client.Get[row](ctx, c, "device_action", client.Query{Select: "id", Filter: client.Where("device eq ? and id in ?", d.ID, ids)})
	if err != nil {
		return err
	}
	known := map[int64]bool{}
	for _, r := range rows {
		known[r.ID] = true
	}
	for _, id := range ids {
		if !known[id] {
			return fmt.Errorf("%s has no action %d", d.Name, id)
		}
		if err := c.Do(ctx, http.MethodPost, fmt.Sprintf("%s/%d/cancel", at, id), nil, nil); err != nil {
			return fmt.Errorf("action %d of %s: %w", id, d.Name, err)
		}
		a.Say("Took action %d of %s back.", id, d.Name)
	}
	return nil
}
