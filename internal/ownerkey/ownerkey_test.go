package ownerkey_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/internal/ownerkey"
)

const passphrase = "correct horse battery"

// with answers every question for a passphrase or PIN.
func with(text string) ownerkey.Unlock {
	return ownerkey.Unlock{Passphrase: func(string) ([]byte, error) { return []byte(text), nil }}
}

// verifies checks a signature as go-tuf's clients do.
func verifies(t *testing.T, key *metadata.Key, message, sig []byte) bool {
	t.Helper()
	public, err := key.ToPublicKey()
	if err != nil {
		t.Fatal(err)
	}
	switch public := public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(public, message, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(public, sum[:], sig)
	}
	t.Fatalf("a key of type %T", public)
	return false
}

// signs opens a key and checks that its signature is of the key that its file names.
func signs(t *testing.T, path string, u ownerkey.Unlock) {
	t.Helper()
	f, err := ownerkey.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Open(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("what is signed")
	sig, err := s.Sign(message)
	if err != nil {
		t.Fatal(err)
	}
	if !verifies(t, f.Public, message, sig) {
		t.Error("the signature does not verify with the public key that the file names")
	}
	if verifies(t, f.Public, []byte("something else"), sig) {
		t.Error("the signature verifies for another message")
	}
}

func TestPassphrase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "one.key")
	if _, err := ownerkey.Create(path, []byte("short")); err == nil || !strings.Contains(err.Error(), "shorter than 10") {
		t.Errorf("a short passphrase: %v", err)
	}
	f, err := ownerkey.Create(path, []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	signs(t, path, with(passphrase))

	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %o", st.Mode().Perm())
	}
	read, err := ownerkey.Read(path) // no passphrase
	if err != nil || read.ID != f.ID || read.Kind != ownerkey.KindPassphrase {
		t.Errorf("its public half: %+v, %v", read, err)
	}
	if _, err := read.Open(t.Context(), with("wrong horse battery")); !errors.Is(err, ownerkey.ErrPassphrase) {
		t.Errorf("with the wrong passphrase: %v", err)
	}
	if _, err := ownerkey.Create(path, []byte(passphrase)); err == nil || !strings.Contains(err.Error(), "not overwritten") {
		t.Errorf("a key over another: %v", err)
	}
	signs(t, path, with(passphrase))
}

// The attack: who can write the file, and not open it, has another key named in it, or its work made dearer.
func TestFileIsBound(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	for _, p := range []string{one, two} {
		if _, err := ownerkey.Create(p, []byte(passphrase)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(two)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(mine, theirs map[string]any)) []byte {
		var m, o map[string]any
		if err := errors.Join(json.Unmarshal(data, &m), json.Unmarshal(other, &o)); err != nil {
			t.Fatal(err)
		}
		f(m, o)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"another public key":        {change(func(m, o map[string]any) { m["public"], m["id"] = o["public"], o["id"] }), "wrong passphrase"},
		"a public key without id":   {change(func(m, o map[string]any) { m["public"] = o["public"] }), "do not belong together"},
		"another time":              {change(func(m, _ map[string]any) { m["created"] = "2020-01-01T00:00:00Z" }), "wrong passphrase"},
		"all memory of the machine": {change(func(m, _ map[string]any) { m["kdf"].(map[string]any)["memory"] = 1 << 31 }), "damaged"},
		"no kdf":                    {change(func(m, _ map[string]any) { delete(m, "kdf") }), "damaged"},
		"a newer format":            {change(func(m, _ map[string]any) { m["roadstead_owner_key"] = 2 }), "use a newer one"},
		"an unknown kind":           {change(func(m, _ map[string]any) { m["kind"] = "cloud" }), "does not know"},
		"an unknown member":         {change(func(m, _ map[string]any) { m["extra"] = true }), "damaged"},
		"cut":                       {data[:len(data)/2], "no owner's key"},
		"empty":                     {nil, "no owner's key"},
		"a picture":                 {bytes.Repeat([]byte{0xff}, 100<<10), "larger than"},
		"a sealed part cut":         {change(func(m, _ map[string]any) { m["sealed"] = "AAAA" }), "wrong length"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := ownerkey.Read(path)
			if err == nil {
				_, err = f.Open(t.Context(), with(passphrase))
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something with %q", err, c.want)
			}
		})
	}
}

