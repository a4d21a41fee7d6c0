package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

type waitFlags struct {
	running []string
	release string
	online  bool
	timeout time.Duration
}

func (a *app) deviceWaitCommand() *cobra.Command {
	f := waitFlags{}
	cmd := &cobra.Command{
		Use: "wait DEVICE", Short: "Wait until a device is online and runs what it should",
		Long: `Wait until the device runs the services that are named, from the release that it should run. Without --running and --online it
waits for every service that the device reports, and for its release.`,
		Example: `  roadstead device wait kitchen --timeout 5m
  roadstead device wait 4f0c1aa --running web --running writer
  roadstead device wait 4f0c1aa --online`,
		Args: cmdline.Args(1, 1), ValidArgsFunction: cmdline.First(a.Devices()),
		RunE: func(cmd *cobra.Command, args []string) error { return a.deviceWait(cmd.Context(), args[0], f) },
	}
	cmd.Flags().StringArrayVar(&f.running, "running", nil, "this service runs; may be given several times")
	cmd.Flags().BoolVar(&f.online, "online", false, "the device is online")
	cmd.Flags().StringVar(&f.release, "release", "", "from this release, in place of the device's target")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "give up after")
	return cmd
}

func (a *app) deviceWait(ctx context.Context, ref string, f waitFlags) error {
	c, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	d, err := c.FindDevice(ctx, ref, client.Query{})
	if err != nil {
		return err
	}
	if f.release != "" {
		r, err := c.FindRelease(ctx, f.release, client.Query{})
		if err != nil {
			return err
		}
		f.release = r.Commit
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	waitingFor := "an answer from the server"
	for {
		now, err := client.One[client.Device](ctx, c, client.ID("device", d.ID), client.Query{
			Select: deviceFields, Expand: deviceExpand + "," + serviceExpand})
		switch {
		case err == nil:
			if waitingFor = f.missing(*now); waitingFor == "" {
				v := viewDetails(*now)
				if a.Output == "json" {
					return a.JSON(v)
				}
				a.Say("%s is ready.", now.Name)
				return nil
			}
		case ctx.Err() == nil && !errors.Is(err, api.ErrUnavailable) && answered(err):
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("gave up after %s; still waiting for %s", f.timeout, waitingFor)
			}
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// answered reports whether an error is the server's word; a lost connection is worth another try.
func answered(err error) bool {
	var re *client.ResponseError
	return errors.As(err, &re) || errors.Is(err, api.ErrNotFound)
}

// missing says what is not yet as it should be; "" when all is.
func (f waitFlags) missing(d client.Device) string {
	if f.online && !d.IsOnline {
		return "the device to come online"
	}
	if f.online && len(f.running) == 0 {
		return ""
	}
	target := f.release
	if target == "" {
		target = d.Target.Get().Commit
	}
	if target == "" {
		return "the fleet to have a release"
	}
	services := viewServices(d.Installs)
	running := func(s serviceView) bool {
		return strings.EqualFold(s.Status, "running") && s.Release != nil && s.Release.Commit == target
	}
	for _, name := range f.running {
		if !slices.ContainsFunc(services, func(s serviceView) bool { return s.Name == name && running(s) }) {
			return fmt.Sprintf("service %s of release %s (%s)", name, terminal.Short(target), statuses(services, name))
		}
	}
	if len(f.running) > 0 {
		return ""
	}
	if d.Running.Get().Commit != target {
		return fmt.Sprintf("release %s to be applied (the device is %s)", terminal.Short(target), d.OverallStatus)
	}
	for _, s := range services {
		if !running(s) {
			return fmt.Sprintf("service %s, which is %s", s.Name, s.Status)
		}
	}
	return ""
}

func statuses(services []serviceView, name string) string {
	var list []string
	for _, s := range services {
		if s.Name == name {
			list = append(list, fmt.Sprintf("%s from %s", serviceStatus(s), s.Release))
		}
	}
	if len(list) == 0 {
		return "not reported yet"
	}
	return strings.Join(list, ", ")
}
