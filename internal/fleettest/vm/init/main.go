//go:build linux

// Command init is the first program of a test's virtual machine: it loads modules, mounts the disk, brings the network up, runs a container engine
// and one program, and switches the machine off when it reads "off" on the console. When it reads "stacks", the program says where it is, and ends.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/fleettest/vm/guest"
)

func main() {
	if os.Getpid() == 1 {
		reap()
		return
	}
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

// reap leaves the work to a child, and buries the orphans of a machine, as a first process has to.
func reap() {
	worker := exec.Command("/init") //nolint:gosec // this program
	worker.Stdin, worker.Stdout, worker.Stderr = os.Stdin, os.Stdout, os.Stderr
	worker.Env = []string{"PATH=/bin:/usr/bin:/usr/sbin", "HOME=/tmp"} // of all programs of the machine
	if err := worker.Start(); err != nil {
		say("machine: %v", err)
	}
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			time.Sleep(time.Second) // it is being switched off
		}
	}
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
	return run(cfg)
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

// awaited waits for a device that the kernel is still looking for, however long that takes where processors are busy. It says what it waits for.
func awaited(path string) error {
	for n := 1; ; n++ {
		_, err := os.Stat(path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if n%500 == 0 {
			say("machine: there is no %s yet", path)
		}
		time.Sleep(20 * time.Millisecond)
	}
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

// run runs everything until the console says "off".
func run(cfg guest.Config) error {
	off, stacks := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			switch strings.TrimSpace(lines.Text()) {
			case "off":
				close(off)
				return
			case "stacks":
				select {
				case stacks <- struct{}{}:
				default:
				}
			}
		}
	}()
	var engine *program
	if cfg.Engine {
		err := furnish()
		if err == nil {
			err = openDoor()
		}
		if err != nil {
			return fmt.Errorf("make room for an engine: %w", err)
		}
		if engine, err = begin(dockerd); err != nil {
			return err
		}
		defer engine.end()
	}
	if len(cfg.Run) == 0 {
		<-off
		return nil
	}
	p, err := begin(cfg.Run)
	if err != nil {
		return err
	}
	defer p.end()
	for {
		select {
		case <-p.ended:
			say("machine: the program ended: %s", p.how)
			<-off // so that whoever looks at the console sees why
			return nil
		case <-stacks:
			_ = p.cmd.Process.Signal(unix.SIGQUIT) // it may have ended
		case <-off:
			return nil
		}
	}
}

// program is one that runs.
type program struct {
	cmd   *exec.Cmd
	ended chan struct{}
	how   string // valid once it has ended
}

func begin(command []string) (*program, error) {
	cmd := exec.Command(command[0], command[1:]...) //nolint:gosec // the test says what
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if command[0] == dockerd[0] {
		cmd.Env = append(os.Environ(), "DOCKER_RAMDISK=1") // what a kernel begins with cannot be left by pivot_root
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", command[0], err)
	}
	p := &program{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.how = fmt.Sprint(cmd.Wait())
		close(p.ended)
	}()
	return p, nil
}

// end ends the program as an operator does, and as power does when it takes too long.
func (p *program) end() {
	_ = p.cmd.Process.Signal(unix.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		say("machine: %s does not end, and is killed", p.cmd.Path)
		_ = p.cmd.Process.Kill() // as above
		<-p.ended
	}
}
