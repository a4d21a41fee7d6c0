package trust_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust"
	"github.com/roadstead-io/roadstead/internal/ownerkey"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

func has(t *testing.T, out string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(out, w) {
			t.Errorf("it does not say %q:\n%s", w, out)
		}
	}
}

// A fleet whose root is the server's becomes its owner's in place: devices that trust the server's root follow.
func TestCeremony(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	out := o.does(s, "trust", "init", "hello", "--approval", "builder+owner", "--shell", "forbidden")
	has(t, out, "held by the owner, before by the server", "(NEW)", "builder+owner (before builder)", "forbidden (before allowed)", "WARNING: there is one key", "Back up")
	d, err := s.device()
	if err != nil {
		t.Fatalf("a device that trusts the server's root: %v", err)
	}
	policy, err := d.Policy()
	if err != nil || d.HeldBy() != api.HeldByOwner || policy.Approval != api.ApprovalBoth || policy.Shell != "forbidden" || policy.Log == nil {
		t.Errorf("it believes a root of the %s and %+v, %v", d.HeldBy(), policy, err)
	}
	st, err := os.Stat(o.dir)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", st, err)
	}
	o.refuses(s.bundle(), "there was a ceremony", "trust", "init", "hello")

	// A release waits until the owner has signed it.
	c := commit(1)
	s.build(c, `{"image": "web"}`)
	if d, err = s.device(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Release(c); err == nil {
		t.Fatal("a device takes a release that the owner has not signed")
	}
	out = o.does(s, "release", "sign", "--all-pending", "--fleet", "hello")
	has(t, out, c, "service web: sha256:"+tuf.Digest([]byte(c)), "No earlier signed release")
	if d, err = s.device(); err != nil {
		t.Fatal(err)
	}
	if l, err := d.Release(c); err != nil || l.SHA256 != tuf.Digest(s.releases[c].Document) {
		t.Errorf("signed, the device says %+v, %v", l, err)
	}
	// What the next one gains is said first.
	s.build(commit(2), `{"image": "web", "privileged": true, "cap_add": ["NET_ADMIN"], "command": ["sh"]}`)
	out = o.does(s, "release", "sign", commit(2))
	has(t, out, "!! service web GAINS privileged", "!! service web GAINS cap_add: NET_ADMIN", "Compared with release 0000000", "command")
	out = o.does(s, "trust", "approval", "hello", "owner-only")
	has(t, out, "owner-only (before builder+owner)")
	s.build(commit(3), `{"image": "web"}`)
	o.does(s, "release", "sign", commit(3))
	if d, err = s.device(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Release(commit(3)); err != nil {
		t.Errorf("owner-only: %v", err)
	}
}

// Two of three: one is not enough, two are, whoever they are; a lost key is removed by the two others, and a device follows from the first root.
func TestSeveralKeys(t *testing.T) {
	s, alice, bob := newSite(t), newOwner(t), newOwner(t)
	keys := t.TempDir()
	public := func(name string) string {
		out, code := run("trust", "key", filepath.Join(keys, name+".key"), "--write-public", filepath.Join(keys, name+".pub"))
		if code != 0 {
			t.Fatal(out)
		}
		return filepath.Join(keys, name+".pub")
	}
	out := alice.does(s, "trust", "init", "hello", "--keys", "3", "--threshold", "2", "--public", public("bob"), "--public", public("carol"), "--approval", "owner-only", "--key", filepath.Join(keys, "carol.key"))
	has(t, out, "2 of 3 keys")
	if _, err := s.device(); err != nil {
		t.Fatalf("signed by two of three: %v", err)
	}
	s.build(commit(1), `{"image": "web"}`)

	// Alice alone: it waits.
	b := s.bundle()
	if out, code := alice.sign(b, "release", "sign", commit(1)); code != 0 {
		t.Fatal(out)
	}
	answer := must(trust.ParseBundle(must(os.ReadFile(alice.answer))))
	s.pending = []api.TrustPending{{Role: answer.Signed[0].Role, Version: 1, Data: answer.Signed[0].Data, Threshold: 2}}
	path := must(tuf.ReleasePath(commit(1)))
	if _, err := os.Stat(filepath.Join(alice.dir, "waiting", tuf.BinRole("owner", path)+".json")); err != nil {
		t.Errorf("what waits is not kept: %v", err)
	}
	// Alice again adds nothing.
	alice.refuses(s.bundle(), "all that may have signed", "trust", "sign", "hello")
	// Bob sees in words what it is, and signs.
	out = bob.does(s, "trust", "sign", "hello", "--key", filepath.Join(keys, "bob.key"))
	has(t, out, "+ release "+commit(1), "document "+tuf.Digest(s.releases[commit(1)].Document), "service web: sha256:"+tuf.Digest([]byte(commit(1))), "setting")
	d, err := s.device()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Release(commit(1)); err != nil {
		t.Errorf("signed by Alice and Bob: %v", err)
	}

	// Bob's key is lost: Alice and Carol remove it. What was signed by it is signed again.
	bobID := must(ownerkey.Read(public2(keys, "bob"))).ID
	out = alice.does(s, "trust", "remove-key", "hello", bobID[:8], "--key", filepath.Join(keys, "carol.key"))
	has(t, out, bobID[:8]+" (REMOVED)", "2 of 2 keys", "the same 1 releases")
	if d, err = s.device(); err != nil {
		t.Fatalf("after the removal: %v", err)
	}
	if _, err := d.Release(commit(1)); err != nil {
		t.Errorf("a release that Bob and Alice had signed: %v", err)
	}
	bob.refuses(s.bundle(), "no key here may sign", "trust", "threshold", "hello", "1", "--key", filepath.Join(keys, "bob.key"))
	alice.refuses(s.bundle(), "cannot be reached", "trust", "threshold", "hello", "3")
	alice.refuses(s.bundle(), "cannot be reached", "trust", "threshold", "hello", "0")

	// Carol's is rotated, and then the threshold is one.
	carol := must(ownerkey.Read(public2(keys, "carol"))).ID
	alice.does(s, "trust", "rotate", "hello", carol, "--key", filepath.Join(keys, "carol.key"))
	out = alice.does(s, "trust", "threshold", "hello", "1")
	has(t, out, "1 of 2 keys", "(before 2 of 2)")
	if d, err = s.device(); err != nil || len(s.roots) != 5 {
		t.Fatalf("a device that slept since the first of %d roots: %v", len(s.roots), err)
	}
	if _, err := d.Release(commit(1)); err != nil {
		t.Error(err)
	}
	// Everything is signed again before it expires.
	before := d.Versions()
	alice.does(s, "trust", "renew", "hello", "--life", "2y")
	if d, err = s.device(); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"root", "targets", "owner", tuf.BinRole("owner", path)} {
		if d.Versions()[role] != before[role]+1 {
			t.Errorf("%s: version %d after %d", role, d.Versions()[role], before[role])
		}
	}
}

