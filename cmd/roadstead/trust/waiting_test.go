package trust_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// waitsAt has the server show what was signed and not sent yet as waiting.
func (o *owner) waitsAt(s *site, version int64) {
	o.t.Helper()
	s.pending = nil
	for _, f := range must(trust.ParseBundle(must(os.ReadFile(o.answer)))).Signed {
		s.pending = append(s.pending, api.TrustPending{Role: f.Role, Version: version, Data: f.Data, Signed: []string{"aaaaaaaabbbb"}, Threshold: 2, By: "alice\x1b[2K"})
	}
}

// What waits holds up just what it is in the way of: another version of the same file, and releases where other keys are to come. The refusal comes
// before a key is opened or made, and says what waits and how to go on.
func TestWhatWaitsHoldsUpLittle(t *testing.T) {
	s, alice, bob := newSite(t), newOwner(t), newOwner(t)
	key := filepath.Join(t.TempDir(), "bob.key")
	if out, code := run("trust", "key", key, "--write-public", key+".pub"); code != 0 {
		t.Fatal(out)
	}
	alice.does(s, "trust", "init", "hello", "--keys", "2", "--threshold", "2", "--public", key+".pub", "--approval", "owner-only", "--key", key)
	s.build(commit(1), `{"image": "web"}`)
	signed := func(what string, args ...string) {
		t.Helper()
		if out, code := alice.sign(s.bundle(), args...); code != 0 {
			t.Fatalf("%s: %s", what, out)
		}
	}
	refused := func(args ...string) {
		t.Helper()
		before := len(must(filepath.Glob(filepath.Join(bob.dir, "keys", "*"))))
		t.Setenv("ROADSTEAD_TRUST_PASSPHRASE_FILE", filepath.Join(t.TempDir(), "none")) // no key can be opened
		bob.refuses(s.bundle(), "trust withdraw", args...)
		out, _ := bob.sign(s.bundle(), args...)
		has(t, out, "waits for signatures", "alice", "trust sign")
		if strings.Contains(out, "\x1b") {
			t.Errorf("the name of who brought it steers the terminal: %q", out)
		}
		if after := len(must(filepath.Glob(filepath.Join(bob.dir, "keys", "*")))); after != before {
			t.Errorf("%q: a key was made", args)
		}
	}

	pass := os.Getenv("ROADSTEAD_TRUST_PASSPHRASE_FILE")
	signed("the shell", "trust", "shell", "hello", "forbidden")
	alice.waitsAt(s, 3)
	refused("trust", "shell", "hello", "forbidden")
	refused("trust", "add-key", "hello")
	refused("trust", "rotate", "hello", "a")
	t.Setenv("ROADSTEAD_TRUST_PASSPHRASE_FILE", pass)
	out, code := bob.sign(s.bundle(), "release", "sign", commit(1), "--key", key)
	if code != 0 {
		t.Fatalf("a release beside targets that wait: %s", out)
	}
	has(t, out, "targets 3 waits for signatures", "does not hold this up")

	// The same list of releases: what Alice has signed would be lost.
	signed("a release", "release", "sign", commit(1))
	alice.waitsAt(s, 1)
	other := 2
	for bin := tuf.BinRole("owner", must(tuf.ReleasePath(commit(1)))); tuf.BinRole("owner", must(tuf.ReleasePath(commit(other)))) != bin; {
		other++
	}
	s.build(commit(other), `{"image": "web"}`)
	refused("release", "sign", commit(other), "--key", key)
	t.Setenv("ROADSTEAD_TRUST_PASSPHRASE_FILE", pass)
	s.build(commit(999), `{"image": "web"}`)
	if out, code := bob.sign(s.bundle(), "release", "sign", commit(999), "--key", key); code != 0 {
		t.Errorf("a release in another list: %s", out)
	}

	// Other keys are to come: what is signed now would be void with them.
	signed("a new key", "trust", "add-key", "hello")
	alice.waitsAt(s, 3)
	refused("release", "sign", commit(999), "--key", key)
}

// A second ceremony would make keys for a root that cannot come.
func TestOneCeremonyAtATime(t *testing.T) {
	s, alice, bob := newSite(t), newOwner(t), newOwner(t)
	key := filepath.Join(t.TempDir(), "carol.key")
	if out, code := run("trust", "key", key, "--write-public", key+".pub"); code != 0 {
		t.Fatal(out)
	}
	if out, code := alice.sign(s.bundle(), "trust", "init", "hello", "--keys", "2", "--threshold", "2", "--public", key+".pub"); code != 0 {
		t.Fatal(out)
	}
	alice.waitsAt(s, 2)
	bob.refuses(s.bundle(), "root 2 waits for signatures", "trust", "init", "hello")
	if made := must(filepath.Glob(filepath.Join(bob.dir, "keys", "*"))); len(made) != 0 {
		t.Errorf("keys were made in vain: %v", made)
	}
}
