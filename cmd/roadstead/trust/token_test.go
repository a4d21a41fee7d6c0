package trust_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A ceremony with a key on a PKCS#11 token beside one in a file: devices take signatures of both kinds.
func TestCeremonyWithAToken(t *testing.T) {
	const lib = "/usr/lib/softhsm/libsofthsm2.so"
	if _, err := os.Stat(lib); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("softhsm2 is not installed: scripts/install.sh test")
		}
		t.Skip("needs opensc and softhsm2: scripts/install.sh test")
	}
	dir := t.TempDir()
	conf, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	for path, text := range map[string]string{conf: "directories.tokendir = " + dir + "\nobjectstore.backend = file\nlog.level = ERROR\n", pin: "123456\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	t.Setenv("ROADSTEAD_TRUST_PIN_FILE", pin)
	if out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", "alice", "--pin", "123456", "--so-pin", "87654321").CombinedOutput(); err != nil {
		t.Fatalf("make a token: %v: %s", err, out)
	}
	s, o := newSite(t), newOwner(t)
	out := o.does(s, "trust", "init", "hello", "--pkcs11", "pkcs11:token=alice;object=hello?module-path="+lib, "--keys", "2", "--threshold", "2", "--approval", "builder+owner")
	has(t, out, "Made the key hello on the token alice", "PKCS#11 token", "2 of 2 keys")
	s.build(commit(1), `{"image": "web"}`)
	o.does(s, "release", "sign", commit(1))
	d, err := s.device()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Release(commit(1)); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(pin, []byte("000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.build(commit(2), `{"image": "web"}`)
	o.refuses(s.bundle(), "wrong passphrase", "release", "sign", commit(2))
	t.Setenv("ROADSTEAD_TRUST_PASSPHRASE_FILE", pin)
	o.refuses(s.bundle(), "wrong passphrase", "release", "sign", commit(2))
}
