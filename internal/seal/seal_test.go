package seal_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/roadstead-io/roadstead/internal/seal"
)

// What is sealed opens with its key and at its place, and nowhere else, and shows nothing of itself.
func TestSealed(t *testing.T) {
	secret := bytes.Repeat([]byte("s"), 32)
	letters, err := seal.Derive(secret, "letters v1")
	if err != nil {
		t.Fatal(err)
	}
	sources, err := seal.Derive(secret, "sources v1")
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("a letter")
	sealed := letters.Seal(text, "7")
	if got, err := letters.Open(sealed, "7"); err != nil || !bytes.Equal(got, text) {
		t.Errorf("opened: %q %v", got, err)
	}
	if bytes.Contains(sealed, text) || bytes.Equal(sealed, letters.Seal(text, "7")) {
		t.Error("it shows what is in it")
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"another place": func() ([]byte, error) { return letters.Open(sealed, "8") },
		"another use":   func() ([]byte, error) { return sources.Open(sealed, "7") },
		"changed":       func() ([]byte, error) { return letters.Open(changed, "7") },
		"cut":           func() ([]byte, error) { return letters.Open(sealed[:5], "7") },
		"nothing":       func() ([]byte, error) { return letters.Open(nil, "7") },
	} {
		if got, err := open(); !errors.Is(err, seal.ErrBroken) || got != nil {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	if _, err := seal.New(secret[:16]); err == nil {
		t.Error("a short key is taken")
	}
	if _, err := seal.Derive(secret[:31], "letters v1"); err == nil {
		t.Error("a short secret is taken")
	}
}
