package fleettest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm"
)

var (
	in1970 = time.Date(1970, 1, 2, 3, 4, 5, 0, time.UTC)
	in2040 = time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC)
)

// A device in a virtual machine begins in 1970, as one without a battery does: it knows better, and works. In 2040 it trusts nobody, and is unharmed once
// its clock is right.
func TestADeviceWithAWrongClock(t *testing.T) {
	vm.Kernel(t)
	v := newVessel(t, fleettest.NewServerWith(t, fleettest.Options{Listen: behind}), "clocks", 48, nil)
	m := v.on(time.Time{})
	m.Says("this device verifies what it runs")
	uuid := v.online()
	m.Off()

	before := v.polls(uuid)
	m = v.on(in1970)
	v.polled(uuid, before)
	m.Off()
	if said := m.Console(); !strings.Contains(said, "time=1970-01-02") {
		t.Error("its clock does not say 1970")
	}

	believed := func() string { t.Helper(); return string(vm.File(t, v.has.Disk, "/state/identity.json")) }
	before, believes := v.polls(uuid), believed()
	m = v.on(in2040)
	m.Says("time=2040-01-02", "certificate has expired")
	m.Off()
	if n := v.polls(uuid) - before; n != 0 {
		t.Errorf("in 2040 it has polled %d times", n)
	}
	if now := believed(); now != believes {
		t.Errorf("2040 has changed what it believes from %s to %s", believes, now)
	}

	m = v.on(time.Time{})
	v.polled(uuid, before)
	if again := v.online(); again != uuid {
		t.Errorf("it is %s now, and was %s", again, uuid)
	}
	m.Off()
}
