package seal

import (
	"bytes"
	"testing"
)

func DataKey(v *Vault) []byte { return v.key }

func ParseKeyFile(text []byte) error {
	_, err := parseKeyFile(text)
	return err
}

func NewVault(t testing.TB) *Vault {
	t.Helper()
	v, err := newVault(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return v
}
