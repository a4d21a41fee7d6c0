package shell_test

import (
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/cmd/roadstead/shell"
)

// Which end of a copy is on a device, and where.
func TestEndsOfACopy(t *testing.T) {
	for args, want := range map[string]string{
		"f kitchen:/etc/f":               "kitchen||f /etc/f",
		"kitchen:/var/log .":             "kitchen||/var/log .",
		"./a:b kitchen:web:/srv":         "kitchen|web|./a:b /srv",
		"kitchen:web:/a kitchen:web:b .": "kitchen|web|/a b .",
		"kitchen:a:b/c .":                "kitchen|a|b/c .",
		"kitchen:/a:b .":                 "kitchen||/a:b .",
		"kitchen: .":                     "kitchen||. .",
		"/x:y kitchen:z":                 "kitchen||/x:y z",
		"a b":                            "",
		"kitchen:a cellar:b":             "",
		"kitchen:a cellar:b .":           "",
		"kitchen:a kitchen:web:/b .":     "",
		"a kitchen:b .":                  "",
	} {
		device, service, paths, err := shell.ParsePlaces(strings.Fields(args))
		got := device + "|" + service + "|" + strings.Join(paths, " ")
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%s: got %q, %v; want %q", args, got, err, want)
		}
	}
}
