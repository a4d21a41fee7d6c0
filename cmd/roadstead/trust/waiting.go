package trust

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
)

// waits says of a file that waits for signatures what it is, who brought it, and how far it is.
func waits(p api.TrustPending) string {
	text := fmt.Sprintf("%s %d waits for signatures: ", terminal.Printable(p.Role), p.Version)
	if p.By != "" {
		text += "of " + terminal.Printable(p.By) + "'s, "
	}
	if !p.Since.IsZero() {
		text += "since " + p.Since.Format(time.DateOnly) + ", "
	}
	return text + fmt.Sprintf("%d of %d are there (%s)", len(p.Signed), p.Threshold, strings.Join(shortIDs(p.Signed), ", "))
}

// free refuses to make files in whose place others wait: what waits would be lost, or the new ones would be refused.
func (b *bundle) free(roles ...string) error {
	if b.Status == nil {
		return nil
	}
	for _, p := range b.Status.Pending {
		if slices.Contains(roles, p.Role) {
			return fmt.Errorf("nothing was made or signed, for another %s. `roadstead trust sign %s` adds your signature to it; `roadstead trust withdraw %s` takes it back, then run this again",
				waits(p), b.Slug, b.Slug)
		}
	}
	return nil
}

// freeFor is free for files.
func (b *bundle) freeFor(files []api.TrustFile) error {
	roles := make([]string, len(files))
	for i, f := range files {
		roles[i] = f.Role
	}
	return b.free(roles...)
}

// heldUp refuses to sign releases while something waits that changes who signs them: what is signed now would be void with it. All else that waits holds up nothing.
func (r *run) heldUp(b *bundle, h *held) error {
	if b.Status == nil {
		return nil
	}
	next := h.copy()
	for _, p := range b.Status.Pending {
		if p.Role != api.TrustRoot && p.Role != api.TrustTargets && p.Role != api.TrustOwner {
			continue
		}
		if err := next.take(p.Role, p.Data); err != nil {
			return fmt.Errorf("%s, and cannot be read: `roadstead trust withdraw %s` takes it back: %w", waits(p), b.Slug, err)
		}
		if sameHolders(next.targets.Owner, next.targets.OwnerThreshold, h.targets.Owner, h.targets.OwnerThreshold) == nil &&
			sameHolders(next.root.Keys[api.TrustTargets], next.root.Threshold[api.TrustTargets], h.root.Keys[api.TrustTargets], h.root.Threshold[api.TrustTargets]) == nil {
			r.Say("%s. It does not hold this up.", waits(p))
			continue
		}
		return fmt.Errorf("%s, and changes whose keys sign: what you sign now would be void with it. `roadstead trust sign %s` comes first; or `roadstead trust withdraw %s` takes it back", waits(p), b.Slug, b.Slug)
	}
	return nil
}

// withdraw is `trust withdraw`.
func (a trust) withdraw() *cobra.Command {
	var dir string
	var sure bool
	cmd := a.Command(cmdline.Action{
		Use: "withdraw FLEET [FILE...]", Short: "Take back what waits for signatures", Least: 1, Most: -1, Complete: cmdline.First(a.Fleets()),
		Long: `Take back files that wait for signatures, or those that are named, as "3.root": another one is in their way, or they are not wanted any more. Root, targets and
owner go together. You may take back what you brought yourself; who may say who does what in the fleet (the verb "members") takes back what others brought. No key is needed.

What is in force is not taken back, but replaced. A signature that was given stays one: who kept a copy of the file may bring it again, and with enough signatures it counts, until
another file of that version is in force.`,
		Example: "  roadstead trust withdraw hello\n  roadstead trust withdraw hello 3.root",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			f, err := c.FindFleet(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			var status api.TrustStatus
			if err := c.Do(ctx, http.MethodGet, FleetPath(f.UUID), nil, &status); err != nil {
				return fmt.Errorf("ask for the trust of the fleet: %w", err)
			}
			names, err := a.chosen(status, args[1:])
			if err != nil {
				return err
			}
			if err := a.Confirm(sure, "Take this back?"); err != nil {
				return err
			}
			s, err := kept.Open(dir, f.UUID)
			if err != nil {
				return err
			}
			var done api.TrustWithdrawn
			if err := c.Do(ctx, http.MethodPost, FleetPath(f.UUID)+"/withdraw", api.TrustWithdrawal{Files: names}, &done); err != nil {
				return fmt.Errorf("take it back: %w", err)
			}
			return a.withdrawn(s, done)
		},
	})
	cmd.Flags().StringVar(&dir, "dir", "", "`DIRECTORY` of the fleet's keys and metadata, in place of ~/.config/roadstead/trust/UUID")
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}

// chosen gives the names of the files that are taken back, and shows them.
func (a trust) chosen(status api.TrustStatus, want []string) (names []string, err error) {
	if len(status.Pending) == 0 {
		return nil, fmt.Errorf("nothing of %s waits for signatures", terminal.Printable(status.Slug))
	}
	var all []string
	for _, p := range status.Pending {
		name := fmt.Sprintf("%d.%s", p.Version, p.Role)
		all = append(all, name)
		if len(want) == 0 || slices.Contains(want, name) {
			names = append(names, name)
			a.Say("%s", waits(p))
		}
	}
	for _, name := range want {
		if !slices.Contains(all, name) {
			return nil, cmdline.Usagef("%q does not wait for signatures; there wait %s", name, terminal.Printable(strings.Join(all, ", ")))
		}
	}
	return names, nil
}

// withdrawn tells what became of it. What was kept here of what waited is kept no more.
func (a trust) withdrawn(s *kept.Store, done api.TrustWithdrawn) error {
	for _, name := range done.Withdrawn {
		_, role, _ := strings.Cut(name, ".")
		if !kept.Owners(role) || strings.ContainsAny(role, "/\\") {
			continue
		}
		if err := os.Remove(s.Path("waiting/" + role + ".json")); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if a.Output == "json" {
		return a.JSON(done)
	}
	for _, name := range done.Withdrawn {
		a.Say("Took back %s.", terminal.Printable(name))
	}
	for _, name := range done.Published {
		a.Say("Published %s, which had waited because of it.", terminal.Printable(name))
	}
	for _, name := range done.Waiting {
		a.Say("%s waits still.", terminal.Printable(name))
	}
	return nil
}
