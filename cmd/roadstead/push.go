package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/client/source"
	"github.com/roadstead-io/roadstead/cmd/roadstead/build"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/project"
)

type pushFlags struct {
	fleet, dockerfile, note string
	tags                    []string
	draft, nocache, detach  bool
	foreign                 bool           // for deploy, where images come built, always
	given                   *project.Given // nil for images that were built elsewhere
}

// pushView is the JSON form of what came of a push.
type pushView struct {
	Fleet   string  `json:"fleet"`
	Release *int64  `json:"release"`
	Commit  *string `json:"commit"`
	Version *string `json:"version"`
	Status  string  `json:"status"`
}

func (a *app) pushCommand() *cobra.Command {
	f := pushFlags{given: &project.Given{}}
	cmd := &cobra.Command{
		Use: "push [FLEET] [DIR]", Short: "Build a project on the server and release it to a fleet",
		Long: `Send a project (a directory with a Dockerfile or a docker-compose.yml; by default this one) to the builder, show its output, and
release the result to the fleet. What .dockerignore names stays here, and so does .git.

A step of a Dockerfile that says RUN --mount=type=secret,id=NAME gets the secret of that name as the file /run/secrets/NAME. Secrets
come with --secret, or stand in files below .balena/secrets; they are in no image, and the log shows [secret] in their place.

What the builder will ignore of a compose file is said before anything is sent, and what it would refuse ends the push there.

Only files are sent that the builder does not have from an earlier push. When the connection is lost, the build goes on, and its
output is followed again. Ctrl-C cancels the build on the server. The exit code is 1 when the build fails.

When ROADSTEAD_FLEET or --fleet names the fleet, a single argument that is a directory is the project.`,
		Example: `  roadstead push hello
  roadstead push acme/hello ./my-project --draft
  roadstead push hello --note "fixes the clock" --release-tag ticket=123
  roadstead push hello --secret id=npm,src=$HOME/.npmrc --secret id=token,env=CI_TOKEN
  roadstead push hello --build-arg VERSION=1.2 --registry-secrets registries.yml
  roadstead push hello --foreign       # a project without RUN steps, see "roadstead build platforms"`,
		Args: cmdline.Args(0, 2), ValidArgsFunction: cmdline.ThenDirs(a.Fleets()),
		RunE: func(cmd *cobra.Command, args []string) error {
			fleet, dir, err := f.target(args)
			if err != nil {
				return err
			}
			return a.push(cmd.Context(), fleet, dir, f, nil)
		},
	}
	f.register(a, cmd)
	cmd.Flags().StringVar(&f.dockerfile, "dockerfile", "", "path of the Dockerfile in the project")
	_ = cmd.MarkFlagFilename("dockerfile") // it fails only for a flag that is not there
	cmd.Flags().BoolVar(&f.nocache, "nocache", false, "build every step anew")
	cmd.Flags().BoolVar(&f.foreign, "foreign", false, "build for machines whose programs no worker runs: RUN steps fail, all others work")
	f.given.Register(cmd)
	return cmd
}

// register adds the flags that push and deploy share.
func (f *pushFlags) register(a *app, cmd *cobra.Command) {
	a.FleetFlag(cmd, &f.fleet, "the fleet, in place of the argument")
	cmd.Flags().BoolVar(&f.draft, "draft", false, "make a draft: devices do not follow it")
	cmd.Flags().BoolVarP(&f.detach, "detach", "d", false, "do not wait for the build")
	cmd.Flags().BoolVar(&f.detach, "detached", false, "the same, as balena's client calls it")
	cmd.Flags().StringVar(&f.note, "note", "", "a note for the release")
	cmd.Flags().StringArrayVar(&f.tags, "release-tag", nil, "a tag for the release, KEY=VALUE; may be given several times")
}