func public2(dir, name string) string { return filepath.Join(dir, name+".pub") }

// The attack: who has the server, but no owner's key, has the owner's own program sign something else than it says, or believe another root.
func TestTheServerIsBelievedNothing(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello", "--approval", "builder+owner")
	s.build(commit(1), `{"image": "web"}`)
	o.does(s, "release", "sign", commit(1))
	s.build(commit(2), `{"image": "web"}`)
	path := must(tuf.ReleasePath(commit(2)))
	bin := tuf.BinRole("owner", path)
	change := func(f func(b *trust.Bundle)) *trust.Bundle {
		b := s.bundle()
		b.Files = append([]api.TrustFile(nil), b.Files...)
		f(b)
		return b
	}
	replace := func(b *trust.Bundle, role string, data []byte) {
		for i := range b.Files {
			if b.Files[i].Role == role {
				b.Files[i].Data = data
				return
			}
		}
		b.Files = append(b.Files, api.TrustFile{Role: role, Data: data})
	}
	sign := []string{"release", "sign", commit(2)}

	o.refuses(change(func(b *trust.Bundle) {
		d := s.releases[commit(2)].Document
		b.Releases[commit(2)] = &trust.Evidence{Document: bytes.Replace(d, []byte(`"size":500`), []byte(`"size":501`), 1)}
	}), "is not the one that the builder signed", sign...)
	o.refuses(change(func(b *trust.Bundle) { b.Releases[commit(2)] = s.releases[commit(1)] }), "is about the release", sign...)
	o.refuses(change(func(b *trust.Bundle) {
		d := bytes.Replace(s.releases[commit(2)].Document, []byte(`{"fleet"`), []byte(`{"surprise":1,"fleet"`), 1)
		b.Releases[commit(2)] = &trust.Evidence{Document: d}
	}), "is not shown and not signed", sign...)
	o.refuses(change(func(b *trust.Bundle) { delete(b.Releases, commit(2)) }), "no document of release", sign...)

	// A bin that the owner never signed, with a release that rides along.
	forged := tuf.Bin{Role: bin, Version: 900, Expires: later(), Mark: s.mark(), Listed: map[string]tuf.Listed{must(tuf.ReleasePath(commit(9))): {Length: 1, SHA256: strings.Repeat("a", 64), Counter: 1}}}
	forged.Listed = map[string]tuf.Listed{path: {Length: 1, SHA256: strings.Repeat("a", 64), Counter: 1}}
	o.refuses(change(func(b *trust.Bundle) { replace(b, bin, must(forged.Make(s.keys["root"]))) }), "does not verify", sign...)
	// Targets of the thief's own.
	targets := must(tuf.ReadTargets(s.files["targets"]))
	targets.Version, targets.Owner = targets.Version+1, []*metadata.Key{s.keys["thief"].Public()}
	o.refuses(change(func(b *trust.Bundle) { replace(b, "targets", must(targets.Make(s.keys["root"], s.keys["thief"]))) }), "does not verify", sign...)
	// A root of the thief's own, in place of the owner's and after it.
	root := must(tuf.ReadRoot(s.roots[1]))
	root.Keys["root"] = []*metadata.Key{s.keys["thief"].Public()}
	other := must(root.Make(s.keys["root"], s.keys["thief"]))
	o.refuses(change(func(b *trust.Bundle) { b.Roots = [][]byte{s.roots[0], other} }), "is not the root 2 that this machine believes", sign...)
	root.Version = 3
	other = must(root.Make(s.keys["root"], s.keys["thief"]))
	o.refuses(change(func(b *trust.Bundle) { b.Roots = append(b.Roots[:2:2], other) }), "does not follow from root 2", sign...)
	// A counter that would keep devices from all that comes.
	s.counter = time.Now().Add(3650 * 24 * time.Hour).Unix()
	s.build(commit(3), `{"image": "web"}`)
	o.refuses(s.bundle(), "ahead of the clock", "release", "sign", commit(3))
	// A pending file of another fleet, of a role that is not the owner's, an old one, and one that takes a key in.
	mark := s.mark()
	mark.Fleet = strings.Repeat("f", 32)
	for want, p := range map[string]api.TrustPending{
		"fleet":         {Role: bin, Data: must(tuf.Bin{Role: bin, Version: 2, Expires: later(), Mark: mark, Listed: map[string]tuf.Listed{}}.Make())},
		"owners sign":   {Role: "builder-00", Data: must(tuf.Bin{Role: "builder-00", Version: 2, Expires: later(), Mark: s.mark(), Listed: map[string]tuf.Listed{}}.Make())},
		"is not newer":  {Role: "targets", Data: s.files["targets"]},
		"other keys":    {Role: "owner", Data: must(tuf.Delegator{By: "owner", Version: 9, Expires: later(), Mark: s.mark(), Keys: []*metadata.Key{s.keys["thief"].Public()}, Threshold: 1}.Make())},
		"does not come": {Role: "root", Data: func() []byte { r := must(tuf.ReadRoot(s.roots[1])); r.Version = 7; return must(r.Make()) }()},
	} {
		s.pending = []api.TrustPending{p}
		o.refuses(s.bundle(), want, "trust", "sign", "hello")
	}
	r := must(tuf.ReadRoot(s.roots[1]))
	r.Version = 3
	r.Keys["root"] = append(r.Keys["root"], s.keys["thief"].Public())
	s.pending = []api.TrustPending{{Role: "root", Data: must(r.Make())}}
	out, _ := o.sign(s.bundle(), "trust", "sign", "hello")
	has(t, out, tuf.KeyID(s.keys["thief"].Public())+" (NEW)")
}

