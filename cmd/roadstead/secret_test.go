package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// secrets opens every key of an owner below a directory and looks whether anything of it is in the server's directory, with its database: secrets DIR. The passphrase is
// that of the story.
func secrets(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: secrets DIR")
	}
	passphrase := strings.TrimSpace(ts.ReadFile(ts.Getenv("ROADSTEAD_TRUST_PASSPHRASE_FILE")))
	forms := map[string][]byte{"the passphrase": []byte(passphrase)}
	var publics [][]byte
	keys := 0
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".key") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var f map[string]json.RawMessage
		if err := json.Unmarshal(data, &f); err != nil {
			return err
		}
		if string(f["kind"]) != `"passphrase"` {
			return nil
		}
		keys++
		seed, sealed := unseal(ts, data, passphrase)
		private := ed25519.NewKeyFromSeed(seed)
		publics = append(publics, []byte(hex.EncodeToString(private.Public().(ed25519.PublicKey))))
		for what, b := range map[string][]byte{"seed": seed, "sealed part": sealed[24:]} {
			name := what + " of " + filepath.Base(path)
			forms[name] = b
			forms[name+" in hex"] = []byte(hex.EncodeToString(b))
			forms[name+" in base64"] = []byte(strings.TrimRight(base64.StdEncoding.EncodeToString(b), "="))
			forms[name+" in URL base64"] = []byte(base64.RawURLEncoding.EncodeToString(b))
		}
		return nil
	}))
	if keys == 0 {
		ts.Fatalf("%s has no key", args[0])
	}
	seen := false
	ts.Check(filepath.WalkDir(ts.Getenv("DATA"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // what went away meanwhile holds nothing
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		for what, form := range forms {
			if bytes.Contains(data, form) {
				ts.Fatalf("%s has the %s", path, what)
			}
		}
		for _, p := range publics {
			seen = seen || bytes.Contains(data, p)
		}
		return nil
	}))
	if !seen {
		ts.Fatalf("not even a public key is on the server: it was looked for in the wrong place")
	}
}

// unseal opens a key's file, by what its format says and not by the package that wrote it.
func unseal(ts *testscript.TestScript, data []byte, passphrase string) (seed, sealed []byte) {
	var f struct {
		Sealed []byte
		KDF    struct {
			Salt         []byte
			Time, Memory uint32
			Lanes        uint8
		}
	}
	ts.Check(json.Unmarshal(data, &f))
	key := argon2.IDKey([]byte(passphrase), f.KDF.Salt, f.KDF.Time, f.KDF.Memory, f.KDF.Lanes, chacha20poly1305.KeySize)
	box, err := chacha20poly1305.NewX(key)
	ts.Check(err)
	var bound bytes.Buffer
	ts.Check(json.Compact(&bound, without(ts, data, "sealed")))
	seed, err = box.Open(nil, f.Sealed[:24], f.Sealed[24:], bound.Bytes())
	ts.Check(err)
	return seed, f.Sealed
}

// without is JSON without its last member, as it was written.
func without(ts *testscript.TestScript, data []byte, member string) []byte {
	at := bytes.LastIndex(data, []byte(`"`+member+`"`))
	if at < 0 {
		ts.Fatalf("no member %s", member)
	}
	return append(bytes.TrimRight(data[:at:at], " \n,"), '}')
}
