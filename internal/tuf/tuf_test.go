package tuf_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const (
	fleetID = "8d3f2c1a9b7e4d60a5c4b3f2e1d09876"
	device  = api.DeviceUUID("0123456789abcdef0123456789abcdef")
	nonce   = "0123456789abcdef"
	commit  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// signer makes a key that is the same each time.
func signer(name string) tuf.Ed25519Signer {
	seed := sha256.Sum256([]byte(name))
	return tuf.Ed25519Signer(ed25519.NewKeyFromSeed(seed[:]))
}

// repo is a fleet's metadata as a server and an owner make it. Its fields are changed by tests between two calls of make.
type repo struct {
	t         testing.TB
	now       time.Time
	root      tuf.Root
	rootBy    []tuf.Signer
	targets   tuf.Targets
	targetsBy []tuf.Signer
	builder   tuf.Delegator
	owner     tuf.Delegator
	ownerBy   []tuf.Signer
	bins      map[string]tuf.Bin
	snapshot  tuf.Snapshot
	timestamp tuf.Timestamp
	files     map[string][]byte

	snapshotKey, timestampKey tuf.Signer
}

func mark(at time.Time) api.TrustMark { return api.TrustMark{Fleet: fleetID, SignedAt: at} }

func public(signers ...tuf.Signer) []*metadata.Key {
	var keys []*metadata.Key
	for _, s := range signers {
		keys = append(keys, s.Public())
	}
	return keys
}

func newRepo(t testing.TB, approval api.Approval) *repo {
	r := &repo{t: t, now: start, bins: map[string]tuf.Bin{}, files: map[string][]byte{}, snapshotKey: signer("snapshot"), timestampKey: signer("timestamp")}
	rootKey := signer("root")
	r.rootBy, r.targetsBy, r.ownerBy = []tuf.Signer{rootKey}, []tuf.Signer{rootKey}, []tuf.Signer{signer("owner")}
	m := mark(start)
	m.HeldBy = api.HeldByOwner
	r.root = tuf.Root{
		Version: 1, Expires: start.AddDate(2, 0, 0), Mark: m,
		Keys: map[string][]*metadata.Key{
			api.TrustRoot: public(rootKey), api.TrustTargets: public(rootKey),
			api.TrustSnapshot: public(signer("snapshot")), api.TrustTimestamp: public(signer("timestamp")),
		},
		Threshold: map[string]int{api.TrustRoot: 1, api.TrustTargets: 1, api.TrustSnapshot: 1, api.TrustTimestamp: 1},
	}
	m = mark(start)
	m.Approval, m.Shell = approval, "allowed"
	r.targets = tuf.Targets{
		Version: 1, Expires: start.AddDate(2, 0, 0), Mark: m, Builder: signer("builder").Public(), Director: signer("director").Public(),
		Owner: public(signer("owner")), OwnerThreshold: 1,
	}
	r.builder = tuf.Delegator{By: api.TrustBuilder, Version: 1, Expires: start.AddDate(0, 0, 90), Mark: mark(start), Keys: public(signer("builder")), Threshold: 1}
	r.owner = tuf.Delegator{By: api.TrustOwner, Version: 1, Expires: start.AddDate(2, 0, 0), Mark: mark(start), Keys: public(signer("owner")), Threshold: 1}
	r.snapshot = tuf.Snapshot{Expires: start.AddDate(0, 0, 7), Mark: mark(start)}
	r.timestamp = tuf.Timestamp{Expires: start.AddDate(0, 0, 7), Mark: mark(start)}
	return r
}

// list puts a release into the bin of whoever lists it.
func (r *repo) list(by, commit string, l tuf.Listed) {
	path, err := tuf.ReleasePath(commit)
	if err != nil {
		r.t.Fatal(err)
	}
	role := tuf.BinRole(by, path)
	bin, ok := r.bins[role]
	if !ok {
		bin = tuf.Bin{Role: role, Expires: r.now.AddDate(0, 0, 90), Mark: mark(r.now), Listed: map[string]tuf.Listed{}}
	}
	bin.Version++
	bin.Listed[path] = l
	r.bins[role] = bin
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// make signs everything anew, with a new snapshot and timestamp.
func (r *repo) make() {
	r.t.Helper()
	b := must[[]byte](r.t)
	r.files[api.TrustRoot] = b(r.root.Make(r.rootBy...))
	r.files[api.TrustTargets] = b(r.targets.Make(r.targetsBy...))
	r.files[api.TrustBuilder] = b(r.builder.Make(signer("builder")))
	r.files[api.TrustOwner] = b(r.owner.Make(r.ownerBy...))
	r.snapshot.Version++
	r.snapshot.Files = map[string]tuf.Meta{
		api.TrustTargets: tuf.MetaOf(r.targets.Version, r.files[api.TrustTargets]),
		api.TrustBuilder: tuf.MetaOf(r.builder.Version, r.files[api.TrustBuilder]),
		api.TrustOwner:   tuf.MetaOf(r.owner.Version, r.files[api.TrustOwner]),
	}
	for role, bin := range r.bins {
		by := []tuf.Signer{signer("builder")}
		if role[0] == 'o' {
			by = r.ownerBy
		}
		r.files[role] = b(bin.Make(by...))
		r.snapshot.Files[role] = tuf.Meta{Version: bin.Version}
	}
	r.files[api.TrustSnapshot] = b(r.snapshot.Make(r.snapshotKey))
	r.timestamp.Version++
	r.timestamp.Snapshot = tuf.MetaOf(r.snapshot.Version, r.files[api.TrustSnapshot])
	r.files[api.TrustTimestamp] = b(r.timestamp.Make(r.timestampKey))
}

// below gives the roles below root in the order in which they are read.
func (r *repo) below() []string {
	roles := []string{api.TrustTimestamp, api.TrustSnapshot, api.TrustTargets, api.TrustBuilder, api.TrustOwner}
	for role := range r.bins {
		roles = append(roles, role)
	}
	return roles
}

// update lets a client take what is there, stopping at the first refusal.
func (r *repo) update(c *tuf.Trusted) error {
	for _, role := range r.below() {
		if err := c.Take(api.TrustFile{Role: role, Data: r.files[role]}); err != nil {
			return fmt.Errorf("%s: %w", role, err)
		}
	}
	return nil
}

func (r *repo) client() *tuf.Trusted {
	r.t.Helper()
	c, err := tuf.Open(fleetID, r.files[api.TrustRoot])
	if err != nil {
		r.t.Fatal(err)
	}
	c.SetNow(r.now.Add(time.Hour))
	return c
}

var doc = tuf.Listed{Length: 1234, SHA256: tuf.Digest([]byte("document")), Counter: 7}

func (r *repo) statement(change func(*tuf.Director)) []byte {
	r.t.Helper()
	m := mark(r.now)
	m.Device, m.Nonce = device, nonce
	d := tuf.Director{Version: r.now.Unix(), Expires: r.now.AddDate(0, 0, 7), Mark: m, Commit: commit, Release: &doc}
	if change != nil {
		change(&d)
	}
	return must[[]byte](r.t)(d.Make(signer("director")))
}

// A client that begins with a root follows what it leads to, and has the same after it was stored.
func TestFollow(t *testing.T) {
	for _, approval := range []api.Approval{api.ApprovalBuilder, api.ApprovalBoth, api.ApprovalOwner} {
		r := newRepo(t, approval)
		r.list(api.TrustBuilder, commit, doc)
		r.list(api.TrustOwner, commit, doc)
		r.make()
		c := r.client()
		if err := r.update(c); err != nil {
			t.Fatal(err)
		}
		got, err := c.Release(commit)
		if err != nil || got != doc {
			t.Errorf("Release under %s: %v %v, want %v", approval, got, err, doc)
		}
		d, err := c.Director(r.statement(nil), device, nonce)
		if err != nil || d.Commit != commit || *d.Release != doc {
			t.Errorf("Director: %+v %v", d, err)
		}
		again, err := tuf.Reopen(fleetID, c.Files())
		if err != nil {
			t.Fatal(err)
		}
		again.SetNow(start.AddDate(0, 0, 1))
		if got, err := again.Release(commit); err != nil || got != doc {
			t.Errorf("Release after Reopen: %v %v", got, err)
		}
		if fmt.Sprint(again.Versions()) != fmt.Sprint(c.Versions()) || !again.Floor().Equal(c.Floor()) {
			t.Errorf("Reopen: versions %v and floor %v, want %v and %v", again.Versions(), again.Floor(), c.Versions(), c.Floor())
		}
	}
}

// Whoever counts signatures before there are enough counts the valid ones of each key once.
func TestSigners(t *testing.T) {
	r := newRepo(t, api.ApprovalBuilder)
	file := must[[]byte](t)(r.targets.Make(signer("a")))
	file = must[[]byte](t)(tuf.AddSignature(file, signer("b")))
	file = must[[]byte](t)(tuf.AddSignature(file, signer("b")))
	copied := must[[]byte](t)(r.targets.Make(signer("c")))
	file = must[[]byte](t)(tuf.MergeSignatures(file, copied))
	keys := append(public(signer("a"), signer("c"), signer("d")), signer("c").Public())
	ids, err := tuf.Signers(file, keys)
	want := fmt.Sprint([]string{tuf.KeyID(signer("a").Public()), tuf.KeyID(signer("c").Public())})
	if err != nil || fmt.Sprint(ids) != want {
		t.Errorf("Signers: %v %v, want %v", ids, err, want)
	}
	r.targets.Version = 2
	if _, err := tuf.MergeSignatures(file, must[[]byte](t)(r.targets.Make(signer("c")))); err == nil {
		t.Error("MergeSignatures of two versions: no error")
	}
	if ids, err := tuf.Signers(must[[]byte](t)(r.targets.Make()), keys); err != nil || len(ids) != 0 {
		t.Errorf("Signers of an unsigned file: %v %v", ids, err)
	}
}
