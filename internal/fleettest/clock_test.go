package fleettest_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm"
)

// A device in a virtual machine begins in 1970, as one without a battery does: it knows better, and works. In 2040 it trusts nobody, and is unharmed once
// its clock is right.
func TestADeviceWithAWrongClock(t *testing.T) {
	vm.Kernel(t)
	srv := fleettest.NewServer(t)
	owner := srv.Client()
	_, fleet := newFleet(t, owner, "clocks")
	text, err := owner.DownloadConfig(t.Context(), client.NewConfig{Fleet: fleet, Version: "6.0.0", DeviceType: "generic-amd64"})
	if err != nil {
		t.Fatal(err)
	}
	way := newRelay(t, srv.Addr)
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	config["apiEndpoint"] = "https://api." + srv.Domain + ":" + way.port
	config["appUpdatePollInterval"] = 2000
	born := t.TempDir()
	plant(t, filepath.Join(born, "config.json"), config)
	disk := vm.Disk(t, born, 48)
	machine := func(clock time.Time) *vm.Machine {
		return vm.Start(t, vm.Config{
			Disk: disk, Clock: clock, Files: map[string]string{"/bin/roadstead-agent": fleettest.Program(t, "roadstead-agent")},
			Hosts: []string{vm.Host + " api." + srv.Domain},
			Run:   []string{"/bin/roadstead-agent", "--config", "/disk/config.json", "--state", "/disk/state"},
		})
	}
	m := machine(time.Time{})
	m.Says("this device verifies what it runs")
	uuid := onlyOnline(t, owner)
	m.Off()
	polls := func() int {
		path := "path=/device/v3/" + uuid + "/state status="
		return strings.Count(srv.Log(), path+"200") + strings.Count(srv.Log(), path+"304")
	}
	believed := func() string { t.Helper(); return string(vm.File(t, disk, "/state/identity.json")) }
	polled := func(when string) {
		t.Helper()
		before := polls()
		fleettest.Eventually(t, 5*time.Minute, func() error {
			if polls() == before {
				return errors.New("it has not polled " + when)
			}
			return nil
		})
	}

	m = machine(time.Date(1970, 1, 2, 3, 4, 5, 0, time.UTC))
	polled("in 1970")
	m.Off()
	if said := m.Console(); !strings.Contains(said, "time=1970-01-02") {
		t.Error("its clock does not say 1970")
	}

	before, believes := polls(), believed()
	m = machine(time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC))
	m.Says("time=2040-01-02", "certificate has expired")
	m.Off()
	if n := polls() - before; n != 0 {
		t.Errorf("in 2040 it has polled %d times", n)
	}
	if now := believed(); now != believes {
		t.Errorf("2040 has changed what it believes from %s to %s", believes, now)
	}

	m = machine(time.Time{})
	polled("when its clock is right again")
	m.Off()
	if again := onlyOnline(t, owner); again != uuid {
		t.Errorf("it is %s now, and was %s", again, uuid)
	}
}
