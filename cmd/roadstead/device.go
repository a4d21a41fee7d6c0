package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/act"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/reach"
	"github.com/roadstead-io/roadstead/cmd/roadstead/shell"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust"
)

// deviceView is the JSON form of a device in a list.
type deviceView struct {
	ID           int64        `json:"id"`
	UUID         string       `json:"uuid"`
	Name         string       `json:"name"`
	Fleet        string       `json:"fleet"`
	DeviceType   string       `json:"device_type"`
	Online       bool         `json:"online"`
	Status       string       `json:"status"`   // inactive, configuring, disconnected, updating, operational, …
	Progress     *int64       `json:"progress"` // per cent
	LastSeen     *string      `json:"last_seen"`
	Release      *releaseName `json:"release"` // that it says it runs
	Target       *releaseName `json:"target_release"`
	OSVersion    string       `json:"os_version"`
	AgentVersion string       `json:"agent_version"`
	Trust        string       `json:"trust"` // of what it runs: verified, rejected, waiting, or unverified
}

// deviceDetails adds what only one device is asked for.
type deviceDetails struct {
	deviceView
	Pinned        *releaseName      `json:"pinned_release"`
	Services      []serviceView     `json:"services"`
	Tags          map[string]string `json:"tags"`
	Note          string            `json:"note"`
	IPAddresses   []string          `json:"ip_addresses"`
	MACAddresses  []string          `json:"mac_addresses"`
	PublicAddress string            `json:"public_address"`
	MemoryUsage   *int64            `json:"memory_usage"` // MiB, like the next three
	MemoryTotal   *int64            `json:"memory_total"`
	StorageUsage  *int64            `json:"storage_usage"`
	StorageTotal  *int64            `json:"storage_total"`
	CPUUsage      *int64            `json:"cpu_usage"`            // per cent
	CPUTemp       *int64            `json:"cpu_temp"`             // °C
	TrustSays     *trust.Says       `json:"trust_says"`           // none: it checks nothing
	KeyProtection string            `json:"key_protection"`       // tpm or file, as the device says; "" when it does not
	Unsupported   []string          `json:"unsupported_features"` // of the composition, which the device ignored or refused
	CreatedAt     string            `json:"created_at"`
}

// serviceView is one service on one device.
type serviceView struct {
	Name     string       `json:"name"`
	Status   string       `json:"status"`
	Progress *int64       `json:"progress"`
	Release  *releaseName `json:"release"`
}

const (
	deviceFields = "id,uuid,device_name,is_online,overall_status,overall_progress,last_connectivity_event,os_version,supervisor_version"
	deviceExpand = "belongs_to__application($select=id,slug),is_of__device_type($select=id,slug)," +
		"is_running__release($select=id,commit,raw_version),should_be_running__release($select=id,commit,raw_version),device_trust($select=id,state)"
	serviceExpand = "image_install($select=id,status,download_progress;$filter=status ne 'deleted';" +
		"$expand=installs__image($select=id;$expand=is_a_build_of__service($select=id,service_name))," +
		"is_provided_by__release($select=id,commit,raw_version))"
)

func viewDevice(d client.Device) deviceView {
	return deviceView{
		ID: d.ID, UUID: d.UUID, Name: d.Name, Fleet: d.Fleet.Get().Slug, DeviceType: d.DeviceType.Get().Slug,
		Online: d.IsOnline, Status: d.OverallStatus, Progress: d.OverallProgress, LastSeen: cmdline.OrNil(d.LastSeen),
		Release: nameOf(d.Running), Target: nameOf(d.Target), OSVersion: d.OSVersion, AgentVersion: d.AgentVersion, Trust: d.TrustState(),
	}
}