// A server that was restored from a backup has older files than were signed here: the newer ones are what is built on.
func TestRestoredServer(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello", "--approval", "builder+owner")
	backup := s.bundle()
	s.build(commit(1), `{"image": "web"}`)
	o.does(s, "release", "sign", commit(1))
	o.does(s, "trust", "shell", "hello", "forbidden")
	newest := must(tuf.ReadTargets(s.files["targets"])).Version
	out, code := o.sign(backup, "trust", "approval", "hello", "owner-only")
	if code != 0 {
		t.Fatal(out)
	}
	has(t, out, "trust restore")
	for _, f := range must(trust.ParseBundle(must(os.ReadFile(o.answer)))).Signed {
		if f.Role == "targets" {
			if x := must(tuf.ReadTargets(f.Data)); x.Version != newest+1 || x.Mark.Shell != "forbidden" {
				t.Errorf("signed version %d with the shell %s, want %d and forbidden", x.Version, x.Mark.Shell, newest+1)
			}
		}
	}
}

// Neither the secret half of a key, nor the sealed one, nor the passphrase is in what leaves the machine.
func TestNoSecretLeaves(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello", "--keys", "2", "--threshold", "2")
	answer := must(os.ReadFile(o.answer))
	names := must(filepath.Glob(filepath.Join(o.dir, "keys", "*.key")))
	if len(names) != 2 {
		t.Fatalf("keys: %q", names)
	}
	for _, n := range names {
		st := must(os.Stat(n))
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", n, st.Mode().Perm())
		}
		var f struct{ Sealed []byte }
		if err := json.Unmarshal(must(os.ReadFile(n)), &f); err != nil || len(f.Sealed) < 32 {
			t.Fatalf("%s: %v", n, err)
		}
		part := f.Sealed[24:48]
		for _, form := range []string{string(part), hex.EncodeToString(part), base64.StdEncoding.EncodeToString(f.Sealed), passphrase} {
			if bytes.Contains(answer, []byte(form)) {
				t.Errorf("what is sent has %q of %s", form, n)
			}
		}
	}
}

