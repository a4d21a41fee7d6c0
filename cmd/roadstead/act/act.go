// Package act holds the commands that have devices do something. A device whose control channel is up does it at once; for another one it
// waits at the server, for a while, until the device asks.
package act

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

const at = "/device-actions/v1"

// verb is a command.
type verb struct {
	name, short string
	does        api.ActionVerb
	service     api.ActionVerb // what it does when a service is named; "" when none can be
	must        bool           // a service is named
	asks        string         // what it means for several devices, for the question; empty: it is not asked
	done        string         // what is said of a device that did it
	asksOne     string         // the same where a service is named: of the service, and the devices
	doneOne     string         // and of the service
}

var verbs = []verb{
	{name: "ping", does: api.ActPing, short: "Ask whether a device answers", done: "answers"},
	{name: "identify", does: api.ActIdentify, short: "Have a device blink, so that it can be told from others", done: "blinks"},
	{name: "reboot", does: api.ActReboot, short: "Restart a device", asks: "Restart %s?", done: "has restarted"},
	{name: "shutdown", does: api.ActShutdown, short: "Switch a device off", asks: "Switch off %s? Somebody has to go there to switch them on.", done: "switches off"},
	{
		name: "restart", does: api.ActRestart, service: api.ActRestartService, short: "Restart the services of a device, or one of them",
		asks: "Restart the services of %s?", done: "has restarted its services", asksOne: "Restart the service %s of %s?", doneOne: "has restarted the service %s",
	},
	{
		name: "stop", service: api.ActStopService, must: true, short: "Stop a service of a device",
		asksOne: "Stop the service %s of %s?", doneOne: "has stopped the service %s",
	},
	{
		name: "start", service: api.ActStartService, must: true, short: "Start a service of a device that was stopped",
		asksOne: "Start the service %s of %s?", doneOne: "has started the service %s",
	},
	{
		name: "purge", does: api.ActPurge, short: "Have a device delete what its services stored",
		asks: "Delete the data of the services on %s?", done: "has deleted its services' data",
	},
	{name: "update", does: api.ActUpdate, short: "Have a device look for an update now", asks: "Have %s look for an update?", done: "looks for an update"},
	{
		name: "cleanup-volumes", does: api.ActCleanVolumes, short: "Have a device delete the volumes that no service has any more",
		asks: "Delete the unused volumes on %s?", done: "has deleted its unused volumes",
	},
	{
		name: "renew-key", does: api.ActRenewKey, short: "Have a device replace the key of its own API, by which the server reaches it",
		asks: "Replace the key of %s?", done: "has a new key",
	},
	{
		name: "host-config", does: api.ActHostConfig, short: "Set the host name of a device, or the proxy of its agent",
		asks: "Set the host configuration of %s?", done: "has its host configuration",
	},
	{name: "journal", does: api.ActJournal, short: "Print the last lines of a device's system journal", done: "has sent its journal"},
	{name: "state", does: api.ActState, short: "Ask a device how it is (JSON)", done: "has sent its state"},
}

// flags are those of one run of a command.
type flags struct {
	api.NewAction
	expires      time.Duration
	timeout      time.Duration
	wait, noWait bool
	sure         bool
	host         hostFlags
}

// Commands are those below `roadstead device`.
func Commands(a *cmdline.App) []*cobra.Command {
	list := []*cobra.Command{actionsCommand(a)}
	for _, v := range verbs {
		list = append(list, v.command(a))
	}
	return list
}

const about = `

A device whose control channel is up is told at once, and the command waits until it is done. For another device it waits at the server, an hour or
as long as --expires says, and the device does it when it polls next; "roadstead device actions" shows what became of it and takes it back.

Exit codes: 0 done, or waiting for the device; 1 it failed somewhere, or the device was refused; 2 wrong usage.`

func (v verb) command(a *cmdline.App) *cobra.Command {
	f := &flags{}
	use, least, most := v.name+" DEVICE...", 0, -1
	complete := a.Devices()
	named := map[bool]string{true: " SERVICE", false: " [SERVICE]"}[v.must]
	if v.service != "" {
		use, most = v.name+" DEVICE[,DEVICE...]"+named, 2
		complete = deviceAndService(a, f)
	}
	cmd := a.Command(cmdline.Action{
		Use: use, Short: v.short, Long: v.short + "." + about, Example: v.examples(), Least: least, Most: most, Complete: complete,
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if err := v.read(f, args); err != nil {
				return err
			}
			return v.run(ctx, a, c, f)
		},
	})
	fs := cmd.Flags()
	a.FleetFlag(cmd, &f.Fleet, "all devices of this `FLEET`")
	if v.does.Forces() || v.service.Forces() {
		fs.BoolVar(&f.Force, "force", false, forceUsage(v.does))
	}
	if v.does == api.ActHostConfig {
		f.host.add(fs)
	}
	if v.does == api.ActJournal {
		fs.IntVarP(&f.Lines, "lines", "n", 100, "so many lines, at most 1000")
	}
	fs.DurationVar(&f.expires, "expires", time.Hour, "a device that is not connected does it within this `TIME`, or not at all")
	fs.BoolVar(&f.NoQueue, "no-queue", false, "fail for a device that is not connected")
	fs.BoolVar(&f.wait, "wait", false, "wait for devices that are not connected, too")
	fs.BoolVar(&f.noWait, "no-wait", false, "do not wait for what becomes of it")
	fs.DurationVar(&f.timeout, "timeout", 10*time.Minute, "stop waiting after this `TIME`; what was begun goes on")
	fs.BoolVarP(&f.sure, "yes", "y", false, "do not ask")
	cmd.MarkFlagsMutuallyExclusive("wait", "no-wait")
	return cmd
}

