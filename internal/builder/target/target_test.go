package target_test

import (
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/target"
)

// Every target is as if the fleet were for it alone; the fleet's own comes first, and none is there twice.
func TestTargetsOfAFleet(t *testing.T) {
	list := target.Of(&api.BuildFleet{ID: 7, Slug: "acme/hello", Arch: "amd64", DeviceType: "intel-nuc", Also: []api.BuildArch{
		{Arch: "aarch64", DeviceType: "generic-aarch64"}, {Arch: "armv7hf", DeviceType: "generic-armv7ahf"}, {Arch: "amd64", DeviceType: "generic-amd64"}}})
	if got := strings.Join(target.Names(list), " "); got != "linux/amd64 linux/arm64 linux/arm/v7" {
		t.Errorf("targets: %s", got)
	}
	if f := list[0].Fleet; f.DeviceType != "intel-nuc" || f.ID != 7 {
		t.Errorf("the first: %+v", f)
	}
	if f := list[2].Fleet; f.DeviceType != "generic-armv7ahf" || f.Arch != "armv7hf" || f.Slug != "acme/hello" || f.Also != nil {
		t.Errorf("the third: %+v", f)
	}
}

func TestOnlyWhatEveryDeviceRuns(t *testing.T) {
	all := target.Of(&api.BuildFleet{Arch: "aarch64", Also: []api.BuildArch{{Arch: "armv7hf"}}})
	for names, want := range map[string]string{
		"":                          "linux/arm64 linux/arm/v7",
		"linux/arm/v7":              "linux/arm/v7",
		"linux/arm":                 "linux/arm/v7",
		"linux/arm64/v8 linux/arm":  "linux/arm64 linux/arm/v7",
		"linux/arm/v7 linux/arm/v7": "linux/arm/v7",
		"linux/arm64":               "error: do not run it",
		"linux/amd64":               "error: the fleet is built for linux/arm64, linux/arm/v7",
		"nonsense":                  "error: the fleet is built for",
	} {
		list, err := target.Only(all, strings.Fields(names))
		if says, wrong := strings.CutPrefix(want, "error: "); wrong {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("Only(%q): %v, want %q", names, err, says)
			}
		} else if got := strings.Join(target.Names(list), " "); err != nil || got != want {
			t.Errorf("Only(%q): %q %v, want %q", names, got, err, want)
		}
	}
	if !target.Same("linux/arm64/v8", v1.Platform{OS: "linux", Architecture: "arm64"}) || target.Same("windows/arm64", v1.Platform{OS: "linux", Architecture: "arm64"}) {
		t.Error("arm64 by another name")
	}
}
