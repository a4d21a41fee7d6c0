package fleettest_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/agent/seal/sealtest"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm"
)

// A device in a virtual machine with a TPM registers, seals its keys, and is online. Its disk, in another machine with another TPM, is of no
// use: no key is on it, and the agent there talks to nobody and says why. Back in its own machine it is the device that it was.
func TestSealedDiskIsOfNoUseInAnotherMachine(t *testing.T) {
	vm.Kernel(t)
	srv := fleettest.NewServerWith(t, fleettest.Options{Listen: behind})
	channelKey := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("a channel key that stood on this disk in plain before it was sealed")})
	v := newVessel(t, srv, "moorings", 48, func(config map[string]any, disk string) {
		config["deviceKeyProtection"] = "tpm"
		// It has a key of its channel already, in plain, as if it had been sealed later.
		plant(t, filepath.Join(disk, "state/channel/identity.json"), map[string]any{"key": string(channelKey)})
	})
	disk := v.has.Disk
	provisioning, _ := v.born["apiKey"].(string)
	if raw := read(t, disk); !bytes.Contains(raw, []byte(provisioning)) || !bytes.Contains(raw, line(channelKey)) {
		t.Fatal("the test cannot see the keys that are there")
	}
	first, second := t.TempDir(), t.TempDir()
	machine := func(tpm string) *vm.Machine {
		v.has.TPM = tpm
		return v.on(time.Time{})
	}

	t.Log("in its own machine")
	m := machine(first)
	m.Says("the device's keys are sealed in its TPM", "registered")
	uuid := v.online()
	m.Off()
	secrets := unlocked(t, disk, first)
	raw := read(t, disk)
	if !bytes.Contains(raw, []byte(uuid)) {
		t.Error("the test does not see what is on the disk")
	}
	for name, secret := range secrets {
		if at := bytes.Index(raw, secret); at >= 0 {
			t.Errorf("%s is on the disk at byte %d", name, at)
		}
	}
	if at := bytes.Index(raw, []byte(provisioning)); at >= 0 {
		t.Errorf("the provisioning key is on the disk at byte %d", at)
	}
	key := string(secrets["the device key"])
	if status := asked(t, srv, uuid, key); status != http.StatusOK {
		t.Errorf("the server does not know the key that was opened: %d", status)
	}

	t.Log("in another machine")
	heard := v.way.heard.Load()
	m = machine(second)
	m.Repeats("THE KEYS OF THIS DEVICE CANNOT BE OPENED", 2)
	m.Says("sealed by another TPM", "put the disk back into its own device")
	m.Off()
	if n := v.way.heard.Load() - heard; n != 0 {
		t.Errorf("the server was called %d times", n)
	}
	var stored struct {
		UUID string `json:"uuid"`
		Key  string `json:"device_api_key"`
	}
	if err := json.Unmarshal(vm.File(t, disk, "/state/identity.json"), &stored); err != nil || stored.UUID != uuid || !seal.IsSealed(stored.Key) {
		t.Errorf("identity.json: %+v, %v", stored, err)
	}
	if status := asked(t, srv, uuid, stored.Key); status != http.StatusUnauthorized {
		t.Errorf("what stands in identity.json is answered with %d", status)
	}
	if _, err := vault(t, disk, second); !errors.Is(err, seal.ErrOther) {
		t.Errorf("opened with the other TPM: %v", err)
	}
	if at := bytes.Index(read(t, disk), []byte(key)); at >= 0 {
		t.Errorf("the key is on the disk at byte %d", at)
	}

	t.Log("back in its own")
	before := v.polls(uuid)
	m = machine(first)
	v.polled(uuid, before)
	if again := v.online(); again != uuid {
		t.Errorf("it is %s now, and was %s", again, uuid)
	}
	m.Off()
	if again := unlocked(t, disk, first); string(again["the device key"]) != key {
		t.Error("it has another key")
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// line is the first of a key in PEM.
func line(key []byte) []byte { return bytes.Split(key, []byte("\n"))[1] }

// asked asks the server for the device's state with a key.
func asked(t *testing.T, srv *fleettest.Server, uuid, key string) int {
	t.Helper()
	err := srv.ClientAs(key).Do(t.Context(), "GET", "/device/v3/"+uuid+"/state", nil, nil)
	switch {
	case err == nil:
		return http.StatusOK
	case errors.Is(err, api.ErrUnauthorized):
		return http.StatusUnauthorized
	}
	t.Errorf("ask for the state: %v", err)
	return 0
}

// vault opens a copy of what is on the disk with a TPM.
func vault(t *testing.T, disk, tpm string) (func(p seal.Place, text string) string, error) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{seal.KeyFile, "identity.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), vm.File(t, disk, "/state/"+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	chip := &sealtest.TPM{Dir: tpm}
	chip.Start(t)
	defer chip.Stop()
	v, err := seal.Open(seal.Config{StateDir: dir, ConfigPath: filepath.Join(dir, "config.json"), Device: chip.Path, Log: slog.New(slog.DiscardHandler)})
	return func(p seal.Place, text string) string {
		t.Helper()
		if !seal.IsSealed(text) {
			t.Errorf("%s is not sealed: %.40s", p, text)
		}
		plain, err := v.Reveal(p, text)
		if err != nil {
			t.Fatal(err)
		}
		return plain
	}, err
}

// unlocked gives every secret of the disk, and more ways to write each, having opened it with its own TPM.
func unlocked(t *testing.T, disk, tpm string) map[string][]byte {
	t.Helper()
	reveal, err := vault(t, disk, tpm)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) (fields map[string]any) {
		if err := json.Unmarshal(vm.File(t, disk, name), &fields); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return fields
	}
	of := func(fields map[string]any, name string) string {
		text, _ := fields[name].(string)
		return text
	}
	out := map[string][]byte{
		"the device key":                  []byte(reveal(seal.DeviceKey, of(file("/state/identity.json"), "device_api_key"))),
		"the key of the device's own API": []byte(reveal(seal.LocalKey, of(file("/state/keys.json"), "device"))),
		"the secret of the fleets' keys":  []byte(reveal(seal.FleetSecret, of(file("/state/keys.json"), "secret"))),
	}
	if again := reveal(seal.ConfigKey, of(file("/config.json"), "deviceApiKey")); again != string(out["the device key"]) {
		t.Error("config.json has another device key")
	}
	for name, key := range map[string]string{
		"the channel's key": reveal(seal.ChannelKey, of(file("/state/channel/identity.json"), "key")),
		"the SSH host key":  reveal(seal.SSHHostKey, string(vm.File(t, disk, "/state/ssh_host_ed25519_key"))),
	} {
		block, _ := pem.Decode([]byte(key))
		if block == nil {
			t.Fatalf("%s: %.60q is no key", name, key)
		}
		out[name] = block.Bytes
		for i, l := range strings.Split(strings.TrimSpace(key), "\n") {
			if !strings.HasPrefix(l, "-----") && len(l) >= 32 {
				out[fmt.Sprintf("line %d of %s", i, name)] = []byte(l)
			}
		}
	}
	for name, secret := range out {
		if len(strings.TrimSpace(string(secret))) < 16 {
			t.Errorf("%s is only %q", name, secret)
		}
	}
	return out
}
