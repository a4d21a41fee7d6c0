package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// idRange is how many ids a user namespace for builds gets: what an image may hold files of.
const idRange = 65536

// firstSubID keeps our ranges clear of the ones that adduser hands out to people.
const firstSubID = 1 << 28

const tunDevice = "/dev/net/tun"

// Prepare makes, as root, what an ordinary user needs to run the build service: a range of subordinate user and group ids,
// and the TUN device with the mode that udev gives it everywhere (attaching to it needs CAP_NET_ADMIN all the same). The
// user must exist. Repeating it changes nothing.
func Prepare(name string) error {
	if os.Geteuid() != 0 {
		return errors.New("prepare the build service: only root can")
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if err := addRange(file, name); err != nil {
			return fmt.Errorf("prepare the build service: %w", err)
		}
	}
	if err := os.MkdirAll("/dev/net", 0o755); err != nil {
		return fmt.Errorf("prepare the build service: %w", err)
	}
	err := syscall.Mknod(tunDevice, syscall.S_IFCHR|0o666, 10<<8|200)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("prepare the build service: make %s: %w", tunDevice, err)
	}
	if err := os.Chmod(tunDevice, 0o666); err != nil {
		return fmt.Errorf("prepare the build service: %w", err)
	}
	return nil
}

// addRange gives a user a range that overlaps nobody's.
func addRange(file, name string) error {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	next := int64(firstSubID)
	for line := range strings.Lines(string(data)) {
		parts := strings.Split(strings.TrimSpace(line), ":")
		if len(parts) != 3 {
			continue
		}
		start, err1 := strconv.ParseInt(parts[1], 10, 64)
		count, err2 := strconv.ParseInt(parts[2], 10, 64)
		if err1 != nil || err2 != nil {
			continue
		}
		if parts[0] == name && count >= idRange {
			return nil
		}
		next = max(next, start+count)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	entry := fmt.Sprintf("%s:%d:%d\n", name, next, idRange)
	if len(data) > 0 && data[len(data)-1] != '\n' {
		entry = "\n" + entry
	}
	_, err = f.WriteString(entry)
	return errors.Join(err, f.Close())
}

// check finds out why this machine cannot run the service, in words that say what to do.
func check(ctx context.Context, id account) error {
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if !hasRange(file, id) {
			return fmt.Errorf("build service: user %s has no range of %d ids in %s: start the server as root once, or add the line %q",
				id.name, idRange, file, fmt.Sprintf("%s:%d:%d", id.name, firstSubID, idRange))
		}
	}
	if err := tryNamespace(ctx, id); err != nil {
		return fmt.Errorf("build service: this machine does not let user %s make user namespaces, which builds are locked into (%w); "+
			"look at the sysctls user.max_user_namespaces, kernel.unprivileged_userns_clone and "+
			"kernel.apparmor_restrict_unprivileged_userns", id.name, err)
	}
	return nil
}

func hasRange(file string, id account) bool {
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.Split(strings.TrimSpace(line), ":")
		if len(parts) != 3 || (parts[0] != id.name && parts[0] != strconv.Itoa(id.uid)) {
			continue
		}
		if n, err := strconv.ParseInt(parts[2], 10, 64); err == nil && n >= idRange {
			return true
		}
	}
	return false
}

// tryNamespace makes a user namespace as the account and throws it away.
func tryNamespace(ctx context.Context, id account) error {
	cmd := exec.CommandContext(ctx, "/usr/bin/unshare", "--user", "--mount", "--map-root-user", "true")
	cmd.SysProcAttr = id.attributes()
	cmd.SysProcAttr.Pdeathsig = 0 // it lives for a moment, on any thread
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
