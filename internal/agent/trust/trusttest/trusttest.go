// Package trusttest is a small server of signed metadata for tests: it makes, signs and logs what a fleet's server does, with real keys, and answers devices with
// it. It checks nothing: that is for the device.
package trusttest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Key makes a key from its name, always the same.
func Key(name string) tuf.Ed25519Signer {
	seed := sha256.Sum256([]byte(name))
	return tuf.Ed25519Signer(ed25519.NewKeyFromSeed(seed[:]))
}

// Fleet is one fleet's metadata. Its fields say what is made; after a change of them, call [Fleet.Publish].
type Fleet struct {
	UUID      string
	Names     string // in front of the names of its keys: other names, other keys
	Owners    []string
	Threshold int
	HeldBy    string
	Approval  api.Approval
	Shell     string
	Transfers []api.TrustLeave
	Logged    bool
	Now       func() time.Time
	Lives     time.Duration // of everything that is signed from now on

	// Change is called with every answer before it is sent; nil: none is changed.
	Change func(have api.TrustHave, answer *api.TrustBundle)
	// Channel is what the director says of it.
	Channel *api.TrustChannel
	// Director says which release a device is to run; empty: the one that it asks about.
	Director string
	// DirectorKey is the name of its key; empty: director.
	DirectorKey string

	mu       sync.Mutex // covers what follows
	version  int64
	root     int64
	roots    [][]byte // from version 1 on
	files    map[string]api.TrustFile
	versions map[string]int64
	listed   map[string]Release // by commit: what the builder lists
	signed   map[string]Release // what the owner lists
	Log      *Log
	asked    []api.TrustHave
}

// Release is a release's document as it is listed.
type Release struct {
	Document []byte
	tuf.Listed
}

// New makes a fleet with one owner, whose releases need the builder's word.
func New(uuid string) *Fleet {
	return &Fleet{
		UUID: uuid, Names: uuid, Owners: []string{"owner"}, Threshold: 1, HeldBy: api.HeldByOwner, Approval: api.ApprovalBuilder, Shell: "allowed", Logged: true,
		Now: time.Now, Lives: 7 * 24 * time.Hour, files: map[string]api.TrustFile{}, versions: map[string]int64{}, listed: map[string]Release{}, signed: map[string]Release{},
		Log: NewLog("log.example.com/" + uuid), Channel: &api.TrustChannel{},
	}
}

// Key gives one of the fleet's keys.
func (f *Fleet) Key(role string) tuf.Ed25519Signer { return Key(f.Names + "/" + role) }

func (f *Fleet) director() tuf.Ed25519Signer {
	if f.DirectorKey != "" {
		return f.Key(f.DirectorKey)
	}
	return f.Key("director")
}

func (f *Fleet) owners() (signers []tuf.Signer, keys []*metadata.Key) {
	for _, name := range f.Owners {
		signers, keys = append(signers, Key(name)), append(keys, Key(name).Public())
	}
	return signers, keys
}

func (f *Fleet) mark() api.TrustMark { return api.TrustMark{Fleet: f.UUID, SignedAt: f.Now()} }

func (f *Fleet) expires() time.Time { return f.Now().Add(f.Lives) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // of a test's own making
	}
	return v
}

// Rotate makes the next root, signed by its owners and those who are to follow; the first one by its owners only.
func (f *Fleet) Rotate(next ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	signers, _ := f.owners()
	if len(next) > 0 {
		f.Owners = next
		more, _ := f.owners()
		signers = append(signers, more...)
	}
	f.addRoot(f.makeRoot(signers))
}

