package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/hardware"
	"github.com/roadstead-io/roadstead/cmd/roadstead/people"
	"github.com/roadstead-io/roadstead/cmd/roadstead/source"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/standing"
)

// fleetView is the JSON form of a fleet.
type fleetView struct {
	ID            int64           `json:"id"`
	Slug          string          `json:"slug"`
	Name          string          `json:"name"`
	UUID          string          `json:"uuid"`
	Organization  string          `json:"organization"`
	DeviceType    string          `json:"device_type"`
	AlsoBuiltFor  []string        `json:"also_built_for,omitempty"`
	TrackLatest   bool            `json:"track_latest"`
	TargetRelease *releaseName    `json:"target_release"`
	Devices       int             `json:"devices"`
	DevicesOnline int             `json:"devices_online"`
	CreatedAt     string          `json:"created_at"`
	Trust         *standing.Fleet `json:"trust,omitempty"`
	Git           *gitView        `json:"git,omitempty"`
}

// gitView is how a fleet is pushed to.
type gitView struct {
	SSH        string `json:"ssh,omitempty"`
	HTTPS      string `json:"https"`
	Branch     string `json:"branch,omitempty"` // none: main and master
	HostKey    string `json:"host_key,omitempty"`
	KnownHosts string `json:"known_hosts,omitempty"`
}

// rows say it to people.
func (g *gitView) rows() [][]string {
	branch := "main or master"
	if g.Branch != "" {
		branch = g.Branch
	}
	rows := [][]string{{"Git over HTTPS", g.HTTPS}, {"Branch that builds", branch}}
	if g.SSH != "" {
		rows = append([][]string{{"Git over SSH", g.SSH}, {"SSH host key", g.HostKey}}, rows...)
	}
	return rows
}

// releaseName is as much of a release as names it.
type releaseName struct {
	ID      int64  `json:"id"`
	Commit  string `json:"commit"`
	Version string `json:"version,omitempty"`
}

func nameOf(r client.Ref[client.Release]) *releaseName {
	if r.Row == nil {
		return nil
	}
	return &releaseName{ID: r.Row.ID, Commit: r.Row.Commit, Version: r.Row.RawVersion}
}

func (r *releaseName) String() string {
	if r == nil {
		return ""
	}
	return terminal.Short(r.Commit)
}

var fleetQuery = client.Query{
	Select: "id,slug,app_name,uuid,created_at,should_track_latest_release,git_branch,is_also_built_for",
	Expand: "is_for__device_type($select=id,slug),organization($select=id,handle),owns__device($select=id,is_online)," +
		"should_be_running__release($select=id,commit,raw_version)",
}

func viewFleet(f client.Fleet) fleetView {
	v := fleetView{
		ID: f.ID, Slug: f.Slug, Name: f.Name, UUID: f.UUID, Organization: f.Organization.Get().Handle,
		DeviceType: f.DeviceType.Get().Slug, TrackLatest: f.TrackLatest, TargetRelease: nameOf(f.Target),
		Devices: len(f.Devices), CreatedAt: f.CreatedAt,
	}
	if f.AlsoBuiltFor != "" {
		v.AlsoBuiltFor = strings.Split(f.AlsoBuiltFor, ",")
	}
	for _, d := range f.Devices {
		if d.IsOnline {
			v.DevicesOnline++
		}
	}
	return v
}

func (a *app) fleetCommand() *cobra.Command {
	return cmdline.Group("fleet", "Fleets: devices that run the same releases",
		a.fleetCreateCommand(), a.fleetListCommand(), a.fleetShowCommand(), a.fleetPinCommand(), a.fleetSetCommand(),
		a.fleetRenameCommand(), people.FleetTransfer(a.App), source.Command(a.App), a.fleetRestartCommand(), a.fleetPurgeCommand(), a.fleetRemoveCommand())
}

