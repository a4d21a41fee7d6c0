// Package source holds the commands about repositories elsewhere that a fleet is built from, by a webhook or when asked.
package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

const at = "/build-source/v1"

// Command is `roadstead fleet source`.
func Command(a *cmdline.App) *cobra.Command {
	cmd := cmdline.Group("source", "Repositories elsewhere that a fleet is built from, by a webhook or when asked",
		addCommand(a), listCommand(a), showCommand(a), deliveriesCommand(a), buildCommand(a), rotateCommand(a), removeCommand(a))
	cmd.Long = `A source is a repository on GitHub, GitLab, Gitea, Forgejo or any other git server. Its webhook tells this server of pushes; the commit that was
pushed is fetched, built and released with the right of whoever set the source up. docs/webhooks.md says what to do where.`
	return cmd
}

func addCommand(a *cmdline.App) *cobra.Command {
	var want api.NewBuildSource
	var passwordFile string
	cmd := a.Command(cmdline.Action{
		Use: "add FLEET URL", Short: "Build a fleet from a repository elsewhere", Least: 2, Most: 2, Complete: cmdline.First(a.Fleets()),
		Long: `Build a fleet from a repository elsewhere, https://… or ssh://…. The secret for the webhook is printed this once.

Over https, a repository that is not public needs a password or a token that may read it: --password-file, or - to read it from standard input.
Over ssh the server makes a deploy key, whose public half is printed: add it to the repository, to read. The key of the host is shown first; give it
with --host-key once you have compared it with what the host's operator publishes.`,
		Example: `  roadstead fleet source add hello https://github.com/acme/hello
  roadstead fleet source add hello https://gitlab.com/acme/hello.git --form gitlab --branch stable --password-file token.txt
  roadstead fleet source add hello ssh://git@git.example.com/acme/hello.git --form gitea --tags 'v*' --host-key SHA256:…`,
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			f, err := c.FindFleet(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			want.Fleet, want.URL = f.Slug, args[1]
			if want.Form == "" {
				if want.Form = guess(want.URL); want.Form == "" {
					return cmdline.Usagef("say which kind of forge it is: --form github, gitlab or gitea")
				}
			}
			if want.Password, err = password(a, passwordFile); err != nil {
				return err
			}
			if want.HostKey, err = hostKey(ctx, want.URL, want.HostKey); err != nil {
				return err
			}
			var made api.BuildSourceSecret
			if err := c.Do(ctx, http.MethodPost, at, want, &made); err != nil {
				return err
			}
			return a.Show(made, func() *terminal.Grid {
				g := facts(made.BuildSource)
				g.Add("secret", made.Secret)
				return g
			})
		},
	})
	fs := cmd.Flags()
	fs.StringVar(&want.Form, "form", "", "what sends the webhook: `FORM` github, gitlab or gitea (and Forgejo); empty: as the address says")
	fs.StringVarP(&want.Branch, "branch", "b", "", "the `BRANCH` that is built; empty means main")
	fs.StringVar(&want.Tags, "tags", "", "build the tags of this `PATTERN` instead of a branch, such as 'v*'")
	fs.BoolVar(&want.Draft, "draft", false, "make drafts, which devices do not follow until they are finalized")
	fs.StringVar(&want.Username, "username", "", "the `NAME` that goes with the password; empty does for tokens")
	fs.StringVar(&passwordFile, "password-file", "", "a `FILE` with a password or token that may read the repository; - reads it from standard input")
	fs.StringVar(&want.HostKey, "host-key", "", "the `KEY` that the host of an ssh:// address must prove to have: SHA256:…, or the key itself")
	cmdline.Fixed(cmd, "form", api.FormGitHub, api.FormGitLab, api.FormGitea)
	return cmd
}

// guess is the kind of the forges that everybody knows.
func guess(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	switch strings.ToLower(u.Hostname()) {
	case "github.com":
		return api.FormGitHub
	case "gitlab.com":
		return api.FormGitLab
	case "gitea.com", "codeberg.org":
		return api.FormGitea
	}
	return ""
}

const maxPassword = 8 << 10

// password reads one from a file: on the command line others would see it.
func password(a *cmdline.App, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	in := a.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxPassword))
	if err != nil {
		return "", err
	}
	found := strings.TrimSpace(string(text))
	if found == "" {
		return "", cmdline.Usagef("--password-file: %s is empty", file)
	}
	return found, nil
}

func builds(s api.BuildSource) string {
	if s.Tags != "" {
		return "tags " + s.Tags
	}
	return s.Branch
}

// facts is a source for people.
func facts(s api.BuildSource) *terminal.Grid {
	g := &terminal.Grid{}
	g.Add("id", fmt.Sprint(s.ID))
	g.Add("fleet", s.Fleet)
	g.Add("repository", s.URL)
	g.Add("builds", builds(s))
	if s.Draft {
		g.Add("makes", "drafts")
	}
	if s.Password {
		g.Add("password", "kept by the server")
	}
	if s.PublicKey != "" {
		g.Add("deploy key", s.PublicKey)
		g.Add("host key", s.HostKey)
	}
	g.Add("on behalf of", s.OnBehalfOf)
	if s.Stopped != "" {
		g.Add("does not build", s.Stopped)
	}
	if s.RefusedAt != nil {
		g.Add("refused", fmt.Sprintf("%d deliveries without a signature that holds, the last one at %s", s.Refused, when(*s.RefusedAt)))
	}
	g.Add("webhook of "+s.Form, s.Webhook)
	return g
}

