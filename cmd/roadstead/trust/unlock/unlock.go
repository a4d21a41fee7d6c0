// Package unlock finds and opens the keys of owners: files under passphrases, and tokens.
package unlock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/internal/ownerkey"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Flags are how keys are found and opened.
type Flags struct {
	Files       []string // of keys, beside those that are kept
	passphrases []string // files
	pin         string   // file
	fido2       string   // device
}

// Register adds them to a command.
func (k *Flags) Register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&k.Files, "key", nil, "sign with the key in this `FILE` too, beside those that are kept; may be given several times")
	f.StringArrayVar(&k.passphrases, "passphrase-file", nil, "`FILE` whose first line is a passphrase; may be given several times, and each is tried")
	f.StringVar(&k.pin, "pin-file", "", "`FILE` whose first line is the PIN of a token")
	f.StringVar(&k.fido2, "fido2-device", "", "the FIDO2 token to make a key on, a `DEVICE` as \"fido2-token -L\" lists it, when there are several; the one that opens a key is found")
}

// passphraseFiles are those of the flags, or of the environment.
func (k *Flags) passphraseFiles() []string {
	if env := os.Getenv("ROADSTEAD_TRUST_PASSPHRASE_FILE"); len(k.passphrases) == 0 && env != "" {
		return filepath.SplitList(env)
	}
	return k.passphrases
}

// Unlock answers questions for passphrases by one of the files, or asks for them.
func (k *Flags) Unlock(a *cmdline.App, file string) ownerkey.Unlock {
	pin := k.pin
	if pin == "" {
		pin = os.Getenv("ROADSTEAD_TRUST_PIN_FILE")
	}
	return ownerkey.Unlock{
		FIDO2: k.fido2, Say: func(text string) { a.Say("%s", text) },
		Passphrase: func(what string) ([]byte, error) {
			from := file
			if len(what) > 3 && what[:3] == "PIN" {
				from = pin
			}
			if from != "" {
				return ownerkey.PassphraseFrom(from)
			}
			text, err := a.AskSecret(what)
			if err != nil {
				return nil, fmt.Errorf("%w: give --passphrase-file (a token's PIN: --pin-file)", err)
			}
			return []byte(text), nil
		},
	}
}

// Open opens a key, with each passphrase file until one fits.
func (k *Flags) Open(ctx context.Context, a *cmdline.App, f *ownerkey.File) (tuf.Signer, error) {
	files := k.passphraseFiles()
	if f.Kind != ownerkey.KindPassphrase || len(files) == 0 {
		files = []string{""}
	}
	var err error
	for _, p := range files {
		var s ownerkey.Signer
		if s, err = f.Open(ctx, k.Unlock(a, p)); err == nil {
			return s, nil
		}
		if !errors.Is(err, ownerkey.ErrPassphrase) {
			break
		}
	}
	return nil, fmt.Errorf("key %s (%s): %w", f.ID[:min(len(f.ID), 8)], f.Path(), err)
}

// NewPassphrase asks for the passphrase of a new key, twice.
func (k *Flags) NewPassphrase(a *cmdline.App, n int) ([]byte, error) {
	if files := k.passphraseFiles(); len(files) > 0 {
		return ownerkey.PassphraseFrom(files[min(n, len(files)-1)])
	}
	first, err := a.AskSecret(fmt.Sprintf("Passphrase for key %d", n+1))
	if err != nil {
		return nil, fmt.Errorf("%w: give --passphrase-file", err)
	}
	again, err := a.AskSecret("The same again")
	if err != nil {
		return nil, err
	}
	if first != again {
		return nil, errors.New("the two were not the same; nothing was made")
	}
	return []byte(first), nil
}
