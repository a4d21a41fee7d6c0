package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// VerifyBlobs reads every stored blob and compares it with its digest. The error names each one that is damaged.
func VerifyBlobs(ctx context.Context, storage string) (int, error) {
	root := filepath.Join(storage, "docker", "registry", "v2", "blobs", "sha256")
	n := 0
	var damaged []error
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // nothing was pushed yet
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.IsDir() || d.Name() != "data":
			return nil
		}
		n++
		want := filepath.Base(filepath.Dir(path))
		got, err := digest(path)
		if err != nil {
			return err
		}
		if got != want {
			damaged = append(damaged, fmt.Errorf("registry: blob sha256:%s is damaged: its bytes are sha256:%s", want, got))
		}
		return nil
	})
	return n, errors.Join(append(damaged, err)...)
}

func digest(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
