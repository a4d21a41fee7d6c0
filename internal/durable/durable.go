// Package durable writes files so that a loss of power on any line leaves the old content or the new one, never a mixture,
// and destroys secrets in files that must not hold them any longer. It is used on both ends, server and device.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces a file's content. When it returns nil, the new content is on the disk under that name; when the machine
// stops earlier, the old content is still there. A file that exists keeps its owner when the writer may give files away
// (root); its mode becomes perm.
func WriteFile(path string, data []byte, perm fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp") // 0600 until the end: a secret is never readable early
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, errors.Join(err, ignoreMissing(os.Remove(tmp.Name()))))
		}
	}()
	if err := fill(tmp, path, data, perm); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

func fill(tmp *os.File, path string, data []byte, perm fs.FileMode) error {
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := keepOwner(tmp, path); err != nil {
		return err
	}
	if err := tmp.Chmod(perm); err != nil {
		return err
	}
	return tmp.Sync()
}

// Remove unlinks a file and makes that durable. A file that is not there is no error.
func Remove(path string) error {
	if err := ignoreMissing(os.Remove(path)); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a directory durable: what was created, renamed or removed there stays so.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", dir, err), d.Close())
	}
	return d.Close()
}

// Shred overwrites what a file holds, in place: once with random bytes, once with zeros, each pass synced to the disk before
// the next. The file keeps its name and length. On a file system that writes in place (ext4, xfs, FAT; not btrfs or a
// log-structured one) the old bytes are then gone from the medium as far as software can reach. A file that is not there
// is no error; a name that is a link is refused, for the bytes behind it may belong to somebody else.
func Shred(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("shred: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("shred %s: not a regular file", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("shred: %w", err)
	}
	if err := overwrite(f, info.Size()); err != nil {
		return errors.Join(fmt.Errorf("shred %s: %w", path, err), f.Close())
	}
	return f.Close()
}

func overwrite(f *os.File, size int64) error {
	block := make([]byte, 64<<10)
	for _, random := range []bool{true, false} {
		clear(block)
		for at := int64(0); at < size; at += int64(len(block)) {
			part := block[:min(int64(len(block)), size-at)]
			if random {
				_, _ = rand.Read(part) // never fails, see crypto/rand
			}
			if _, err := f.WriteAt(part, at); err != nil {
				return err
			}
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
