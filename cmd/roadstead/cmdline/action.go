package cmdline

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// Action describes a command that asks the server for something, or has it do something.
type Action struct {
	Use, Short, Long, Example string
	Aliases                   []string
	Least, Most               int       // arguments; Most is -1 for any number
	Complete                  Completer // of the arguments; nil: nothing
	Do                        func(ctx context.Context, c *client.Client, args []string) error
}

// Command makes a command of an action.
func (a *App) Command(action Action) *cobra.Command {
	complete := action.Complete
	if complete == nil {
		complete = cobra.NoFileCompletions
	}
	return &cobra.Command{
		Use: action.Use, Short: action.Short, Long: action.Long, Example: action.Example, Aliases: action.Aliases,
		Args: Args(action.Least, action.Most), ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			return action.Do(cmd.Context(), c, args)
		},
	}
}

// Removal describes a command that removes things after it asked whether that is meant.
type Removal struct {
	Use, Short, Example string
	Most                int
	Complete            Completer
	// Find gives, for the arguments, what is to be removed: each with its address and how to call it.
	Find func(ctx context.Context, c *client.Client, args []string) ([]Doomed, error)
}

// Doomed is one thing that is going to be removed.
type Doomed struct {
	Address string // of its row: device(5)
	Name    string // what to call it: device kitchen
	Effect  string // what else it means, for the question; may be empty
}

// RemoveCommand makes a command of a removal.
func (a *App) RemoveCommand(r Removal) *cobra.Command {
	var sure bool
	cmd := a.Command(Action{
		Use: r.Use, Short: r.Short, Example: r.Example, Aliases: []string{"remove"}, Least: 1, Most: r.Most, Complete: r.Complete,
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			found, err := r.Find(ctx, c, args) // all of them before the first is removed
			if err != nil {
				return err
			}
			for _, d := range found {
				if err := a.Confirm(sure, strings.TrimSpace("Remove "+d.Name+"? "+d.Effect)); err != nil {
					return err
				}
				if err := c.Delete(ctx, d.Address, client.Query{}); err != nil {
					return err
				}
				a.Say("Removed %s.", d.Name)
			}
			return nil
		},
	})
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}

// List prints rows of a resource: each as JSON by its view, or as a line of a table.
func List[Row, View any](
	ctx context.Context, a *App, c *client.Client, resource string, q client.Query, view func(Row) View, head []string,
	line func(View) []string,
) error {
	found, err := client.Get[Row](ctx, c, resource, q)
	if err != nil {
		return err
	}
	views := make([]View, len(found))
	for i, row := range found {
		views[i] = view(row)
	}
	return a.Show(views, func() *terminal.Grid {
		g := &terminal.Grid{Head: head}
		for _, v := range views {
			g.Add(line(v)...)
		}
		return g
	})
}

// Made prints what was made: as JSON, or as a sentence.
func (a *App) Made(view any, sentence string, args ...any) error {
	if a.Output == "json" {
		return a.JSON(view)
	}
	a.Say(sentence, args...)
	return nil
}

// Taken turns the conflict of a name that is in use into a sentence about it.
func Taken(err error, what string) error {
	if errors.Is(err, api.ErrConflict) {
		return api.Errorf(api.Conflict, "%s exists already", what)
	}
	return err
}
