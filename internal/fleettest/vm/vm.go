// Package vm gives tests virtual machines: QEMU without any help of the processor, so that they run anywhere, with Debian's kernel and an init of
// our own, which mounts a disk and runs programs. A machine takes some seconds to start. What it writes on its console is what a test sees of it.
package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/agent/seal/sealtest"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm/guest"
)

// patience is how long a machine may take for anything. It is no claim: emulated machines on busy processors are slow.
const patience = 5 * time.Minute

// Host is where a machine reaches this one's 127.0.0.1.
const Host = "10.0.2.2"

// Config says what a machine is and does.
type Config struct {
	Disk    string            // file with an ext4 file system, see [Disk]; mounted on /disk
	TPM     string            // directory of a TPM in software; empty: the machine has none
	Engine  string            // programs of a Docker Engine, see [Engine], which keeps its data on the disk; empty: there is none
	Ports   []string          // addresses here, at which its ports of the same number are reached
	Files   map[string]string // more files: name in the machine → file here; they are executable
	Hosts   []string          // lines of its /etc/hosts
	Run     []string          // the program and its arguments; none: nothing beside the engine
	Memory  int               // MiB; 0 means 256, and 768 with an engine
	Kernel  string            // directory of the kernel; empty: that of [Kernel]
	Modules []string          // of the kernel, beside those for the devices above
	Clock   time.Time         // what its clock says when it is switched on; zero: the time
}

// patient are parameters of the kernel that keep it from taking a slow processor for a broken one.
const patient = "no_timer_check rcupdate.rcu_cpu_stall_suppress=1 nowatchdog"

// Machine is one that runs.
type Machine struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.Writer
	door  string // where its engine is reached; empty: it has none
	qmp   string // socket on which QEMU itself is asked
	ended chan struct{}

	mu     sync.Mutex // covers what follows
	said   bytes.Buffer
	change chan struct{} // closed and replaced when it says more
}

// Kernel skips the test unless there is a kernel and QEMU, and answers the kernel's directory.
func Kernel(t *testing.T) string {
	t.Helper()
	return kernel(t, "ROADSTEAD_KERNEL", "kernel", "scripts/kernel.sh")
}

// KernelHID is the same for a kernel that knows HID devices.
func KernelHID(t *testing.T) string {
	t.Helper()
	return kernel(t, "ROADSTEAD_KERNEL_HID", "kernel-hid", "scripts/kernel.sh hid")
}

func kernel(t *testing.T, variable, name, fetch string) string {
	t.Helper()
	dir := os.Getenv(variable)
	if dir == "" {
		dir = filepath.Join(fleettest.Root(), ".cache", name)
	}
	if _, err := os.Stat(filepath.Join(dir, "vmlinuz")); err != nil {
		t.Skip("there is no kernel for virtual machines: " + fetch + " fetches it")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("QEMU is not installed: scripts/install.sh test does it")
	}
	return dir
}

// Disk makes a disk of some MiB that holds what is in a directory.
func Disk(t *testing.T, from string, size int) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk")
	out, err := exec.CommandContext(t.Context(), "mke2fs", "-q", "-t", "ext4", "-d", from, file, fmt.Sprintf("%dM", size)).CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return file
}

// File reads a file of a disk whose machine is off.
func File(t *testing.T, disk, name string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "debugfs", "-R", "cat "+name, disk)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || strings.Contains(errs.String(), "not found") {
		t.Fatalf("%s on the disk: %v\n%s", name, err, &errs)
	}
	return out
}