func (a *app) fleetCreateCommand() *cobra.Command {
	var deviceType, organization string
	cmd := &cobra.Command{
		Use: "create NAME --type DEVICE-TYPE", Short: "Create a fleet",
		Example: `  roadstead fleet create hello --type generic-amd64
  roadstead fleet create acme/hello --type raspberrypi4-64`,
		Args: cmdline.Args(1, 1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if org, rest, ok := strings.Cut(name, "/"); ok {
				if organization != "" && organization != org {
					return cmdline.Usagef("%s and --organization %s: which one?", name, organization)
				}
				organization, name = org, rest
			}
			if deviceType == "" {
				return cmdline.Usagef("say on what hardware it runs with --type (`roadstead device-type list` shows all)")
			}
			return a.createFleet(cmd.Context(), name, deviceType, organization)
		},
	}
	cmd.Flags().StringVarP(&deviceType, "type", "t", "", "device type, such as generic-amd64 (see `roadstead device-type list`)")
	cmd.Flags().StringVar(&organization, "organization", "", "organization to own it; yours alone when it is not given")
	_ = cmd.RegisterFlagCompletionFunc("type", a.DeviceTypes()) // fails only for a flag that is not there
	return cmd
}

func (a *app) createFleet(ctx context.Context, name, deviceType, organization string) error {
	c, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	org, err := findOrganization(ctx, c, organization)
	if err != nil {
		return err
	}
	kind, err := hardware.FindDeviceType(ctx, c, deviceType)
	if err != nil {
		return err
	}
	made, err := client.Create[client.Fleet](ctx, c, "application", map[string]any{
		"app_name": name, "is_for__device_type": kind, "organization": org.ID, "is_of__class": "fleet"})
	if errors.Is(err, api.ErrConflict) {
		return fmt.Errorf("fleet %s/%s exists already: %w", org.Handle, name, err)
	}
	if err != nil {
		return err
	}
	if a.Output == "json" {
		q := fleetQuery
		full, err := client.One[client.Fleet](ctx, c, client.ID("application", made.ID), q)
		if err != nil {
			return err
		}
		return a.JSON(viewFleet(*full))
	}
	a.Say("Created fleet %s. Push a project to it with `roadstead push %s`.", made.Slug, made.Slug)
	return nil
}

func findOrganization(ctx context.Context, c *client.Client, handle string) (*client.Organization, error) {
	who, err := c.Whoami(ctx)
	if err != nil {
		return nil, err
	}
	q := client.Query{Select: "id,name,handle", OrderBy: "name asc",
		Filter: client.Where("organization_membership/any(orm:orm/user eq ?)", who.ActorTypeID)}
	found, err := client.Get[client.Organization](ctx, c, "organization", q)
	if err != nil {
		return nil, err
	}
	if handle == "" && len(found) > 1 {
		handle = who.Username // the organization that came with the user, when it is still there
	}
	var handles []string
	for _, o := range found {
		if o.Handle == handle {
			return &o, nil
		}
		handles = append(handles, o.Handle)
	}
	switch {
	case handle != "" && handle != who.Username:
		return nil, api.Errorf(api.NotFound, "you are in no organization %q, only in: %s", handle, strings.Join(handles, ", "))
	case len(found) == 1:
		return &found[0], nil
	case len(found) == 0:
		return nil, api.Errorf(api.NotFound, "you are in no organization")
	}
	return nil, cmdline.Usagef("say whose it shall be with --organization: %s", strings.Join(handles, ", "))
}

func (a *app) fleetListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List your fleets",
		Example: "  roadstead fleet list\n  roadstead fleet list -o json",
		Args:    cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			q := fleetQuery
			q.Filter, q.OrderBy = client.MyFleets, "app_name asc"
			found, err := client.Get[client.Fleet](cmd.Context(), c, "application", q)
			if err != nil {
				return err
			}
			views := make([]fleetView, len(found))
			trusts := standing.FleetsOf(cmd.Context(), c)
			for i, f := range found {
				views[i] = viewFleet(f)
				views[i].Trust = trusts[f.UUID]
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Fleet", "Device type", "Devices", "Online", "Release", "Trust", "Created"}}
				for _, v := range views {
					g.Add(v.Slug, v.DeviceType, strconv.Itoa(v.Devices), strconv.Itoa(v.DevicesOnline),
						v.TargetRelease.String(), v.Trust.Short(), terminal.Ago(v.CreatedAt))
				}
				return g
			})
		},
	}
}

