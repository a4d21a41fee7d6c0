package device_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// A fleet that is built for more architectures takes devices of each, by every road, and keeps what they need.
func TestFleetOfMixedArchitectures(t *testing.T) {
	w := newWorld(t)
	f, g := w.Fleet(w.alice, "harbour"), w.Fleet(w.alice, "elsewhere")
	path := fmt.Sprintf("application(%d)", f)
	also := func(list any, status int, text string) {
		t.Helper()
		w.Want(w.alice, "PATCH", path, map[string]any{"is_also_built_for": list}, status, text)
	}
	for list, text := range map[string]string{
		"arm64":          `is_also_built_for: \"arm64\" is no CPU architecture to build for; there are aarch64, amd64, armv7hf, i386, rpi.`,
		"armv5e":         `is no CPU architecture to build for`,
		"aarch64,amd64":  "is_also_built_for: the fleet is built for amd64 anyway",
		"aarch64;rm -rf": "is no CPU architecture",
	} {
		also(list, 400, text)
	}
	also(" armv7hf, aarch64,,armv7hf", 200, "")
	_, _ = w.Do(w.bob, "PATCH", path, map[string]any{"is_also_built_for": ""}) // a stranger changes nothing
	if got := w.one(w.alice, path+"?$select=is_also_built_for"); got["is_also_built_for"] != "aarch64,armv7hf" {
		t.Errorf("the list is kept as %v", got)
	}

	key := w.provisioning(w.alice, f, 0)
	made, err := w.register(key, api.Register{Application: f, UUID: uuidOf(1), DeviceType: "generic-aarch64", APIKey: ownKey})
	w.Must(err)
	if _, err := w.register(key, api.Register{Application: f, UUID: uuidOf(2), DeviceType: "raspberry-pi"}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a device that runs nothing of it: %v", err)
	}
	arm := w.id("device_type", "slug = ?", "generic-aarch64")
	pi := w.id("device_type", "slug = ?", "raspberry-pi")
	w.Create(w.alice, "device", map[string]any{"belongs_to__application": f, "is_of__device_type": arm})
	w.Want(w.alice, "POST", "device", map[string]any{"belongs_to__application": f, "is_of__device_type": pi}, 400,
		"A device with CPU architecture rpi cannot run what is built for amd64, aarch64, armv7hf.")
	device := fmt.Sprintf("device(%d)", made.ID)
	w.Want(w.alice, "PATCH", device, map[string]any{"belongs_to__application": g}, 400, "cannot run what is built for amd64.")

	also("", 400, "is_also_built_for: 2 devices of the fleet (aarch64) would have nothing to run; move or remove them first.")
	also(nil, 400, "2 devices")
	also("armv7hf", 200, "") // which aarch64 runs
	also("aarch64", 200, "")
	w.Want(w.alice, "PATCH", fmt.Sprintf("application(%d)", g), map[string]any{"is_also_built_for": "aarch64"}, 200, "")
	w.Want(w.alice, "PATCH", device, map[string]any{"belongs_to__application": g}, 200, "")
	w.Want(w.alice, "DELETE", fmt.Sprintf("device?$filter=belongs_to__application eq %d", f), nil, 200, "")
	also(nil, 200, "")
	if got := w.one(w.alice, path+"?$select=is_also_built_for"); got["is_also_built_for"] != nil {
		t.Errorf("none is kept as %v", got)
	}
}
