package keys

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

func (a keys) serviceAccounts() *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List the service accounts of your organizations",
		Example: "  roadstead service-account list -o json",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			found, err := services(ctx, c)
			if err != nil {
				return err
			}
			return a.Show(found, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Name", "Organization", "Keys", "Last used", "Created", "Id"}}
				for _, s := range found {
					g.Add(s.Name, s.Organization, strconv.Itoa(s.Keys), ago(cmdline.OrNil(s.LastUsedAt)), terminal.Ago(s.CreatedAt),
						strconv.FormatInt(s.ID, 10))
				}
				return g
			})
		},
	})
	key := cmdline.Group("key", "Keys of service accounts", a.serviceKeyCreate())
	cmd := cmdline.Group("service-account", "Service accounts: automation of an organization, by keys only",
		a.serviceCreate(), list, a.serviceRemove(), key)
	cmd.Long = `A service account belongs to an organization, has no password and acts by keys only. Give it a role in a fleet as you would a person
(` + "`roadstead member set NAME --fleet FLEET --role ROLE`" + `), and make its keys with ` + "`roadstead service-account key create`" + `.`
	return cmd
}

func (a keys) serviceCreate() *cobra.Command {
	var organization string
	cmd := a.Command(cmdline.Action{
		Use: "create NAME --organization ORGANIZATION", Short: "Create a service account", Least: 1, Most: 1,
		Example: "  roadstead service-account create acme-ci --organization acme",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if organization == "" {
				return cmdline.Usagef("say of which organization with --organization")
			}
			var made api.ServiceAccount
			want := api.ServiceAccount{Name: args[0], Organization: organization}
			if err := c.Do(ctx, http.MethodPost, "/service-account/v1", want, &made); err != nil {
				return err
			}
			return a.Made(made, "Created service account %s of %s.", made.Name, made.Organization)
		},
	})
	cmd.Flags().StringVar(&organization, "organization", "", "whose it is: the organization's handle")
	return cmd
}

func (a keys) serviceRemove() *cobra.Command {
	var sure bool
	cmd := a.Command(cmdline.Action{
		Use: "rm NAME", Aliases: []string{"remove"}, Short: "Remove a service account; its keys stop working at once", Least: 1, Most: 1,
		Example: "  roadstead service-account rm acme-ci --yes",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			s, err := findService(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := a.Confirm(sure, fmt.Sprintf("Remove service account %s with its %d keys?", s.Name, s.Keys)); err != nil {
				return err
			}
			if err := c.Do(ctx, http.MethodDelete, fmt.Sprintf("/service-account/v1/%d", s.ID), nil, nil); err != nil {
				return err
			}
			a.Say("Removed service account %s.", s.Name)
			return nil
		},
	})
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}

func (a keys) serviceKeyCreate() *cobra.Command {
	var end, description string
	var limits scope
	cmd := &cobra.Command{
		Use: "create SERVICE-ACCOUNT NAME", Short: "Create a key of a service account; it is shown this once",
		Example: "  roadstead service-account key create acme-ci pipeline --verb releases --expires 90d",
		Args:    cmdline.Args(2, 2), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := cmdline.Expiry(end, time.Now())
			if err != nil {
				return err
			}
			key := api.NewKey{Name: args[1], Description: description, ExpiryDate: at}
			limits.into(&key)
			return a.createKey(cmd.Context(), key, func(ctx context.Context, c *client.Client, key api.NewKey) (secret string, err error) {
				s, err := findService(ctx, c, args[0])
				if err != nil {
					return "", err
				}
				err = c.Do(ctx, http.MethodPost, fmt.Sprintf("/service-account/v1/%d/key", s.ID), key, &secret)
				return secret, err
			})
		},
	}
	cmd.Flags().StringVar(&end, "expires", "", "when it ends: 12h, 90d, 2027-01-31, never")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	limits.register(a, cmd)
	return cmd
}

func services(ctx context.Context, c *client.Client) (list []api.ServiceAccount, err error) {
	err = c.Do(ctx, http.MethodGet, "/service-account/v1", nil, &list)
	return list, err
}

func findService(ctx context.Context, c *client.Client, name string) (*api.ServiceAccount, error) {
	list, err := services(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		if s.Name == name || strconv.FormatInt(s.ID, 10) == name {
			return &s, nil
		}
	}
	return nil, api.Errorf(api.NotFound, "no service account %q in your organizations", name)
}