func (f *Fleet) makeRoot(signers []tuf.Signer) []byte {
	_, keys := f.owners()
	mark := f.mark()
	mark.HeldBy = f.HeldBy
	snapshot, timestamp := []*metadata.Key{f.Key("snapshot").Public()}, []*metadata.Key{f.Key("timestamp").Public()}
	unique := map[string]tuf.Signer{}
	for _, s := range signers {
		unique[tuf.KeyID(s.Public())] = s
	}
	return must(tuf.Root{
		Version: f.root + 1, Expires: f.Now().Add(20 * f.Lives), Mark: mark,
		Keys:      map[string][]*metadata.Key{api.TrustRoot: keys, api.TrustTargets: keys, api.TrustSnapshot: snapshot, api.TrustTimestamp: timestamp},
		Threshold: map[string]int{api.TrustRoot: f.Threshold, api.TrustTargets: f.Threshold, api.TrustSnapshot: 1, api.TrustTimestamp: 1},
	}.Make(slices.Collect(maps.Values(unique))...))
}

func (f *Fleet) addRoot(root []byte) {
	f.root++
	f.roots = append(f.roots, root)
}

// AddRoot publishes a root that was made elsewhere.
func (f *Fleet) AddRoot(root []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addRoot(root)
}

// Root gives the root of a version.
func (f *Fleet) Root(version int) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.roots[version-1]
}

// Given is what stands in config.json of a device that is made now.
func (f *Fleet) Given() *api.ConfigTrust { return &api.ConfigTrust{Fleet: f.UUID, Root: f.Root(1)} }

// Document makes the document of a release as a target state has it.
func (f *Fleet) Document(commit string, rel *api.ReleaseTarget) []byte {
	doc := api.ReleaseDocument{Fleet: f.UUID, Commit: commit, Services: map[string]api.ReleaseService{}, Networks: rel.Networks, Volumes: rel.Volumes}
	for name, t := range rel.Services {
		_, digest, _ := strings.Cut(t.Image, "@")
		doc.Services[name] = api.ReleaseService{
			Images: []api.ReleaseImage{{Digest: digest, Size: 1000}}, Composition: t.Composition, Contract: t.Contract, Labels: t.Labels,
		}
	}
	return must(json.Marshal(doc))
}

// Build lists a release as the builder does, with the next counter, and answers that.
func (f *Fleet) Build(commit string, rel *api.ReleaseTarget) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	counter := f.next(f.Now().Unix())
	f.list(commit, f.Document(commit, rel), counter)
	return counter
}

// next is a version that was not there before: the time, or one more.
func (f *Fleet) next(at int64) int64 {
	f.version = max(f.version+1, at)
	return f.version
}

// List lists a document with a counter.
func (f *Fleet) List(commit string, document []byte, counter int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list(commit, document, counter)
}

func (f *Fleet) list(commit string, document []byte, counter int64) {
	r := Release{Document: document, Listed: tuf.Listed{Length: int64(len(document)), SHA256: tuf.Digest(document), Counter: counter}}
	f.listed[commit] = r
	f.enter(commit, r, api.TrustBuilder)
}

func (f *Fleet) enter(commit string, r Release, by string) {
	f.Log.Add(must(json.Marshal(api.TrustEntry{Kind: "release", Fleet: f.UUID, Name: commit, Version: r.Counter, SHA256: r.SHA256, By: by})))
}

// Sign lets the owner approve what the builder lists.
func (f *Fleet) Sign(commit string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signed[commit] = f.listed[commit]
	f.enter(commit, f.listed[commit], api.TrustOwner)
}

