// Package base holds the commands about the server's base images: what there is, and which fleets run on one that was replaced.
package base

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// View is the JSON form of a base image.
type View struct {
	api.BaseImage
	// Stale are the fleets that you see whose target release was made from an image that was replaced.
	Stale []Stale `json:"stale"`
}

// Stale is a fleet that runs on a base image that was replaced.
type Stale struct {
	Fleet   string `json:"fleet"`
	Release string `json:"release"` // its commit
	Digest  string `json:"digest"`  // what it was made from
}

// Command is `roadstead base`.
func Command(a *cmdline.App) *cobra.Command {
	cmd := cmdline.Group("base", "The server's base images, and which fleets run on old ones", listCommand(a), showCommand(a), rebuildCommand(a))
	cmd.Long = `A Dockerfile may start from an image that the server has itself: FROM base/debian. The operator makes these images and has them made
anew by a schedule (roadsteadd admin base rebuild); a fleet gets the newer one with its next build.`
	return cmd
}

func listCommand(a *cmdline.App) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List the base images, how old they are, and how many fleets run on former ones",
		Example: "  roadstead base list\n  roadstead base list -o json",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			views, err := find(ctx, c)
			if err != nil {
				return err
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"NAME", "PLATFORM", "DIGEST", "AGE", "PACKAGES", "STALE FLEETS", "NOTE"}}
				for _, v := range views {
					for _, platform := range slices.Sorted(maps.Keys(v.Images)) {
						b := v.Images[platform]
						g.Add(v.Name, platform, short(b.Digest), age(b.MadeAt), count(b.Packages), count(len(v.Stale)), v.note())
					}
				}
				return g
			})
		},
	})
}

func (v View) note() string {
	switch {
	case v.Error != "":
		return "could not be made anew"
	case v.CheckedAt.IsZero():
		return "imported; not made anew"
	}
	return ""
}

func short(digest string) string { return digest[:min(len(digest), len("sha256:")+12)] }

func age(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Hour:
		return "new"
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func showCommand(a *cmdline.App) *cobra.Command {
	var sbom, provenance, lock bool
	var platform string
	cmd := a.Command(cmdline.Action{
		Use: "show NAME", Short: "Show a base image, the fleets that run on former ones, and what it was made of",
		Example: "  roadstead base show base/debian\n  roadstead base show base/debian --sbom --platform linux/arm64",
		Least:   1, Most: 1, Complete: cmdline.First(names(a)),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			v, err := named(ctx, c, args[0])
			if err != nil {
				return err
			}
			for what, wanted := range map[string]bool{"sbom": sbom, "provenance": provenance, "lock": lock} {
				if wanted {
					return record(ctx, a, c, v, platform, what)
				}
			}
			return show(a, v)
		},
	})
	cmd.Flags().BoolVar(&sbom, "sbom", false, "print the list of its parts (SPDX)")
	cmd.Flags().BoolVar(&provenance, "provenance", false, "print what it was made of and who vouched for that (SLSA provenance)")
	cmd.Flags().BoolVar(&lock, "lock", false, "print its lock file")
	cmd.Flags().StringVar(&platform, "platform", "linux/amd64", "the `PLATFORM` of these")
	cmd.MarkFlagsMutuallyExclusive("sbom", "provenance", "lock")
	return cmd
}

// named finds a base image; its name may leave base/ out.
func named(ctx context.Context, c *client.Client, name string) (View, error) {
	views, err := find(ctx, c)
	if err != nil {
		return View{}, err
	}
	name = "base/" + strings.TrimPrefix(name, "base/")
	i := slices.IndexFunc(views, func(v View) bool { return v.Name == name })
	if i < 0 {
		return View{}, api.Errorf(api.NotFound, "the server has no base image %s; `roadstead base list` lists those it has", name)
	}
	return views[i], nil
}

