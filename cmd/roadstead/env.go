package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// variableView is the JSON form of a variable.
type variableView struct {
	ID      int64   `json:"id"`
	Name    string  `json:"name"`
	Value   string  `json:"value"`
	Kind    string  `json:"kind"`  // environment (of services) or config (of the device itself)
	Scope   string  `json:"scope"` // fleet or device
	Service *string `json:"service"`
}

// envScope is what a variable belongs to: a fleet or a device, and perhaps one of its services.
type envScope struct {
	fleet, device, service string
}

// place is a scope that was found: the resource that holds its variables, and the fields that tie them to it.
type place struct {
	kind, scope string
	resource    string
	parent      string // name of the column
	id          int64
	service     string
}

func (s *envScope) register(a *app, cmd *cobra.Command) {
	a.FleetFlag(cmd, &s.fleet, "of all devices of this fleet")
	cmd.Flags().StringVarP(&s.device, "device", "d", "", "of this device")
	cmd.Flags().StringVarP(&s.service, "service", "s", "", "only for this service")
	_ = cmd.RegisterFlagCompletionFunc("device", a.Devices()) // fails only for a flag that is not there
	cmd.MarkFlagsMutuallyExclusive("fleet", "device")
}

func (a *app) envCommand() *cobra.Command {
	cmd := cmdline.Group("env", "Variables: what services find in their environment, and what configures devices",
		a.envSetCommand(), a.envListCommand(), a.envRemoveCommand())
	cmd.Long = `Variables belong to a fleet, to a device, or to one service of either; the closest one wins: service on the device, device, service
of the fleet, fleet. Names that begin with RESIN_ or BALENA_ configure the device itself.`
	return cmd
}

// find turns a scope into the place for variables of a kind.
func (s *envScope) find(ctx context.Context, c *client.Client, kind string) (place, error) {
	if s.device == "" {
		return s.findFleet(ctx, c, kind)
	}
	p := place{kind: kind, scope: "device", service: s.service}
	d, err := c.FindDevice(ctx, s.device, client.Query{
		Expand: "service_install($select=id;$expand=installs__service($select=id,service_name))"})
	if err != nil {
		return p, err
	}
	if s.service == "" {
		p.resource, p.parent, p.id = "device_"+kind+"_variable", "device", d.ID
		return p, nil
	}
	if kind == "config" {
		return p, cmdline.Usagef("such a variable configures the whole device, not one service")
	}
	var known []string
	for _, i := range d.Services {
		if i.Service.Get().Name == s.service {
			p.resource, p.parent, p.id = "device_service_environment_variable", "service_install", i.ID
			return p, nil
		}
		known = append(known, i.Service.Get().Name)
	}
	return p, noService(s.service, "device "+d.Name, known)
}

func (s *envScope) findFleet(ctx context.Context, c *client.Client, kind string) (place, error) {
	p := place{kind: kind, scope: "fleet", service: s.service}
	ref := cmdline.FleetOr(s.fleet)
	if ref == "" {
		return p, cmdline.Usagef("say whose with --fleet or --device")
	}
	f, err := c.FindFleet(ctx, ref, client.Query{Expand: "service($select=id,service_name)"})
	if err != nil {
		return p, err
	}
	if s.service == "" {
		p.resource, p.parent, p.id = "application_"+kind+"_variable", "application", f.ID
		return p, nil
	}
	if kind == "config" {
		return p, cmdline.Usagef("such a variable configures the whole device, not one service")
	}
	var known []string
	for _, svc := range f.Services {
		if svc.Name == s.service {
			p.resource, p.parent, p.id = "service_environment_variable", "service", svc.ID
			return p, nil
		}
		known = append(known, svc.Name)
	}
	return p, noService(s.service, "fleet "+f.Slug, known)
}

func noService(name, where string, known []string) error {
	if len(known) == 0 {
		return api.Errorf(api.NotFound, "%s has no services yet; push a release first", where)
	}
	slices.Sort(known)
	return api.Errorf(api.NotFound, "%s has no service %q, only: %s", where, name, strings.Join(known, ", "))
}

func kindOf(ctx context.Context, c *client.Client, name string) (string, error) {
	names, err := c.VarNames(ctx)
	if err != nil {
		return "", err
	}
	if names.IsConfig(name) {
		return "config", nil
	}
	return "environment", nil
}

func (a *app) envSetCommand() *cobra.Command {
	var s envScope
	cmd := &cobra.Command{
		Use: "set NAME VALUE | NAME=VALUE...", Short: "Set variables",
		Example: `  roadstead env set GREETING hello --fleet hello
  roadstead env set GREETING=hi COLOUR=blue --device kitchen --service web
  roadstead env set RESIN_SUPERVISOR_POLL_INTERVAL 60000 --device kitchen`,
		Args: cmdline.Args(1, -1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			pairs, err := assignments(args)
			if err != nil {
				return err
			}
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			for _, p := range pairs {
				kind, err := kindOf(cmd.Context(), c, p[0])
				if err != nil {
					return err
				}
				at, err := s.find(cmd.Context(), c, kind)
				if err != nil {
					return err
				}
				row := map[string]any{at.parent: at.id, "name": p[0], "value": p[1]}
				err = c.Upsert(cmd.Context(), at.resource, row, at.parent, "name")
				if err != nil {
					return err
				}
				a.Say("Set %s.", p[0])
			}
			return nil
		},
	}
	s.register(a, cmd)
	return cmd
}