// Start switches a machine on. It ends with the test.
func Start(t *testing.T, cfg Config) *Machine {
	t.Helper()
	if cfg.Kernel == "" {
		cfg.Kernel = Kernel(t)
	}
	kernel := cfg.Kernel
	dir := t.TempDir()
	m := &Machine{t: t, qmp: filepath.Join(dir, "qmp"), ended: make(chan struct{}), change: make(chan struct{})}
	if cfg.Memory == 0 {
		cfg.Memory = 256
		if cfg.Engine != "" {
			cfg.Memory = 768
		}
	}
	network := "user,id=net"
	for _, address := range cfg.Ports {
		network += ",hostfwd=tcp:" + address + "-" + address[strings.LastIndexByte(address, ':'):]
	}
	if cfg.Engine != "" {
		m.door = freePort(t)
		network += fmt.Sprintf(",hostfwd=tcp:%s-:%d", m.door, guest.Door)
	}
	args := []string{
		"-accel", "tcg", "-cpu", "max", "-m", fmt.Sprint(cfg.Memory), "-no-reboot", "-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console", "-qmp", "unix:" + m.qmp + ",server=on,wait=off",
		"-kernel", filepath.Join(kernel, "vmlinuz"), "-initrd", initramfs(t, kernel, dir, cfg),
		"-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=1 mitigations=off apparmor=0 " + patient,
		"-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile=",
	}
	if cfg.Disk != "" {
		args = append(args, "-drive", "if=none,id=disk,format=raw,cache=unsafe,file="+cfg.Disk, "-device", "virtio-blk-pci,drive=disk")
	}
	if cfg.Engine != "" {
		args = append(args, "-drive", "if=none,id=programs,format=raw,readonly=on,file="+cfg.Engine, "-device", "virtio-blk-pci,drive=programs")
	}
	if cfg.Memory >= 768 { // there is more than one program
		args = append(args, "-smp", "2")
	}
	if !cfg.Clock.IsZero() {
		args = append(args, "-rtc", "base="+cfg.Clock.UTC().Format("2006-01-02T15:04:05"))
	}
	if cfg.TPM != "" {
		_, socket := sealtest.Run(t, cfg.TPM, "--ctrl")
		args = append(args, "-chardev", "socket,id=tpm,path="+socket, "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0")
	}
	m.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), "qemu-system-x86_64", args...)
	m.cmd.Stdout, m.cmd.Stderr = m, m
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.in = in
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.ended)
		_ = m.cmd.Wait() // what it said tells more
	}()
	t.Cleanup(func() {
		if t.Failed() {
			m.autopsy()
		}
		m.Cut()
		if t.Failed() {
			t.Logf("the machine's console:\n%s", m.Console())
		}
	})
	return m
}

// initramfs is the first file system of the machine.
func initramfs(t *testing.T, kernel, dir string, cfg Config) (file string) {
	t.Helper()
	program := filepath.Join(dir, "init")
	compile(t, program, "./internal/fleettest/vm/init")
	var a archive
	a.dirs("dev", "proc", "sys", "run", "tmp", "etc", "disk", "modules", "bin")
	a.file(t, "init", program)
	what := guest.Config{Disk: cfg.Disk != "", Engine: cfg.Engine != "", Run: cfg.Run, Hosts: cfg.Hosts}
	needed := append(slices.Clone(modules), cfg.Modules...)
	if what.Engine {
		needed = append(needed, modulesOfAnEngine...)
	}
	for _, file := range withNeeded(t, kernel, needed) {
		name := "/modules/" + filepath.Base(file)
		what.Modules = append(what.Modules, name)
		a.file(t, strings.TrimPrefix(name, "/"), file)
	}
	for name, from := range cfg.Files {
		a.file(t, strings.TrimPrefix(name, "/"), from)
	}
	text, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	a.bytes(strings.TrimPrefix(guest.File, "/"), 0o600, text)
	file = filepath.Join(dir, "initramfs")
	if err := os.WriteFile(file, a.end(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Write takes what the machine says; QEMU writes here.
func (m *Machine) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.said.Write(p)
	close(m.change)
	m.change = make(chan struct{})
	return len(p), nil
}

// Runs says whether the machine is on.
func (m *Machine) Runs() bool {
	select {
	case <-m.ended:
		return false
	default:
		return true
	}
}

// Console is all that the machine has said.
func (m *Machine) Console() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said.String()
}

// Says waits until the machine has said each of some words, and fails when it ends before that.
func (m *Machine) Says(words ...string) {
	m.t.Helper()
	m.until(func(said string) (missing string) {
		for _, w := range words {
			if !strings.Contains(said, w) {
				return w
			}
		}
		return ""
	})
}

// Repeats waits until the machine has said something so many times.
func (m *Machine) Repeats(word string, times int) {
	m.t.Helper()
	m.until(func(said string) string {
		if strings.Count(said, word) < times {
			return fmt.Sprintf("%s, %d times", word, times)
		}
		return ""
	})
}

func (m *Machine) until(missing func(said string) string) {
	m.t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		m.mu.Lock()
		said, change := m.said.String(), m.change
		m.mu.Unlock()
		lacks := missing(said)
		if lacks == "" {
			return
		}
		select {
		case <-change:
		case <-m.ended:
			if lacks = missing(m.Console()); lacks == "" {
				return
			}
			m.t.Fatalf("the machine has ended and did not say %q", lacks)
		case <-end.C:
			m.t.Fatalf("the machine does not say %q", lacks)
		}
	}
}

// Off ends the program, unmounts the disk and switches the machine off.
func (m *Machine) Off() {
	m.t.Helper()
	if _, err := io.WriteString(m.in, "off\n"); err != nil {
		m.t.Fatalf("switch the machine off: %v", err)
	}
	select {
	case <-m.ended:
	case <-time.After(patience):
		m.t.Fatal("the machine does not switch itself off")
	}
	if said := m.Console(); !strings.Contains(said, guest.Bye) {
		m.t.Fatal("the machine has ended before it was switched off")
	}
}

// Cut takes the power away.
func (m *Machine) Cut() {
	_ = m.cmd.Process.Kill() // it may have ended
	<-m.ended
}
