package host_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/roadstead-io/roadstead/internal/agent/host"
)

func root(t *testing.T, files map[string]string) host.Host {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return host.Host{Root: dir}
}

func TestOS(t *testing.T) {
	h := root(t, map[string]string{"etc/os-release": "NAME=x\nPRETTY_NAME=\"balenaOS 6.6\"\nVARIANT_ID=prod\n"})
	if name, variant := h.OS(); name != "balenaOS 6.6" || variant != "prod" {
		t.Errorf("got %q, %q", name, variant)
	}
	if name, variant := root(t, nil).OS(); name != "Linux" || variant != "" {
		t.Errorf("without a file: %q, %q", name, variant)
	}
}

func TestMetrics(t *testing.T) {
	h := root(t, map[string]string{
		"proc/meminfo":                         "MemTotal:       2048000 kB\nMemFree:  1 kB\nMemAvailable:   1024000 kB\n",
		"proc/stat":                            "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 1 1 1\n",
		"proc/cpuinfo":                         "processor : 0\nSerial\t\t: 10000000ABCDEF\n",
		"proc/self/mounts":                     "/dev/a / ext4 rw 0 0\n/dev/b " + filepath.Dir(t.TempDir()) + " ext4 rw 0 0\n",
		"sys/class/thermal/thermal_zone0/temp": "48312\n",
	})
	m := host.Meter{Host: h, Disk: t.TempDir()}
	got := m.Take()
	if *got.MemoryTotal != 2000 || *got.MemoryUsage != 1000 || *got.CPUUsage != 20 || *got.CPUTemp != 48 {
		t.Errorf("memory %d of %d, cpu %d, temperature %d", *got.MemoryUsage, *got.MemoryTotal, *got.CPUUsage, *got.CPUTemp)
	}
	if got.StorageTotal == nil || *got.StorageTotal < *got.StorageUsage || got.StorageDevice != "/dev/b" {
		t.Errorf("storage on %s", got.StorageDevice)
	}
	if again := m.Take(); again.CPUUsage != nil {
		t.Errorf("no time has passed, but the processor was used by %d", *again.CPUUsage)
	}
	if h.CPUID() != "10000000abcdef" {
		t.Errorf("serial %q", h.CPUID())
	}
}

func TestNothingToRead(t *testing.T) {
	m := host.Meter{Host: root(t, nil), Disk: "/nowhere"}
	if got := m.Take(); got.MemoryTotal != nil || got.CPUUsage != nil || got.CPUTemp != nil || got.StorageTotal != nil {
		t.Errorf("got %+v", got)
	}
}
