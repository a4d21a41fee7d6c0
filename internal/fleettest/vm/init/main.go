//go:build linux

// Command init is the first and only program of a test's virtual machine: it loads modules, mounts the disk, brings the network up, runs one
// program and switches the machine off when it reads "off" on the console.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/fleettest/vm/guest"
)

func main() {
	if err := work(); err != nil {
		say("machine: %v", err)
	}
	unix.Sync()
	if err := unix.Unmount("/disk", 0); err != nil {
		say("machine: unmount: %v", err)
	}
	say(guest.Bye)
	time.Sleep(100 * time.Millisecond) // what was said is on its way
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func say(format string, args ...any) { _, _ = fmt.Fprintf(os.Stdout, format+"\n", args...) }

func work() error {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	var cfg guest.Config
	text, err := os.ReadFile(guest.File)
	if err == nil {
		err = json.Unmarshal(text, &cfg)
	}
	if err != nil {
		return err
	}
	for _, module := range cfg.Modules {
		if err := load(module); err != nil {
			return fmt.Errorf("load %s: %w", module, err)
		}
	}
	if err := os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n"+strings.Join(cfg.Hosts, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	for name, address := range map[string][4]byte{"lo": {127, 0, 0, 1}, "eth0": {10, 0, 2, 15}} {
		if err := up(name, address); err != nil {
			return fmt.Errorf("bring %s up: %w", name, err)
		}
	}
	if cfg.Disk {
		if err := awaited("/dev/vda"); err != nil {
			return err
		}
		if err := unix.Mount("/dev/vda", "/disk", "ext4", 0, ""); err != nil {
			return fmt.Errorf("mount the disk: %w", err)
		}
	}
	return run(cfg.Run)
}

func load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

// awaited waits for a device that the kernel is still looking for.
func awaited(path string) error {
	for range 500 {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("there is no %s", path)
}

// up gives an interface its address.
func up(name string, address [4]byte) error {
	if err := awaited("/sys/class/net/" + name); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	for _, set := range []struct {
		call    uint
		address [4]byte
	}{{unix.SIOCSIFADDR, address}, {unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 0}}} {
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := r.SetInet4Addr(set.address[:]); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, set.call, r); err != nil {
			return err
		}
	}
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// run runs the program until it ends or the console says "off".
func run(command []string) error {
	cmd := exec.Command(command[0], command[1:]...) //nolint:gosec // the test says what
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.Env = []string{"PATH=/bin", "HOME=/tmp"}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan string, 1)
	go func() { ended <- fmt.Sprint(cmd.Wait()) }()
	off := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if strings.TrimSpace(lines.Text()) == "off" {
				close(off)
				return
			}
		}
	}()
	select {
	case how := <-ended:
		say("machine: the program ended: %s", how)
		<-off // so that whoever looks at the console sees why
		return nil
	case <-off:
	}
	_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		_ = cmd.Process.Kill() // as above
		<-ended
	}
	return nil
}
