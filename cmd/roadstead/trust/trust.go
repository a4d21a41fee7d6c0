// Package trust is the owner's side of verifiable updates: the ceremony that makes a fleet's keys, signing and verifying. What is signed is made here, from what the owner's own keys vouch for; the server is asked for files and believed nothing.
// Keys and the last metadata of a fleet are kept in a directory of its own, so that a server that was restored can be given them again.
package trust

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/passphrase"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/unlock"
)

// at is where the server answers about trust.
const at = "/trust/v1"

// trust adds its commands to what they stand on.
type trust struct{ *cmdline.App }

// Command is `trust`.
func Command(app *cmdline.App) *cobra.Command {
	a := trust{app}
	group := cmdline.Group("trust", "The keys with which you vouch for what your devices run",
		a.init(), a.status(), a.sign(), a.addKey(), a.removeKey(), a.rotate(), a.threshold(), a.approval(), a.shell(), a.renew(), a.transfer(),
		a.export(), a.imports(), a.restore(), a.withdraw(), a.key(), passphrase.Command(app))
	group.Long = `Devices of a fleet check what they are told to run: by the word of the server's builder, or by yours, or by both. Whose word counts is signed with the
fleet's root keys. Until "trust init" these are the server's own, which is the weaker state: who takes the server can make another root. After it they
are yours, and never leave your machine or token.

Keys and the last metadata that you signed are kept in ~/.config/roadstead/trust/UUID. Back that directory up.`
	return group
}

// ReleaseCommands are those below `release`.
func ReleaseCommands(app *cmdline.App) []*cobra.Command {
	a := trust{app}
	return []*cobra.Command{a.releaseSign(), a.releaseVerify()}
}

// options are the flags that several commands have.
type options struct {
	unlock.Flags
	dir     string
	from    string // a file in place of the server
	offline string // a file in place of uploading
	life    string
	sure    bool
}

// register adds the flags of a command that signs.
func (o *options) register(cmd *cobra.Command) {
	o.Register(cmd)
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "`DIRECTORY` of the fleet's keys and metadata, in place of ~/.config/roadstead/trust/UUID")
	f.StringVar(&o.from, "from", "", "read what the server says from this `FILE` of `trust export`, and ask no server")
	f.StringVar(&o.offline, "offline", "", "write what is signed to this `FILE`, for `trust import`, and send nothing")
	f.BoolVarP(&o.sure, "yes", "y", false, "do not ask")
}

func (o *options) registerLife(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.life, "life", "1y", "how long what is signed holds: 1y, 180d, …")
}

// expires is when what is signed now expires.
func (o *options) expires(now time.Time) (time.Time, error) {
	text := o.life
	if text == "" {
		text = "1y"
	}
	days := 0
	for unit, n := range map[string]int{"y": 365, "d": 1} {
		if digits, ok := strings.CutSuffix(text, unit); ok {
			var count int
			if _, err := fmt.Sscanf(digits, "%d", &count); err == nil && fmt.Sprint(count) == digits {
				days = count * n
			}
		}
	}
	if days < 1 || days > 3650 {
		return time.Time{}, cmdline.Usagef("--life %q is not from 1d to 10y", text)
	}
	return now.Add(time.Duration(days) * 24 * time.Hour), nil
}

// command makes a command about one fleet, or about a file of `trust export`.
func (a trust) command(use, short, long, example string, least, most int, o *options, do func(ctx context.Context, r *run, args []string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cmdline.Args(least, most), ValidArgsFunction: cmdline.First(a.Fleets()),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &run{trust: a, options: o}
			if o.from == "" {
				var err error
				if r.c, err = a.Connect(cmd.Context()); err != nil {
					return err
				}
			}
			return do(cmd.Context(), r, args)
		},
	}
	o.register(cmd)
	return cmd
}

// run is one run of a command.
type run struct {
	trust
	*options
	c          *client.Client       // nil: there is a file in its place
	bundleKeys *api.TrustServerKeys // the server's public keys, as it told them
}

