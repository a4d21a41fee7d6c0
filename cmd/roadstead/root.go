package main

import (
	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/cmd/roadstead/base"
	"github.com/roadstead-io/roadstead/cmd/roadstead/build"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/hardware"
	"github.com/roadstead-io/roadstead/cmd/roadstead/keys"
	"github.com/roadstead-io/roadstead/cmd/roadstead/people"
	"github.com/roadstead-io/roadstead/cmd/roadstead/project"
	"github.com/roadstead-io/roadstead/cmd/roadstead/record"
	"github.com/roadstead-io/roadstead/cmd/roadstead/signin"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/logs"
)

// app adds the commands to what they stand on.
type app struct{ *cmdline.App }

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "roadstead",
		Short: "Push source to a fleet of devices, and look inside them",
		Long: `roadstead talks to a Roadstead server: log in, make a fleet, push a project to it, and look at the devices that run it.

Fleets are named by slug (organization/name) or by name, devices by uuid, by the first digits of it or by name, releases by
commit, by the first digits of it or by number.

Environment:
  ROADSTEAD_URL     the server, in place of the one that you logged in to
  ROADSTEAD_TOKEN   a session token or an API key, in place of the saved one
  ROADSTEAD_FLEET   the fleet where a command takes one and none is given
  SSL_CERT_FILE     root certificates (PEM) to trust where login was given none with --ca-file
  NO_COLOR          no colours

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.`,
		Example: `  roadstead login --url https://api.example.com
  roadstead fleet create hello --type generic-amd64
  roadstead push hello ./my-project
  roadstead device init hello -o config.json
  roadstead device list -o json`,
		SilenceErrors: true, SilenceUsage: true,
		Version: version,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.Output != "table" && a.Output != "json" {
				return cmdline.Usagef("--output is %q; it can be table or json", a.Output)
			}
			a.Started = true
			return nil
		},
	}
	root.SetVersionTemplate("roadstead {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cmdline.Usagef("%w", err) })
	root.PersistentFlags().StringVar(&a.URL, "url", "", "the server (https://api.example.com, or only the domain)")
	root.PersistentFlags().StringVarP(&a.Output, "output", "o", "table", "what to print: table or json")
	cmdline.Fixed(root, "output", "table", "json")
	root.AddCommand(a.fleetCommand(), a.deviceCommand(),
		a.pushCommand(), a.deployCommand(), a.releaseCommand(), a.envCommand(), a.tagCommand(),
		a.serviceCommand(), a.configCommand(), a.apiCommand(), a.versionCommand())
	root.AddCommand(project.Command(a.App))
	root.AddCommand(hardware.Commands(a.App)...)
	root.AddCommand(people.Commands(a.App)...)
	root.AddCommand(record.Commands(a.App)...)
	root.AddCommand(keys.Commands(a.App)...)
	root.AddCommand(signin.Commands(a.App)...)
	root.AddCommand(trust.Command(a.App), logs.Command(a.App))
	root.AddCommand(signin.IdentityCommand(a.App), build.Command(a.App), base.Command(a.App))
	return root
}