// assignments reads NAME VALUE or NAME=VALUE….
func assignments(args []string) ([][2]string, error) {
	if len(args) == 2 && !strings.Contains(args[0], "=") {
		return [][2]string{{args[0], args[1]}}, nil
	}
	var pairs [][2]string
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok || name == "" {
			return nil, cmdline.Usagef("%q is not NAME=VALUE", arg)
		}
		pairs = append(pairs, [2]string{name, value})
	}
	return pairs, nil
}

func (a *app) envRemoveCommand() *cobra.Command {
	var s envScope
	cmd := &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"remove", "unset"}, Short: "Remove variables",
		Example: "  roadstead env rm GREETING --fleet hello\n  roadstead env rm GREETING --device kitchen --service web",
		Args:    cmdline.Args(1, -1), ValidArgsFunction: a.variableNames(&s),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.Connect(ctx)
			if err != nil {
				return err
			}
			for _, name := range args {
				kind, err := kindOf(ctx, c, name)
				if err != nil {
					return err
				}
				at, err := s.find(ctx, c, kind)
				if err != nil {
					return err
				}
				q := client.Query{Select: "id", Filter: client.Where(at.parent+" eq ? and name eq ?", at.id, name)}
				found, err := client.Get[client.Variable](ctx, c, at.resource, q)
				if err != nil {
					return err
				}
				if len(found) == 0 {
					return api.Errorf(api.NotFound, "there is no variable %s there", name)
				}
				if err := c.Delete(ctx, client.ID(at.resource, found[0].ID), client.Query{}); err != nil {
					return err
				}
				a.Say("Removed %s.", name)
			}
			return nil
		},
	}
	s.register(a, cmd)
	return cmd
}

func (a *app) envListCommand() *cobra.Command {
	var s envScope
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List variables; for a device, those of its fleet too",
		Example: "  roadstead env list --fleet hello\n  roadstead env list --device kitchen -o json",
		Args:    cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			views, err := s.list(cmd.Context(), c)
			if err != nil {
				return err
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Name", "Value", "Of", "Service", "Kind", "Id"}}
				for _, v := range views {
					service := "*"
					if v.Service != nil {
						service = *v.Service
					}
					if v.Kind == "config" {
						service = ""
					}
					g.Add(v.Name, v.Value, v.Scope, service, v.Kind, strconv.FormatInt(v.ID, 10))
				}
				return g
			})
		},
	}
	s.register(a, cmd)
	return cmd
}

// variableSource is one resource to read variables from.
type variableSource struct{ resource, kind, scope, filter, expand string }

func (s *envScope) list(ctx context.Context, c *client.Client) ([]variableView, error) {
	var sources []variableSource
	fleet := int64(0)
	if s.device != "" {
		d, err := c.FindDevice(ctx, s.device, client.Query{Select: "id,uuid,device_name,belongs_to__application"})
		if err != nil {
			return nil, err
		}
		fleet = d.Fleet.ID
		own := client.Where("device eq ?", d.ID)
		sources = append(sources,
			variableSource{"device_service_environment_variable", "environment", "device",
				client.Where("service_install/any(si:si/device eq ?)", d.ID),
				"service_install($select=id;$expand=installs__service($select=id,service_name))"},
			variableSource{"device_environment_variable", "environment", "device", own, ""},
			variableSource{"device_config_variable", "config", "device", own, ""})
	} else {
		at, err := (&envScope{fleet: s.fleet}).findFleet(ctx, c, "environment")
		if err != nil {
			return nil, err
		}
		fleet = at.id
	}
	own := client.Where("application eq ?", fleet)
	sources = append(sources,
		variableSource{"service_environment_variable", "environment", "fleet",
			client.Where("service/any(s:s/application eq ?)", fleet), "service($select=id,service_name)"},
		variableSource{"application_environment_variable", "environment", "fleet", own, ""},
		variableSource{"application_config_variable", "config", "fleet", own, ""})
	views := []variableView{}
	for _, src := range sources {
		found, err := client.Get[client.Variable](ctx, c, src.resource,
			client.Query{Select: "id,name,value", Filter: src.filter, Expand: src.expand, OrderBy: "name asc"})
		if err != nil {
			return nil, fmt.Errorf("list variables: %w", err)
		}
		for _, v := range found {
			service := v.Service.Get().Name
			if service == "" {
				service = v.Install.Get().Service.Get().Name
			}
			if s.service != "" && service != s.service {
				continue
			}
			views = append(views, variableView{
				ID: v.ID, Name: v.Name, Value: v.Value, Kind: src.kind, Scope: src.scope, Service: cmdline.OrNil(service)})
		}
	}
	slices.SortStableFunc(views, func(a, b variableView) int { return strings.Compare(a.Name, b.Name) })
	return views, nil
}

// variableNames completes the names of the variables in a scope.
func (a *app) variableNames(s *envScope) cmdline.Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		views, err := s.list(ctx, c)
		var list []string
		for _, v := range views {
			if s.device == "" || v.Scope == "device" {
				list = append(list, v.Name)
			}
		}
		return list, err
	})
}