// Publish makes all files below root anew.
func (f *Fleet) Publish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	signers, keys := f.owners()
	version := f.next(f.Now().Unix())
	mark := f.mark()
	mark.Approval, mark.Shell, mark.Transfers = f.Approval, f.Shell, f.Transfers
	if f.Logged {
		key := f.Log.Key()
		mark.Log = &key
	}
	snapshot := tuf.Snapshot{Version: version, Expires: f.expires(), Mark: f.mark(), Files: map[string]tuf.Meta{}}
	put := func(role string, data []byte, whole bool) {
		f.files[role], f.versions[role] = api.TrustFile{Role: role, Data: data}, version
		meta := tuf.Meta{Version: version}
		if whole {
			meta = tuf.MetaOf(version, data)
		}
		snapshot.Files[role] = meta
	}
	put(api.TrustTargets, must(tuf.Targets{
		Version: version, Expires: f.expires(), Mark: mark, Builder: f.Key("builder").Public(), Director: f.director().Public(), Owner: keys, OwnerThreshold: f.Threshold,
	}.Make(signers...)), true)
	for by, releases := range map[string]map[string]Release{api.TrustBuilder: f.listed, api.TrustOwner: f.signed} {
		by1, of1, threshold := []tuf.Signer{f.Key("builder")}, []*metadata.Key{f.Key("builder").Public()}, 1
		if by == api.TrustOwner {
			by1, of1, threshold = signers, keys, f.Threshold
		}
		put(by, must(tuf.Delegator{By: by, Version: version, Expires: f.expires(), Mark: f.mark(), Keys: of1, Threshold: threshold}.Make(by1...)), true)
		bins := map[string]map[string]tuf.Listed{}
		for commit, r := range releases {
			path := must(tuf.ReleasePath(commit))
			role := tuf.BinRole(by, path)
			if bins[role] == nil {
				bins[role] = map[string]tuf.Listed{}
			}
			bins[role][path] = r.Listed
		}
		for role, listed := range bins {
			put(role, must(tuf.Bin{Role: role, Version: version, Expires: f.expires(), Mark: f.mark(), Listed: listed}.Make(by1...)), false)
		}
	}
	data := must(snapshot.Make(f.Key("snapshot")))
	f.files[api.TrustSnapshot], f.versions[api.TrustSnapshot] = api.TrustFile{Role: api.TrustSnapshot, Data: data}, version
	f.stamp(version, data)
}

func (f *Fleet) stamp(version int64, snapshot []byte) {
	data := must(tuf.Timestamp{
		Version: version, Expires: f.expires(), Mark: f.mark(), Snapshot: tuf.MetaOf(f.versions[api.TrustSnapshot], snapshot),
	}.Make(f.Key("timestamp")))
	f.files[api.TrustTimestamp], f.versions[api.TrustTimestamp] = api.TrustFile{Role: api.TrustTimestamp, Data: data}, version
}

// Snapshot is the whole of what the server has: a copy that [Fleet.Restore] brings back, as from an old backup.
func (f *Fleet) Snapshot() (files map[string]api.TrustFile, versions map[string]int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.files), maps.Clone(f.versions)
}

// Restore puts files back.
func (f *Fleet) Restore(files map[string]api.TrustFile, versions map[string]int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files, f.versions = maps.Clone(files), maps.Clone(versions)
}

// Forget takes a release off the lists.
func (f *Fleet) Forget(commit string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.listed, commit)
	delete(f.signed, commit)
}

