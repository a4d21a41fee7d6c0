package trust

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
)

// export is `trust export`.
func (a trust) export() *cobra.Command {
	var file string
	cmd := a.Command(cmdline.Action{
		Use: "export FLEET", Short: "Write what is to be signed to a file, for a machine without a network", Least: 1, Most: 1, Complete: cmdline.First(a.Fleets()),
		Long: `Write to one file all that a machine without a network needs to sign for a fleet: its metadata, what waits for signatures, the releases that wait with their
documents, and the server's public keys. Nothing in it is secret, and nothing in it is believed there before it is verified.

On the other machine "trust sign FILE" signs what waits; "trust init", "release sign" and all others take the file by --from, and write the answer by
--offline. "trust import" sends that.`,
		Example: `  roadstead trust export hello --file request.json
  roadstead trust sign request.json --offline answer.json
  roadstead trust import answer.json`,
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if file == "" {
				return cmdline.Usagef("say by --file where to write it")
			}
			f, err := c.FindFleet(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			b, err := gather(ctx, c, f.UUID, want{keys: true, owned: true, pending: true})
			if err != nil {
				return err
			}
			if err := b.write(file); err != nil {
				return err
			}
			a.Say("Wrote %s: the fleet %s, %d files that wait for signatures, %d releases that wait for the owner.", file, b.Slug, len(b.Status.Pending), len(b.Status.Unsigned))
			return nil
		},
	})
	cmd.Flags().StringVar(&file, "file", "", "write to this `FILE`")
	return cmd
}

// imports is `trust import`.
func (a trust) imports() *cobra.Command {
	var dir string
	var sure bool
	cmd := a.Command(cmdline.Action{
		Use: "import FILE", Short: "Send what was signed on a machine without a network", Least: 1, Most: 1,
		Complete: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		Example: "  roadstead trust import answer.json",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			answer, err := readBundle(args[0])
			if err != nil {
				return err
			}
			if len(answer.Signed) == 0 {
				return fmt.Errorf("%s has nothing that was signed: it is what `trust export` wrote. Sign it first: `roadstead trust sign %s --offline answer.json`", args[0], args[0])
			}
			for _, f := range answer.Signed {
				if !kept.Owners(f.Role) {
					return fmt.Errorf("%s: %q is not a file that owners sign", args[0], f.Role)
				}
			}
			b, err := gather(ctx, c, answer.Fleet, want{owned: true})
			if err != nil {
				return err
			}
			s, err := kept.Open(dir, answer.Fleet)
			if err != nil {
				return err
			}
			h, err := holdServer(b, s)
			if err != nil {
				return err
			}
			words, err := h.words(answer.Signed)
			if err != nil {
				return fmt.Errorf("%s does not fit what the server has now: %w", args[0], err)
			}
			for _, w := range words {
				a.Say("%s", w)
			}
			if err := a.Confirm(sure, "Send this?"); err != nil {
				return err
			}
			list, err := h.signAll(answer.Signed, nil)
			if err != nil {
				return err
			}
			// This machine believes it from now on too, although it has no keys.
			if err := keepMade(s, b, list); err != nil {
				return err
			}
			return a.upload(ctx, c, answer.Fleet, answer.Signed)
		},
	})
	cmd.Flags().StringVar(&dir, "dir", "", "`DIRECTORY` of the fleet's metadata, in place of ~/.config/roadstead/trust/UUID")
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}

// restore is `trust restore`.
func (a trust) restore() *cobra.Command {
	var dir string
	cmd := a.Command(cmdline.Action{
		Use: "restore FLEET", Short: "Give a server again what you signed, after it was restored from a backup", Least: 1, Most: 1, Complete: cmdline.First(a.Fleets()),
		Long: `Send the roots, targets and releases that you signed to the server once more. After it was restored from a backup it lacks those that were signed since, and
devices, which take nothing older than what they have, wait until it has them. Nothing is signed anew, and no key is opened.`,
		Example: "  roadstead trust restore hello",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			f, err := c.FindFleet(ctx, args[0], client.Query{})
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
			list, err := s.All()
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return fmt.Errorf("nothing is kept of %s in %s: name the directory by --dir", b.Slug, s.Dir)
			}
			h, err := hold(b, s)
			if err != nil {
				return err
			}
			list, err = h.missing(b, list)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				a.Say("The server has all that is kept here.")
				return nil
			}
			return a.upload(ctx, c, f.UUID, list)
		},
	})
	cmd.Flags().StringVar(&dir, "dir", "", "`DIRECTORY` of the fleet's metadata, in place of ~/.config/roadstead/trust/UUID")
	return cmd
}

// missing are those files that the server lacks, or has an older version of.
func (h *held) missing(b *bundle, mine []api.TrustFile) ([]api.TrustFile, error) {
	var list []api.TrustFile
	for _, f := range mine {
		version, _, err := kept.VersionOf(f.Role, f.Data)
		if err != nil {
			return nil, err
		}
		theirs := int64(len(b.Roots))
		if f.Role != api.TrustRoot {
			theirs = 0
			if data := b.file(f.Role); data != nil {
				if theirs, _, err = kept.VersionOf(f.Role, data); err != nil {
					return nil, err
				}
			}
		}
		if version > theirs {
			list = append(list, f)
		}
	}
	slices.SortStableFunc(list, kept.InOrder)
	return list, nil
}
