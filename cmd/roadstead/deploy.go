package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client/source"
)

func (a *app) deployCommand() *cobra.Command {
	var f pushFlags
	d := deployer{a: a}
	cmd := &cobra.Command{
		Use: "deploy [FLEET] [DIR]", Short: "Release images that were built elsewhere",
		Args: args(0, 2), ValidArgsFunction: thenDirs(a.fleets()),
		RunE: func(cmd *cobra.Command, args []string) error {
			fleet, dir, err := f.target(args)
			if err != nil {
				return err
			}
			return a.push(cmd.Context(), fleet, dir, f, d.prepare)
		},
	}
	f.register(a, cmd)
	return cmd
}

type deployer struct{ a *app }

func (d deployer) prepare(context.Context, *source.Project) (func(), error) { return func() {}, nil }
