package ownerkey_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/ownerkey"
)

// TestMain lets this program stand in for those of fido2-tools, with what tokens seldom do. The programs themselves, with tokens in software, are in
// internal/fleettest: a token needs a kernel with /dev/uhid, and so a machine of its own.
func TestMain(m *testing.M) {
	if tool := os.Getenv("STAND_IN_FOR"); tool != "" {
		if err := standIn(tool, os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", tool, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// standIn is one of the tools. A token is a file with its secret; its name is the device's.
func standIn(tool string, args []string) error {
	tokens := os.Getenv("STAND_IN_TOKENS")
	if tool == "fido2-token" && len(args) == 2 && args[0] == "-I" {
		extensions := "credProtect, hmac-secret"
		if strings.HasSuffix(args[1], "-old") {
			extensions = "credProtect"
		}
		fmt.Printf("proto: 0x02\nversion strings: FIDO_2_0\nextension strings: %s\noptions: rk, up, noplat, noclientPin\n", extensions)
		return nil
	}
	if tool == "fido2-token" {
		if !slices.Equal(args, []string{"-L"}) {
			return fmt.Errorf("usage: %q", args)
		}
		names, err := filepath.Glob(filepath.Join(tokens, "*"))
		for _, n := range names {
			fmt.Printf("%s: vendor=0x1050, product=0x0407 (Example Token)\n", n)
		}
		return err
	}
	secret, err := os.ReadFile(args[len(args)-1])
	if err != nil {
		return fmt.Errorf("fido_open: FIDO_ERR_INTERNAL")
	}
	var in []string
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		in = append(in, s.Text())
	}
	blob := func(i int) []byte {
		b, err := base64.StdEncoding.DecodeString(in[i])
		if err != nil {
			return nil
		}
		return b
	}
	find := tool == "fido2-assert" && slices.Equal(args[:len(args)-1], []string{"-G", "-t", "up=false"})
	if len(in) < 3 || len(in) < 4 && !find || len(blob(0)) != 32 {
		return fmt.Errorf("input error: %q", in)
	}
	enc := base64.StdEncoding.EncodeToString
	mac := func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, secret)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	switch tool {
	case "fido2-cred": // hash, party, user's name, user's id
		if !slices.Equal(args[:len(args)-1], []string{"-M", "-h"}) || len(blob(3)) == 0 {
			return fmt.Errorf("usage: %q", args)
		}
		nonce := make([]byte, 16)
		_, _ = rand.Read(nonce)
		credential := append(nonce, mac([]byte(in[1]), nonce)...)
		fmt.Println(strings.Join([]string{in[0], in[1], "packed", enc([]byte("authenticator data")), enc(credential), enc([]byte("signature"))}, "\n"))
	case "fido2-assert": // hash, party, credential, salt
		if !find && (!slices.Equal(args[:len(args)-1], []string{"-G", "-h", "-t", "up=true"}) || len(blob(3)) != 32) {
			return fmt.Errorf("usage: %q", args)
		}
		credential := blob(2)
		if len(credential) != 48 || !hmac.Equal(credential[16:], mac([]byte(in[1]), credential[:16])) {
			return fmt.Errorf("fido_dev_get_assert: FIDO_ERR_NO_CREDENTIALS")
		}
		out := []string{in[0], in[1], enc([]byte("authenticator data")), enc([]byte("signature"))}
		if !find {
			out = append(out, enc(mac(credential, blob(3))))
		}
		fmt.Println(strings.Join(out, "\n"))
	}
	return nil
}

// fido2 puts the stand-ins where the tools are looked for, and gives the directory of tokens.
func fido2(t *testing.T) string {
	t.Helper()
	bin, tokens := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"fido2-token", "fido2-cred", "fido2-assert"} {
		script := fmt.Sprintf("#!/bin/sh\nSTAND_IN_FOR=%s STAND_IN_TOKENS=%s exec %s \"$@\"\n", tool, tokens, self)
		if err := os.WriteFile(filepath.Join(bin, tool), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return tokens
}

func plug(t *testing.T, tokens, name string) string {
	t.Helper()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	path := filepath.Join(tokens, name)
	if err := os.WriteFile(path, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFIDO2(t *testing.T) {
	tokens := fido2(t)
	path := filepath.Join(t.TempDir(), "one.key")
	if _, err := ownerkey.CreateFIDO2(t.Context(), path, ownerkey.Unlock{}); err == nil || !strings.Contains(err.Error(), "plug it in") {
		t.Errorf("without a token: %v", err)
	}
	first := plug(t, tokens, "hidraw0")
	var said []string
	u := ownerkey.Unlock{Say: func(s string) { said = append(said, s) }}
	if _, err := ownerkey.CreateFIDO2(t.Context(), path, u); err != nil {
		t.Fatal(err)
	}
	signs(t, path, u)
	if !strings.Contains(strings.Join(said, "\n"), "Touch") {
		t.Errorf("nobody was told to touch the token: %q", said)
	}
	second := plug(t, tokens, "hidraw1")
	f, err := ownerkey.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ownerkey.CreateFIDO2(t.Context(), filepath.Join(t.TempDir(), "k"), u); err == nil || !strings.Contains(err.Error(), "there are 2 FIDO2 tokens: name the one") {
		t.Errorf("with two tokens: %v", err)
	}
	signs(t, path, u) // it finds the first
	u.FIDO2 = second
	signs(t, path, u)
	if err := os.Rename(first, filepath.Join(t.TempDir(), "away")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Open(t.Context(), u); err == nil || !strings.Contains(err.Error(), "NO_CREDENTIALS") {
		t.Errorf("with another token: %v", err)
	}
	third := plug(t, tokens, "hidraw2")
	if _, err := f.Open(t.Context(), u); err == nil || !strings.Contains(err.Error(), "made with none of the FIDO2 tokens "+second+", "+third) {
		t.Errorf("with two others: %v", err)
	}
	u.FIDO2 = "-o"
	if _, err := f.Open(t.Context(), u); err == nil || !strings.Contains(err.Error(), "no FIDO2 device") {
		t.Errorf("a device that is an option: %v", err)
	}
	u.FIDO2 = plug(t, tokens, "hidraw3-old")
	if _, err := ownerkey.CreateFIDO2(t.Context(), filepath.Join(t.TempDir(), "k"), u); err == nil || !strings.Contains(err.Error(), "hmac-secret") {
		t.Errorf("a token without hmac-secret: %v", err)
	}
}

func TestToolsThatAreMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := ownerkey.CreateFIDO2(t.Context(), filepath.Join(t.TempDir(), "k"), ownerkey.Unlock{}); err == nil || !strings.Contains(err.Error(), "apt install fido2-tools") {
		t.Errorf("fido2: %v", err)
	}
	if _, err := ownerkey.Token(t.Context(), filepath.Join(t.TempDir(), "k"), "pkcs11:token=a;object=b", with("123456")); err == nil ||
		!strings.Contains(err.Error(), "apt install opensc") {
		t.Errorf("pkcs11: %v", err)
	}
}
