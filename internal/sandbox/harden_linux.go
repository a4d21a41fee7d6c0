package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Programs says what programs a role starts.
type Programs int

// What a role starts: nothing; programs that it confines itself, see [Confine]; or what needs all that a process may do.
const (
	NoPrograms Programs = iota
	ConfinedPrograms
	AnyPrograms
)

// Harden is what a role does first: files it makes are its own, nobody of the same user looks into its memory, no core dump
// holds its secrets, and, unless it has to start programs, system calls that a server never needs are refused.
func Harden(starts Programs) error {
	syscall.Umask(0o077)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("sandbox: core dumps: %w", err)
	}
	if starts == AnyPrograms {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("sandbox: dumpable: %w", err)
	}
	if starts == ConfinedPrograms {
		return refuse(exceptStarting())
	}
	return refuse(denied)
}

// exceptStarting is denied without the start of programs.
func exceptStarting() []uint32 {
	return slices.DeleteFunc(slices.Clone(denied), func(call uint32) bool { return call == unix.SYS_EXECVE || call == unix.SYS_EXECVEAT })
}

// denied are the calls of somebody who has taken a role over: starting programs, looking into other processes, making
// namespaces, changing the machine.
var denied = []uint32{
	unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
	unix.SYS_PIDFD_GETFD, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT,
	unix.SYS_CHROOT, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_MOUNT_SETATTR,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_KEYCTL, unix.SYS_ADD_KEY,
	unix.SYS_REQUEST_KEY, unix.SYS_KEXEC_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_SYSLOG, unix.SYS_ACCT, unix.SYS_SETTIMEOFDAY,
	unix.SYS_CLOCK_SETTIME, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_QUOTACTL, unix.SYS_PERSONALITY,
}

// audit names the machine's own system call table; calls by another table (32-bit ones) are refused altogether.
var audit = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64,
}

// refuse installs a filter on every thread: the listed calls fail with EPERM. With it comes "no new privileges", which a
// process without root needs to be allowed a filter at all.
func refuse(calls []uint32) error {
	arch, ok := audit[runtime.GOARCH]
	if !ok {
		return nil // a machine we have no table for runs without the filter
	}
	const (
		load     = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		atLeast  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		answer   = unix.BPF_RET | unix.BPF_K
		no       = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		offNr    = 0
		offArch  = 4
		x32Calls = 0x40000000
	)
	n := len(calls)
	prog := []unix.SockFilter{
		{Code: load, K: offArch},
		{Code: equal, K: arch, Jt: 1},
		{Code: answer, K: no},
		{Code: load, K: offNr},
		{Code: atLeast, K: x32Calls, Jt: uint8(n + 1)},
	}
	for i, c := range calls {
		prog = append(prog, unix.SockFilter{Code: equal, K: c, Jt: uint8(n - i)})
	}
	prog = append(prog, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: answer, K: no})

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("sandbox: no new privileges: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(prog)
	if errors.Is(errno, unix.ENOSYS) || errors.Is(errno, unix.EINVAL) {
		return nil // a kernel without seccomp: the other walls stand
	}
	if errno != 0 {
		return fmt.Errorf("sandbox: system call filter: %w", errno)
	}
	return nil
}
