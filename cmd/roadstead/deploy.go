package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/client/source"
)

func (a *app) deployCommand() *cobra.Command {
	var f pushFlags
	d := &deployer{a: a}
	cmd := &cobra.Command{
		Use: "deploy [FLEET] [DIR]", Short: "Release images that were built elsewhere",
		Long: `Release a project whose images are not built on the server. An image comes from an archive (--archive, as docker save or an OCI
tool writes it), from the local Docker or a registry (--image), or is built by the local Docker from the project.

Without a Dockerfile or docker-compose.yml in DIR the images that are named are the whole project. A service "main" is what a
single Dockerfile makes.`,
		Example: `  roadstead deploy hello ./my-project
  roadstead deploy hello --image web=registry.example.com/web@sha256:0123…
  roadstead deploy hello ./my-project --archive web=web.tar`,
		Args: args(0, 2), ValidArgsFunction: thenDirs(a.fleets()),
		RunE: func(cmd *cobra.Command, args []string) error {
			fleet, dir, err := f.target(args)
			if err != nil {
				return err
			}
			if err := d.parse(); err != nil {
				return err
			}
			return a.push(cmd.Context(), fleet, dir, f, d.prepare)
		},
	}
	f.register(a, cmd)
	cmd.Flags().StringArrayVar(&d.images, "image", nil, "SERVICE=REFERENCE of an image in the local Docker or a registry; repeatable")
	cmd.Flags().StringArrayVar(&d.archives, "archive", nil, "SERVICE=FILE, an image archive; repeatable")
	return cmd
}

// deployer gets every image of a project from somewhere else than the builder.
type deployer struct {
	a                *app
	images, archives []string // flags

	given map[string]given // by service
	dir   string           // for archives that are made here
}

type given struct{ image, archive string }

func (d *deployer) parse() error {
	d.given = map[string]given{}
	add := func(flag, text string, g func(string) given) error {
		service, value, ok := strings.Cut(text, "=")
		if !ok || service == "" || value == "" {
			return usagef("--%s %q is not SERVICE=%s", flag, text, map[string]string{"image": "REFERENCE", "archive": "FILE"}[flag])
		}
		if _, twice := d.given[service]; twice {
			return usagef("service %s is given twice", service)
		}
		d.given[service] = g(value)
		return nil
	}
	for _, t := range d.images {
		if err := add("image", t, func(v string) given { return given{image: v} }); err != nil {
			return err
		}
	}
	for _, t := range d.archives {
		if err := add("archive", t, func(v string) given { return given{archive: v} }); err != nil {
			return err
		}
	}
	return nil
}

func (d *deployer) prepare(ctx context.Context, p *source.Project, fleet *client.Fleet) (func(), error) {
	dir, err := os.MkdirTemp("", "roadstead-deploy-")
	if err != nil {
		return func() {}, err
	}
	d.dir = dir
	done := func() { _ = os.RemoveAll(dir) } // what cannot be removed is in a temporary place
	platform, err := platformOf(fleet.DeviceType.Get().Arch.Get().Slug)
	if err != nil {
		return done, err
	}
	services, err := d.services(ctx, p)
	if err != nil {
		return done, err
	}
	for service, g := range d.given {
		if _, known := services[service]; !known {
			return done, api.Errorf(api.Invalid, "the project has no service %q, only: %s", service,
				strings.Join(sorted(services), ", "))
		}
		file := g.archive
		if file == "" {
			if file, err = d.fetch(ctx, service, g.image, platform); err != nil {
				return done, err
			}
		}
		if err := p.AddImage(service, file); err != nil {
			return done, err
		}
	}
	for _, service := range sorted(services) {
		build := services[service]
		if _, has := d.given[service]; has || build == nil {
			continue // given, or an image that the builder copies by its name
		}
		file, err := d.build(ctx, service, build, platform)
		if err != nil {
			return done, err
		}
		if err := p.AddImage(service, file); err != nil {
			return done, err
		}
	}
	return done, nil
}

