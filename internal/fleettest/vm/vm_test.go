package vm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm"
)

// A machine has its disk, its TPM and its network, keeps what is written when it is switched off, and says what its program says.
func TestMachine(t *testing.T) {
	vm.Kernel(t)
	born := t.TempDir()
	if err := os.WriteFile(filepath.Join(born, "config.json"), []byte(`{"apiEndpoint":"https://api.roadstead.test","apiKey":"k","applicationId":1,"deviceType":"d","deviceKeyProtection":"tpm"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := vm.Disk(t, born, 16)
	m := vm.Start(t, vm.Config{
		Disk: disk, TPM: t.TempDir(), Hosts: []string{vm.Host + " api.roadstead.test"},
		Files: map[string]string{"/bin/roadstead-agent": fleettest.Program(t, "roadstead-agent")},
		Run:   []string{"/bin/roadstead-agent", "--config", "/disk/config.json", "--state", "/disk/state"},
	})
	m.Says("the device's keys are sealed in its TPM", "could not register")
	m.Off()
	if said := m.Console(); !strings.Contains(said, vm.Host+":443") {
		t.Errorf("it did not try to reach this machine: %s", said)
	}
	if who := vm.File(t, disk, "/state/identity.json"); !strings.Contains(string(who), "roadstead-sealed:") {
		t.Errorf("on the disk: %s", who)
	}
}
