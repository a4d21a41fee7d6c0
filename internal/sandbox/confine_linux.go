package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ConfineCommand is the hidden command of a program with which it calls [Confined] on itself.
const ConfineCommand = "__confined"

const prlimit = "/usr/bin/prlimit" // of util-linux

// Confine says what a program that a role starts may do: reach the system's programs and libraries, and what is named here; no network.
type Confine struct {
	Read  []string `json:"read,omitempty"`  // files and directories that it may read
	Write []string `json:"write,omitempty"` // and those that it may change
	// Bounds of each process; 0 for none.
	Memory     uint64 `json:"memory,omitempty"` // bytes of writable memory
	FileBytes  uint64 `json:"file,omitempty"`   // of one file
	CPUSeconds uint64 `json:"cpu,omitempty"`
	Files      uint64 `json:"files,omitempty"` // open at once

	Parent int `json:"parent"` // set by Args: the process whose death ends this one
}

// Args are the arguments with which this program, started again by the calling process, becomes the confined program. It ends with the
// thread that starts it, which must be one that lasts.
func (c Confine) Args(program string, args ...string) []string {
	c.Parent = os.Getpid()
	data, err := json.Marshal(c)
	if err != nil {
		panic(err) // texts and numbers always marshal
	}
	return append([]string{ConfineCommand, string(data), program}, args...)
}

// Confined carries out what [Confine.Args] gave, without the command itself. It returns only when it failed; the process must end then.
func Confined(args []string) error {
	if len(args) < 2 {
		return errors.New("sandbox: there is nothing to run")
	}
	var c Confine
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	runtime.LockOSThread() // what follows belongs to a thread; execve leaves this one
	// Whoever started this process may have asked for it, but of the first thread, which this one need not be.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("sandbox: end with the parent: %w", err)
	}
	if os.Getppid() != c.Parent {
		return errors.New("sandbox: the parent is gone")
	}
	for what, max := range map[int]uint64{
		unix.RLIMIT_FSIZE: c.FileBytes, unix.RLIMIT_CPU: c.CPUSeconds, unix.RLIMIT_NOFILE: c.Files,
	} {
		if max == 0 {
			continue
		}
		// By syscall, which remembers it: at execve the runtime gives back the number of files that it raised otherwise.
		if err := syscall.Setrlimit(what, &syscall.Rlimit{Cur: max, Max: max}); err != nil {
			return fmt.Errorf("sandbox: limit %d: %w", what, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("sandbox: no new privileges: %w", err)
	}
	if err := c.landlock(); err != nil {
		return err
	}
	if err := refuse(append(exceptStarting(), unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND)); err != nil {
		return err
	}
	command := args[1:]
	if c.Memory > 0 {
		// This program itself may have more already than the one that it becomes shall get, and could not go on to the end.
		command = slices.Concat([]string{prlimit, fmt.Sprintf("--data=%d", c.Memory), "--"}, command)
	}
	return fmt.Errorf("sandbox: start %s: %w", command[0], syscall.Exec(command[0], command, os.Environ()))
}

// system is what every program needs.
var system = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/dev/urandom"}

// What a ruleset speaks of, by the version of the kernel's interface.
const (
	fsRead  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	fsFirst = fsRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	fsFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// landlock bounds what is reached in the file system. A kernel that cannot leaves it open: the Unix user is the wall then.
func (c Confine) landlock() error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return nil
	}
	all := uint64(fsFirst)
	if version >= 2 {
		all |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		all |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: all}
	size := unsafe.Sizeof(attr.Handled_access_fs) // the first field alone is what the first version knows
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("sandbox: landlock: %w", errno)
	}
	ruleset := int(fd)
	defer func() { _ = unix.Close(ruleset) }()
	for _, path := range slices.Concat(system, c.Read) {
		if err := allow(ruleset, path, fsRead&all); err != nil {
			return err
		}
	}
	for _, path := range append([]string{"/dev/null"}, c.Write...) {
		if err := allow(ruleset, path, all); err != nil {
			return err
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0); errno != 0 {
		return fmt.Errorf("sandbox: landlock: %w", errno)
	}
	return nil
}

func allow(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // not every system has all of them
	}
	if err != nil {
		return fmt.Errorf("sandbox: landlock: %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("sandbox: landlock: %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= fsFile
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("sandbox: landlock: %s: %w", path, errno)
	}
	return nil
}
