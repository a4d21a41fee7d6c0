package version_test

import (
	"testing"

	"github.com/roadstead-io/roadstead/internal/device/version"
)

func FuzzVersion(f *testing.F) {
	for _, s := range []string{"balenaOS 2.98.33+rev1.prod", "6.0.0", "1.2.3-rc.1+rev2", "Debian 12", "99999999.1.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := version.Parse(text)
		if ok && v.Compare(v) != 0 {
			t.Errorf("%q is not itself: %+v", text, v)
		}
	})
}

func TestVersionsInOrder(t *testing.T) {
	list := []string{"2.9.0", "2.98.33-rc.1", "balenaOS 2.98.33", "2.98.33+rev1", "2.98.33+rev2.prod", "balenaOS 2.98.33+rev10", "6.0.0"}
	for i := range list {
		for j := range list {
			a, ok1 := version.Parse(list[i])
			b, ok2 := version.Parse(list[j])
			if want := min(1, max(-1, i-j)); !ok1 || !ok2 || a.Compare(b) != want {
				t.Errorf("%s to %s: got %d, want %d", list[i], list[j], a.Compare(b), want)
			}
		}
	}
	if _, ok := version.Parse("Debian 12"); ok {
		t.Error("Debian 12 is no such version")
	}
}
