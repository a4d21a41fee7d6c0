// Package keys holds the commands about API keys and about the service accounts that have only those.
package keys

import (
	"cmp"
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

// keyView is the JSON form of a key in a list; nobody can be shown the key itself again.
type keyView struct {
	ID          int64   `json:"id"`
	Name        string  `json:"name"`
	Description string  `json:"description"`
	CreatedAt   string  `json:"created_at"`
	ExpiresAt   *string `json:"expires_at"`

	LastUsedAt   *string  `json:"last_used_at"` // to the minute
	LastUsedFrom *string  `json:"last_used_from"`
	Verbs        []string `json:"verbs"` // at most these
	Channels     []string `json:"channels"`
	Networks     []string `json:"networks"`
	SomeFleets   bool     `json:"is_for_some_fleets"`
	SomeDevices  bool     `json:"is_for_some_devices"`
}

func viewKey(k client.APIKey) keyView {
	return keyView{
		ID: k.ID, Name: k.Name, Description: k.Description, CreatedAt: k.CreatedAt, ExpiresAt: cmdline.OrNil(k.ExpiryDate),
		LastUsedAt: cmdline.OrNil(k.LastUsedAt), LastUsedFrom: cmdline.OrNil(k.LastUsedFrom), Verbs: k.Verbs, Channels: k.Channels,
		Networks: strings.Fields(k.Networks), SomeFleets: k.IsForSomeFleets, SomeDevices: k.IsForSomeDevices,
	}
}

const (
	allVerbs    = 9
	allChannels = 4
)

// scope says in short what a key is limited to.
func (v keyView) scope() string {
	var parts []string
	if len(v.Verbs) < allVerbs {
		parts = append(parts, strings.Join(v.Verbs, " "))
	}
	if v.SomeFleets {
		parts = append(parts, "some fleets")
	}
	if v.SomeDevices {
		parts = append(parts, "some devices")
	}
	if len(v.Channels) < allChannels {
		parts = append(parts, "by "+strings.Join(v.Channels, " "))
	}
	if len(v.Networks) > 0 {
		parts = append(parts, "from "+strings.Join(v.Networks, " "))
	}
	return cmp.Or(strings.Join(parts, ", "), "all")
}

func ago(stamp *string) string {
	if stamp == nil {
		return "never"
	}
	return terminal.Ago(*stamp)
}

// newKeyView is the JSON form of a key that was just made.
type newKeyView struct {
	Name      string     `json:"name"`
	Key       string     `json:"key"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// keys adds its commands to what they stand on.
type keys struct{ *cmdline.App }

// Commands are the commands of this package.
func Commands(app *cmdline.App) []*cobra.Command {
	a := keys{app}
	return []*cobra.Command{
		cmdline.Group("key", "API keys of yours, and provisioning keys of fleets",
			a.keyCreateCommand(), a.keyListCommand(), a.keyExplainCommand(), a.keyRemoveCommand()),
		a.serviceAccounts(),
	}
}

// scope is what a user's key is limited to, as it is given.
type scope struct {
	level                                          string
	verbs, only, tags, devices, channels, networks []string
}

func (s *scope) register(a keys, cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.level, "level", "", "at most what an observer, operator or developer of a fleet may do")
	cmd.Flags().StringSliceVar(&s.verbs, "verb", nil, "at most this; give it again for more. Read is always among them")
	cmd.Flags().StringArrayVar(&s.only, "only", nil, "only in this fleet; give it again for more")
	cmd.Flags().StringArrayVar(&s.tags, "tag", nil, "only in fleets with this tag (key, or key=value), beside those of --only")
	cmd.Flags().StringArrayVar(&s.devices, "device-tag", nil, "only devices with this tag (key, or key=value); give it again for more")
	cmd.Flags().StringSliceVar(&s.channels, "channel", nil, "only on this channel; give it again for more")
	cmd.Flags().StringSliceVar(&s.networks, "network", nil, "only from this network (192.0.2.0/24); give it again for more")
	cmdline.Fixed(cmd, "level", "observer", "operator", "developer")
	cmdline.Fixed(cmd, "verb", "read", "devices", "actions", "shell", "keys", "releases", "settings", "members", "ownership")
	cmdline.Fixed(cmd, "channel", "api", "git", "registry", "tunnel")
	_ = cmd.RegisterFlagCompletionFunc("only", a.Fleets()) // fails only for a flag that is not there
	cmd.MarkFlagsMutuallyExclusive("level", "verb")
}

// given reports whether the key is limited at all.
func (s *scope) given() bool {
	return s.level != "" || len(s.verbs)+len(s.only)+len(s.tags)+len(s.devices)+len(s.channels)+len(s.networks) > 0
}

func (s *scope) into(key *api.NewKey) {
	key.Level, key.Verbs, key.Fleets, key.Tags, key.Devices = s.level, s.verbs, s.only, s.tags, s.devices
	key.Channels, key.Networks = s.channels, s.networks
}

func (a keys) keyCreateCommand() *cobra.Command {
	var fleet, expires, description string
	var limits scope
	var uses int
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a key; it is shown this once",
		Long: `Create an API key that can do what you can do, except what needs a session: deciding about people, sign-in and keys of users.
With --level or --verb it can do less: at most what such a member of a fleet may, or what the verbs say; with --only and --tag only in some fleets, with --device-tag only with some devices in
them, with --channel and --network only on some ways and from some places. With --fleet create a provisioning key: it can register devices into that fleet
and do nothing else.

The key alone goes to the standard output.`,
		Example: `  roadstead key create ci --expires 90d
  roadstead key create dashboard --level observer --only hello --only acme/beta
  roadstead key create pusher --verb releases --tag line=blue --channel api --network 192.0.2.0/24 --expires 30d
  roadstead key create canaries --verb devices --verb actions --device-tag ring=canary
  roadstead key create factory --fleet hello --uses 100 --expires 2027-01-31`,
		Args: cmdline.Args(1, 1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			until, err := cmdline.Expiry(expires, time.Now())
			if err != nil {
				return err
			}
			if uses != 0 && fleet == "" {
				return cmdline.Usagef("--uses is for provisioning keys; name their fleet with --fleet")
			}
			if uses < 0 {
				return cmdline.Usagef("--uses %d is no number of devices", uses)
			}
			if fleet != "" && limits.given() {
				return cmdline.Usagef("a provisioning key can do one thing in one fleet; it is limited to nothing else")
			}
			key := api.NewKey{Name: args[0], Description: description, ExpiryDate: until, MaxUses: uses}
			limits.into(&key)
			return a.createKey(cmd.Context(), key, func(ctx context.Context, c *client.Client, key api.NewKey) (string, error) {
				if fleet == "" {
					return c.CreateUserKey(ctx, key)
				}
				f, err := c.FindFleet(ctx, fleet, client.Query{})
				if err != nil {
					return "", err
				}
				return c.CreateProvisioningKey(ctx, f.ID, key)
			})
		},
	}
	cmd.Flags().StringVarP(&fleet, "fleet", "f", "", "make a provisioning key of this fleet")
	cmd.Flags().StringVar(&expires, "expires", "", "when it ends: 12h, 90d, 2027-01-31, never")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	limits.register(a, cmd)
	cmd.Flags().IntVar(&uses, "uses", 0, "how many devices it may register (0: no bound)")
	_ = cmd.RegisterFlagCompletionFunc("fleet", a.Fleets()) // fails only for a flag that is not there
	return cmd
}

// createKey has a key made and shows it.
func (a keys) createKey(
	ctx context.Context, key api.NewKey, create func(ctx context.Context, c *client.Client, key api.NewKey) (string, error),
) error {
	c, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	for i, ref := range key.Fleets {
		f, err := c.FindFleet(ctx, ref, client.Query{})
		if err != nil {
			return err
		}
		key.Fleets[i] = f.Slug
	}
	secret, err := create(ctx, c, key)
	if errors.Is(err, api.ErrUnauthorized) || errors.Is(err, api.ErrForbidden) {
		return fmt.Errorf("%w; a key cannot make keys, and a session can only soon after its login: "+
			"`roadstead login` with your password first", err)
	}
	if err != nil {
		return err
	}
	if a.Output == "json" {
		return a.JSON(newKeyView{Name: key.Name, Key: secret, ExpiresAt: key.ExpiryDate})
	}
	a.Say("This is the only time that the key is shown:")
	_, err = fmt.Fprintln(a.Out, secret)
	return err
}

// keysOf is the filter for keys of the caller's own, of a fleet or of a service account.
func keysOf(ctx context.Context, c *client.Client, fleet, service string) (string, error) {
	if fleet != "" {
		f, err := c.FindFleet(ctx, fleet, client.Query{Select: "id,slug,actor"})
		if err != nil {
			return "", err
		}
		return client.Where("is_of__actor eq ?", f.Actor.ID), nil
	}
	if service != "" {
		s, err := findService(ctx, c, service)
		if err != nil {
			return "", err
		}
		return client.Where("is_of__actor/any(a:a/is_of__user/any(u:u/id eq ?))", s.ID), nil
	}
	who, err := c.Whoami(ctx)
	if err != nil {
		return "", err
	}
	return client.Where("is_of__actor eq ? and name ne null", who.ID), nil
}

const keySelect = "id,created_at,name,description,expiry_date,last_used_at,last_used_from,verbs,channels,networks,is_for_some_fleets,is_for_some_devices"

func (a keys) keyListCommand() *cobra.Command {
	var fleet, service string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List your keys, a fleet's provisioning keys or a service account's keys",
		Example: "  roadstead key list\n  roadstead key list --fleet hello -o json",
		Args:    cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			filter, err := keysOf(cmd.Context(), c, fleet, service)
			if err != nil {
				return err
			}
			found, err := client.Get[client.APIKey](cmd.Context(), c, "api_key",
				client.Query{Select: keySelect, Filter: filter, OrderBy: "name asc"})
			if err != nil {
				return err
			}
			views := make([]keyView, len(found))
			for i, k := range found {
				views[i] = viewKey(k)
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Id", "Name", "Description", "Created", "Expires", "Last used", "From", "Scope"}}
				for _, v := range views {
					from := ""
					if v.LastUsedFrom != nil {
						from = *v.LastUsedFrom
					}
					g.Add(strconv.FormatInt(v.ID, 10), v.Name, v.Description, terminal.Ago(v.CreatedAt), expires(v.ExpiresAt), ago(v.LastUsedAt),
						from, v.scope())
				}
				return g
			})
		},
	}
	cmd.Flags().StringVarP(&fleet, "fleet", "f", "", "the provisioning keys of this fleet")
	cmd.Flags().StringVar(&service, "service-account", "", "the keys of this service account")
	cmd.MarkFlagsMutuallyExclusive("fleet", "service-account")
	_ = cmd.RegisterFlagCompletionFunc("fleet", a.Fleets()) // fails only for a flag that is not there
	return cmd
}

func expires(stamp *string) string {
	if stamp == nil {
		return "never"
	}
	at, ok := client.ParseTime(*stamp)
	if !ok {
		return *stamp
	}
	if at.Before(time.Now()) {
		return "ended " + terminal.Ago(*stamp)
	}
	return at.Local().Format("2006-01-02 15:04")
}

func (a keys) keyRemoveCommand() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use: "rm ID...", Aliases: []string{"remove", "revoke"}, Short: "Remove keys; they stop working at once",
		Example: "  roadstead key rm 31 32",
		Args:    cmdline.Args(1, -1), ValidArgsFunction: a.keyNames(),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ids []int64
			for _, arg := range args {
				id, err := strconv.ParseInt(arg, 10, 64)
				if err != nil {
					return cmdline.Usagef("%q is not the id of a key; `roadstead key list` shows them", arg)
				}
				ids = append(ids, id)
			}
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			found, err := client.Get[client.APIKey](cmd.Context(), c, "api_key",
				client.Query{Select: "id,name", Filter: client.Where("id in ?", ids)})
			if err != nil {
				return err
			}
			if len(found) < len(ids) {
				return api.Errorf(api.NotFound, "not all of the keys %s exist, or you may not see them", strings.Join(args, ", "))
			}
			for _, k := range found {
				if err := a.Confirm(sure, fmt.Sprintf("Remove key %d (%s)?", k.ID, k.Name)); err != nil {
					return err
				}
				if err := c.Delete(cmd.Context(), client.ID("api_key", k.ID), client.Query{}); err != nil {
					return err
				}
				a.Say("Removed key %d.", k.ID)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}

// keyNames completes the ids of the caller's keys, each with its name.
func (a keys) keyNames() cmdline.Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.APIKey](ctx, c, "api_key", client.Query{Select: "id,name", Filter: "name ne null", OrderBy: "name asc", Top: 200})
		var list []string
		for _, k := range found {
			list = append(list, strconv.FormatInt(k.ID, 10)+"\t"+k.Name)
		}
		return list, err
	})
}
