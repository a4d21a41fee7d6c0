package trust_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/logs"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const (
	uuid       = "0123456789abcdef0123456789abcdef"
	slug       = "acme/hello"
	passphrase = "correct horse battery"
)

// site is a server's part of a fleet's trust, with the server's keys, by which it can be honest or not. What it says reaches the command line as files.
type site struct {
	t        *testing.T
	keys     map[string]tuf.Ed25519Signer // root, builder, director, snapshot, timestamp, log
	roots    [][]byte
	files    map[string][]byte // targets, builder, owner, bins
	pending  []api.TrustPending
	unsigned []api.TrustUnsigned
	releases map[string]*trust.Evidence
	version  int64
	counter  int64
	leaves   []tlog.Hash
	stored   []tlog.Hash
	entries  map[string][]byte // by commit
	indexes  map[string]int64
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newSite(t *testing.T) *site {
	s := &site{t: t, keys: map[string]tuf.Ed25519Signer{}, files: map[string][]byte{}, releases: map[string]*trust.Evidence{},
		entries: map[string][]byte{}, indexes: map[string]int64{}, version: 100, counter: time.Now().Unix()}
	for _, role := range []string{"root", "builder", "director", "snapshot", "timestamp", "log", "thief"} {
		_, private := must2(ed25519.GenerateKey(rand.Reader))
		s.keys[role] = tuf.Ed25519Signer(private)
	}
	root := tuf.Root{Version: 1, Expires: later(), Mark: s.mark(), Keys: map[string][]*metadata.Key{}, Threshold: map[string]int{}}
	root.Mark.HeldBy = api.HeldByServer
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		k := s.keys[role]
		if role == "targets" {
			k = s.keys["root"]
		}
		root.Keys[role], root.Threshold[role] = []*metadata.Key{k.Public()}, 1
	}
	s.roots = [][]byte{must(root.Make(s.keys["root"]))}
	log := s.logKey()
	targets := tuf.Targets{Version: 1, Expires: later(), Mark: s.mark(), Builder: s.keys["builder"].Public(), Director: s.keys["director"].Public()}
	targets.Mark.Approval, targets.Mark.Shell, targets.Mark.Log = api.ApprovalBuilder, "allowed", &log
	s.files["targets"] = must(targets.Make(s.keys["root"]))
	s.files["builder"] = must(tuf.Delegator{By: "builder", Version: 1, Expires: later(), Mark: s.mark(), Keys: []*metadata.Key{s.keys["builder"].Public()}, Threshold: 1}.Make(s.keys["builder"]))
	s.publish()
	return s
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

func later() time.Time { return time.Now().Add(90 * 24 * time.Hour).UTC().Truncate(time.Second) }

func (s *site) mark() api.TrustMark {
	return api.TrustMark{Fleet: uuid, SignedAt: time.Now().UTC().Truncate(time.Second)}
}

func (s *site) logKey() api.TrustLogKey {
	public := ed25519.PrivateKey(s.keys["log"]).Public().(ed25519.PublicKey)
	return api.TrustLogKey{Origin: "log.roadstead.test", Key: must(tlog.VerifierKey("log.roadstead.test", public))}
}

// publish signs snapshot and timestamp over what there is.
func (s *site) publish() {
	s.version++
	snap := tuf.Snapshot{Version: s.version, Expires: later(), Mark: s.mark(), Files: map[string]tuf.Meta{}}
	for role, data := range s.files {
		if role == "snapshot" || role == "timestamp" {
			continue
		}
		var v struct{ Signed struct{ Version int64 } }
		if err := json.Unmarshal(data, &v); err != nil {
			s.t.Fatal(err)
		}
		snap.Files[role] = tuf.MetaOf(v.Signed.Version, data)
		if strings.Contains(role, "-") {
			snap.Files[role] = tuf.Meta{Version: v.Signed.Version}
		}
	}
	s.files["snapshot"] = must(snap.Make(s.keys["snapshot"]))
	s.files["timestamp"] = must(tuf.Timestamp{Version: s.version, Expires: later(), Mark: s.mark(), Snapshot: tuf.MetaOf(s.version, s.files["snapshot"])}.Make(s.keys["timestamp"]))
}

// build lists a release as the builder does.
func (s *site) build(commit string, composition string) api.ReleaseDocument {
	d := api.ReleaseDocument{Fleet: uuid, Commit: commit, Services: map[string]api.ReleaseService{"web": {
		Images: []api.ReleaseImage{{Digest: "sha256:" + tuf.Digest([]byte(commit)), Size: 500}}, Composition: json.RawMessage(composition)}}}
	s.list(d)
	return d
}

func (s *site) list(d api.ReleaseDocument) {
	s.counter++
	data := must(json.Marshal(d))
	path := must(tuf.ReleasePath(d.Commit))
	role := tuf.BinRole("builder", path)
	bin := tuf.Bin{Role: role, Listed: map[string]tuf.Listed{}}
	if old := s.files[role]; old != nil {
		bin = must(tuf.ReadBin(role, old))
	}
	s.version++
	bin.Version, bin.Expires, bin.Mark = s.version, later(), s.mark()
	bin.Listed[path] = tuf.Listed{Length: int64(len(data)), SHA256: tuf.Digest(data), Counter: s.counter}
	s.files[role] = must(bin.Make(s.keys["builder"]))
	entry := must(json.Marshal(api.TrustEntry{Kind: "release", Fleet: uuid, Name: d.Commit, Version: s.counter, SHA256: tuf.Digest(data), By: "owner"}))
	stored, _, err := tlog.Append(int64(len(s.leaves)), []tlog.Hash{tlog.LeafHash(entry)}, s)
	if err != nil {
		s.t.Fatal(err)
	}
	s.stored = append(s.stored, stored...)
	s.entries[d.Commit], s.indexes[d.Commit] = entry, int64(len(s.leaves))
	s.leaves = append(s.leaves, tlog.LeafHash(entry))
	s.releases[d.Commit] = &trust.Evidence{Document: data}
	s.unsigned = append(s.unsigned, api.TrustUnsigned{Commit: d.Commit, SHA256: tuf.Digest(data), Counter: s.counter})
	s.publish()
}

// ReadHashes implements tlog.HashReader.
func (s *site) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	list := make([]tlog.Hash, len(indexes))
	for i, n := range indexes {
		list[i] = s.stored[n]
	}
	return list, nil
}