func viewServices(installs []client.ImageInstall) []serviceView {
	list := []serviceView{}
	for _, i := range installs {
		list = append(list, serviceView{
			Name: i.Image.Get().Service.Get().Name, Status: i.Status, Progress: i.Progress, Release: nameOf(i.Release),
		})
	}
	slices.SortFunc(list, func(a, b serviceView) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (a *app) deviceCommand() *cobra.Command {
	cmd := cmdline.Group("device", "Devices",
		a.deviceInitCommand(), a.deviceRegisterCommand(), a.deviceListCommand(), a.deviceShowCommand(), a.deviceLogsCommand(),
		a.deviceWaitCommand(), a.deviceTargetCommand(), a.deviceHistoryCommand(), a.deviceRenameCommand(), a.deviceMoveCommand(),
		a.devicePinCommand(), a.deviceLocalModeCommand(), a.deviceRemoveCommand())
	cmd.AddCommand(a.deviceFieldCommands()...)
	cmd.AddCommand(act.Commands(a.App)...)
	cmd.AddCommand(reach.DeviceCommands(a.App)...)
	cmd.AddCommand(shell.DeviceCommands(a.App)...)
	return cmd
}

func (a *app) deviceListCommand() *cobra.Command {
	var fleet string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List devices",
		Example: "  roadstead device list\n  roadstead device list --fleet hello -o json",
		Args:    cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, err := a.Connect(ctx)
			if err != nil {
				return err
			}
			q := client.Query{Select: deviceFields, Expand: deviceExpand, OrderBy: "device_name asc"}
			if fleet != "" {
				f, err := c.FindFleet(ctx, fleet, client.Query{})
				if err != nil {
					return err
				}
				q.Filter = client.Where("belongs_to__application eq ?", f.ID)
			}
			found, err := client.Get[client.Device](ctx, c, "device", q)
			if err != nil {
				return err
			}
			views := make([]deviceView, len(found))
			for i, d := range found {
				views[i] = viewDevice(d)
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"UUID", "Name", "Fleet", "Type", "Status", "Release", "Trust", "Last seen"}}
				for _, v := range views {
					g.Add(terminal.Short(v.UUID), v.Name, v.Fleet, v.DeviceType, deviceStatus(v), v.Release.String(), v.Trust, lastSeen(v))
				}
				return g
			})
		},
	}
	a.FleetFlag(cmd, &fleet, "only those of one fleet")
	return cmd
}

func deviceStatus(v deviceView) string {
	if v.Progress != nil {
		return fmt.Sprintf("%s %d %%", v.Status, *v.Progress)
	}
	return v.Status
}

func lastSeen(v deviceView) string {
	switch {
	case v.Online:
		return "online"
	case v.LastSeen == nil:
		return "never"
	}
	return terminal.Ago(*v.LastSeen)
}

func (a *app) deviceShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show DEVICE", Short: "Show one device and its services",
		Example: "  roadstead device show 4f0c1aa\n  roadstead device show kitchen -o json",
		Args:    cmdline.Args(1, 1), ValidArgsFunction: cmdline.First(a.Devices()),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			d, err := c.FindDevice(cmd.Context(), args[0], client.Query{
				Select: deviceFields + ",note,created_at,ip_address,mac_address,public_address,memory_usage,memory_total,storage_usage," +
					"storage_total,cpu_usage,cpu_temp,key_protection,unsupported_features",
				Expand: strings.Replace(deviceExpand, "id,state", client.TrustFields, 1) + ",is_pinned_on__release($select=id,commit,raw_version)," +
					"device_tag($select=id,tag_key,value)," + serviceExpand,
			})
			if err != nil {
				return err
			}
			v := viewDetails(*d)
			if a.Output == "json" {
				return a.JSON(v)
			}
			a.Table(detailsGrid(v))
			if len(v.Services) > 0 {
				fmt.Fprintln(a.Out)
				g := &terminal.Grid{Head: []string{"Service", "Status", "Release"}}
				for _, s := range v.Services {
					g.Add(s.Name, serviceStatus(s), s.Release.String())
				}
				a.Table(g)
			}
			return nil
		},
	}
}

