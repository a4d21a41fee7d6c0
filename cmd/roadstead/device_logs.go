package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

type logFlags struct {
	follow, system bool
	services       []string
	tail           int
	since          string
}

// logView is the JSON form of a line: one object a line, also while following.
type logView struct {
	Time    string  `json:"time"`
	Service *string `json:"service"` // null: the device itself
	System  bool    `json:"system"`
	Stderr  bool    `json:"stderr"`
	Message string  `json:"message"`
}

func (a *app) deviceLogsCommand() *cobra.Command {
	f := logFlags{}
	cmd := &cobra.Command{
		Use: "logs DEVICE", Short: "Show what a device and its services wrote",
		Long: `Show the lines that the server keeps of a device's log, oldest first. With --follow the command stays and shows new ones as
they come, until Ctrl-C. With -o json every line is an object of its own.`,
		Example: `  roadstead device logs 4f0c1aa
  roadstead device logs kitchen -f --service web
  roadstead device logs kitchen --tail 20 --since 1h`,
		Args: cmdline.Args(1, 1), ValidArgsFunction: cmdline.First(a.Devices()),
		RunE: func(cmd *cobra.Command, args []string) error { return a.deviceLogs(cmd.Context(), args[0], f) },
	}
	cmd.Flags().BoolVarP(&f.follow, "follow", "f", false, "stay and show new lines")
	cmd.Flags().StringArrayVarP(&f.services, "service", "s", nil, "only this service; may be given several times")
	cmd.Flags().BoolVar(&f.system, "system", false, "only lines of the device itself (with --service: these too)")
	cmd.Flags().IntVarP(&f.tail, "tail", "n", -1, "at most so many past lines (-1: all that are kept)")
	cmd.Flags().StringVar(&f.since, "since", "", "only lines since then: 10m, 2d, 2027-01-31T12:00:00Z")
	return cmd
}

func (a *app) deviceLogs(ctx context.Context, ref string, f logFlags) error {
	opt := client.LogOptions{Follow: f.follow}
	opt.Reconnecting = func(err error) { a.Say("The stream broke (%v); opening it again.", err) }
	if f.since != "" {
		since, err := cmdline.Instant(f.since, time.Now(), -1)
		if err != nil {
			return err
		}
		opt.Since = since
	}
	switch {
	case f.tail == 0:
		opt.Count = -1
	case f.tail > 0:
		opt.Count = f.tail
	}
	c, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	d, err := c.FindDevice(ctx, ref, client.Query{})
	if err != nil {
		return err
	}
	p := &logPrinter{a: a, c: c, f: f, names: map[int64]string{}}
	if len(f.services) > 0 || f.system {
		opt.Only = func(l api.LogLine) bool { return p.wanted(ctx, l) }
	}
	return c.Logs(ctx, api.DeviceUUID(d.UUID), opt, func(l api.LogLine) error { return p.print(ctx, l) })
}

type logPrinter struct {
	a     *app
	c     *client.Client
	f     logFlags
	names map[int64]string // of services, by id
}

func (p *logPrinter) wanted(ctx context.Context, l api.LogLine) bool {
	if l.IsSystem && p.f.system {
		return true
	}
	name := p.service(ctx, l)
	for _, s := range p.f.services {
		if s == name && !l.IsSystem {
			return true
		}
	}
	return false
}

// service names the service of a line; asked once for each.
func (p *logPrinter) service(ctx context.Context, l api.LogLine) string {
	if l.ServiceID == nil {
		return ""
	}
	id := *l.ServiceID
	if name, ok := p.names[id]; ok {
		return name
	}
	s, err := client.One[client.Service](ctx, p.c, client.ID("service", id), client.Query{Select: "service_name"})
	name := fmt.Sprintf("service %d", id) // one that no longer exists
	if err == nil {
		name = s.Name
	}
	p.names[id] = name
	return name
}

func (p *logPrinter) print(ctx context.Context, l api.LogLine) error {
	at, name := time.UnixMilli(l.Timestamp), p.service(ctx, l)
	if p.a.Output == "json" {
		return p.a.Line(logView{
			Time: at.UTC().Format("2006-01-02T15:04:05.000Z"), Service: cmdline.OrNil(name), System: l.IsSystem, Stderr: l.IsStdErr, Message: l.Message,
		})
	}
	who := "[" + name + "] "
	if l.IsSystem || name == "" {
		who = "[device] "
	}
	message := terminal.Coloured(strings.TrimRight(l.Message, "\r\n"))
	if l.IsStdErr {
		message = p.a.Colour("31", message)
	}
	_, err := fmt.Fprintf(p.a.Out, "%s %s%s\n", at.Local().Format("2006-01-02 15:04:05"), p.a.Colour("36", who), message)
	return err
}
