package fleettest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// services are the names that a server has under its domain.
var services = []string{"api", "dashboard", "registry2", "builder", "git", "cloudlink", "tunnel", "devices", "ssh.devices"}

const (
	hostsFile = "/etc/hosts"
	// HostsMark ends a line of a test, followed by the process id.
	HostsMark = "# roadstead-test "
)

// addHosts makes a server's names resolve, and gives back what undoes it. Tests of several packages run at once, so a lock is
// held while the file changes; it is never renamed, for in a container it is a mount.
func addHosts(t testing.TB, addr, domain string) (forget func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to add names to " + hostsFile)
	}
	line := addr + " " + domain
	for _, s := range services {
		line += " " + s + "." + domain
	}
	line += " " + HostsMark + strconv.Itoa(os.Getpid())
	if err := ChangeHosts(func(lines []string) []string { return append(lines, line) }); err != nil {
		t.Fatal(err)
	}
	return func() {
		err := ChangeHosts(func(lines []string) []string {
			var rest []string
			for _, l := range lines {
				if l != line {
					rest = append(rest, l)
				}
			}
			return rest
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// ChangeHosts rewrites /etc/hosts under the lock that every test and script of ours takes, without lines that tests left behind which
// are no more.
func ChangeHosts(change func(lines []string) []string) error {
	dir, err := os.Open("/run/lock") // the directory itself, so that no lock file stays behind
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // which gives the lock back
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", hostsFile, err)
	}
	data, err := os.ReadFile(hostsFile)
	if err != nil {
		return err
	}
	var lines []string
	for _, l := range strings.Split(strings.TrimRight(string(data), "\n"), "\n") {
		if _, pid, ok := strings.Cut(l, HostsMark); !ok || alive(pid) {
			lines = append(lines, l)
		}
	}
	next := strings.Join(change(lines), "\n") + "\n"
	if next == string(data) {
		return nil
	}
	// One write, and the cut only after it: whoever reads meanwhile finds every name that stays.
	f, err := os.OpenFile(hostsFile, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(next), 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Truncate(int64(len(next))); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func alive(pid string) bool {
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	return err == nil && syscall.Kill(n, 0) == nil
}

// lock takes a lock that the tests of all packages share.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "roadstead-test-"+name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing gives the lock back
}
