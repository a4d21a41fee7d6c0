package cage

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

//go:embed rules.nft
var rules string

// envLog names the open file on which the process hears what the firewall refuses.
const envLog = "ROADSTEAD_CAGE_LOG"

// fdLog is its number: far from those that the parent hands over.
const fdLog = 30

// Build is the one step that needs root: it gives the calling process a network namespace with the tunnels' devices and the firewall, and a
// view of /dev/net in which the user may open the device of tunnels. What comes after, the role itself, has no privilege: it can change
// none of this. The caller must go on, as the role, on the thread that called.
//
// The role may write its own role.json: nothing of it is believed here but the network and the number of instances, which are checked.
func Build(dir string, uid, gid int) error {
	runtime.LockOSThread()
	cfg, err := readConfig(dir)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	if err := deviceNode(uid, gid); err != nil {
		return fmt.Errorf("network namespace: /dev/net/tun: %w", err)
	}
	if err := settings(); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	if err := run(cfg.commands(uid, gid), "ip", "-batch", "-"); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	if err := run(cfg.definitions()+rules, "nft", "-f", "-"); err != nil {
		return fmt.Errorf("network namespace: firewall: %w", err)
	}
	// For the watcher alone: what it sends is stopped by the firewall and nothing else.
	if err := set("net/ipv4/conf/"+probeIn+"/forwarding", "1"); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	fd, err := hearRefusals()
	if err != nil {
		return fmt.Errorf("network namespace: log of the firewall: %w", err)
	}
	if err := unix.Dup3(fd, fdLog, 0); err != nil { // without close-on-exec: it is for the role
		return fmt.Errorf("network namespace: %w", err)
	}
	_ = unix.Close(fd)
	return os.Setenv(envLog, strconv.Itoa(fdLog))
}

func readConfig(dir string) (Config, error) {
	var cfg Config
	f, err := os.OpenFile(filepath.Join(dir, "role.json"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return cfg, err
	}
	defer func() { _ = f.Close() }()
	text := make([]byte, 64<<10)
	n, err := f.Read(text)
	if err != nil {
		return cfg, err
	}
	if err := json.Unmarshal(text[:n], &cfg); err != nil {
		return cfg, fmt.Errorf("role.json: %w", err)
	}
	return cfg, cfg.Validate()
}

// deviceNode covers /dev/net, for this process alone, with a directory that holds the device of tunnels, for the user.
func deviceNode(uid, gid int) error {
	const dir, file = "/dev/net", "/dev/net/tun"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("roadstead", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=4k"); err != nil {
		return err
	}
	if err := unix.Mknod(file, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
		return err
	}
	return os.Lchown(file, uid, gid)
}

// settings of the namespace's network: a new one may have inherited the machine's.
func settings() error {
	for _, name := range []string{
		"ip_forward=0", "conf/all/forwarding=0", "conf/default/forwarding=0", "conf/all/accept_redirects=0", "conf/default/accept_redirects=0",
		"conf/all/send_redirects=0", "conf/default/send_redirects=0", "conf/all/accept_source_route=0", "conf/default/accept_source_route=0",
		"conf/all/rp_filter=0", "conf/default/rp_filter=0", // the firewall knows better which addresses come from where
	} {
		name, value, _ := strings.Cut(name, "=")
		if err := set("net/ipv4/"+name, value); err != nil {
			return err
		}
	}
	return nil
}

func set(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}

// run gives a program of the system a text, in the namespace of the calling thread.
func run(text, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(text)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if path, err := exec.LookPath(program); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(out))
	}
	return nil
}
