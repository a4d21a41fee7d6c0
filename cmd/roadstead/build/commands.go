package build

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// View is the JSON form of a build.
type View struct {
	ID        int64   `json:"id"` // of the release
	Commit    string  `json:"commit"`
	Fleet     string  `json:"fleet"`
	Status    string  `json:"status"`
	Phase     *string `json:"phase"` // upload, waiting or build; null when it has ended
	Place     *int    `json:"place"` // of one that waits: 1 comes next
	Of        *int    `json:"of"`
	Wait      *int64  `json:"wait_seconds"` // as the last builds went; null when nobody knows
	StartedAt string  `json:"started_at"`
	EndedAt   *string `json:"ended_at"`
}

const fields = "id,commit,status,start_timestamp,end_timestamp"

// Command is `roadstead build`.
func Command(a *cmdline.App) *cobra.Command {
	return cmdline.Group("build", "Builds: what is being made into a release", listCommand(a), showCommand(a), logsCommand(a), cancelCommand(a),
		platformsCommand(a))
}

// view makes a view of a release; one that is being built is asked about.
func view(ctx context.Context, c *client.Client, r client.Release) View {
	v := View{ID: r.ID, Commit: r.Commit, Fleet: r.Fleet.Get().Slug, Status: r.Status, StartedAt: r.StartedAt, EndedAt: cmdline.OrNil(r.EndedAt)}
	if r.Status != api.StatusRunning {
		return v
	}
	s, err := c.BuildState(ctx, r.ID)
	if err != nil {
		return v // it ended this moment, or its builder is away; the status stands
	}
	v.Phase = &s.Phase
	if s.Place > 0 {
		v.Place, v.Of = &s.Place, &s.Of
	}
	if s.Wait > 0 {
		v.Wait = &s.Wait
	}
	return v
}

// words say where a build stands.
func (v View) words() string {
	switch {
	case v.Phase == nil:
		return v.Status
	case *v.Phase == api.PhaseUpload:
		return "its source arrives"
	case v.Place != nil && v.Wait != nil:
		return fmt.Sprintf("waiting, %d of %d; about %d min", *v.Place, *v.Of, (*v.Wait+59)/60)
	case v.Place != nil:
		return fmt.Sprintf("waiting, %d of %d", *v.Place, *v.Of)
	}
	return "building"
}

func listCommand(a *cmdline.App) *cobra.Command {
	var all bool
	var top int
	cmd := a.Command(cmdline.Action{
		Use: "list [FLEET]", Aliases: []string{"ls"}, Short: "List the builds that are under way, of a fleet or of all that you see",
		Example: "  roadstead build list\n  roadstead build list hello --all -o json",
		Most:    1, Complete: cmdline.First(a.Fleets()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			var where []string
			if !all {
				where = append(where, client.Where("status eq ?", api.StatusRunning))
			}
			if len(args) > 0 {
				f, err := c.FindFleet(ctx, args[0], client.Query{})
				if err != nil {
					return err
				}
				where = append(where, client.Where("belongs_to__application eq ?", f.ID))
			}
			found, err := client.Get[client.Release](ctx, c, "release", client.Query{
				Select: fields, Expand: "belongs_to__application($select=id,slug)", OrderBy: "id desc", Top: top, Filter: strings.Join(where, " and ")})
			if err != nil {
				return err
			}
			views := make([]View, len(found))
			for i, r := range found {
				views[i] = view(ctx, c, r)
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Id", "Commit", "Fleet", "State", "Started"}}
				for _, v := range views {
					g.Add(strconv.FormatInt(v.ID, 10), terminal.Short(v.Commit), v.Fleet, v.words(), terminal.Ago(v.StartedAt))
				}
				return g
			})
		},
	})
	cmd.Flags().BoolVar(&all, "all", false, "those that have ended as well")
	cmd.Flags().IntVar(&top, "limit", 50, "at most so many")
	return cmd
}

// one finds the build that an argument names.
func one(ctx context.Context, c *client.Client, ref string) (*client.Release, error) {
	return c.FindRelease(ctx, ref, client.Query{Select: fields, Expand: "belongs_to__application($select=id,slug)"})
}

func showCommand(a *cmdline.App) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "show BUILD", Short: "Show where a build stands",
		Long:    "Show where a build stands. A build is named by the number or the commit of its release.",
		Example: "  roadstead build show 12\n  roadstead build show 4f0c1aa -o json",
		Least:   1, Most: 1, Complete: cmdline.First(a.Releases()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			r, err := one(ctx, c, args[0])
			if err != nil {
				return err
			}
			v := view(ctx, c, *r)
			return a.Show(v, func() *terminal.Grid {
				g := &terminal.Grid{Rows: [][]string{{"Id", strconv.FormatInt(v.ID, 10)}, {"Commit", v.Commit}, {"Fleet", v.Fleet},
					{"State", v.words()}, {"Started", v.StartedAt}}}
				if v.EndedAt != nil {
					g.Add("Ended", *v.EndedAt)
				}
				return g
			})
		},
	})
}

func logsCommand(a *cmdline.App) *cobra.Command {
	var follow bool
	cmd := a.Command(cmdline.Action{
		Use: "logs BUILD", Short: "Print what a build has said, or follow it to its end",
		Long: `Print what a build has said so far; with --follow, stay until it has ended. A connection that is lost is made again, and goes on
where it stopped. Ctrl-C ends the following, not the build. With -o json each line is an object.

With --follow the exit code is 1 when the build did not succeed.`,
		Example: "  roadstead build logs 12\n  roadstead build logs 4f0c1aa -f",
		Least:   1, Most: 1, Complete: cmdline.First(a.Releases()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			r, err := one(ctx, c, args[0])
			if err != nil {
				return err
			}
			status, err := Follow(ctx, a, c, r.ID, follow, a.Output == "json")
			if err != nil {
				return err
			}
			if follow && status != api.StatusSuccess {
				return fmt.Errorf("the build ended as %s", status)
			}
			return nil
		},
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "stay until the build has ended")
	return cmd
}

// endTime is how long a cancelled build may take to end.
const endTime = 10 * time.Second

func cancelCommand(a *cmdline.App) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "cancel BUILD...", Short: "Cancel builds, at work or waiting",
		Example: "  roadstead build cancel 12",
		Least:   1, Most: -1, Complete: a.Releases(),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			var found []*client.Release
			for _, ref := range args { // all of them before the first is cancelled
				r, err := one(ctx, c, ref)
				if err != nil {
					return err
				}
				if r.Status != api.StatusRunning {
					return api.Errorf(api.Conflict, "release %d is not being built: it is %s", r.ID, r.Status)
				}
				found = append(found, r)
			}
			for _, r := range found {
				if err := c.CancelBuild(ctx, r.ID); err != nil {
					return err
				}
				if err := ended(ctx, c, r.ID); err != nil {
					return err
				}
				a.Say("Cancelled the build of release %d.", r.ID)
			}
			return nil
		},
	})
}

// ended waits until the builder knows.
func ended(ctx context.Context, c *client.Client, id int64) error {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	_, err := c.FollowBuild(ctx, id, client.FollowOptions{Stay: true}, func(api.BuildLine) error { return nil })
	if errors.Is(err, client.ErrNotUnderWay) || errors.Is(err, context.DeadlineExceeded) {
		return nil // it is cancelled in any case: nothing that comes later makes a release of it
	}
	return err
}
