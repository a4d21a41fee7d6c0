package account_test

import (
	"testing"

	"github.com/roadstead-io/roadstead/internal/account"
)

// What every request pays to know who asks.
func BenchmarkAuthenticate(b *testing.B) {
	f := newFixture(b)
	session := f.user("alice")
	alice := f.caller(session)
	_, device := f.fleet(100, alice)
	for name, token := range map[string]string{
		"session": session, "device": f.mustKey(alice, account.KeySpec{Of: account.OfDevice, ID: device}),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f.caller(token)
			}
		})
	}
}
