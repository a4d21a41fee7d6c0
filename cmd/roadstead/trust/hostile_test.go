package trust_test

import (
	"bytes"
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

// The attack: a name in what is to be signed ends the line, hides its rest or goes back over it, so that what is shown is not what is signed.
func TestNamesDoNotHideWhatIsSigned(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello", "--approval", "owner-only")
	good := api.ReleaseService{Images: []api.ReleaseImage{{Digest: "sha256:" + strings.Repeat("a", 64), Size: 1}}, Composition: json.RawMessage(`{}`)}
	for i, d := range []api.ReleaseDocument{
		{Services: map[string]api.ReleaseService{"web: sha256:harmless\nReleases are the same.": good}},
		{Services: map[string]api.ReleaseService{"web\x1b[8m": good}},
		{Services: map[string]api.ReleaseService{"web\u202e": good}},
		{Services: map[string]api.ReleaseService{strings.Repeat("w", 300): good}},
		{Services: map[string]api.ReleaseService{"web": {Images: []api.ReleaseImage{{Digest: "sha256:x\n", Size: 1}}}}},
		{Services: map[string]api.ReleaseService{"web": {Images: []api.ReleaseImage{{Digest: good.Images[0].Digest, Platform: "linux/arm64\n", Size: 1}}}}},
		{Services: map[string]api.ReleaseService{"web": {Images: good.Images, Labels: map[string]string{"a\nb": "1"}}}},
		{Services: map[string]api.ReleaseService{"web": good}, Networks: map[string]json.RawMessage{"n\r": json.RawMessage(`{}`)}},
		{Services: map[string]api.ReleaseService{"web": good}, Volumes: map[string]json.RawMessage{"\x1b[2K": json.RawMessage(`{}`)}},
	} {
		d.Fleet, d.Commit = uuid, commit(100+i)
		s.list(d)
		o.refuses(s.bundle(), "not shown and not signed", "release", "sign", d.Commit)
	}
	s.build(commit(1), `{"image": "web"}`)
	e := s.releases[commit(1)]
	e.Document = append(bytes.Clone(e.Document), []byte(`{"and":"more"}`)...)
	o.refuses(s.bundle(), "bytes after its end", "release", "sign", commit(1))
}

// In whatever form results are printed, what a release may do is said before it is signed.
func TestPrivilegesAreSaidAlsoForPrograms(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello", "--approval", "builder+owner")
	s.build(commit(1), `{"privileged": true}`)
	has(t, o.does(s, "release", "sign", commit(1), "-o", "json"), "!! service web GAINS privileged")
}

// A slug, and who may go where, are words of others, too.
func TestWordsOfOthersStayInTheirLine(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello")
	targets := must(tuf.ReadTargets(s.files["targets"]))
	targets.Version, targets.Mark.SignedAt = targets.Version+1, s.mark().SignedAt
	targets.Mark.Transfers = []api.TrustLeave{{Device: "5f0c may not go anywhere\n  approval: builder", To: "x\n  nothing else", Root: "r\n  is changed"}}
	data := must(targets.Make())
	s.pending = []api.TrustPending{{Role: "targets", Data: data}}
	b := s.bundle()
	b.Slug = "acme/hello\n\x1b[2Jall is well"
	out, code := o.sign(b, "trust", "sign", "hello", "--from", write(t, b))
	if code != 2 { // it is not the fleet that was named
		t.Errorf("another slug: %d, %s", code, out)
	}
	out, _ = o.sign(s.bundle(), "trust", "sign", "hello")
	if strings.Contains(out, "\n  nothing else") || strings.Contains(out, "\n  is changed") || strings.Count(out, "\n  approval: builder") != 1 {
		t.Errorf("a line of somebody else's:\n%s", out)
	}
	has(t, out, "!! device 5f0c may not go anywhere")
	out, _ = o.sign(b, "trust", "shell", "acme/hello all is well", "forbidden")
	if strings.Contains(out, "\x1b") || strings.Contains(out, "\nall is well") {
		t.Errorf("the slug steers: %q", out)
	}
}

// What says that it was signed in days to come, or counts ahead of the clock, keeps devices from all that comes before: nobody signs it unseen.
func TestFilesFromTheFutureAreNotSigned(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello", "--approval", "owner-only")
	far := time.Now().Add(30 * 24 * time.Hour).UTC().Truncate(time.Second)
	targets := must(tuf.ReadTargets(s.files["targets"]))
	targets.Version, targets.Mark.SignedAt = targets.Version+1, far
	root := must(tuf.ReadRoot(s.roots[1]))
	root.Version, root.Mark.SignedAt = 3, far
	path := must(tuf.ReleasePath(commit(1)))
	bin := tuf.BinRole("owner", path)
	mark := s.mark()
	for role, data := range map[string][]byte{
		"targets": must(targets.Make()), "root": must(root.Make()),
		bin: must(tuf.Bin{Role: bin, Version: 2, Expires: later(), Mark: mark, Listed: map[string]tuf.Listed{path: {Length: 1, SHA256: strings.Repeat("a", 64), Counter: far.Unix()}}}.Make()),
	} {
		s.pending = []api.TrustPending{{Role: role, Data: data}}
		o.refuses(s.bundle(), "ahead of the clock", "trust", "sign", "hello")
	}
}

// Two owners change something at the same time: the one who was slower builds on what the other has made, and is told.
func TestTwoOwnersAtOnce(t *testing.T) {
	s, alice, bob := newSite(t), newOwner(t), newOwner(t)
	key := filepath.Join(t.TempDir(), "bob.key")
	if out, code := run("trust", "key", key, "--write-public", key+".pub"); code != 0 {
		t.Fatal(out)
	}
	alice.does(s, "trust", "init", "hello", "--keys", "2", "--public", key+".pub")
	if out, code := alice.sign(s.bundle(), "trust", "approval", "hello", "builder+owner"); code != 0 { // it never arrives
		t.Fatal(out)
	}
	bob.does(s, "trust", "shell", "hello", "forbidden", "--key", key)
	out := alice.does(s, "trust", "approval", "hello", "owner-only")
	has(t, out, "another owner was quicker", "owner-only (before builder)")
	if x := must(tuf.ReadTargets(s.files["targets"])); x.Mark.Shell != "forbidden" || x.Mark.Approval != api.ApprovalOwner {
		t.Errorf("what the other owner signed is undone: %+v", x.Mark)
	}
}

// What is sent for others is no reason to believe another root.
func TestARootThatIsSentFollows(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello")
	mine := must(os.ReadFile(filepath.Join(o.dir, "metadata", "root.json")))
	root := must(tuf.ReadRoot(s.roots[1]))
	root.Keys["root"] = []*metadata.Key{s.keys["thief"].Public()}
	for name, version := range map[string]int64{"in place of ours": 2, "after ours": 3} {
		root.Version = version
		if err := trust.Follow(o.dir, uuid, must(root.Make(s.keys["root"], s.keys["thief"]))); err == nil {
			t.Errorf("%s: it is believed", name)
		}
	}
	if err := trust.Follow(o.dir, uuid, s.roots[0]); err != nil {
		t.Errorf("an older one: %v", err)
	}
	if now := must(os.ReadFile(filepath.Join(o.dir, "metadata", "root.json"))); !bytes.Equal(now, mine) {
		t.Error("another root is believed")
	}
	o.does(s, "trust", "renew", "hello")
	if err := trust.Follow(o.dir, uuid, s.roots[2]); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// A part of a key's id can be imitated: a new key is shown by all of it.
func TestANewKeyIsShownWhole(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	out := o.does(s, "trust", "init", "hello")
	names := must(filepath.Glob(filepath.Join(o.dir, "keys", "*.key")))
	has(t, out, must(ownerkey.Read(names[0])).ID+" (NEW)")
}

// Files come from others: whatever is in one, it is refused or read, and never more.
func FuzzParseBundle(f *testing.F) {
	for _, s := range []string{`{"roadstead_trust":1,"fleet":"` + uuid + `"}`, `{"roadstead_trust":1,"fleet":"a","releases":{"a":null}}`, `{}`, `{"roadstead_trust":2}`,
		`{"roadstead_trust":1,"fleet":"a","signed":[{"role":"root","data":"e30="}],"status":{"unsigned":[{}]}}`} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := trust.ParseBundle(data)
		if err != nil {
			return
		}
		if b.Status == nil || strings.ContainsAny(b.Slug+b.Server, "\x1b\n\r") {
			t.Fatalf("%+v", b)
		}
		path := filepath.Join(t.TempDir(), "bundle.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"trust", "sign", path, "--offline", path + ".out"}, {"release", "sign", commit(1), "--from", path, "--offline", path + ".out"},
			{"release", "sign", "--all-pending", "--from", path, "--offline", path + ".out"}, {"release", "verify", path, "--offline"},
			{"trust", "shell", "hello", "forbidden", "--from", path, "--offline", path + ".out"},
		} {
			if out, code := run(append(args, "--dir", filepath.Join(dir, "fleet"))...); code == 0 {
				t.Errorf("%q: %s", args, out)
			}
		}
	})
}