// Without a network: the file has all that is needed, and a changed byte anywhere is found.
func TestVerifyOffline(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello", "--approval", "builder+owner")
	c := commit(1)
	s.build(c, `{"image": "web"}`)
	s.build(commit(2), `{"image": "web"}`)
	o.does(s, "release", "sign", c)
	only := func(f func(b *trust.Bundle)) string {
		b := s.bundle()
		b.Releases = map[string]*trust.Evidence{c: {Document: s.releases[c].Document, Proof: s.proof(c)}}
		f(b)
		return write(t, b)
	}
	good := only(func(*trust.Bundle) {})
	out, code := run("release", "verify", good, "--offline", "--dir", o.dir)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	has(t, out, "verifies", "builder+owner: the builder", "the owner", "its owner, 1 of the keys", "log.roadstead.test")
	root := filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(root, s.roots[1], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := run("release", "verify", good, "--root", root, "--dir", t.TempDir()); code != 0 {
		t.Errorf("by --root: %d, %s", code, out)
	}
	out, code = run("release", "verify", good, "--dir", t.TempDir())
	if code != 1 {
		t.Errorf("without a root the file vouches for itself: %d, %s", code, out)
	}
	has(t, out, "failed", "no root of the fleet is known here", "does NOT verify")

	other := newSite(t)
	newOwner(t).does(other, "trust", "init", "hello", "--approval", "builder+owner")
	if err := os.WriteFile(root, other.roots[1], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := run("release", "verify", good, "--root", root, "--dir", t.TempDir()); code != 1 {
		t.Errorf("by a root that is another's: %d, %s", code, out)
	}
	flip := func(data []byte, at int) []byte {
		x := bytes.Clone(data)
		x[at] ^= 1
		return x
	}
	file := func(b *trust.Bundle, role string) *[]byte {
		b.Files = append([]api.TrustFile(nil), b.Files...)
		for i := range b.Files {
			if b.Files[i].Role == role {
				return &b.Files[i].Data
			}
		}
		t.Fatalf("no %s", role)
		return nil
	}
	path := must(tuf.ReleasePath(c))
	for name, f := range map[string]func(b *trust.Bundle){
		"document":         func(b *trust.Bundle) { e := b.Releases[c]; e.Document = flip(e.Document, 20) },
		"no document":      func(b *trust.Bundle) { b.Releases[c].Document = nil },
		"no proof":         func(b *trust.Bundle) { b.Releases[c].Proof = nil },
		"proof of another": func(b *trust.Bundle) { b.Releases[c].Proof = s.proof(commit(2)) },
		"entry":            func(b *trust.Bundle) { p := *b.Releases[c].Proof; p.Entry = flip(p.Entry, 9); b.Releases[c].Proof = &p },
		"index":            func(b *trust.Bundle) { p := *b.Releases[c].Proof; p.Index = 1; b.Releases[c].Proof = &p },
		"checkpoint": func(b *trust.Bundle) {
			p := *b.Releases[c].Proof
			p.Checkpoint = strings.Replace(p.Checkpoint, "\n2\n", "\n3\n", 1)
			b.Releases[c].Proof = &p
		},
		"timestamp":        func(b *trust.Bundle) { d := file(b, "timestamp"); *d = flip(*d, len(*d)/2) },
		"targets":          func(b *trust.Bundle) { d := file(b, "targets"); *d = flip(*d, len(*d)/2) },
		"owner's bin":      func(b *trust.Bundle) { d := file(b, tuf.BinRole("owner", path)); *d = flip(*d, len(*d)/2) },
		"builder's bin":    func(b *trust.Bundle) { d := file(b, tuf.BinRole("builder", path)); *d = flip(*d, len(*d)/2) },
		"owner's is away":  func(b *trust.Bundle) { b.Files = without(b.Files, tuf.BinRole("owner", path)) },
		"snapshot is away": func(b *trust.Bundle) { b.Files = without(b.Files, "snapshot") },
		"another fleet's":  func(b *trust.Bundle) { b.Fleet = strings.Repeat("e", 32) },
		"an older snapshot": func(b *trust.Bundle) {
			old := *file(b, "snapshot")
			s.publish()
			*file(b, "timestamp") = s.files["timestamp"]
			*file(b, "snapshot") = old
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := o.dir
			if strings.HasPrefix(name, "another fleet") {
				dir = t.TempDir()
			}
			if out, code := run("release", "verify", only(f), "--offline", "--dir", dir); code != 1 {
				t.Errorf("exit code %d: %s", code, out)
			}
		})
	}
}

func without(files []api.TrustFile, role string) []api.TrustFile {
	var list []api.TrustFile
	for _, f := range files {
		if f.Role != role {
			list = append(list, f)
		}
	}
	return list
}

func TestWrongUsage(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	b := s.bundle()
	for want, args := range map[string][]string{
		"--threshold 3 cannot":     {"trust", "init", "hello", "--keys", "2", "--threshold", "3"},
		"--threshold 0 cannot":     {"trust", "init", "hello", "--threshold", "0"},
		`approval "nobody"`:        {"trust", "init", "hello", "--approval", "nobody"},
		`shell is "maybe"`:         {"trust", "init", "hello", "--shell", "maybe"},
		`--life "forever"`:         {"trust", "init", "hello", "--life", "forever"},
		"fewer than the 1 keys":    {"trust", "init", "hello", "--keys", "-1", "--fido2"},
		"is about the fleet":       {"trust", "init", "other"},
		"is held by the server":    {"trust", "shell", "hello", "forbidden"},
		"nothing for you to sign":  {"release", "sign", commit(1)},
		"there is nothing to sign": {"trust", "sign", "hello"},
		"name releases":            {"release", "sign"},
		"begin with pkcs11:":       {"trust", "init", "hello", "--pkcs11", "token=a"},
		"does not name a public":   nil,
		"--public: open":           {"trust", "init", "hello", "--public", "/none"},
		"--key: open":              {"trust", "init", "hello", "--key", "/none"},
	} {
		if args != nil {
			o.refuses(b, want, args...)
		}
	}
	if _, err := os.Stat(filepath.Join(o.dir, "metadata")); err == nil {
		t.Error("something was kept of what failed")
	}
}

// A backup from before the ceremony: nothing that the server has follows from the owner's root, and all of it is sent again.
func TestServerFromBeforeTheCeremony(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	backup := s.bundle()
	o.does(s, "trust", "init", "hello", "--approval", "owner-only")
	s.build(commit(1), `{"image": "web"}`)
	o.does(s, "release", "sign", commit(1))
	out, code := o.sign(backup, "trust", "shell", "hello", "forbidden")
	if code != 0 {
		t.Fatal(out)
	}
	has(t, out, "The server has root 1, and this machine root 2", "trust restore")
}

// What was verified once is not forgotten: a server that goes back to an older file, which the keys have signed, is told and not followed.
func TestOlderFilesAreNotTaken(t *testing.T) {
	s, o, bob := newSite(t), newOwner(t), newOwner(t)
	key := filepath.Join(t.TempDir(), "bob.key")
	if out, code := run("trust", "key", key, "--write-public", key+".pub"); code != 0 {
		t.Fatal(out)
	}
	o.does(s, "trust", "init", "hello", "--keys", "2", "--public", key+".pub", "--approval", "owner-only")
	before := s.bundle()
	o.does(s, "trust", "shell", "hello", "forbidden")
	s.build(commit(1), `{"image": "web"}`)
	out := bob.does(s, "release", "sign", commit(1), "--key", key)
	has(t, out, "knows no root of the fleet yet")
	// Bob's machine has seen the newer targets, although it signed none.
	out, code := bob.sign(before, "trust", "approval", "hello", "builder+owner", "--key", key)
	if code != 0 {
		t.Fatal(out)
	}
	has(t, out, "The server has targets 2, and this machine 3")
	for _, f := range must(trust.ParseBundle(must(os.ReadFile(bob.answer)))).Signed {
		if f.Role == "targets" && must(tuf.ReadTargets(f.Data)).Mark.Shell != "forbidden" {
			t.Error("it signed on top of older targets")
		}
	}
}
