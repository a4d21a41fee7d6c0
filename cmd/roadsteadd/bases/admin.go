package bases

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/rebuild"
	"github.com/roadstead-io/roadstead/internal/shelf"
)

// ListCommand is "roadsteadd admin base list".
func ListCommand(dataFlag func(*cobra.Command, *string), dirOf func(string) (string, error)) *cobra.Command {
	var data, output string
	cmd := &cobra.Command{
		Use: "list --data DIR", Short: "List the base images", Example: "  roadsteadd admin base list --data /var/lib/roadstead",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := dirOf(data)
			if err != nil {
				return err
			}
			known, err := shelf.Read(dir)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(known)
			}
			return list(cmd.OutOrStdout(), dir, known)
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FORMAT`: json")
	return cmd
}

func list(out io.Writer, dir string, known []api.BaseImage) error {
	there, err := base.List(dir)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, b := range there {
		i := slices.IndexFunc(known, func(k api.BaseImage) bool { return k.Name == b.Name })
		for _, platform := range slices.Sorted(maps.Keys(b.Images)) {
			made, note := "", ""
			if i >= 0 {
				made = known[i].Images[platform].MadeAt.Format(time.DateOnly)
				if note = known[i].Error; note != "" {
					note = "not made anew: " + note
				}
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", b.Name, platform, b.Images[platform], made, note)
		}
	}
	return w.Flush()
}

// RebuildCommand is "roadsteadd admin base rebuild".
func RebuildCommand(dataFlag func(*cobra.Command, *string), dirOf func(string) (string, error)) *cobra.Command {
	var data string
	var p place
	var locked bool
	cmd := &cobra.Command{
		Use: "rebuild [NAME...] --data DIR", Short: "Make base images anew from their recipes",
		Long: `Make base images anew from their recipes, for all platforms, and publish them to the builds of this server. Debian's newest
packages are taken, as its signatures vouch for them; with --locked those of the recipe's lock file. If anything is wrong with what
an image is made of, nothing is published and what was there stays. The image that is replaced stays reachable by its digest.

An image that was made so once is made anew by the server itself, every week or as "up --base-rebuild" says. Without a NAME, all of
these are made now.`,
		Example: `  roadsteadd admin base rebuild base/debian base/go --data /var/lib/roadstead
  roadsteadd admin base rebuild --data /var/lib/roadstead`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := dirOf(data)
			if err != nil {
				return err
			}
			return p.rebuild(cmd.Context(), cmd.OutOrStdout(), dir, args, locked)
		},
	}
	dataFlag(cmd, &data)
	p.flags(cmd)
	cmd.Flags().BoolVar(&locked, "locked", false, "make what the lock files of the recipes say, and look for nothing newer")
	return cmd
}

func (p *place) rebuild(ctx context.Context, out io.Writer, dir string, names []string, locked bool) error {
	book, err := p.book()
	if err != nil {
		return err
	}
	r := &rebuild.Rebuilder{Dir: dir, Book: book, Locked: locked, Log: slog.Default(), Now: time.Now}
	if len(names) == 0 {
		if names, err = r.Known(); err != nil {
			return err
		}
		if len(names) == 0 {
			return errors.New("no base image was made here yet: name those to make; `roadsteadd base recipes` lists them")
		}
	}
	var all error
	for _, name := range names {
		rec, err := book.Recipe(name)
		if err != nil {
			return err
		}
		if r.Fetcher, err = p.fetcher(book, rec); err != nil {
			return err
		}
		done, err := r.Rebuild(ctx, name)
		r.Fetcher.Close()
		switch {
		case err != nil:
			all = errors.Join(all, err)
		case len(done.Changed) == 0:
			_, _ = fmt.Fprintf(out, "%s is up to date\n", done.Name)
		default:
			for _, platform := range slices.Sorted(maps.Keys(done.Changed)) {
				_, _ = fmt.Fprintf(out, "%s for %s is now %s\n", done.Name, platform, done.Changed[platform])
			}
		}
	}
	return all
}