// rebuildCommand is what people look for who know that base images are made anew. It is refused: what all organizations build on is the
// operator's, who has no account here.
func rebuildCommand(a *cmdline.App) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "rebuild NAME", Short: "Say how the operator makes a base image anew, and when the schedule did",
		Example: "  roadstead base rebuild base/debian",
		Least:   1, Most: 1, Complete: cmdline.First(names(a)),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			v, err := named(ctx, c, args[0])
			if err != nil {
				return err
			}
			last := "it was imported, and the schedule does not make it anew"
			if !v.CheckedAt.IsZero() {
				last = "the schedule last looked on " + v.CheckedAt.Format(time.DateOnly)
			}
			return api.Errorf(api.Forbidden, "%s is for all organizations, so the operator makes it anew, on the server: roadsteadd admin base rebuild %s --data DIR; %s",
				v.Name, v.Name, last)
		},
	})
}

func record(ctx context.Context, a *cmdline.App, c *client.Client, v View, platform, what string) error {
	b, ok := v.Images[platform]
	if !ok {
		return api.Errorf(api.NotFound, "%s is not for %s; it is for %s", v.Name, platform, strings.Join(slices.Sorted(maps.Keys(v.Images)), ", "))
	}
	text, err := c.BaseRecord(ctx, b.Digest, what)
	if err != nil {
		return err
	}
	return a.JSON(text)
}

func show(a *cmdline.App, v View) error {
	return a.Show(v, func() *terminal.Grid {
		g := &terminal.Grid{}
		g.Add("name", v.Name)
		g.Add("what it is", v.About)
		for _, platform := range slices.Sorted(maps.Keys(v.Images)) {
			b := v.Images[platform]
			g.Add(platform, b.Digest)
			g.Add("  made", b.MadeAt.Format(time.RFC3339))
			for _, f := range b.Former {
				g.Add("  replaced "+f.ReplacedAt.Format(time.DateOnly), f.Digest)
			}
		}
		if !v.CheckedAt.IsZero() {
			g.Add("looked for newer", v.CheckedAt.Format(time.RFC3339))
		}
		if v.Error != "" {
			g.Add("not made anew", v.Error)
		}
		for _, s := range v.Stale {
			g.Add("stale", fmt.Sprintf("%s, release %s, of %s", s.Fleet, terminal.Short(s.Release), short(s.Digest)))
		}
		return g
	})
}

func names(a *cmdline.App) cmdline.Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		images, err := c.BaseImages(ctx)
		var list []string
		for _, b := range images {
			list = append(list, b.Name)
		}
		return list, err
	})
}

// fleetRow is what is asked of a fleet to tell what it runs on.
type fleetRow struct {
	Slug   string `json:"slug"`
	Target client.Ref[struct {
		Commit string `json:"commit"`
		Images []struct {
			Bases []struct {
				Name   string `json:"name"`
				Digest string `json:"digest"`
			} `json:"image_base"`
		} `json:"release_image"`
	}] `json:"should_be_running__release"`
}

// find gives the base images with the fleets that are stale.
func find(ctx context.Context, c *client.Client) ([]View, error) {
	images, err := c.BaseImages(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]View, len(images))
	at := map[string]int{}
	for i, b := range images {
		views[i], at[b.Name] = View{b, []Stale{}}, i
	}
	fleets, err := client.Get[fleetRow](ctx, c, "application", client.Query{Select: "slug", OrderBy: "slug asc",
		Expand: "should_be_running__release($select=commit;$expand=release_image($select=id;$expand=image_base($select=name,digest)))"})
	if err != nil {
		return nil, err
	}
	for _, f := range fleets {
		release := f.Target.Get()
		for _, image := range release.Images {
			for _, b := range image.Bases {
				name, _, _ := strings.Cut(b.Name, "@") // who wants one image for good names its digest
				i, ours := at[name]
				s := Stale{f.Slug, release.Commit, b.Digest}
				if ours && !current(views[i].BaseImage, b.Digest) && !slices.Contains(views[i].Stale, s) {
					views[i].Stale = append(views[i].Stale, s)
				}
			}
		}
	}
	return views, nil
}

// current reports whether a digest is that of an image of today.
func current(b api.BaseImage, digest string) bool {
	for _, build := range b.Images {
		if build.Digest == digest {
			return true
		}
	}
	return false
}