func (v verb) examples() string {
	what := "kitchen"
	if v.must {
		what += " web"
	}
	lines := []string{v.name + " " + what}
	switch {
	case v.does == api.ActHostConfig:
		lines = []string{v.name + " kitchen --hostname porch", v.name + " kitchen hall --proxy http-connect://192.0.2.10:3128 --no-proxy 198.51.100.0/24", v.name + " --fleet hello --proxy none"}
	case v.does == api.ActJournal:
		lines = append(lines, v.name+" kitchen --lines 500")
	case v.must:
		lines = append(lines, v.name+" kitchen,hall web --no-wait", v.name+" web --fleet hello --expires 24h")
	case v.service != "":
		lines = append(lines, v.name+" kitchen web", v.name+" kitchen,hall --force", v.name+" --fleet hello --expires 24h")
	default:
		lines = append(lines, v.name+" kitchen hall --no-queue", v.name+" --fleet hello --expires 24h -o json")
	}
	return "  roadstead device " + strings.Join(lines, "\n  roadstead device ")
}

// read takes devices and a service out of the arguments.
func (v verb) read(f *flags, args []string) error {
	f.Verb, f.Expires = v.does, int64(f.expires/time.Second)
	if f.expires < time.Second {
		return cmdline.Usagef("--expires %s is shorter than a second", f.expires)
	}
	if v.service != "" {
		rest := args
		if f.Fleet == "" {
			if len(args) == 0 {
				return cmdline.Usagef("name a device, or give --fleet")
			}
			args, rest = strings.Split(args[0], ","), args[1:]
		} else {
			args = nil
		}
		switch {
		case len(rest) > 1:
			return cmdline.Usagef("%q is too much", rest[1])
		case len(rest) == 1:
			f.Verb, f.Service = v.service, rest[0]
		case v.must:
			return cmdline.Usagef("name the service")
		}
	}
	if v.does == api.ActHostConfig {
		var err error
		if f.Network, err = f.host.network(); err != nil {
			return err
		}
	}
	if (len(args) == 0) == (f.Fleet == "") {
		return cmdline.Usagef("name devices, or give --fleet")
	}
	f.Devices = nil
	for _, name := range args {
		f.Devices = append(f.Devices, api.DeviceUUID(name)) // not yet a uuid, see find
	}
	return nil
}

// find replaces what people call devices by their uuids, and says what to call them all.
func (f *flags) find(ctx context.Context, c *client.Client) (what string, many bool, err error) {
	if f.Fleet != "" {
		fl, err := c.FindFleet(ctx, f.Fleet, client.Query{})
		if err != nil {
			return "", true, err
		}
		f.Fleet = fl.Slug
		n, err := client.Count(ctx, c, "device", client.Where("belongs_to__application eq ?", fl.ID))
		return fmt.Sprintf("all %d devices of %s", n, fl.Slug), true, err
	}
	var names []string
	for i, ref := range f.Devices {
		d, err := c.FindDevice(ctx, string(ref), client.Query{})
		if err != nil {
			return "", false, err
		}
		f.Devices[i] = api.DeviceUUID(d.UUID)
		names = append(names, d.Name)
	}
	return strings.Join(names, ", "), len(names) > 1, nil
}

// question is what a terminal is asked; empty: nothing.
func (v verb) question(service, what string) string {
	switch {
	case service != "":
		return fmt.Sprintf(v.asksOne, service, what)
	case v.asks != "":
		return fmt.Sprintf(v.asks, what)
	}
	return ""
}

// said is what is said of a device that has done it.
func (v verb) said(service string) string {
	if service != "" {
		return fmt.Sprintf(v.doneOne, service)
	}
	return v.done
}

func (v verb) run(ctx context.Context, a *cmdline.App, c *client.Client, f *flags) error {
	what, many, err := f.find(ctx, c)
	if err != nil {
		return err
	}
	if question := v.question(f.Service, what); many && question != "" {
		if err := a.Confirm(f.sure, question); err != nil {
			return err
		}
	}
	var made api.ActionsMade
	if err := c.Do(ctx, http.MethodPost, at, f.NewAction, &made); err != nil {
		if !many {
			return fmt.Errorf("%s: %w", what, err)
		}
		return err
	}
	w := &waiting{App: a, c: c, verb: v, flags: f, made: made}
	return w.run(ctx)
}

// deviceAndService completes a device and then a service of it, or with --fleet a service of that fleet.
func deviceAndService(a *cmdline.App, f *flags) cmdline.Completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		parts := []cmdline.Completer{a.Devices(), services(a, f)}
		if f.Fleet != "" {
			parts = parts[1:]
		}
		return cmdline.Each(parts...)(cmd, args, typed)
	}
}

// services completes the services of the fleet, or of the device that is named before.
func services(a *cmdline.App, f *flags) cmdline.Completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
			var of int64
			if f.Fleet != "" {
				fl, err := c.FindFleet(ctx, f.Fleet, client.Query{Select: "id"})
				if err != nil {
					return nil, err
				}
				of = fl.ID
			} else {
				first, _, _ := strings.Cut(args[0], ",")
				d, err := c.FindDevice(ctx, first, client.Query{Select: "belongs_to__application"})
				if err != nil {
					return nil, err
				}
				of = d.Fleet.ID
			}
			found, err := client.Get[struct {
				Name string `json:"service_name"`
			}](ctx, c, "service", client.Query{Select: "service_name", Filter: client.Where("application eq ?", of), OrderBy: "service_name asc"})
			var list []string
			for _, s := range found {
				list = append(list, s.Name)
			}
			return list, err
		})(cmd, args, typed)
	}
}
