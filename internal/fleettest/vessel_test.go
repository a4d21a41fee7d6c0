package fleettest_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm"
)

// patience is how long something on an emulated machine may take. It is no claim.
const patience = 10 * time.Minute

// vessel is a device in a virtual machine, which the test switches on and off. Its way to the server leads through a relay.
type vessel struct {
	t     *testing.T
	srv   *fleettest.Server
	owner *client.Client
	fleet string // slug
	way   *relay
	has   vm.Config      // its machine
	is    *vm.Machine    // the one that was switched on last
	born  map[string]any // its first config.json
}

// newVessel makes the disk of a device that was never switched on, in a fleet of its own of a server that listens at behind. Prepare changes its config.json, and what else is on the disk.
func newVessel(t *testing.T, srv *fleettest.Server, fleet string, size int, prepare func(config map[string]any, disk string)) *vessel {
	t.Helper()
	v := &vessel{t: t, srv: srv, owner: srv.Client(), way: newRelay(t, srv)}
	slug, id := newFleet(t, v.owner, fleet)
	v.fleet = slug
	v.launch(id, size, prepare)
	return v
}

func (v *vessel) launch(fleet int64, size int, prepare func(config map[string]any, disk string)) {
	v.t.Helper()
	text, err := v.owner.DownloadConfig(v.t.Context(), client.NewConfig{Fleet: fleet, Version: "6.0.0", DeviceType: "generic-amd64"})
	if err == nil {
		err = json.Unmarshal(text, &v.born)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	v.born["appUpdatePollInterval"] = 2000
	ours, _ := v.born["balenaRootCA"].(string)
	known, err := base64.StdEncoding.DecodeString(ours)
	if err != nil || len(known) == 0 {
		v.t.Fatalf("balenaRootCA %q: %v", ours, err)
	}
	v.born["balenaRootCA"] = base64.StdEncoding.EncodeToString(append(known, v.way.root...))
	disk := v.t.TempDir()
	if prepare != nil {
		prepare(v.born, disk)
	}
	plant(v.t, filepath.Join(disk, "config.json"), v.born)
	v.has = vm.Config{
		Disk: vm.Disk(v.t, disk, size), Files: map[string]string{"/bin/roadstead-agent": fleettest.Program(v.t, "roadstead-agent")},
		Hosts: []string{vm.Host + " api." + v.srv.Domain + " registry2." + v.srv.Domain},
		Run:   []string{"/bin/roadstead-agent", "--config", "/disk/config.json", "--state", "/disk/state"},
	}
}

// on switches the device on at a time by its clock; zero is the right one.
func (v *vessel) on(clock time.Time) *vm.Machine {
	v.t.Helper()
	has := v.has
	has.Clock = clock
	v.is = vm.Start(v.t, has)
	return v.is
}

// await waits until something holds, while the device is on.
func (v *vessel) await(condition func() error) {
	v.t.Helper()
	fleettest.Eventually(v.t, patience, func() error {
		err := condition()
		if err != nil && !v.is.Runs() {
			v.t.Fatalf("the machine has ended, and %v", err)
		}
		return err
	})
}

// online waits until there is one device, and it polls; and answers its uuid.
func (v *vessel) online() (uuid string) {
	v.t.Helper()
	v.await(func() error {
		devices, err := client.Get[struct {
			UUID      string `json:"uuid"`
			Heartbeat string `json:"api_heartbeat_state"`
		}](v.t.Context(), v.owner, "device", client.Query{Select: "uuid,api_heartbeat_state"})
		if err != nil {
			return err
		}
		if len(devices) != 1 || devices[0].Heartbeat != "online" {
			return fmt.Errorf("the devices are %+v", devices)
		}
		uuid = devices[0].UUID
		return nil
	})
	return uuid
}

// polls is how often the server has answered a device of this uuid.
func (v *vessel) polls(uuid string) int {
	path := "path=/device/v3/" + uuid + "/state status="
	return strings.Count(v.srv.Log(), path+"200") + strings.Count(v.srv.Log(), path+"304")
}

// polled waits until the server has answered it more often than before.
func (v *vessel) polled(uuid string, before int) {
	v.t.Helper()
	v.await(func() error {
		if v.polls(uuid) == before {
			return errors.New("it has not polled")
		}
		return nil
	})
}

func plant(t *testing.T, path string, what any) {
	t.Helper()
	text, err := json.Marshal(what)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
