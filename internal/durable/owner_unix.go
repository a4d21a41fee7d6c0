//go:build unix

package durable

import (
	"os"
	"syscall"
)

// keepOwner gives the new file the owner of the one it replaces, when there is one and the caller may.
func keepOwner(tmp *os.File, path string) error {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || os.Geteuid() != 0 {
		return nil //nolint:nilerr // there is nothing to keep
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return tmp.Chown(int(st.Uid), int(st.Gid))
	}
	return nil
}
