package origin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// diffView is the JSON form of `release diff`.
type diffView struct {
	Before   releaseName   `json:"before"`
	After    releaseName   `json:"after"`
	Same     bool          `json:"same"`
	Services []serviceDiff `json:"services"`
}

// releaseName is how a release is called.
type releaseName struct {
	ID      int64  `json:"id"`
	Commit  string `json:"commit"`
	Version string `json:"version"`
}

// DiffCommand compares two releases.
func DiffCommand(app *cmdline.App) *cobra.Command {
	a := origin{app}
	var code bool
	var keyFile string
	cmd := a.Command(cmdline.Action{
		Use: "diff BEFORE AFTER", Short: "Compare two releases: images, packages, environment, ports, volumes, labels, privileges",
		Long: `Compare two releases, service by service: images (digest and size), packages, environment, ports, volumes, labels, and what a service
may do beyond a container's usual (privileged, capabilities, devices, the host's network or processes, features of the device). Privileges
that are gained come first. Packages are compared by the bills of materials, each verified first; where there is none, the difference
says so.

Exit codes: 0 compared (with --exit-code: and the same), 1 failed (with --exit-code: or different), 2 wrong usage. What fails is said on the
standard error, a difference is not.`,
		Example: "  roadstead release diff 4f0c1aa 12\n  roadstead release diff 11 12 --exit-code -o json",
		Least:   2, Most: 2, Complete: a.Releases(),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			return a.diff(ctx, c, args, keyFile, code)
		},
	})
	cmd.Flags().BoolVar(&code, "exit-code", false, "end with 1 when the releases differ")
	cmd.Flags().StringVar(&keyFile, "key", "", "`FILE` with the public keys to believe, in place of those that the server tells")
	return cmd
}

func (a origin) diff(ctx context.Context, c *client.Client, refs []string, keyFile string, code bool) error {
	var rows [2]*row
	var sides [2]map[string]service
	for i, ref := range refs {
		var err error
		if rows[i], err = find(ctx, c, ref); err != nil {
			return err
		}
		if sides[i], err = servicesOf(ctx, c, rows[i], keyFile); err != nil {
			return err
		}
	}
	name := func(r *row) releaseName { return releaseName{r.ID, r.Commit, r.Version} }
	v := diffView{Before: name(rows[0]), After: name(rows[1]), Services: compare(sides[0], sides[1])}
	v.Same = len(v.Services) == 0
	if a.Output == "json" {
		if err := a.JSON(v); err != nil {
			return err
		}
	} else {
		a.tell(v, false)
	}
	if code && !v.Same {
		return cmdline.ErrDifferent
	}
	return nil
}

// servicesOf reads what is compared of a release. A release without a statement can be compared but for its packages; one whose
// statement does not verify cannot.
func servicesOf(ctx context.Context, c *client.Client, r *row, keyFile string) (map[string]service, error) {
	var composition struct{ Services map[string]map[string]any }
	if err := json.Unmarshal(r.Composition, &composition); err != nil {
		return nil, fmt.Errorf("the composition of release %s cannot be read: %w", terminal.Short(r.Commit), err)
	}
	known := map[string][]bill{}
	s, err := verify(ctx, c, r, keyFile)
	if err != nil && !errors.Is(err, errNone) {
		return nil, err
	}
	if err == nil {
		list, err := bills(ctx, c, r, s)
		if err != nil {
			return nil, err
		}
		for _, b := range list {
			known[b.Service] = append(known[b.Service], b)
		}
	}
	out := map[string]service{}
	for _, ri := range r.Images {
		i := ri.Image.Get()
		labels := map[string]string{}
		for _, l := range ri.Labels {
			labels[l.Name] = l.Value
		}
		n := i.Service.Get().Name
		sv := composed(composition.Services[n], labels)
		sv.digest = i.ContentHash
		sv.size, _ = i.Size.Int64()
		if len(known[n]) == 0 {
			sv.unknown = "release " + terminal.Short(r.Commit) + " has no statement"
		}
		for _, b := range known[n] {
			if b.Missing != "" {
				sv.unknown = "release " + terminal.Short(r.Commit) + " has no bill of materials: " + b.Missing
				break
			}
		}
		if sv.unknown == "" {
			sv.packages = versions(known[n])
		}
		out[n] = sv
	}
	return out, nil
}

// tell prints a difference for people; what matters most comes first. Whole: no row is cut to the terminal's width.
func (a origin) tell(v diffView, whole bool) {
	if v.Same {
		fmt.Fprintf(a.Out, "Releases %s and %s are the same.\n", terminal.Short(v.Before.Commit), terminal.Short(v.After.Commit))
		return
	}
	for _, s := range v.Services {
		for _, p := range s.Gained {
			fmt.Fprintln(a.Out, a.Colour("1;31", "!! service "+terminal.Printable(s.Service)+" GAINS "+terminal.Printable(p)))
		}
	}
	g := &terminal.Grid{Head: []string{"Service", "What", "Name", "Before", "After"}, Whole: whole}
	for _, s := range v.Services {
		if s.Change != "changed" {
			g.Add(s.Service, "service", s.Change, "", "")
		}
		if i := s.Image; i != nil {
			g.Add(s.Service, "image", "digest", short(i.Before), short(i.After))
			if i.SizeBefore != i.SizeAfter {
				g.Add(s.Service, "image", "size", terminal.Size(i.SizeBefore), terminal.Size(i.SizeAfter))
			}
		}
		for _, p := range s.Gained {
			g.Add(s.Service, "privilege", p, "", "GAINED")
		}
		for _, p := range s.Lost {
			g.Add(s.Service, "privilege", p, "had", "")
		}
		if s.Unknown != "" {
			g.Add(s.Service, "packages", "not compared: "+s.Unknown, "", "")
		}
		for _, part := range []struct {
			what string
			list []change
		}{{"package", s.Packages}, {"environment", s.Environment}, {"port", s.Ports}, {"volume", s.Volumes}, {"label", s.Labels}, {"setting", s.Settings}} {
			for _, c := range part.list {
				g.Add(s.Service, part.what, c.Name, side(c.Before), side(c.After))
			}
		}
	}
	a.Table(g)
}

// side is one side of a change in a table.
func side(v *string) string {
	switch {
	case v == nil:
		return "-"
	case *v == "":
		return "yes"
	}
	return *v
}
