package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/client/source"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/prebuilt"
	"github.com/roadstead-io/roadstead/cmd/roadstead/project"
)

func (a *app) deployCommand() *cobra.Command {
	var f pushFlags
	var images, archives []string
	var secrets string
	cmd := &cobra.Command{
		Use: "deploy [FLEET] [DIR]", Short: "Release images that were built elsewhere",
		Long: `Release a project whose images are not built on the server. An image comes from an archive (--archive, as docker save or an OCI
tool writes it), from the local Docker or a registry (--image), or is built by the local Docker from the project.

Without a Dockerfile or docker-compose.yml in DIR the images that are named are the whole project. Those with a digest that the local
Docker does not have are then pulled by the builder itself, from public registries or with an account of --registry-secrets. A service
"main" is what a single Dockerfile makes.`,
		Example: `  roadstead deploy hello ./my-project
  roadstead deploy hello --image web=registry.example.com/web@sha256:0123…
  roadstead deploy hello --image web=registry.example.com/web@sha256:0123… --registry-secrets registries.yml
  roadstead deploy hello ./my-project --archive web=web.tar`,
		Args: cmdline.Args(0, 2), ValidArgsFunction: cmdline.ThenDirs(a.Fleets()),
		RunE: func(cmd *cobra.Command, args []string) error {
			fleet, dir, err := f.target(args)
			if err != nil {
				return err
			}
			given, err := sources(images, archives)
			if err != nil {
				return err
			}
			f.foreign = true
			g := &prebuilt.Getter{Given: given, Say: a.Say, Output: a.Err}
			return a.push(cmd.Context(), fleet, dir, f, func(ctx context.Context, p *source.Project, f *client.Fleet) (func(), error) {
				if secrets != "" {
					accounts, err := project.AddRegistrySecrets(p, secrets)
					if err != nil {
						return func() {}, err
					}
					g.Account = func(registry string) (name, password string) {
						return accounts[registry].Username, accounts[registry].Password
					}
				}
				return g.AddTo(ctx, p, f.DeviceType.Get().Arch.Get().Slug)
			})
		},
	}
	f.register(a, cmd)
	cmd.Flags().StringArrayVar(&images, "image", nil, "SERVICE=REFERENCE of an image in the local Docker or a registry; repeatable")
	cmd.Flags().StringArrayVar(&archives, "archive", nil, "SERVICE=FILE, an image archive; repeatable")
	project.RegistrySecretsFlag(cmd, &secrets)
	return cmd
}

// sources reads --image and --archive.
func sources(images, archives []string) (map[string]prebuilt.Given, error) {
	all := map[string]prebuilt.Given{}
	add := func(flag, what, text string, from func(string) prebuilt.Given) error {
		service, value, ok := strings.Cut(text, "=")
		if !ok || service == "" || value == "" {
			return cmdline.Usagef("--%s %q is not SERVICE=%s", flag, text, what)
		}
		if _, twice := all[service]; twice {
			return cmdline.Usagef("service %s is given twice", service)
		}
		all[service] = from(value)
		return nil
	}
	for _, t := range images {
		err := add("image", "REFERENCE", t, func(v string) prebuilt.Given { return prebuilt.Given{Image: v} })
		if err != nil {
			return nil, err
		}
	}
	for _, t := range archives {
		err := add("archive", "FILE", t, func(v string) prebuilt.Given { return prebuilt.Given{Archive: v} })
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}