func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func listCommand(a *cmdline.App) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "list FLEET", Aliases: []string{"ls"}, Short: "List the repositories that a fleet is built from", Least: 1, Most: 1, Complete: cmdline.First(a.Fleets()),
		Example: "  roadstead fleet source list hello\n  roadstead fleet source list hello -o json",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			f, err := c.FindFleet(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			list := []api.BuildSource{}
			if err := c.Do(ctx, http.MethodGet, at+"?fleet="+url.QueryEscape(f.Slug), nil, &list); err != nil {
				return err
			}
			return a.Show(list, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Id", "Repository", "Builds", "Form", "On behalf of", "Note"}}
				for _, s := range list {
					g.Add(fmt.Sprint(s.ID), s.URL, builds(s), s.Form, s.OnBehalfOf, s.Stopped)
				}
				return g
			})
		},
	})
}

// one is the address of a source.
func one(id string) string { return at + "/" + url.PathEscape(id) }

func showCommand(a *cmdline.App) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "show ID", Short: "Show a source, without its secrets", Least: 1, Most: 1, Example: "  roadstead fleet source show 7",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			var s api.BuildSource
			if err := c.Do(ctx, http.MethodGet, one(args[0]), nil, &s); err != nil {
				return err
			}
			return a.Show(s, func() *terminal.Grid { return facts(s) })
		},
	})
}

func deliveriesCommand(a *cmdline.App) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "deliveries ID", Short: "List what came to the webhook of a source, and what became of it", Least: 1, Most: 1,
		Example: "  roadstead fleet source deliveries 7",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			list := []api.Delivery{}
			if err := c.Do(ctx, http.MethodGet, one(args[0])+"/deliveries", nil, &list); err != nil {
				return err
			}
			return a.Show(list, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Id", "When", "Event", "Ref", "Commit", "State", "Build", "Reason"}}
				for _, d := range list {
					build := ""
					if d.Release != 0 {
						build = fmt.Sprint(d.Release)
					}
					g.Add(fmt.Sprint(d.ID), when(d.CreatedAt), d.Event, strings.TrimPrefix(d.Ref, "refs/"), d.Commit[:min(len(d.Commit), 12)], d.State, build, d.Reason)
				}
				return g
			})
		},
	})
}

// pause is how often it is looked how a delivery stands that is waited for.
const pause = 500 * time.Millisecond

func buildCommand(a *cmdline.App) *cobra.Command {
	var ask api.SourceBuild
	var wait bool
	cmd := a.Command(cmdline.Action{
		Use: "build ID", Short: "Build what a source has now, without a webhook", Least: 1, Most: 1,
		Example: "  roadstead fleet source build 7\n  roadstead fleet source build 7 --wait\n  roadstead fleet source build 8 --tag v1.4.0",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			var d api.Delivery
			if err := c.Do(ctx, http.MethodPost, one(args[0])+"/build", ask, &d); err != nil {
				return err
			}
			if wait {
				var err error
				if d, err = ended(ctx, c, args[0], d); err != nil {
					return err
				}
			}
			switch d.State {
			case api.DeliveryWaiting, api.DeliveryRunning:
				return a.Made(d, "It is built soon, as delivery %d: roadstead fleet source deliveries %s", d.ID, args[0])
			case api.DeliveryBuilt:
				return a.Made(d, "Built %.12s: build %d.", d.Commit, d.Release)
			}
			return api.Errorf(api.Invalid, "delivery %d is %s: %s", d.ID, d.State, d.Reason)
		},
	})
	cmd.Flags().StringVar(&ask.Tag, "tag", "", "the `TAG` to build, of a source of tags")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is built; exit code 1 when it fails")
	return cmd
}

// ended waits until a delivery has.
func ended(ctx context.Context, c *client.Client, id string, d api.Delivery) (api.Delivery, error) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for d.EndedAt == nil {
		select {
		case <-ctx.Done():
			return d, ctx.Err()
		case <-tick.C:
		}
		var list []api.Delivery
		if err := c.Do(ctx, http.MethodGet, one(id)+"/deliveries", nil, &list); err != nil {
			return d, err
		}
		for _, other := range list {
			if other.ID == d.ID {
				d = other
			}
		}
	}
	return d, nil
}

func rotateCommand(a *cmdline.App) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "rotate ID", Short: "Give the webhook of a source another secret, and take the source over", Least: 1, Most: 1,
		Long: `Give the webhook of a source another secret, which is printed this once; the former one does not hold any more. The source builds with your right
from now on, and no longer with that of whoever set it up.`,
		Example: "  roadstead fleet source rotate 7",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			var s api.BuildSourceSecret
			if err := c.Do(ctx, http.MethodPost, one(args[0])+"/rotate", nil, &s); err != nil {
				return err
			}
			return a.Show(s, func() *terminal.Grid {
				g := facts(s.BuildSource)
				g.Add("secret", s.Secret)
				return g
			})
		},
	})
}

func removeCommand(a *cmdline.App) *cobra.Command {
	var sure bool
	cmd := a.Command(cmdline.Action{
		Use: "rm ID", Aliases: []string{"remove"}, Short: "Build a fleet from a repository no longer", Least: 1, Most: 1, Example: "  roadstead fleet source rm 7",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			var s api.BuildSource
			if err := c.Do(ctx, http.MethodGet, one(args[0]), nil, &s); err != nil {
				return err
			}
			if err := a.Confirm(sure, fmt.Sprintf("Remove source %d, %s? What it builds now is cancelled; its releases stay.", s.ID, s.URL)); err != nil {
				return err
			}
			if err := c.Do(ctx, http.MethodDelete, one(args[0]), nil, nil); err != nil {
				return err
			}
			a.Say("Removed source %d.", s.ID)
			return nil
		},
	})
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}
