// Package passphrase changes the passphrase of an owner's key, without a network.
package passphrase

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/adrg/xdg"
	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/internal/ownerkey"
)

// flags are those of one run.
type flags struct {
	dir   string
	old   []string
	fresh string
}

// Command is `trust change-passphrase`.
func Command(a *cmdline.App) *cobra.Command {
	f := &flags{}
	cmd := &cobra.Command{
		Use: "change-passphrase FLEET|FILE", Short: "Change the passphrase of a key",
		Long: `Change the passphrase of a key in a file: of the only one that is kept here of a fleet, or of the one in FILE. The key stays the same, so nothing is signed anew,
and no server is asked. The new file takes the old one's place only after it was opened as proof.

Copies of the file, as in a backup, open with the old passphrase still. Where somebody may have both, put a new key in its place: "trust rotate".`,
		Example: "  roadstead trust change-passphrase hello\n  roadstead trust change-passphrase ~/alice.key --passphrase-file old --new-passphrase-file new",
		Args:    cmdline.Args(1, 1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			list, _ := a.Fleets()(cmd, args, typed)
			return list, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := f.find(args[0])
			if err != nil {
				return err
			}
			return f.change(cmd.Context(), a, path)
		},
	}
	cmd.Flags().StringVar(&f.dir, "dir", "", "`DIRECTORY` of the fleet's keys and metadata, in place of ~/.config/roadstead/trust/UUID")
	cmd.Flags().StringArrayVar(&f.old, "passphrase-file", nil, "`FILE` whose first line is the passphrase that it has; may be given several times, and each is tried")
	cmd.Flags().StringVar(&f.fresh, "new-passphrase-file", "", "`FILE` whose first line is the new passphrase")
	return cmd
}

// find gives the file of the key that is meant.
func (f *flags) find(ref string) (string, error) {
	if st, err := os.Stat(ref); err == nil && !st.IsDir() {
		return ref, nil
	}
	dir := f.dir
	if dir == "" {
		var err error
		if dir, err = directoryOf(filepath.Join(xdg.ConfigHome, "roadstead", "trust"), ref); err != nil {
			return "", err
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "keys", "*.key"))
	if err != nil {
		return "", err
	}
	var found []string
	for _, path := range files {
		if key, err := ownerkey.Read(path); err == nil && key.Kind == ownerkey.KindPassphrase {
			found = append(found, path)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s has no key under a passphrase: name the key's file", filepath.Join(dir, "keys"))
	case 1:
		return found[0], nil
	}
	return "", cmdline.Usagef("there are %d keys under passphrases: name one of %s", len(found), strings.Join(found, ", "))
}

// directoryOf finds what is kept of a fleet by its uuid, its slug, or the last part of that.
func directoryOf(home, fleet string) (string, error) {
	kept, err := filepath.Glob(filepath.Join(home, "*", "fleet.json"))
	if err != nil {
		return "", err
	}
	var found []string
	for _, path := range kept {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		var of struct{ Fleet, Slug string }
		if json.Unmarshal(text, &of) == nil && (fleet == of.Fleet || fleet == of.Slug || strings.HasSuffix(of.Slug, "/"+fleet)) {
			found = append(found, filepath.Dir(path))
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s is neither the file of a key nor a fleet of which anything is kept in %s", fleet, home)
	case 1:
		return found[0], nil
	}
	return "", cmdline.Usagef("several fleets are called %s: name one with its organization, or by its uuid", fleet)
}

func (f *flags) change(ctx context.Context, a *cmdline.App, path string) error {
	key, err := ownerkey.Read(path)
	if err != nil {
		return err
	}
	if key.Kind != ownerkey.KindPassphrase { // who is asked for no passphrase does not type one
		_, err := ownerkey.ChangePassphrase(ctx, path, nil, make([]byte, ownerkey.MinPassphrase))
		return err
	}
	old, err := f.before(a, key)
	if err != nil {
		return err
	}
	next, err := f.next(a)
	if err != nil {
		return err
	}
	for i, o := range old {
		if key, err = ownerkey.ChangePassphrase(ctx, path, o, next); err == nil || !errors.Is(err, ownerkey.ErrPassphrase) || i == len(old)-1 {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s: nothing is changed: %w", path, err)
	}
	if a.Output == "json" {
		return a.JSON(map[string]any{"id": key.ID, "file": key.Path()})
	}
	a.Say("The key %.8s in %s has its new passphrase. Back the file up; older copies open with the old one.", key.ID, key.Path())
	return nil
}

// before are the passphrases that the file may have.
func (f *flags) before(a *cmdline.App, key *ownerkey.File) (list [][]byte, err error) {
	files := f.old
	if env := os.Getenv("ROADSTEAD_TRUST_PASSPHRASE_FILE"); len(files) == 0 && env != "" {
		files = filepath.SplitList(env)
	}
	for _, file := range files {
		text, err := ownerkey.PassphraseFrom(file)
		if err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	if len(list) > 0 {
		return list, nil
	}
	text, err := a.AskSecret(fmt.Sprintf("Passphrase that the key %.8s has", key.ID))
	if err != nil {
		return nil, fmt.Errorf("%w: give --passphrase-file", err)
	}
	return [][]byte{[]byte(text)}, nil
}

func (f *flags) next(a *cmdline.App) ([]byte, error) {
	if f.fresh != "" {
		return ownerkey.PassphraseFrom(f.fresh)
	}
	first, err := a.AskSecret("New passphrase")
	if err != nil {
		return nil, fmt.Errorf("%w: give --new-passphrase-file", err)
	}
	again, err := a.AskSecret("The same again")
	if err != nil {
		return nil, err
	}
	if first != again {
		return nil, errors.New("the two were not the same; nothing is changed")
	}
	return []byte(first), nil
}
