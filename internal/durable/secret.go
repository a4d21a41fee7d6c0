package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// before is added to the name of what a file held before, until that is overwritten.
const before = ".before"

// WriteSecret is [WriteFile] for a file whose old content must not stay on the disk, not even in blocks that no file has any more: once the
// new content is there, what was before is overwritten. When the machine stops in between, [SweepSecret] finishes that. One file has one
// writer at a time.
func WriteSecret(path string, data []byte, perm fs.FileMode) error {
	return WriteSecretWith(WriteFile, path, data, perm)
}

// WriteSecretWith is WriteSecret with something that writes as [WriteFile] does.
func WriteSecretWith(write func(path string, data []byte, perm fs.FileMode) error, path string, data []byte, perm fs.FileMode) error {
	if err := finishSecret(path); err != nil {
		return err
	}
	var held *os.File // without links, as on FAT: what is overwritten is known only while this program runs
	switch err := os.Link(path, path+before); {
	case err == nil || errors.Is(err, fs.ErrNotExist):
	default:
		if held, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	if err := write(path, data, perm); err != nil {
		if held != nil {
			return errors.Join(err, held.Close())
		}
		return errors.Join(err, finishSecret(path))
	}
	if held == nil {
		return finishSecret(path)
	}
	info, err := held.Stat()
	if err == nil {
		err = overwrite(held, info.Size())
	}
	return errors.Join(err, held.Close())
}

// SweepSecret destroys what a loss of power has left beside a file that [WriteSecret] writes: what it held before, and what was being
// written. It is called when nothing else writes the file, before it is used.
func SweepSecret(path string) error {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp"))
	if err != nil {
		return err
	}
	for _, litter := range left {
		if err := destroy(litter); err != nil {
			return err
		}
	}
	return finishSecret(path)
}

// finishSecret overwrites what the file held before.
func finishSecret(path string) error {
	old, err := os.Lstat(path + before)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if now, err := os.Lstat(path); err == nil && os.SameFile(old, now) { // it was not replaced
		return Remove(path + before)
	}
	return destroy(path + before)
}

func destroy(path string) error {
	if err := Shred(path); err != nil {
		return err
	}
	return Remove(path)
}