func (s *site) proof(commit string) *api.TrustLogging {
	size := int64(len(s.leaves))
	signer := must(tlog.NewSigner("log.roadstead.test", ed25519.PrivateKey(s.keys["log"])))
	note := must(tlog.Checkpoint{Origin: "log.roadstead.test", Size: size, Root: must(tlog.Root(size, s))}.Sign(signer))
	return &api.TrustLogging{Checkpoint: note, Entry: s.entries[commit], Index: s.indexes[commit], Inclusion: must(tlog.ProveInclusion(size, s.indexes[commit], s))}
}

// bundle is what the server says.
func (s *site) bundle() *trust.Bundle {
	raw := func(role string) json.RawMessage { return must(json.Marshal(s.keys[role].Public())) }
	b := &trust.Bundle{
		Format: trust.BundleFormat, Fleet: uuid, Slug: slug, Server: "https://api.roadstead.test", At: time.Now(),
		Status: &api.TrustStatus{Fleet: uuid, Slug: slug, Pending: s.pending, Unsigned: s.unsigned},
		Keys:   &api.TrustServerKeys{Builder: raw("builder"), Director: raw("director"), Snapshot: raw("snapshot"), Timestamp: raw("timestamp"), Log: s.logKey()},
		Roots:  s.roots, Releases: maps.Clone(s.releases),
	}
	roles := slices.Sorted(maps.Keys(s.files))
	slices.SortFunc(roles, func(a, b string) int {
		rank := func(r string) int {
			i := slices.Index([]string{"timestamp", "snapshot", "targets", "builder", "owner"}, r)
			if i < 0 {
				return 9
			}
			return i
		}
		return rank(a) - rank(b)
	})
	for _, role := range roles {
		b.Files = append(b.Files, api.TrustFile{Role: role, Data: s.files[role]})
	}
	return b
}