func TestPassphraseFrom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p")
	for text, want := range map[string]string{"secret word\n": "secret word", "secret word\r\nmore\n": "secret word", "secret word": "secret word"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ownerkey.PassphraseFrom(path); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if err := os.WriteFile(path, []byte("\nsecond line"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ownerkey.PassphraseFrom(path); err == nil {
		t.Error("an empty first line is taken for a passphrase")
	}
}

// softhsm makes a token in a directory of the test's, and gives the URI's part that chooses the module.
func softhsm(t *testing.T, label, pin string) string {
	t.Helper()
	var lib string
	for _, p := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"} {
		if _, err := os.Stat(p); err == nil {
			lib = p
		}
	}
	if _, err := exec.LookPath("pkcs11-tool"); err != nil || lib == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("opensc and softhsm2 are not installed: scripts/install.sh test")
		}
		t.Skip("needs opensc and softhsm2: scripts/install.sh test")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", "87654321").CombinedOutput(); err != nil {
		t.Fatalf("make a token: %v: %s", err, out)
	}
	return "?module-path=" + lib
}

func TestPKCS11(t *testing.T) {
	module := softhsm(t, "owner token", "123456")
	dir := t.TempDir()
	path := filepath.Join(dir, "token.key")
	uri := "pkcs11:token=owner%20token;object=fleet" + module
	f, err := ownerkey.Token(t.Context(), path, uri, with("123456"))
	if err != nil {
		t.Fatal(err)
	}
	signs(t, path, with("123456"))
	read, err := ownerkey.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := read.Open(t.Context(), with("000000"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Sign([]byte("x")); !errors.Is(err, ownerkey.ErrPassphrase) {
		t.Errorf("with the wrong PIN: %v", err)
	}
	// The key that is there is taken again, without a PIN, and none is made beside it.
	again, err := ownerkey.Token(t.Context(), filepath.Join(dir, "again.key"), uri, ownerkey.Unlock{})
	if err != nil || again.ID != f.ID {
		t.Errorf("taken again: %v, %v", again, err)
	}
	// Another object is another key, and the file of the first is not opened by it.
	other, err := ownerkey.Token(t.Context(), filepath.Join(dir, "other.key"), "pkcs11:token=owner%20token;object=second"+module, with("123456"))
	if err != nil || other.ID == f.ID {
		t.Fatalf("another object: %v, %v", other, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	swapped := filepath.Join(dir, "swapped.key")
	if err := os.WriteFile(swapped, bytes.Replace(data, []byte("object=fleet"), []byte("object=second"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	sw, err := ownerkey.Read(swapped)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sw.Open(t.Context(), with("123456")); err == nil || !strings.Contains(err.Error(), "is it the right token") {
		t.Errorf("a file that names another object: %v", err)
	}
	if _, err := ownerkey.Token(t.Context(), filepath.Join(dir, "none.key"), "pkcs11:token=elsewhere;object=x"+module, with("123456")); err == nil ||
		!strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("a token that is not there: %v", err)
	}
}

func TestURIsThatAreRefused(t *testing.T) {
	for uri, want := range map[string]string{
		"token=a;object=b":                              "begin with pkcs11:",
		"pkcs11:object=b":                               "token is missing",
		"pkcs11:token=a":                                "object and id are missing",
		"pkcs11:token=a;object=b?pin-value=1234":        "pin-value",
		"pkcs11:token=a;object=b?pin-source=/etc/pin":   "pin-source",
		"pkcs11:token=a;object=b?module-path=lib.so":    "absolute",
		"pkcs11:token=a;object=b;colour=red":            "colour is not known",
		"pkcs11:token=a;object=%zz":                     "cannot be read",
		"pkcs11:token=a;object=":                        "cannot be read",
		"pkcs11:slot-id=3;object=b":                     "token=LABEL",
		"pkcs11:token=a%0A;object=b":                    "cannot be read",
		"https://example.com/pkcs11:token=a;object=b":   "begin with pkcs11:",
		"pkcs11:token=a;object=b?module-path=../lib.so": "absolute",
	} {
		if _, err := ownerkey.Token(context.Background(), filepath.Join(t.TempDir(), "k"), uri, ownerkey.Unlock{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want something with %q", uri, err, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	path := filepath.Join(f.TempDir(), "k")
	if _, err := ownerkey.Create(path, []byte(passphrase)); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"roadstead_owner_key":1,"kind":"pkcs11","token":"pkcs11:token=a;object=b"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := ownerkey.Read(p)
		if err == nil && (k.Public == nil || len(k.ID) != 64) {
			t.Errorf("read without an error: %+v", k)
		}
	})
}