func (a *app) fleetShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show [FLEET]", Short: "Show one fleet",
		Example: "  roadstead fleet show hello\n  roadstead fleet show acme/hello -o json",
		Args:    cmdline.Args(0, 1), ValidArgsFunction: cmdline.First(a.Fleets()),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			f, err := c.FindFleet(cmd.Context(), cmdline.FleetOr(strings.Join(args, "")), fleetQuery)
			if err != nil {
				return err
			}
			v := viewFleet(*f)
			site, err := c.Git(cmd.Context())
			if err != nil {
				return err
			}
			v.Trust = standing.FleetOf(cmd.Context(), c, f.UUID)
			v.Git = &gitView{Branch: f.GitBranch, HostKey: site.Fingerprint, KnownHosts: site.KnownHosts}
			v.Git.SSH, v.Git.HTTPS = c.Remote(site, f.Slug)
			return a.Show(v, func() *terminal.Grid {
				follows := "the latest final release"
				if !v.TrackLatest {
					follows = "nothing: it is pinned"
				}
				target := "none yet"
				if v.TargetRelease != nil {
					target = fmt.Sprintf("%s (%s)", v.TargetRelease.Commit, v.TargetRelease.Version)
				}
				kind := v.DeviceType
				if len(v.AlsoBuiltFor) > 0 {
					kind += ", also built for " + strings.Join(v.AlsoBuiltFor, ", ")
				}
				return &terminal.Grid{Rows: append([][]string{
					{"Fleet", v.Slug}, {"Id", strconv.FormatInt(v.ID, 10)}, {"UUID", v.UUID}, {"Device type", kind},
					{"Devices", fmt.Sprintf("%d, %d online", v.Devices, v.DevicesOnline)}, {"Target release", target},
					{"Follows", follows}, {"Trust", v.Trust.String()}, {"Created", v.CreatedAt}}, v.Git.rows()...)}
			})
		},
	}
}

func (a *app) fleetPinCommand() *cobra.Command {
	var latest bool
	cmd := &cobra.Command{
		Use: "pin FLEET (RELEASE | --latest)", Short: "Keep a fleet on one release, or let it follow the latest again",
		Example: "  roadstead fleet pin hello 4f0c1aa\n  roadstead fleet pin hello --latest",
		Args:    cmdline.Args(1, 2), ValidArgsFunction: cmdline.Each(a.Fleets(), a.Releases()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if latest == (len(args) == 2) {
				return cmdline.Usagef("give a release or --latest")
			}
			ctx := cmd.Context()
			c, err := a.Connect(ctx)
			if err != nil {
				return err
			}
			f, err := c.FindFleet(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			if latest {
				err := c.Patch(ctx, client.ID("application", f.ID), client.Query{}, map[string]any{"should_track_latest_release": true})
				if err != nil {
					return err
				}
				a.Say("%s follows its latest release.", f.Slug)
				return nil
			}
			r, err := findReleaseOf(ctx, c, f.ID, args[1])
			if err != nil {
				return err
			}
			err = c.Patch(ctx, client.ID("application", f.ID), client.Query{},
				map[string]any{"should_be_running__release": r.ID, "should_track_latest_release": false})
			if err != nil {
				return err
			}
			a.Say("%s is pinned to %s.", f.Slug, terminal.Short(r.Commit))
			return nil
		},
	}
	cmd.Flags().BoolVar(&latest, "latest", false, "follow the latest final release")
	return cmd
}

// findReleaseOf finds a release that a fleet can run.
func findReleaseOf(ctx context.Context, c *client.Client, fleet int64, ref string) (*client.Release, error) {
	r, err := c.FindRelease(ctx, ref, client.Query{Select: "id,commit,status,belongs_to__application"})
	if err != nil {
		return nil, err
	}
	if r.Fleet.ID != fleet {
		return nil, api.Errorf(api.Invalid, "release %s belongs to another fleet", terminal.Short(r.Commit))
	}
	if r.Status != api.StatusSuccess {
		return nil, api.Errorf(api.Invalid, "release %s is %s; only a successful one can run", terminal.Short(r.Commit), r.Status)
	}
	return r, nil
}

func (a *app) fleetRemoveCommand() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use: "rm FLEET", Aliases: []string{"remove"}, Short: "Remove a fleet with all its releases and variables",
		Example: "  roadstead fleet rm hello --yes",
		Args:    cmdline.Args(1, 1), ValidArgsFunction: cmdline.First(a.Fleets()),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			f, err := c.FindFleet(cmd.Context(), args[0], client.Query{Expand: "owns__device($select=id)"})
			if err != nil {
				return err
			}
			question := fmt.Sprintf("Remove fleet %s with its releases, variables and %d devices?", f.Slug, len(f.Devices))
			if err := a.Confirm(sure, question); err != nil {
				return err
			}
			if err := c.Delete(cmd.Context(), client.ID("application", f.ID), client.Query{}); err != nil {
				return err
			}
			a.Say("Removed fleet %s.", f.Slug)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}