func viewDetails(d client.Device) deviceDetails {
	v := deviceDetails{
		deviceView: viewDevice(d), Pinned: nameOf(d.Pinned), Services: viewServices(d.Installs), Tags: map[string]string{}, Note: d.Note,
		IPAddresses: append([]string{}, strings.Fields(d.IPAddress)...), PublicAddress: d.PublicAddress,
		MACAddresses: append([]string{}, strings.Fields(d.MACAddress)...), MemoryUsage: d.MemoryUsage, MemoryTotal: d.MemoryTotal,
		Unsupported: append([]string{}, d.Unsupported...), StorageUsage: d.StorageUsage, StorageTotal: d.StorageTotal, CPUUsage: d.CPUUsage, CPUTemp: d.CPUTemp, CreatedAt: d.CreatedAt,
		TrustSays: trust.SaysOf(d), KeyProtection: d.KeyProtection,
	}
	for _, t := range d.Tags {
		v.Tags[t.Key] = t.Value
	}
	return v
}

func detailsGrid(v deviceDetails) *terminal.Grid {
	g := &terminal.Grid{}
	add := func(name, value string) {
		if value != "" {
			g.Add(name, value)
		}
	}
	add("UUID", v.UUID)
	add("Name", v.Name)
	add("Id", strconv.FormatInt(v.ID, 10))
	add("Fleet", v.Fleet)
	add("Device type", v.DeviceType)
	add("Status", deviceStatus(v.deviceView))
	add("Last seen", lastSeen(v.deviceView))
	add("Release", releaseText(v.Release))
	add("Target", releaseText(v.Target))
	add("Pinned to", releaseText(v.Pinned))
	add("Trust", v.TrustSays.String())
	add("Device key", map[string]string{api.KeyInTPM: "sealed in a TPM", api.KeyInFile: "in a file"}[v.KeyProtection])
	add("System", v.OSVersion)
	add("Agent", v.AgentVersion)
	add("Addresses", strings.Join(v.IPAddresses, " "))
	add("Memory", usage(v.MemoryUsage, v.MemoryTotal))
	add("Storage", usage(v.StorageUsage, v.StorageTotal))
	if v.CPUUsage != nil {
		add("CPU", fmt.Sprintf("%d %%", *v.CPUUsage))
	}
	if v.CPUTemp != nil {
		add("Temperature", fmt.Sprintf("%d °C", *v.CPUTemp))
	}
	var tags []string
	for k, val := range v.Tags {
		tags = append(tags, k+"="+val)
	}
	slices.Sort(tags)
	add("Tags", strings.Join(tags, " "))
	add("Unsupported", strings.Join(v.Unsupported, ", "))
	add("Note", v.Note)
	return g
}

func releaseText(r *releaseName) string {
	if r == nil {
		return ""
	}
	return strings.TrimSpace(r.Commit + " " + r.Version)
}

func usage(used, total *int64) string {
	if used == nil || total == nil {
		return ""
	}
	return fmt.Sprintf("%d of %d MiB", *used, *total)
}

func serviceStatus(s serviceView) string {
	if s.Progress != nil {
		return fmt.Sprintf("%s %d %%", s.Status, *s.Progress)
	}
	return s.Status
}

// deviceChange gives the fields to write and the sentence that says so.
type deviceChange = func(*client.Client, *client.Device) (fields map[string]any, done string, err error)

// changeDevice finds a device and writes some of its fields.
func (a *app) changeDevice(ctx context.Context, ref string, change deviceChange) error {
	c, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	d, err := c.FindDevice(ctx, ref, client.Query{Select: "id,uuid,device_name,belongs_to__application"})
	if err != nil {
		return err
	}
	fields, done, err := change(c, d)
	if err != nil {
		return err
	}
	if err := c.Patch(ctx, client.ID("device", d.ID), client.Query{}, fields); err != nil {
		return err
	}
	a.Say("%s", done)
	return nil
}

