package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// deviceField is a command that writes fields of one device.
func (a *app) deviceField(use, short, example string, most int, fields func(args []string) (map[string]any, string, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: example,
		Args: cmdline.Args(1, most), ValidArgsFunction: cmdline.First(a.Devices()),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeDevice(cmd.Context(), args[0], func(_ *client.Client, d *client.Device) (map[string]any, string, error) {
				set, done, err := fields(args[1:])
				return set, d.Name + " " + done, err
			})
		},
	}
}

// deviceFieldCommands are the commands that write a field or two.
func (a *app) deviceFieldCommands() []*cobra.Command {
	unpin := a.deviceField("unpin DEVICE", "Let a device follow its fleet again", "  roadstead device unpin kitchen", 1,
		func([]string) (map[string]any, string, error) {
			return map[string]any{"is_pinned_on__release": nil}, "follows its fleet.", nil
		})
	note := a.deviceField("note DEVICE [TEXT]", "Write a note on a device; without a text it is removed",
		"  roadstead device note kitchen 'by the window'", 2, func(args []string) (map[string]any, string, error) {
			return map[string]any{"note": strings.Join(args, "")}, "has its note.", nil
		})
	deactivate := a.deviceField("deactivate DEVICE", "Count a device that is offline as out of use until it comes back",
		"  roadstead device deactivate kitchen", 1, func([]string) (map[string]any, string, error) {
			return map[string]any{"is_active": false}, "is out of use until it comes back.", nil
		})
	var away bool
	location := a.deviceField("location DEVICE LATITUDE LONGITUDE | --clear", "Say where a device is",
		"  roadstead device location kitchen 52.52 13.40\n  roadstead device location kitchen --clear", 3,
		func(args []string) (map[string]any, string, error) {
			if away && len(args) == 0 {
				return map[string]any{"custom_latitude": "", "custom_longitude": ""}, "has no place of its own.", nil
			}
			if away || len(args) != 2 {
				return nil, "", cmdline.Usagef("give latitude and longitude in degrees, or --clear")
			}
			for i, bound := range []float64{90, 180} {
				if v, err := strconv.ParseFloat(args[i], 64); err != nil || v < -bound || v > bound {
					return nil, "", cmdline.Usagef("%q is no number of degrees up to %.0f", args[i], bound)
				}
			}
			return map[string]any{"custom_latitude": args[0], "custom_longitude": args[1]}, "is at " + args[0] + ", " + args[1] + ".", nil
		})
	location.Flags().BoolVar(&away, "clear", false, "forget it")
	support := a.deviceField("support DEVICE TIME", "Let support staff operate a device for so long, or end that (never)",
		"  roadstead device support kitchen 4h\n  roadstead device support kitchen never", 2,
		func(args []string) (map[string]any, string, error) {
			fields := map[string]any{}
			if len(args) == 0 {
				return nil, "", cmdline.Usagef("say for how long (4h, 2d), or never")
			}
			return fields, "has its support access changed.", supportUntil(fields, args[0])
		})
	return []*cobra.Command{unpin, note, deactivate, location, support}
}

func (a *app) deviceLocalModeCommand() *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "local-mode DEVICE [on|off]", Short: "Let a device be developed on directly, or say whether it is", Least: 1, Most: 2,
		Example:  "  roadstead device local-mode kitchen\n  roadstead device local-mode kitchen on",
		Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.FindDevice(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			const name = "RESIN_SUPERVISOR_LOCAL_MODE"
			if len(args) == 1 {
				found, err := client.Get[client.Variable](ctx, c, "device_config_variable",
					client.Query{Select: "value", Filter: client.Where("device eq ? and name eq ?", d.ID, name)})
				if err != nil {
					return err
				}
				on := len(found) > 0 && found[0].Value == "1"
				return a.Show(map[string]bool{"local_mode": on}, func() *terminal.Grid {
					return &terminal.Grid{Rows: [][]string{{"Local mode", map[bool]string{true: "on", false: "off"}[on]}}}
				})
			}
			value, ok := map[string]string{"on": "1", "off": "0"}[args[1]]
			if !ok {
				return cmdline.Usagef("%q is neither on nor off", args[1])
			}
			row := map[string]any{"device": d.ID, "name": name, "value": value}
			if err := c.Upsert(ctx, "device_config_variable", row, "device", "name"); err != nil {
				return err
			}
			a.Say("Local mode of %s is %s.", d.Name, args[1])
			return nil
		},
	})
}

func (a *app) deviceTargetCommand() *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "target DEVICE", Short: "Print the state that a device is told to be in, as it gets it (JSON)", Least: 1, Most: 1,
		Example: "  roadstead device target kitchen", Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.FindDevice(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			var state any
			if err := c.Do(ctx, http.MethodGet, "/device/v3/"+d.UUID+"/state", nil, &state); err != nil {
				return err
			}
			return a.JSON(state)
		},
	})
}

