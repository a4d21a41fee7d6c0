package token_test

import (
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/account/token"
)

func FuzzChecksum(f *testing.F) {
	f.Add("rsu_" + strings.Repeat("a", 49))
	f.Add("rsu_" + strings.Repeat("a", 43))
	f.Add("")
	f.Add("\xff\xfe")
	good := token.New(token.User)
	f.Fuzz(func(t *testing.T, given string) {
		_ = token.Forged(given) // whatever comes
		if token.Forged(good) {
			t.Fatal("a good token is taken for a forged one")
		}
		if len(given) == 49 && !token.Forged("rsu_"+given) && !token.Forged("rsp_"+given) {
			t.Errorf("%q has a right checksum under two prefixes", given)
		}
	})
}
