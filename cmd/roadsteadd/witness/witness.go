// Package witness is the operator's commands about witnesses of the transparency log.
package witness

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// Operation makes a command that asks a running server and prints its answer.
type Operation = func(use, short, long, example string, flags func(*pflag.FlagSet),
	run func(ctx context.Context, l supervise.Layout, args []string) (answer any, table func(io.Writer), err error)) *cobra.Command

// Ask asks the api role.
type Ask = func(ctx context.Context, l supervise.Layout, path string, in, out any) error

// Command is `admin witness`.
func Command(operation Operation, ask Ask) *cobra.Command {
	list := operation("list --data DIR", "List the witnesses of the transparency log",
		"List who cosigns checkpoints of the transparency log: which user brought each, since when, and how far it has signed.",
		"  roadsteadd admin witness list --data /var/lib/roadstead", nil,
		func(ctx context.Context, l supervise.Layout, _ []string) (any, func(io.Writer), error) {
			all := []api.TrustWitness{}
			if err := ask(ctx, l, "/internal/v1/witnesses/list", struct{}{}, &all); err != nil {
				return nil, nil, err
			}
			return all, func(w io.Writer) {
				_, _ = fmt.Fprintln(w, "WITNESS\tBROUGHT BY\tSINCE\tSIGNED\tREMOVED")
				for _, k := range all {
					_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", k.Name, orNone(k.By), k.Since, k.Signed, orNone(k.Removed))
				}
			}, nil
		})
	remove := operation("remove NAME --data DIR", "Take a witness and its signatures out of the transparency log's checkpoints",
		"Remove a witness, by its whole name or what stands before the first \"+\". It does not come back, and counts still among the two that its user may bring.",
		"  roadsteadd admin witness remove witness.example.com --data /var/lib/roadstead", nil,
		func(ctx context.Context, l supervise.Layout, args []string) (any, func(io.Writer), error) {
			var done api.TrustWitness
			if err := ask(ctx, l, "/internal/v1/witnesses/remove", api.TrustWitness{Name: args[0]}, &done); err != nil {
				return nil, nil, err
			}
			return done, func(w io.Writer) { _, _ = fmt.Fprintf(w, "witness %s was removed\n", done.Name) }, nil
		})
	list.Args, remove.Args = cobra.NoArgs, cobra.ExactArgs(1)
	cmd := &cobra.Command{Use: "witness", Short: "Witnesses of the transparency log: list, remove", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(list, remove)
	return cmd
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