// Asked gives what devices asked so far.
func (f *Fleet) Asked() []api.TrustHave {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// Alter changes the fleet's fields while devices ask.
func (f *Fleet) Alter(change func(*Fleet)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// order is that in which a device reads.
func (f *Fleet) order(commit string) []string {
	roles := []string{api.TrustTimestamp, api.TrustSnapshot, api.TrustTargets, api.TrustBuilder, api.TrustOwner}
	if commit != "" {
		path := must(tuf.ReleasePath(commit))
		roles = append(roles, tuf.BinRole(api.TrustBuilder, path), tuf.BinRole(api.TrustOwner, path))
	}
	return roles
}

// Answer is what a device gets.
func (f *Fleet) Answer(device api.DeviceUUID, have api.TrustHave) api.TrustBundle {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, have)
	out := api.TrustBundle{Fleet: f.UUID}
	at := slices.IndexFunc(f.roots, func(root []byte) bool { return tuf.Digest(root) == have.Root })
	out.Roots = append(out.Roots, f.roots[at+1:min(len(f.roots), at+1+32)]...)
	for _, role := range f.order(have.Commit) {
		if file, ok := f.files[role]; ok && have.Versions[role] != f.versions[role] {
			out.Files = append(out.Files, file)
		}
	}
	commit := have.Commit
	if f.Director != "" {
		commit = f.Director
	}
	mark := f.mark()
	mark.Device, mark.Nonce, mark.Channel = device, have.Nonce, f.Channel
	said := tuf.Director{Version: f.Now().Unix(), Expires: f.expires(), Mark: mark}
	if r, ok := f.listed[commit]; ok {
		said.Commit, said.Release = commit, &r.Listed
		out.Document = r.Document
		by := api.TrustBuilder
		if f.Approval != api.ApprovalBuilder {
			by = api.TrustOwner
		}
		if f.Logged {
			out.Proof = f.Log.Prove(have.Log, api.TrustEntry{Kind: "release", Fleet: f.UUID, Name: commit, Version: r.Counter, SHA256: r.SHA256, By: by})
		}
	}
	out.Director = must(said.Make(f.director()))
	if f.Change != nil {
		f.Change(have, &out)
	}
	return out
}

// Command signs one for a device, with the director's key.
func (f *Fleet) Command(c api.TrustCommand) []byte {
	if c.Fleet == "" {
		c.Fleet = f.UUID
	}
	if c.Expires.IsZero() {
		c.Expires = f.Now().Add(time.Hour)
	}
	return must(tuf.SignCommand(c, f.director()))
}

// Log is a transparency log.
type Log struct {
	Origin  string
	private ed25519.PrivateKey
	Leaves  [][]byte
}

// NewLog makes an empty one.
func NewLog(origin string) *Log {
	return &Log{Origin: origin, private: ed25519.PrivateKey(Key(origin))}
}

// Add appends a leaf.
func (l *Log) Add(leaf []byte) { l.Leaves = append(l.Leaves, leaf) }

// Key is how a fleet's targets name the log.
func (l *Log) Key() api.TrustLogKey {
	return api.TrustLogKey{Origin: l.Origin, Key: must(tlog.VerifierKey(l.Origin, l.private.Public().(ed25519.PublicKey)))}
}

func (l *Log) tree() (size int64, root tlog.Hash, r tlog.HashReader) {
	var leaves []tlog.Hash
	for _, leaf := range l.Leaves {
		leaves = append(leaves, tlog.LeafHash(leaf))
	}
	none := tlog.HashReaderFunc(func([]int64) ([]tlog.Hash, error) { return nil, fmt.Errorf("nothing is stored") })
	stored, root, err := tlog.Append(0, leaves, none)
	if err != nil {
		panic(err)
	}
	return int64(len(leaves)), root, tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range at {
			out = append(out, stored[i])
		}
		return out, nil
	})
}

// Checkpoint signs how the log is.
func (l *Log) Checkpoint() string {
	size, root, _ := l.tree()
	by := must(tlog.NewSigner(l.Origin, l.private))
	return must(tlog.Checkpoint{Origin: l.Origin, Size: size, Root: root}.Sign(by))
}

// Prove shows that an entry is in the log and that the log goes on from an earlier size. What is not in it cannot be shown.
func (l *Log) Prove(from int64, entry api.TrustEntry) *api.TrustLogging {
	leaf := must(json.Marshal(entry))
	at := slices.IndexFunc(l.Leaves, func(have []byte) bool { return string(have) == string(leaf) })
	if at < 0 {
		return nil
	}
	size, _, r := l.tree()
	out := &api.TrustLogging{Checkpoint: l.Checkpoint(), Entry: leaf, Index: int64(at), Inclusion: must(tlog.ProveInclusion(size, int64(at), r))}
	if from <= size {
		out.Consistency = must(tlog.ProveConsistency(from, size, r))
	}
	return out
}