// target reads [FLEET] [DIR].
func (f *pushFlags) target(args []string) (fleet, dir string, err error) {
	named := cmdline.FleetOr(f.fleet)
	fleet, dir = named, "."
	switch {
	case len(args) == 2 && f.fleet != "" && f.fleet != args[0]:
		return "", "", cmdline.Usagef("%s and --fleet %s: which one?", args[0], f.fleet)
	case len(args) == 2:
		fleet, dir = args[0], args[1]
	case len(args) == 1 && named != "" && isDir(args[0]):
		dir = args[0]
	case len(args) == 1:
		fleet = args[0]
	}
	if fleet == "" {
		return "", "", cmdline.Usagef("name the fleet to push to")
	}
	for _, t := range f.tags {
		if key, _, _ := strings.Cut(t, "="); key == "" || strings.ContainsAny(key, " \t") {
			return "", "", cmdline.Usagef("--release-tag %q is not KEY=VALUE", t)
		}
	}
	if f.detach && (len(f.tags) > 0 || f.note != "") {
		return "", "", cmdline.Usagef("--detach does not wait for the release, so it cannot be given a note or tags")
	}
	return fleet, dir, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// preparation adds to a project what was made elsewhere; done removes what it left on the disk.
type preparation = func(ctx context.Context, p *source.Project, fleet *client.Fleet) (done func(), err error)

// push packs, sends, watches. prepare may be nil.
func (a *app) push(ctx context.Context, ref, dir string, f pushFlags, prepare preparation) error {
	c, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	fleet, err := c.FindFleet(ctx, ref, client.Query{
		Expand: "is_for__device_type($select=id,slug;$expand=is_of__cpu_architecture($select=id,slug))"})
	if err != nil {
		return err
	}
	project, err := f.scan(ctx, a, dir)
	if err != nil {
		return err
	}
	if prepare != nil {
		done, err := prepare(ctx, project, fleet)
		defer done()
		if err != nil {
			return err
		}
	}
	if f.dockerfile == "" {
		if err := project.CheckBuildable(); err != nil {
			return err
		}
	}
	for _, s := range project.Skipped {
		a.Say("Left out %s: it is neither a file nor a link.", s)
	}
	out, err := build.Send(ctx, a.App, c, project, client.BuildOptions{
		Slug: fleet.Slug, Dockerfile: f.dockerfile, NoCache: f.nocache, Draft: f.draft, Detach: f.detach, Foreign: f.foreign})
	return a.pushed(ctx, c, fleet.Slug, f, out, err)
}

// scan looks through the project.
func (f *pushFlags) scan(ctx context.Context, a *app, dir string) (*source.Project, error) {
	if f.given == nil {
		return source.Scan(dir, f.dockerfile)
	}
	return f.given.Scan(ctx, a.App, dir, f.dockerfile)
}

// pushed tells how it ended, and gives the release its note and tags.
func (a *app) pushed(ctx context.Context, c *client.Client, slug string, f pushFlags, out client.BuildOutcome, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	v := pushView{Fleet: slug, Status: api.StatusSuccess}
	var row *client.Release
	if out.Release != 0 {
		row, err = a.settle(ctx, c, out.Release, err)
		v.Release = &out.Release
	}
	if row != nil {
		v.Commit, v.Version, v.Status = cmdline.OrNil(row.Commit), cmdline.OrNil(row.RawVersion), row.Status
	}
	if err != nil && !out.Failed {
		return err
	}
	if out.Failed {
		v.Status = api.StatusFailed
	}
	if a.Output == "json" {
		if err := a.JSON(v); err != nil {
			return err
		}
	}
	switch {
	case out.Failed:
		return buildFailed(out.Release)
	case f.detach:
		a.Say("Release %d of %s is being built. `roadstead build logs %d -f` shows how it goes.", out.Release, slug, out.Release)
		return nil
	case v.Status != api.StatusSuccess:
		return fmt.Errorf("the build ended as %q; `roadstead release show %d --log` shows its log", v.Status, out.Release)
	}
	if err := annotate(ctx, c, out.Release, f); err != nil {
		return fmt.Errorf("the release is made, but not its note and tags: %w", err)
	}
	if row != nil {
		a.Say("Released %s (%s) to %s.", row.Commit, row.RawVersion, slug)
	}
	return nil
}

func buildFailed(release int64) error {
	if release == 0 {
		return errors.New("the build failed")
	}
	return fmt.Errorf("the build failed; `roadstead release show %d --log` shows its log again", release)
}

// settle reads the release. When the stream was lost it is watched until the build has ended, for that goes on without us.
func (a *app) settle(ctx context.Context, c *client.Client, id int64, buildErr error) (*client.Release, error) {
	lost := errors.Is(buildErr, client.ErrStreamCut)
	if lost {
		a.Say("%v. Waiting for release %d.", buildErr, id)
	}
	for {
		r, err := client.One[client.Release](ctx, c, client.ID("release", id), client.Query{Select: "id,commit,status,raw_version"})
		if err != nil {
			return nil, errors.Join(buildErr, err)
		}
		if !lost || r.Status != api.StatusRunning {
			if lost {
				buildErr = nil
			}
			return r, buildErr
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}

func annotate(ctx context.Context, c *client.Client, release int64, f pushFlags) error {
	for _, t := range f.tags {
		key, value, _ := strings.Cut(t, "=")
		row := map[string]any{"release": release, "tag_key": key, "value": value}
		err := c.Upsert(ctx, "release_tag", row, "release", "tag_key")
		if err != nil {
			return err
		}
	}
	if f.note == "" {
		return nil
	}
	return c.Patch(ctx, client.ID("release", release), client.Query{}, map[string]any{"note": f.note})
}
