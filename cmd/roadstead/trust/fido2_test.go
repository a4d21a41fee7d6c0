package trust_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The programs of fido2-tools, in shell, and errors of theirs that are hard to get. The programs themselves, with tokens in software, are in internal/fleettest.
// A token is a file with its secret; FIDO2_FAIL names the error with which it answers.
const (
	fido2Token = `#!/bin/sh
[ "$1" = "-I" ] && { printf 'version strings: FIDO_2_0\nextension strings: credProtect, hmac-secret\noptions: rk, up, noplat, noclientPin\n'; exit 0; }
[ "$*" = "-L" ] || exit 2
for t in "$FIDO2_TOKENS"/*; do [ -e "$t" ] && echo "$t: vendor=0x1050, product=0x0407 (Example Token)"; done
exit 0
`
	fido2Cred = `#!/bin/sh
[ "$1 $2" = "-M -h" ] && [ -r "$3" ] || exit 2
[ -z "$FIDO2_FAIL" ] || { echo "fido2-cred: fido_dev_make_cred: $FIDO2_FAIL" >&2; exit 1; }
read -r hash; read -r party; read -r name; read -r id
credential=$(cat "$3" | sha256sum | cut -c1-32 | base64 -w0)
printf '%s\n' "$hash" "$party" packed YXV0aA== "$credential" c2ln
`
	fido2Assert = `#!/bin/sh
[ "$1 $2 $3" = "-G -t up=false" ] && { shift 3; set -- find "" "" "" "$1"; }
[ "$1" = find ] || [ "$1 $2 $3 $4" = "-G -h -t up=true" ] || exit 2
[ -r "$5" ] || exit 2
[ -z "$FIDO2_FAIL" ] || { echo "fido2-assert: fido_dev_get_assert: $FIDO2_FAIL" >&2; exit 1; }
read -r hash; read -r party; read -r credential; [ "$1" = find ] || read -r salt
[ "$credential" = "$(cat "$5" | sha256sum | cut -c1-32 | base64 -w0)" ] || { echo "fido2-assert: fido_dev_get_assert: FIDO_ERR_NO_CREDENTIALS" >&2; exit 1; }
secret=$( (cat "$5"; echo "$salt") | sha256sum | cut -c1-32 | tr -d '\n' | base64 -w0)
printf '%s\n' "$hash" "$party" YXV0aA== c2ln "$secret"
`
)

// fido2 puts the programs where they are looked for, and gives the directory of tokens.
func fido2(t *testing.T) string {
	t.Helper()
	bin, tokens := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"fido2-token": fido2Token, "fido2-cred": fido2Cred, "fido2-assert": fido2Assert} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("FIDO2_TOKENS", tokens)
	return tokens
}

func plug(t *testing.T, tokens, name string) string {
	t.Helper()
	path := filepath.Join(tokens, name)
	if err := os.WriteFile(path, []byte("secret of "+name), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The whole ceremony with a key that a FIDO2 token opens, a release that it signs, and its replacement by one of another token. What goes wrong with
// tokens is said so that one knows what to do, and leaves nothing behind.
func TestCeremonyWithFIDO2(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	t.Run("no programs", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		o.refuses(s.bundle(), "apt install fido2-tools", "trust", "init", "hello", "--fido2")
	})
	tokens := fido2(t)
	o.refuses(s.bundle(), "plug it in", "trust", "init", "hello", "--fido2")
	one := plug(t, tokens, "hidraw0")
	for code, says := range map[string]string{
		"FIDO_ERR_USER_ACTION_TIMEOUT": "was not touched in time", "FIDO_ERR_ACTION_TIMEOUT": "was not touched in time", "FIDO_ERR_PIN_INVALID": "wrong PIN",
		"FIDO_ERR_PIN_BLOCKED": "blocked", "FIDO_ERR_PIN_AUTH_BLOCKED": "unplug",
	} {
		t.Setenv("FIDO2_FAIL", code)
		o.refuses(s.bundle(), says, "trust", "init", "hello", "--fido2")
	}
	t.Setenv("FIDO2_FAIL", "")
	if left, _ := filepath.Glob(filepath.Join(o.dir, "keys", "*")); len(left) != 0 {
		t.Errorf("failed ceremonies left %v", left)
	}
	out := o.does(s, "trust", "init", "hello", "--fido2", "--approval", "builder+owner")
	has(t, out, "Touch the FIDO2 token to make a credential", "Touch the FIDO2 token to open the key", "file that a FIDO2 token opens", "1 of 1 keys")
	accepts := func(n int) {
		t.Helper()
		s.build(commit(n), `{"image": "web"}`)
		has(t, o.does(s, "release", "sign", commit(n)), "Touch the FIDO2 token to open the key")
		d, err := s.device()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Release(commit(n)); err != nil {
			t.Errorf("release %d: %v", n, err)
		}
	}
	accepts(1)
	s.build(commit(2), `{"image": "web"}`)
	two := plug(t, tokens, "hidraw1")
	out = fmt.Sprint(o.sign(s.bundle(), "trust", "rotate", "hello", "--fido2"))
	has(t, out, "there are 2 FIDO2 tokens", one, two, "--fido2-device")
	t.Setenv("FIDO2_FAIL", "FIDO_ERR_USER_ACTION_TIMEOUT")
	o.refuses(s.bundle(), "was not touched in time", "release", "sign", commit(2), "--fido2-device", one)
	t.Setenv("FIDO2_FAIL", "")
	o.does(s, "release", "sign", commit(2)) // the token that opens the key is found

	// Another token takes the first one's place: the key is made on the second, and signed with the first and with it.
	out = o.does(s, "trust", "rotate", "hello", "--fido2", "--fido2-device", two)
	has(t, out, "(NEW)", "(REMOVED)")
	if err := os.Remove(one); err != nil {
		t.Fatal(err)
	}
	accepts(3)
	if strings.Contains(out, "secret of") {
		t.Error("it prints a secret")
	}
}
