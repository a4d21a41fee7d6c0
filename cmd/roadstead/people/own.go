package people

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

type sshKeyView struct {
	ID        int64  `json:"id"`
	Title     string `json:"title"`
	PublicKey string `json:"public_key"`
	// Fingerprint is what ssh-keygen -lf shows of the key.
	Fingerprint string `json:"fingerprint"`
	CreatedAt   string `json:"created_at"`
	LastUsedAt  string `json:"last_used_at"` // for git
	LastUsed    string `json:"last_used_from"`
}

func (a people) sshKeys() *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List your SSH keys", Example: "  roadstead ssh-key list",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			q := client.Query{Select: "id,title,public_key,fingerprint,created_at,last_used_at,last_used_from", OrderBy: "title asc"}
			return cmdline.List(ctx, a.App, c, "user__has__public_key", q, func(k sshKeyView) sshKeyView { return k },
				[]string{"Id", "Title", "Type", "Fingerprint", "Added", "Used for git", "From"},
				func(k sshKeyView) []string {
					return []string{id(k.ID), k.Title, keyType(k.PublicKey), k.Fingerprint, ago(k.CreatedAt), ago(k.LastUsedAt), k.LastUsed}
				})
		},
	})
	add := a.Command(cmdline.Action{
		Use: "add TITLE FILE", Short: "Add an SSH public key of yours", Least: 2, Most: 2,
		Long: `Add a public key, with which you push with git and can enter devices that you operate. "-" reads it from the standard input. It needs a session with
a password given lately, and a key that no other account has: ed25519, ecdsa, one of a security key, or rsa of 3072 bits or more.`,
		Example: "  roadstead ssh-key add laptop ~/.ssh/id_ed25519.pub",
		Complete: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return []string{"pub"}, cobra.ShellCompDirectiveFilterFileExt
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			text, err := a.read(args[1])
			if err != nil {
				return err
			}
			if strings.Contains(text, "PRIVATE KEY") {
				return cmdline.Usagef("%s is a private key; give the public one (.pub)", args[1])
			}
			who, err := c.Whoami(ctx)
			if err != nil {
				return err
			}
			made, err := client.Create[sshKeyView](ctx, c, "user__has__public_key",
				map[string]any{"title": args[0], "public_key": strings.TrimSpace(text), "user": who.ActorTypeID})
			if err != nil {
				return cmdline.Taken(err, "this key, yours or another account's,")
			}
			return a.Made(made, "Added SSH key %s.", made.Title)
		},
	})
	rm := a.RemoveCommand(cmdline.Removal{
		Use: "rm (ID | TITLE)...", Short: "Remove SSH keys of yours", Most: -1, Example: "  roadstead ssh-key rm laptop --yes",
		Find: func(ctx context.Context, c *client.Client, args []string) ([]cmdline.Doomed, error) {
			keys, err := client.Get[sshKeyView](ctx, c, "user__has__public_key", client.Query{Select: "id,title"})
			if err != nil {
				return nil, err
			}
			var found []cmdline.Doomed
			for _, arg := range args {
				before := len(found)
				for _, k := range keys {
					if k.Title == arg || strconv.FormatInt(k.ID, 10) == arg {
						found = append(found, cmdline.Doomed{Address: client.ID("user__has__public_key", k.ID), Name: "SSH key " + k.Title})
					}
				}
				if len(found) == before {
					return nil, api.Errorf(api.NotFound, "you have no SSH key %q", arg)
				}
			}
			return found, nil
		},
	})
	return cmdline.Group("ssh-key", "Your SSH public keys", add, list, rm)
}

// maxKeyFile bounds what is read as a public key.
const maxKeyFile = 64 << 10

func (a people) read(file string) (string, error) {
	in := a.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("the key: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxKeyFile))
	return string(data), err
}

// keyType is what stands before a key.
func keyType(line string) string {
	kind, _, _ := strings.Cut(line, " ")
	return kind
}

func (a people) sessions() *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List where you are logged in", Example: "  roadstead session list",
		Long: `List your sessions. One that "waits for a second factor" was opened with the first proof alone and can do nothing yet: if it is not yours,
somebody knows your password.`,
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			found := []api.Session{}
			if err := c.Do(ctx, http.MethodGet, "/user/v1/sessions", nil, &found); err != nil {
				return err
			}
			return a.Show(found, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Id", "Began", "By", "Last used", "From", "Client", "With", "Note"}}
				for _, s := range found {
					g.Add(sessionCells(s)...)
				}
				return g
			})
		},
	})
	var others, all bool
	rm := a.Command(cmdline.Action{
		Use: "rm (ID... | --others | --all)", Aliases: []string{"remove", "revoke"}, Short: "End sessions; their tokens stop working at once", Most: -1,
		Example: "  roadstead session revoke 12\n  roadstead session revoke --others",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if (len(args) > 0) == (others || all) || others && all {
				return cmdline.Usagef("give the sessions to end, or --others, or --all")
			}
			if len(args) == 0 {
				path, said := "/user/v1/sessions", "Ended all other sessions."
				if all {
					path, said = path+"?all=true", "Ended all sessions, this one too."
				}
				if err := c.Do(ctx, http.MethodDelete, path, nil, nil); err != nil {
					return err
				}
				a.Say("%s", said)
				return nil
			}
			for _, arg := range args {
				n, err := number(arg, "a session", "session list")
				if err != nil {
					return err
				}
				if err := c.Do(ctx, http.MethodDelete, "/user/v1/sessions/"+id(n), nil, nil); err != nil {
					return err
				}
				a.Say("Ended session %d.", n)
			}
			return nil
		},
	})
	rm.Flags().BoolVar(&others, "others", false, "all but this one")
	rm.Flags().BoolVar(&all, "all", false, "all, and this one")
	return cmdline.Group("session", "Where you are logged in", list, rm)
}

func sessionCells(s api.Session) []string {
	used := ""
	if s.LastUsedAt != nil {
		used = ago(s.LastUsedAt.Format(time.RFC3339))
	}
	from := s.LastAddress
	if from == "" {
		from = s.Address
	}
	note := ""
	switch {
	case s.Current:
		note = "this one"
	case s.Half:
		note = "waits for a second factor"
	}
	return []string{id(s.ID), ago(s.CreatedAt.Format(time.RFC3339)), s.OpenedBy, used, from, s.Client, s.UserAgent, note}
}
