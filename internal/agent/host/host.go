// Package host reads what a device says about itself: its operating system, addresses and load. It reads /proc and /sys by
// itself; what is not there is not reported.
package host

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Host is where to look; the zero value looks at this machine.
type Host struct {
	Root string // put before /proc, /sys and /etc, for tests
}

func (h Host) read(path string) string {
	text, _ := os.ReadFile(filepath.Join("/", h.Root, path)) // what cannot be read is not there
	return string(text)
}

// OS gives the name and the variant of the operating system; the variant is "" when it has none.
func (h Host) OS() (name, variant string) {
	values := map[string]string{}
	for line := range strings.Lines(h.read("/etc/os-release")) {
		if key, val, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = strings.Trim(val, `"'`)
		}
	}
	if name = values["PRETTY_NAME"]; name == "" {
		name = "Linux"
	}
	return name, values["VARIANT_ID"]
}

// Arch is the processor's name as fleets have it.
func Arch() string {
	switch runtime.GOARCH {
	case "arm64":
		return "aarch64"
	case "arm":
		return "armv7hf"
	case "386":
		return "i386"
	}
	return runtime.GOARCH
}

// inner are the interfaces that lead to containers, not to the outside.
var inner = pattern.New(`^(lo|(balena|docker|rce|tun)[0-9]+|resin-vpn|roadstead-vpn|resin-dns|supervisor0|.*-redsocks|br-[0-9a-f]{12}|veth.*)$`)

// Addresses gives the device's addresses to the outside, space separated: MAC in upper case, then IP.
func Addresses() (macs, ips string) {
	list, err := net.Interfaces()
	if err != nil {
		return "", ""
	}
	var m, i []string
	for _, nic := range list {
		if inner.MatchString(nic.Name) || nic.Flags&net.FlagUp == 0 {
			continue
		}
		if len(nic.HardwareAddr) > 0 {
			m = append(m, strings.ToUpper(nic.HardwareAddr.String()))
		}
		addrs, _ := nic.Addrs() // an interface may vanish meanwhile
		for _, a := range addrs {
			if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
				i = append(i, ip.IP.String())
			}
		}
	}
	slices.Sort(m)
	return strings.Join(slices.Compact(m), " "), strings.Join(i, " ")
}

// Metrics are the figures of the moment. A nil one could not be read. Memory and storage are in MiB.
type Metrics struct {
	MemoryUsage, MemoryTotal   *int64
	StorageUsage, StorageTotal *int64
	StorageDevice              string
	CPUUsage, CPUTemp          *int64
}

// Meter takes metrics; processor use is counted from one call to the next.
type Meter struct {
	Host Host
	Disk string // a path on the disk that holds the state

	busy, total uint64
}

// Take reads the figures.
func (m *Meter) Take() Metrics {
	var out Metrics
	if total, free := m.memory(); total > 0 {
		out.MemoryTotal, out.MemoryUsage = ptr(total/1024), ptr((total-free)/1024)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(m.Disk, &fs); err == nil {
		block := int64(fs.Bsize) //nolint:unconvert // an int32 on some architectures
		out.StorageTotal = ptr(int64(fs.Blocks) * block >> 20)
		out.StorageUsage = ptr(int64(fs.Blocks-fs.Bfree) * block >> 20)
		out.StorageDevice = m.device()
	}
	out.CPUUsage = m.cpu()
	if t, err := strconv.ParseInt(strings.TrimSpace(m.Host.read("/sys/class/thermal/thermal_zone0/temp")), 10, 64); err == nil {
		out.CPUTemp = ptr(t / 1000)
	}
	return out
}

func ptr(n int64) *int64 { return &n }

func (m *Meter) memory() (total, free int64) {
	for line := range strings.Lines(m.Host.read("/proc/meminfo")) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "MemTotal:":
			total = n
		case "MemAvailable:":
			free = n
		}
	}
	return total, free
}

// cpu gives the use since the last call; the first one, since boot.
func (m *Meter) cpu() *int64 {
	s := bufio.NewScanner(bytes.NewReader([]byte(m.Host.read("/proc/stat"))))
	if !s.Scan() {
		return nil
	}
	f := strings.Fields(s.Text())
	if len(f) < 6 || f[0] != "cpu" {
		return nil
	}
	var total, idle uint64
	for i, text := range f[1:min(len(f), 9)] { // guest time, after these, is part of user time already
		n, _ := strconv.ParseUint(text, 10, 64)
		total += n
		if i == 3 || i == 4 { // idle, iowait
			idle += n
		}
	}
	busy := total - idle
	dBusy, dTotal := busy-m.busy, total-m.total
	m.busy, m.total = busy, total
	if dTotal == 0 || dBusy > dTotal {
		return nil
	}
	return ptr(int64(100 * dBusy / dTotal)) //nolint:gosec // at most 100
}

// device names what is mounted where the disk path is.
func (m *Meter) device() string {
	best, name := "", ""
	for line := range strings.Lines(m.Host.read("/proc/self/mounts")) {
		f := strings.Fields(line)
		if len(f) < 2 || len(f[1]) < len(best) {
			continue
		}
		if f[1] == "/" || m.Disk == f[1] || strings.HasPrefix(m.Disk, f[1]+"/") {
			best, name = f[1], f[0]
		}
	}
	return name
}

// CPUID is the processor's serial number, where it has one.
func (h Host) CPUID() string {
	if serial := strings.Trim(h.read("/proc/device-tree/serial-number"), "\x00\n "); serial != "" {
		return strings.ToLower(serial)
	}
	for line := range strings.Lines(h.read("/proc/cpuinfo")) {
		if key, val, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "Serial" {
			return strings.ToLower(strings.TrimSpace(val))
		}
	}
	return ""
}
