package ownerkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrNoPassphrase says that a key's file is not one under a passphrase.
var ErrNoPassphrase = errors.New("this key is not under a passphrase")

// ChangePassphrase seals a key's file under another passphrase. The new file is written beside the old one, opened as proof, and takes its place in
// one step: whenever the machine stops, the file opens with one of the two. The key stays the same.
func ChangePassphrase(ctx context.Context, path string, old, next []byte) (*File, error) {
	path, err := filepath.EvalSymlinks(path) // the file itself is replaced, not what points to it
	if err != nil {
		return nil, err
	}
	f, err := Read(path)
	if err != nil {
		return nil, err
	}
	switch {
	case f.Kind == KindPKCS11:
		return nil, fmt.Errorf("%w: it is on a token, and `pkcs11-tool --login --change-pin` changes the token's PIN", ErrNoPassphrase)
	case f.Kind == KindFIDO2:
		return nil, fmt.Errorf("%w: a FIDO2 token opens it", ErrNoPassphrase)
	case f.Kind != KindPassphrase:
		return nil, fmt.Errorf("%w: it is the public half; name the key's own file", ErrNoPassphrase)
	case len(next) < MinPassphrase:
		return nil, fmt.Errorf("the new passphrase is shorter than %d bytes", MinPassphrase)
	case bytes.Equal(old, next):
		return nil, errors.New("the new passphrase is the old one")
	}
	seed, err := f.open(f.KDF.key(old))
	if err != nil {
		return nil, err
	}
	fresh := *f
	fresh.KDF = &KDF{Name: "argon2id", Salt: random(16), Time: timeCost, Memory: kibCost, Lanes: lanes}
	if err := fresh.seal(fresh.KDF.key(next), seed); err != nil {
		return nil, err
	}
	beside := path + ".new"
	if _, err := os.Lstat(beside); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is there: a change that was interrupted left it, or another one is at work. The key opens as before; remove the file when nobody is at it", beside)
	}
	if err := fresh.write(beside); err != nil {
		return nil, err
	}
	if err := proved(ctx, beside, f.ID, next); err != nil {
		return nil, fmt.Errorf("the new file does not open, and the old one stays: %w", errors.Join(err, os.Remove(beside)))
	}
	if err := os.Rename(beside, path); err != nil {
		return nil, errors.Join(err, os.Remove(beside))
	}
	fresh.path = path
	return &fresh, syncDir(filepath.Dir(path))
}

// proved opens what was written, as whoever signs with it next will.
func proved(ctx context.Context, path, id string, passphrase []byte) error {
	f, err := Read(path)
	if err != nil {
		return err
	}
	if f.ID != id {
		return errors.New("it holds another key")
	}
	_, err = f.Open(ctx, Unlock{Passphrase: func(string) ([]byte, error) { return passphrase, nil }})
	return err
}