// services are those of the project, each with how it is built, or nil when it is not.
func (d *deployer) services(ctx context.Context, p *source.Project) (map[string]*types.BuildConfig, error) {
	if file := p.Compose(); file != "" {
		details := types.ConfigDetails{
			WorkingDir: p.Dir, ConfigFiles: []types.ConfigFile{{Filename: file}}, Environment: types.Mapping{},
		}
		project, err := loader.LoadWithContext(ctx, details, func(o *loader.Options) { o.SetProjectName("roadstead", true) })
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		services := map[string]*types.BuildConfig{}
		for name, s := range project.Services {
			services[name] = s.Build
		}
		return services, nil
	}
	if p.CheckBuildable() == nil {
		return map[string]*types.BuildConfig{"main": {Context: p.Dir}}, nil
	}
	if len(d.given) == 0 {
		return nil, api.Errorf(api.Invalid, "%s has neither a Dockerfile nor a docker-compose.yml, and no image is given", p.Dir)
	}
	// The images are the whole project; the builder takes what is in their archives, whatever their names.
	compose := "services:\n"
	services := map[string]*types.BuildConfig{}
	for _, service := range sorted(d.given) {
		compose += fmt.Sprintf("  %q:\n    image: %q\n", service, "deployed/"+strings.ToLower(service))
		services[service] = nil
	}
	p.AddFile("docker-compose.yml", []byte(compose))
	return services, nil
}

// fetch makes an archive of an image, from the local Docker if it has it, else from its registry.
func (d *deployer) fetch(ctx context.Context, service, ref string, platform v1.Platform) (string, error) {
	file := filepath.Join(d.dir, service+".tar")
	if docker, err := exec.LookPath("docker"); err == nil {
		if exec.CommandContext(ctx, docker, "image", "inspect", ref).Run() == nil {
			d.a.say("Taking %s from the local Docker.", ref)
			return file, d.docker(ctx, "save", "-o", file, ref)
		}
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return "", api.Errorf(api.Invalid, "--image %s: %v", ref, err)
	}
	d.a.say("Pulling %s.", ref)
	image, err := remote.Image(parsed, remote.WithContext(ctx), remote.WithPlatform(platform),
		remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	if err := tarball.WriteToFile(file, parsed, image); err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	return file, nil
}

// build has the local Docker build a service.
func (d *deployer) build(ctx context.Context, service string, b *types.BuildConfig, platform v1.Platform) (string, error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return "", fmt.Errorf("service %s has to be built, and there is no docker here: give its image with --image or --archive, "+
			"or let the server build it with `roadstead push`", service)
	}
	d.a.say("Building service %s with the local Docker.", service)
	tag := "roadstead-deploy/" + strings.ToLower(service) + ":latest"
	args := []string{"build", "--tag", tag}
	if platform.Architecture != runtime.GOARCH {
		args = append(args, "--platform", platform.String())
	}
	if b.Dockerfile != "" {
		args = append(args, "--file", filepath.Join(b.Context, b.Dockerfile))
	}
	if b.Target != "" {
		args = append(args, "--target", b.Target)
	}
	for _, k := range sorted(b.Args) {
		if v := b.Args[k]; v != nil {
			args = append(args, "--build-arg", k+"="+*v)
		}
	}
	if err := d.docker(ctx, append(args, b.Context)...); err != nil {
		return "", fmt.Errorf("build service %s: %w", service, err)
	}
	file := filepath.Join(d.dir, service+".tar")
	return file, d.docker(ctx, "save", "-o", file, tag)
}

// docker runs the local Docker's client and shows what it says; Ctrl-C reaches it through the terminal and the context.
func (d *deployer) docker(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdout, cmd.Stderr = d.a.err, d.a.err
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return fmt.Errorf("docker %s ended with exit code %d", args[0], exit.ExitCode())
	} else if err != nil {
		return fmt.Errorf("docker %s: %w", args[0], err)
	}
	return nil
}

// platformOf translates the name of a processor architecture.
func platformOf(arch string) (v1.Platform, error) {
	p := v1.Platform{OS: "linux"}
	switch arch {
	case "amd64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture, p.Variant = "arm64", "v8"
	case "armv7hf":
		p.Architecture, p.Variant = "arm", "v7"
	case "rpi":
		p.Architecture, p.Variant = "arm", "v6"
	case "i386", "i386-nlp":
		p.Architecture = "386"
	default:
		return p, api.Errorf(api.Invalid, "the fleet's architecture %q is not known to this program", arch)
	}
	return p, nil
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
