package trust

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/standing"
	"github.com/roadstead-io/roadstead/internal/ownerkey"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// statusView is the JSON form of `trust status`.
type statusView struct {
	api.TrustStatus
	Verified bool      `json:"verified"` // from the root that is believed here
	Problem  string    `json:"problem,omitempty"`
	Root     string    `json:"root"` // SHA-256 of the newest root that follows
	Notes    []string  `json:"notes"`
	Here     []keyView `json:"keys_here"`
}

// keyView is a key that is kept here.
type keyView struct {
	ID   string `json:"id"`
	Kind string `json:"kind"`
	File string `json:"file"`
}

func (a trust) status() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "status [FLEET]", Short: "Show who vouches for a fleet, what expires, what waits for signatures, and what devices say",
		Long: `Show the trust of a fleet: who holds the root, whose word a release needs, the versions and expiries, what waits for signatures, and what devices say of their
checks. Without a fleet, one line for each fleet.

Where this machine believes a root of the fleet, what the server says is verified from that; "verified" tells.`,
		Example: "  roadstead trust status\n  roadstead trust status hello\n  roadstead trust status hello -o json",
		Args:    cmdline.Args(0, 1), ValidArgsFunction: cmdline.First(a.Fleets()),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			if fleet := cmdline.FleetOr(strings.Join(args, "")); fleet != "" {
				return a.statusOf(cmd.Context(), c, fleet, dir)
			}
			return a.statuses(cmd.Context(), c)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "`DIRECTORY` of the fleet's keys and metadata, in place of ~/.config/roadstead/trust/UUID")
	return cmd
}

// statuses prints a line for each fleet.
func (a trust) statuses(ctx context.Context, c *client.Client) error {
	fleets, err := client.Get[client.Fleet](ctx, c, "application", client.Query{Select: "id,slug,uuid", Filter: client.MyFleets, OrderBy: "slug asc"})
	if err != nil {
		return err
	}
	list := []api.TrustStatus{}
	for _, f := range fleets {
		var s api.TrustStatus
		if err := c.Do(ctx, http.MethodGet, FleetPath(f.UUID), nil, &s); err != nil {
			return fmt.Errorf("fleet %s: %w", f.Slug, err)
		}
		list = append(list, s)
	}
	return a.Show(list, func() *terminal.Grid {
		g := &terminal.Grid{Head: []string{"Fleet", "Held by", "Approval", "Shell", "Waiting", "Unsigned", "Devices"}}
		for _, s := range list {
			g.Add(s.Slug, standing.HeldBy(s.HeldBy), string(s.Approval), s.Shell, fmt.Sprint(len(s.Pending)), fmt.Sprint(len(s.Unsigned)), standing.Counts(s.Devices))
		}
		return g
	})
}

func (a trust) statusOf(ctx context.Context, c *client.Client, fleet, dir string) error {
	f, err := c.FindFleet(ctx, fleet, client.Query{})
	if err != nil {
		return err
	}
	b, err := gather(ctx, c, f.UUID, want{owned: true})
	if err != nil {
		return err
	}
	s, err := kept.Open(dir, f.UUID)
	if err != nil {
		return err
	}
	v := statusView{TrustStatus: *b.Status, Notes: []string{}, Here: []keyView{}}
	h, err := hold(b, s)
	if err != nil {
		v.Problem = err.Error()
	} else {
		v.Verified, v.Root = !h.first, tuf.Digest(h.file)
		v.Notes = append(v.Notes, h.notes...)
		v.Notes = append(v.Notes, h.expired(time.Now())...)
		v.HeldBy, v.Approval, v.Shell = h.root.Mark.HeldBy, h.targets.Mark.Approval, h.targets.Mark.Shell // as it is signed, not as it is said
	}
	for _, r := range v.Roles {
		if r.Name != api.TrustRoot && r.Name != api.TrustTargets && !r.Expires.IsZero() && !r.Expires.After(time.Now()) && !strings.Contains(r.Name, "-") {
			v.Notes = append(v.Notes, fmt.Sprintf("%s EXPIRED on %s: the server signs it; is its signer running?", r.Name, r.Expires.Format(time.DateOnly)))
		}
	}
	keys, err := s.Keys()
	if err != nil {
		return err
	}
	for _, k := range keys {
		v.Here = append(v.Here, keyView{k.ID, k.Kind, k.Path()})
	}
	if a.Output == "json" {
		return a.JSON(v)
	}
	a.tell(v, keys)
	if v.Problem != "" {
		return fmt.Errorf("what the server says does NOT verify: %s", v.Problem)
	}
	return nil
}

func (a trust) tell(v statusView, keys []*ownerkey.File) {
	says := "from the root that this machine believes"
	if !v.Verified {
		says = "no: this machine knows no root of the fleet and takes the server's word"
	}
	g := &terminal.Grid{Rows: [][]string{
		{"Fleet", v.Slug}, {"UUID", v.Fleet}, {"Held by", standing.HeldBy(v.HeldBy)}, {"Approval", string(v.Approval)}, {"Server's SSH authority", v.Shell},
		{"Root", v.Root}, {"Verified", says}, {"Devices", standing.Counts(v.Devices)},
	}}
	for _, k := range keys {
		g.Add("Key here", short(k.ID)+" "+k.Describe())
	}
	a.Table(g)
	fmt.Fprintln(a.Out)
	roles := &terminal.Grid{Head: []string{"Role", "Version", "Expires", "Signed by"}}
	for _, r := range v.Roles {
		expires := r.Expires.Format(time.DateOnly)
		if r.Expires.IsZero() { // the director's statements have dates of their own
			expires = ""
		}
		roles.Add(r.Name, fmt.Sprint(r.Version), expires, fmt.Sprintf("%d of %s", r.Threshold, strings.Join(shortIDs(r.Keys), ", ")))
	}
	a.Table(roles)
	for _, p := range v.Pending {
		a.Say("%s. `roadstead trust sign %s`", waits(p), v.Slug)
	}
	for _, u := range v.Unsigned {
		a.Say("Release %s waits for the owner, since %s: `roadstead release sign %s`", terminal.Short(u.Commit), u.CreatedAt.Local().Format("2006-01-02 15:04"), terminal.Short(u.Commit))
	}
	for _, d := range v.Rejecting {
		a.Say("Device %s (%s) refuses what it is told: %s", d.Name, terminal.Short(string(d.UUID)), Refusal(d.Rejection))
	}
	for _, l := range v.Leaving {
		a.Say("Device %s was moved to another fleet on %s and has not been seen there yet: it goes by this fleet's word.", terminal.Short(string(l.UUID)), l.Since.Format(time.DateOnly))
	}
	for _, n := range v.Notes {
		a.Say("%s", n)
	}
	if v.HeldBy == api.HeldByServer {
		a.Say("The root is the server's, which is the weaker state: `roadstead trust init %s` makes it yours.", v.Slug)
	}
	if n := v.Devices[api.TrustUnverified]; n > 0 {
		a.Say("%d devices check nothing: balena supervisors, and agents that were given no root.", n)
	}
}

// Refusal puts a rejection into one line.
func Refusal(r api.TrustRejection) string { return (&tuf.Refused{TrustRejection: r}).Error() }
