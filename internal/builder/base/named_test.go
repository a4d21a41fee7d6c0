package base_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/roadstead-io/roadstead/internal/builder/base"
)

func TestABuildIsGivenTheImagesThatItNames(t *testing.T) {
	hash := func(c string) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(c, 64)} }
	amd64 := v1.Platform{OS: "linux", Architecture: "amd64"}
	bases := []base.Base{
		{Name: "base/debian", Images: map[string]v1.Hash{"linux/amd64": hash("1")}, Former: map[string][]v1.Hash{"linux/amd64": {hash("0")}}},
		{Name: "base/go", Images: map[string]v1.Hash{"linux/amd64": hash("2")}},
		{Name: "base/arm", Images: map[string]v1.Hash{"linux/arm64": hash("3")}},
	}
	former, today := "base/debian@"+hash("0").String(), "base/debian@"+hash("1").String()
	for text, want := range map[string][]string{
		"FROM base/debian\nRUN echo $HOME\n":              {"base/debian"},
		"FROM alpine\nRUN x\n":                            nil,
		"FROM alpine\nCOPY --from=base/go /x /\n":         {"base/go"},
		"ARG V=debian\nFROM base/${V}\n":                  {"base/debian", "base/go"},
		"FROM x\nRUN --mount=type=bind,from=$Y true\n":    {"base/debian", "base/go"},
		"FROM " + former + "\n":                           {"base/debian", former},
		"FROM " + today + "\n":                            {"base/debian", today},
		"FROM base/arm\n":                                 nil,
		"FROM base/debian@sha256:" + hash("9").Hex + "\n": {"base/debian"},
	} {
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(base.Named(bases, amd64, text)))); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestABaseThatIsThereForOthersAloneIsSaid(t *testing.T) {
	bases := []base.Base{{Name: "base/busybox", Images: map[string]v1.Hash{"linux/amd64": {}}}, {Name: "base/go", Images: map[string]v1.Hash{"linux/arm64": {}}}}
	arm := v1.Platform{OS: "linux", Architecture: "arm64"}
	for dockerfile, want := range map[string]string{
		"FROM base/busybox\n":                            "base/busybox is there for linux/amd64, and not for linux/arm64: an operator rebuilds or imports it",
		"FROM base/go\nCOPY --from=base/busybox /a /b\n": "base/busybox is there for linux/amd64, and not for linux/arm64: an operator rebuilds or imports it",
		"FROM base/go\n":                                 "",
		"FROM scratch\n# not base/busybox\n":             "",
		"FROM base/busyboxes\n":                          "",
	} {
		if got := strings.Join(base.Lacking(bases, arm, dockerfile), "; "); got != want {
			t.Errorf("%q: %q, want %q", dockerfile, got, want)
		}
	}
}
