// Package project is what the command line knows of a project before a builder sees it: what the builder will make of its compose
// file, and what a push gives along for the build alone.
package project

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/internal/compose"
)

// Command is `roadstead compose`.
func Command(a *cmdline.App) *cobra.Command {
	cmd := &cobra.Command{Use: "compose", Short: "See what becomes of a project's compose file"}
	var all bool
	check := &cobra.Command{
		Use: "check [DIR]", Short: "Say of every field of a project whether it is supported, ignored or refused",
		Long: `Read a project (by default this directory) as the builder does, and say of every field of its compose file whether it is supported,
ignored or refused, and why. No server is asked. The exit code is 1 when the builder would refuse the project.

docs/composition.md lists every field there is.`,
		Example: `  roadstead compose check
  roadstead compose check ./my-project --all
  roadstead compose check -o json`,
		Args: cmdline.Args(0, 1), ValidArgsFunction: dirs,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			report, err := Check(cmd.Context(), dir)
			if err != nil {
				return err
			}
			return show(a, report, all)
		},
	}
	check.Flags().BoolVar(&all, "all", false, "list supported fields too")
	cmd.AddCommand(check)
	return cmd
}

func dirs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// Check reads a project.
func Check(ctx context.Context, dir string) (*compose.Report, error) {
	logrus.SetOutput(io.Discard) // the parser warns on its own; what it warns of is ours to say
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("read the project: %w", err)
	}
	defer func() { _ = root.Close() }()
	return compose.Check(ctx, root), nil
}

// reportView is the JSON form of a report.
type reportView struct {
	compose.Report
	Supported int `json:"supported"`
	Ignored   int `json:"ignored"`
	Refused   int `json:"refused"`
}

func show(a *cmdline.App, r *compose.Report, all bool) error {
	v := reportView{*r, r.Count(compose.Kept), r.Count(compose.Ignored), r.Count(compose.Refused)}
	if a.Output == "json" {
		if err := a.JSON(v); err != nil {
			return err
		}
	} else {
		g := &terminal.Grid{Head: []string{"FIELD", "SUPPORT", "WHY"}}
		for _, f := range r.Findings {
			if all || f.Support != compose.Kept {
				g.Add(f.Field, string(f.Support), f.Why)
			}
		}
		if len(g.Rows) > 0 {
			a.Table(g)
		}
		a.Say("%d supported, %d ignored, %d refused.", v.Supported, v.Ignored, v.Refused)
	}
	if v.Refused > 0 {
		return fmt.Errorf("the builder would refuse this project")
	}
	return nil
}