// write puts a bundle into a file.
func write(t *testing.T, b *trust.Bundle) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bundle.json")
	if err := os.WriteFile(path, must(json.Marshal(b)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// take publishes what an owner signed, as a server does: a root that replaces the server's own is signed by that too.
func (s *site) take(answer string) *trust.Bundle {
	s.t.Helper()
	b := must(trust.ParseBundle(must(os.ReadFile(answer))))
	s.pending = nil
	for _, f := range b.Signed {
		if f.Role != "root" {
			s.files[f.Role] = f.Data
			continue
		}
		data := f.Data
		if last := must(tuf.ReadRoot(s.roots[len(s.roots)-1])); last.Mark.HeldBy == api.HeldByServer {
			data = must(tuf.AddSignature(data, s.keys["root"]))
		}
		s.roots = append(s.roots, data)
	}
	s.unsigned = nil
	s.publish()
	return b
}

// device verifies everything as a device does, from the first root.
func (s *site) device() (*tuf.Trusted, error) {
	t, err := tuf.Open(uuid, s.roots[0])
	if err != nil {
		return nil, err
	}
	t.SetNow(time.Now())
	for _, r := range s.roots[1:] {
		if err := t.Root(r); err != nil {
			return nil, err
		}
	}
	for _, f := range s.bundle().Files {
		if err := t.Take(f); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// owner is a machine with an owner's keys, without a network.
type owner struct {
	t      *testing.T
	dir    string
	answer string
}

func newOwner(t *testing.T) *owner {
	dir := t.TempDir()
	file := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(file, []byte(passphrase+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ROADSTEAD_TRUST_PASSPHRASE_FILE", file)
	return &owner{t: t, dir: filepath.Join(dir, "fleet"), answer: filepath.Join(dir, "answer.json")}
}

// run runs a command line and gives what it printed to both streams.
func run(args ...string) (string, int) {
	var out bytes.Buffer
	a := &cmdline.App{Version: "test", Terminal: &terminal.Terminal{In: strings.NewReader(""), Out: &out, Err: &out}, Output: "table"}
	root := &cobra.Command{Use: "roadstead", SilenceErrors: true, SilenceUsage: true, PersistentPreRun: func(*cobra.Command, []string) { a.Started = true }}
	root.PersistentFlags().StringVarP(&a.Output, "output", "o", "table", "")
	root.AddCommand(trust.Command(a), logs.Command(a))
	root.AddCommand(cmdline.Group("release", "", trust.ReleaseCommands(a)...))
	code := a.Run(context.Background(), root, args)
	return out.String(), code
}

// sign runs a command that signs from what the server says, and gives what it printed. Its answer is not yet published.
func (o *owner) sign(b *trust.Bundle, args ...string) (string, int) {
	o.t.Helper()
	return run(append(args, "--from", write(o.t, b), "--offline", o.answer, "--dir", o.dir)...)
}

// does runs such a command, which must succeed, and publishes its answer.
func (o *owner) does(s *site, args ...string) string {
	o.t.Helper()
	out, code := o.sign(s.bundle(), args...)
	if code != 0 {
		o.t.Fatalf("%q: exit code %d: %s", args, code, out)
	}
	s.take(o.answer)
	return out
}

// refuses runs such a command, which must fail and say why.
func (o *owner) refuses(b *trust.Bundle, want string, args ...string) {
	o.t.Helper()
	_ = os.Remove(o.answer)
	out, code := o.sign(b, args...)
	if code == 0 || !strings.Contains(out, want) {
		o.t.Errorf("%q: exit code %d, want a failure with %q: %s", args, code, want, out)
	}
	if _, err := os.Stat(o.answer); err == nil {
		o.t.Errorf("%q: it signed all the same", args)
	}
}

func commit(n int) string { return fmt.Sprintf("%032x", n) }
