package sshhost_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/internal/sshhost"
)

// A host key is made once, is its owner's alone, and people know it by its name and port. What is no key is no reason to make another one.
func TestHostKey(t *testing.T) {
	dir := t.TempDir()
	if _, err := sshhost.Load(dir); err == nil {
		t.Error("there is a key before it was made")
	}
	if err := sshhost.Prepare(dir, "a comment"); err != nil {
		t.Fatal(err)
	}
	first, err := sshhost.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, sshhost.KeyFile)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v %v", info.Mode(), err)
	}
	if err := sshhost.Prepare(dir, ""); err != nil {
		t.Fatal(err)
	}
	again, err := sshhost.Key(dir, "")
	if err != nil || ssh.FingerprintSHA256(again.PublicKey()) != ssh.FingerprintSHA256(first.PublicKey()) {
		t.Errorf("the next time it is another: %v", err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(first.PublicKey())))
	for address, want := range map[string]string{"0.0.0.0:22": "git.roadstead.test ", ":2222": "[git.roadstead.test]:2222 "} {
		site, err := sshhost.Known(dir, "git.roadstead.test", address)
		if err != nil || site.KnownHosts != want+line || site.Fingerprint != ssh.FingerprintSHA256(first.PublicKey()) || !strings.HasPrefix(site.Address, "git.roadstead.test:2") {
			t.Errorf("%s: %+v %v", address, site, err)
		}
	}
	if _, err := sshhost.Known(dir, "git.roadstead.test", "nowhere"); err == nil || !strings.Contains(err.Error(), "git.roadstead.test") {
		t.Errorf("an address that is none: %v", err)
	}
	if err := os.WriteFile(file, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sshhost.Key(dir, ""); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken key: %v", err)
	}
	if data, _ := os.ReadFile(file); string(data) != "broken" {
		t.Error("it was written over")
	}
}