func (a *app) deviceRenameCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rename DEVICE NAME", Short: "Give a device another name",
		Example: "  roadstead device rename 4f0c1aa kitchen",
		Args:    cmdline.Args(2, 2), ValidArgsFunction: cmdline.First(a.Devices()),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeDevice(cmd.Context(), args[0], func(_ *client.Client, d *client.Device) (map[string]any, string, error) {
				if strings.TrimSpace(args[1]) == "" {
					return nil, "", cmdline.Usagef("a device needs a name")
				}
				return map[string]any{"device_name": args[1]}, fmt.Sprintf("%s is called %s now.", terminal.Short(d.UUID), args[1]), nil
			})
		},
	}
}

func (a *app) deviceMoveCommand() *cobra.Command {
	var fleet string
	cmd := &cobra.Command{
		Use: "move DEVICE --fleet FLEET", Short: "Move a device to another fleet",
		Example: "  roadstead device move kitchen --fleet hello-beta",
		Args:    cmdline.Args(1, 1), ValidArgsFunction: cmdline.First(a.Devices()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if fleet == "" {
				return cmdline.Usagef("say where to with --fleet")
			}
			return a.changeDevice(cmd.Context(), args[0], func(c *client.Client, d *client.Device) (map[string]any, string, error) {
				f, err := c.FindFleet(cmd.Context(), fleet, client.Query{})
				if err != nil {
					return nil, "", err
				}
				return map[string]any{"belongs_to__application": f.ID}, fmt.Sprintf("%s moves to %s.", d.Name, f.Slug), nil
			})
		},
	}
	a.FleetFlag(cmd, &fleet, "the fleet to move to")
	return cmd
}

func (a *app) devicePinCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "pin DEVICE (RELEASE | --fleet-target)", Short: "Keep a device on one release, or let it follow its fleet again",
		Example: "  roadstead device pin kitchen 4f0c1aa\n  roadstead device pin kitchen --fleet-target",
		Args:    cmdline.Args(1, 2), ValidArgsFunction: cmdline.Each(a.Devices(), a.Releases()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow == (len(args) == 2) {
				return cmdline.Usagef("give a release or --fleet-target")
			}
			return a.changeDevice(cmd.Context(), args[0], func(c *client.Client, d *client.Device) (map[string]any, string, error) {
				if follow {
					return map[string]any{"is_pinned_on__release": nil}, d.Name + " follows its fleet.", nil
				}
				r, err := findReleaseOf(cmd.Context(), c, d.Fleet.ID, args[1])
				if err != nil {
					return nil, "", err
				}
				return map[string]any{"is_pinned_on__release": r.ID}, fmt.Sprintf("%s is pinned to %s.", d.Name, terminal.Short(r.Commit)), nil
			})
		},
	}
	cmd.Flags().BoolVar(&follow, "fleet-target", false, "follow the fleet")
	return cmd
}

func (a *app) deviceRemoveCommand() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use: "rm DEVICE...", Aliases: []string{"remove"}, Short: "Remove devices; their keys stop working at once",
		Example: "  roadstead device rm 4f0c1aa --yes",
		Args:    cmdline.Args(1, -1), ValidArgsFunction: a.Devices(),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			var found []*client.Device
			for _, ref := range args { // all are found before the first is removed
				d, err := c.FindDevice(cmd.Context(), ref, client.Query{})
				if err != nil {
					return err
				}
				found = append(found, d)
			}
			for _, d := range found {
				question := fmt.Sprintf("Remove device %s (%s)? Its access ends at once.", d.Name, terminal.Short(d.UUID))
				if err := a.Confirm(sure, question); err != nil {
					return err
				}
				if err := c.Delete(cmd.Context(), client.ID("device", d.ID), client.Query{}); err != nil {
					return err
				}
				a.Say("Removed device %s (%s).", d.Name, terminal.Short(d.UUID))
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}
