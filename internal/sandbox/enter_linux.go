package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Enter carries the plan out and starts this program again, as the user, with the same arguments and open files. It returns
// only when it failed; the process must end then.
//
// The second start is what makes it hold: "no new privileges" and the capability bounding set belong to a thread, and execve
// leaves exactly one thread, this one.
func (p Plan) Enter() error {
	runtime.LockOSThread()
	if err := p.show(); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if !p.Setuid {
		if err := dropBounding(); err != nil {
			return fmt.Errorf("sandbox: capability bounding set: %w", err)
		}
	}
	if err := syscall.Setgroups(p.Groups); err != nil {
		return fmt.Errorf("sandbox: groups %v: %w", p.Groups, err)
	}
	if err := syscall.Setresgid(p.GID, p.GID, p.GID); err != nil {
		return fmt.Errorf("sandbox: group %d: %w", p.GID, err)
	}
	if err := syscall.Setresuid(p.UID, p.UID, p.UID); err != nil {
		return fmt.Errorf("sandbox: user %d: %w", p.UID, err)
	}
	if !p.Setuid {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("sandbox: no new privileges: %w", err)
		}
	}
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, envName+"=") {
			env = append(env, e)
		}
	}
	if exe, err := os.Executable(); err == nil {
		_ = syscall.Exec(exe, os.Args, env) // by its own name, so that process lists show it
	}
	return fmt.Errorf("sandbox: start again: %w", syscall.Exec("/proc/self/exe", os.Args, env))
}

func dropBounding() error {
	for c := uintptr(0); c < 64; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // beyond the last capability that this kernel knows
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// show makes the private view: over each closed directory a small empty file system, and in it, at their old names, the
// things to show. The parent gave this process a mount namespace of its own.
func (p Plan) show() error {
	type shown struct {
		path string
		fd   int
		dir  bool
	}
	closed := map[string][]shown{}
	for _, path := range p.Show {
		top := p.Closed(path)
		if top == "" {
			continue
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		closed[top] = append(closed[top], shown{path, fd, info.IsDir()})
	}
	for top, things := range closed {
		if err := unix.Mount("roadstead", top, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=64k"); err != nil {
			return fmt.Errorf("user %d cannot reach %s because %s is closed to it, and a view of its own is not permitted here "+
				"(%w): move it to a directory that all may pass through, like /var/lib", p.UID, things[0].path, top, err)
		}
		for _, t := range things {
			if err := mountPoint(t.path, t.dir); err != nil {
				return err
			}
			if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", t.fd), t.path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				return fmt.Errorf("show %s: %w", t.path, err)
			}
			_ = unix.Close(t.fd)
		}
	}
	return nil
}

func mountPoint(path string, dir bool) error {
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
