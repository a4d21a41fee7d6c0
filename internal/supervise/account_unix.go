//go:build unix

package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// account is the Unix user of a role.
type account struct {
	name     string
	uid, gid int
}

// ensureAccount finds a system user, or makes it: no home, no shell, a group of its own.
func ensureAccount(name string) (*account, error) {
	u, err := user.Lookup(name)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		out, cmdErr := exec.Command("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
			"--shell", "/usr/sbin/nologin", "--comment", "Roadstead role", name).CombinedOutput()
		if cmdErr != nil {
			// Another server on this machine may have made it meanwhile.
			if u, err = user.Lookup(name); err != nil {
				return nil, fmt.Errorf("the user %s cannot be made: %w: %s", name, cmdErr, strings.TrimSpace(string(out)))
			}
		} else {
			u, err = user.Lookup(name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	if uid == 0 || gid == 0 {
		return nil, fmt.Errorf("user %s is root; a role is not", name)
	}
	return &account{name: name, uid: uid, gid: gid}, nil
}

func owner(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// lock takes the data directory for this process. It is free again the moment the process ends, however it ends.
func lock(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data directory cannot be written: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(errBusy, f.Close())
	}
	return f, nil
}

var errBusy = errors.New("another roadsteadd is running on this data directory; `roadsteadd status` shows it")
