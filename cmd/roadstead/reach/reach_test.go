package reach_test

import (
	"testing"

	"github.com/roadstead-io/roadstead/cmd/roadstead/reach"
)

// The mappings of `balena device tunnel`, and what is none.
func TestMappings(t *testing.T) {
	for text, want := range map[string]struct {
		remote int
		local  string
	}{
		"22222":                {22222, "127.0.0.1:22222"},
		"22222:4321":           {22222, "127.0.0.1:4321"},
		"22222:0":              {22222, "127.0.0.1:0"},
		"22222:127.0.0.1":      {22222, "127.0.0.1:22222"},
		"22222:127.0.0.1:4321": {22222, "127.0.0.1:4321"},
		"80:localhost:8080":    {80, "127.0.0.1:8080"},
		"80:192.168.1.5:8080":  {80, "192.168.1.5:8080"},
		"80:[::1]:8080":        {80, "[::1]:8080"},
		"80:[::1]":             {80, "[::1]:80"},
		"":                     {},
		"0:80":                 {},
		"65536":                {},
		"80:65536":             {},
		"80:example.com:8080":  {},
		"80:127.0.0.1:8080:90": {},
		"-80":                  {},
		"80:127.0.0.1:":        {},
	} {
		remote, local, err := reach.ParseMapping(text)
		if want.remote == 0 {
			if err == nil {
				t.Errorf("%q is taken for port %d at %s", text, remote, local)
			}
			continue
		}
		if err != nil || remote != want.remote || local != want.local {
			t.Errorf("%q: got %d at %s, %v; want %d at %s", text, remote, local, err, want.remote, want.local)
		}
	}
}