type historyRow struct {
	CreatedAt string                     `json:"created_at"`
	EndedAt   string                     `json:"end_timestamp"`
	IsActive  bool                       `json:"is_active"`
	OS        string                     `json:"os_version"`
	Agent     string                     `json:"supervisor_version"`
	Fleet     client.Ref[client.Fleet]   `json:"belongs_to__application"`
	Running   client.Ref[client.Release] `json:"is_running__release"`
	Pinned    client.Ref[client.Release] `json:"is_pinned_on__release"`
}

type historyView struct {
	From    string       `json:"from"`
	Until   *string      `json:"until"` // null: still so
	Active  bool         `json:"active"`
	Fleet   string       `json:"fleet"`
	Release *releaseName `json:"release"`
	Pinned  *releaseName `json:"pinned_release"`
	OS      string       `json:"os_version"`
	Agent   string       `json:"agent_version"`
}

func (a *app) deviceHistoryCommand() *cobra.Command {
	var limit int
	cmd := a.Command(cmdline.Action{
		Use: "history DEVICE", Short: "List what a device was in the past: its fleet, release and versions, newest first", Least: 1, Most: 1,
		Example: "  roadstead device history kitchen\n  roadstead device history kitchen --limit 5 -o json", Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.FindDevice(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			q := client.Query{
				Select: "created_at,end_timestamp,is_active,os_version,supervisor_version",
				Expand: "belongs_to__application($select=id,slug),is_running__release($select=id,commit,raw_version)," +
					"is_pinned_on__release($select=id,commit,raw_version)",
				Filter: client.Where("uuid eq ?", d.UUID), OrderBy: "id desc", Top: limit}
			view := func(r historyRow) historyView {
				return historyView{From: r.CreatedAt, Until: cmdline.OrNil(r.EndedAt), Active: r.IsActive, Fleet: r.Fleet.Get().Slug,
					Release: nameOf(r.Running), Pinned: nameOf(r.Pinned), OS: r.OS, Agent: r.Agent}
			}
			return cmdline.List(ctx, a.App, c, "device_history", q, view,
				[]string{"From", "Until", "Fleet", "Release", "Pinned to", "System", "Agent"}, func(v historyView) []string {
					until := "now"
					if v.Until != nil {
						until = *v.Until
					}
					return []string{v.From, until, v.Fleet, v.Release.String(), v.Pinned.String(), v.OS, v.Agent}
				})
		},
	})
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many")
	return cmd
}

func (a *app) deviceRegisterCommand() *cobra.Command {
	var uuid, deviceType string
	cmd := a.Command(cmdline.Action{
		Use: "register [FLEET]", Short: "Register a device that is not there yet; prints its uuid and key", Most: 1,
		Long: `Make the row and the key of a device before the device itself is switched on. The key is shown this once: "-o json" gives it to a
script. Devices that start with the file of ` + "`roadstead device init`" + ` register themselves.`,
		Example:  "  roadstead device register hello -o json\n  roadstead device register hello --uuid 4f0c1aa0c1aa4f0c1aa0c1aa4f0c1aa0",
		Complete: cmdline.First(a.Fleets()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			f, err := c.FindFleet(ctx, cmdline.FleetOr(strings.Join(args, "")),
				client.Query{Expand: "is_for__device_type($select=id,slug)"})
			if err != nil {
				return err
			}
			if uuid == "" {
				var random [16]byte
				_, _ = rand.Read(random[:]) // it never fails
				uuid = hex.EncodeToString(random[:])
			}
			if deviceType == "" {
				deviceType = f.DeviceType.Get().Slug
			}
			if !api.DeviceUUID(uuid).Valid() {
				return cmdline.Usagef("--uuid %q is not 32 hexadecimal digits in lower case", uuid)
			}
			made, err := c.Register(ctx, api.Register{Application: f.ID, UUID: api.DeviceUUID(uuid), DeviceType: deviceType})
			if err != nil {
				return err
			}
			if a.Output == "json" {
				return a.JSON(made)
			}
			a.Say("Registered %s in %s. This is the only time that its key is shown:", made.UUID, f.Slug)
			_, err = fmt.Fprintln(a.Out, made.APIKey)
			return err
		},
	})
	cmd.Flags().StringVar(&uuid, "uuid", "", "32 hexadecimal digits; made up when it is not given")
	cmd.Flags().StringVarP(&deviceType, "type", "t", "", "device type, when it is not the fleet's")
	_ = cmd.RegisterFlagCompletionFunc("type", a.DeviceTypes()) // fails only for a flag that is not there
	return cmd
}