// now is the time that is signed: whole seconds.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// open reads what is known of a fleet, and the directory that is kept of it.
func (r *run) open(ctx context.Context, fleet string, w want) (*bundle, *kept.Store, error) {
	var b *bundle
	var err error
	if r.c == nil {
		b, err = readBundle(r.from)
		if err == nil && fleet != "" && fleet != b.Fleet && fleet != b.Slug && fleet != lastPart(b.Slug) {
			err = cmdline.Usagef("--from %s is about the fleet %s, not %s", r.from, b.Slug, fleet)
		}
	} else {
		var f *client.Fleet
		if f, err = r.c.FindFleet(ctx, cmdline.FleetOr(fleet), client.Query{}); err == nil {
			b, err = gather(ctx, r.c, f.UUID, w)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	r.bundleKeys = b.Keys
	s, err := kept.Open(r.dir, b.Fleet)
	return b, s, err
}

func lastPart(slug string) string { return slug[strings.LastIndexByte(slug, '/')+1:] }

// may asks, before a key is made or opened, whether what will be signed could be sent.
func (r *run) may(ctx context.Context, b *bundle, what string) error {
	if r.c == nil || r.offline != "" {
		return nil
	}
	err := r.c.Do(ctx, http.MethodPost, FleetPath(b.Fleet)+"/upload", api.TrustUpload{Files: []api.TrustFile{}, Try: what}, nil)
	const other = "; or --offline FILE, for somebody who may: `roadstead trust import`"
	switch {
	case err == nil, errors.Is(err, api.ErrInvalid): // a server that does not know the question
		return nil
	case strings.HasPrefix(api.AsError(err).Text, "Fresh authentication"), strings.HasPrefix(api.AsError(err).Text, "an API key may not"):
		first := ""
		if os.Getenv("ROADSTEAD_TOKEN") != "" {
			first = "unset ROADSTEAD_TOKEN, "
		}
		return fmt.Errorf("nothing was made or signed: who takes the trust of %s from the server has logged in as a person in the last 20 minutes, and not with an API key. "+
			"%srun `roadstead login`, then this again%s", b.Slug, first, other)
	case errors.Is(err, api.ErrForbidden):
		return fmt.Errorf("nothing was made or signed: you may not upload what is signed of %s: %w%s", b.Slug, err, other)
	}
	return fmt.Errorf("nothing was made or signed: %w", err)
}

// deliver keeps what was signed, and sends it, or writes it down for somebody who does.
func (r *run) deliver(ctx context.Context, b *bundle, s *kept.Store, list []signed) error {
	if err := keepMade(s, b, list); err != nil {
		return err
	}
	files := make([]api.TrustFile, len(list))
	for i, f := range list {
		files[i] = f.TrustFile
	}
	if r.offline != "" {
		answer := &bundle{Format: bundleFormat, Fleet: b.Fleet, Slug: b.Slug, Server: b.Server, At: now(), Signed: files}
		if err := answer.write(r.offline); err != nil {
			return err
		}
		r.Say("Wrote %s. Nothing was sent: `roadstead trust import %s` does that, where there is a network.", r.offline, r.offline)
		return nil
	}
	if r.c == nil {
		return cmdline.Usagef("with --from say by --offline where to write what is signed")
	}
	return r.upload(ctx, r.c, b.Fleet, files)
}

// upload sends what was signed.
func (a trust) upload(ctx context.Context, c *client.Client, fleet string, files []api.TrustFile) error {
	var done api.TrustUploaded
	if err := c.Do(ctx, http.MethodPost, FleetPath(fleet)+"/upload", api.TrustUpload{Files: files}, &done); err != nil {
		return fmt.Errorf("upload what was signed (it is kept here: `roadstead trust restore` sends it again): %w", err)
	}
	if a.Output == "json" {
		return a.JSON(done)
	}
	for _, name := range done.Published {
		a.Say("Published %s.", name)
	}
	for _, name := range done.Dropped {
		a.Say("%s, which waited for signatures, can never be in force any more, and was dropped.", terminal.Printable(name))
	}
	for _, name := range done.Waiting {
		a.Say("%s waits for more signatures: `roadstead trust sign` on the machines of the other keys.", name)
	}
	return nil
}

// FleetPath is where the server answers about a fleet.
func FleetPath(fleet string) string { return at + "/fleets/" + url.PathEscape(fleet) }

// checkOffline tells early what would be told after the passphrases were typed.
func (o *options) checkOffline() error {
	if o.from != "" && o.offline == "" {
		return cmdline.Usagef("with --from say by --offline where to write what is signed")
	}
	return nil
}

var errNothing = errors.New("there is nothing to sign")
