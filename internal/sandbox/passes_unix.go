//go:build unix

package sandbox

import (
	"io/fs"
	"slices"
	"syscall"
)

// passes reports whether the user may go through a directory, by its mode.
func (p Plan) passes(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case ok && int(st.Uid) == p.UID:
		return mode&0o100 != 0
	case ok && (int(st.Gid) == p.GID || slices.Contains(p.Groups, int(st.Gid))):
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}
