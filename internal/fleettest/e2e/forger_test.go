package e2e_test

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/ownerkey"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// forger has every key that a fleet's metadata are signed with: those that the server's signer has, and the owner's. What it makes is wrong in one thing only.
type forger struct {
	fleet  string // uuid
	seed   []byte // of the signer
	dir    string // of the signer
	owner  tuf.Signer
	root   []byte  // the newest
	alone  bool    // the builder's word is enough in the fleet
	newest float64 // version that it gave
	device api.DeviceUUID
}

func newForger(t *testing.T, o *owner, fleet string, device api.DeviceUUID) *forger {
	t.Helper()
	f := &forger{fleet: fleet, device: device, dir: stolen("signer", "")}
	block, _ := pem.Decode(readFile(t, filepath.Join(f.dir, signer.TrustKeyFile)))
	if block == nil {
		t.Fatal("the signer's seed is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	f.seed = key.(ed25519.PrivateKey).Seed()
	kept := filepath.Join(o.home, ".config/roadstead/trust", fleet)
	f.root = readFile(t, filepath.Join(kept, "metadata/root.json"))
	files, err := filepath.Glob(filepath.Join(kept, "keys/*.key"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the owner has the keys %v, %v", files, err)
	}
	file, err := ownerkey.Read(files[0])
	if err != nil {
		t.Fatal(err)
	}
	f.owner, err = file.Open(context.Background(), ownerkey.Unlock{Passphrase: func(string) ([]byte, error) {
		return ownerkey.PassphraseFrom(filepath.Join(o.home, "passphrase"))
	}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// made is for what a test makes itself.
func made[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// key is the signer's key for a role, as the signer derives it.
func (f *forger) key(fleet, role string) tuf.Ed25519Signer {
	seed := made(hkdf.Key(sha256.New, f.seed, nil, strings.Join([]string{"roadstead trust", "1", role, fleet}, "\x00"), ed25519.SeedSize))
	return tuf.Ed25519Signer(ed25519.NewKeyFromSeed(seed))
}

// holder is who signs a role's file.
func (f *forger) holder(role string) tuf.Signer {
	by, _, _ := strings.Cut(role, "-")
	switch by {
	case api.TrustRoot, api.TrustTargets, api.TrustOwner:
		return f.owner
	}
	return f.key(f.fleet, by)
}

// edited is a file, changed and signed anew. A key that signs twice does so under one id.
func edited(data []byte, change func(signed map[string]any), by ...tuf.Signer) []byte {
	var whole struct {
		Signed map[string]any `json:"signed"`
	}
	if err := json.Unmarshal(data, &whole); err != nil {
		panic(err)
	}
	change(whole.Signed)
	message := made(tuf.Canonical(whole.Signed))
	signatures := []any{}
	for _, s := range by {
		signatures = append(signatures, map[string]any{"keyid": tuf.KeyID(s.Public()), "sig": hex.EncodeToString(made(s.Sign(message)))})
	}
	return made(json.Marshal(map[string]any{"signed": json.RawMessage(message), "signatures": signatures}))
}

func member(from map[string]any, names ...string) map[string]any {
	for _, name := range names {
		from = from[name].(map[string]any)
	}
	return from
}

func fileOf(b *api.TrustBundle, role string) *api.TrustFile {
	for i := range b.Files {
		if b.Files[i].Role == role {
			return &b.Files[i]
		}
	}
	panic("the server sends no " + role)
}

func versionOf(data []byte) (version float64) {
	edited(data, func(signed map[string]any) { version = signed["version"].(float64) })
	return version
}

// anew changes files of an answer, and signs them and all that names them, as a next version.
func (f *forger) anew(b *api.TrustBundle, changes map[string]func(signed map[string]any)) {
	version := f.newest + 1
	for _, file := range b.Files {
		version = max(version, versionOf(file.Data)+1)
	}
	f.newest = version
	next := func(role string, signed map[string]any) { // the owner's go up one by one, the server's with the clock
		if signed["version"] = signed["version"].(float64) + 1; f.holder(role) != f.owner {
			signed["version"] = version
		}
	}
	announce := func(role string, names func(signed map[string]any) map[string]any) func(map[string]any) {
		return func(signed map[string]any) {
			signed["version"] = version
			for changed := range changes {
				said, _ := names(signed)[changed+".json"].(map[string]any)
				if said == nil {
					continue
				}
				data := fileOf(b, changed).Data
				said["version"] = versionOf(data)
				if _, ok := said["length"]; ok {
					said["length"] = len(data)
				}
				if _, ok := said["hashes"]; ok {
					said["hashes"] = map[string]any{"sha256": tuf.Digest(data)}
				}
			}
			if change := changes[role]; change != nil {
				change(signed)
			}
		}
	}
	for role, change := range changes {
		if role != api.TrustSnapshot && role != api.TrustTimestamp {
			file := fileOf(b, role)
			file.Data = edited(file.Data, func(signed map[string]any) { next(role, signed); change(signed) }, f.holder(role))
		}
	}
	meta := func(signed map[string]any) map[string]any { return member(signed, "meta") }
	snapshot, timestamp := fileOf(b, api.TrustSnapshot), fileOf(b, api.TrustTimestamp)
	snapshot.Data = edited(snapshot.Data, announce(api.TrustSnapshot, meta), f.holder(api.TrustSnapshot))
	if changes[api.TrustSnapshot] == nil {
		changes[api.TrustSnapshot] = func(map[string]any) {}
	}
	timestamp.Data = edited(timestamp.Data, announce(api.TrustTimestamp, meta), f.holder(api.TrustTimestamp))
}

// listed is how builder and owner list a release.
func (f *forger) listed(b *api.TrustBundle, commit string) (l tuf.Listed) {
	path := made(tuf.ReleasePath(commit))
	role := tuf.BinRole(api.TrustBuilder, path)
	return made(tuf.ReadBin(role, fileOf(b, role).Data)).Listed[path]
}

// list has builder and owner list a release's document with a counter; the log has it, and the director tells the device to run it.
func (f *forger) list(have api.TrustHave, b *api.TrustBundle, commit string, document []byte, counter int64) {
	path := made(tuf.ReleasePath(commit))
	l := tuf.Listed{Length: int64(len(document)), SHA256: tuf.Digest(document), Counter: counter}
	enlist := func(signed map[string]any) {
		member(signed, "targets")[path] = map[string]any{"length": l.Length, "hashes": map[string]any{"sha256": l.SHA256}, "custom": map[string]any{"counter": l.Counter}}
	}
	changes := map[string]func(map[string]any){}
	who := []string{api.TrustBuilder, api.TrustOwner}
	if f.alone {
		who = who[:1]
	}
	for _, by := range who {
		if role := tuf.BinRole(by, path); made(tuf.ReadBin(role, fileOf(b, role).Data)).Listed[path] != l {
			changes[role] = enlist
		}
	}
	f.anew(b, changes)
	b.Document = document
	b.Proof = f.prove(have, api.TrustEntry{Kind: "release", Fleet: f.fleet, Name: commit, Version: counter, SHA256: l.SHA256, By: who[len(who)-1]})
	f.direct(b, func(d *tuf.Director) { d.Commit, d.Release = commit, &l })
}

// direct changes what the director says.
func (f *forger) direct(b *api.TrustBundle, change func(d *tuf.Director)) {
	said := made(tuf.ReadDirector(b.Director))
	change(&said)
	b.Director = made(said.Make(f.key(f.fleet, api.TrustDirector)))
}

// prove goes on with the server's log by one entry.
func (f *forger) prove(have api.TrustHave, entry api.TrustEntry) *api.TrustLogging {
	var log struct {
		Origin string `json:"origin"`
		Size   int64  `json:"size"`
	}
	if err := json.Unmarshal(made(os.ReadFile(filepath.Join(f.dir, signer.TrustLogFile))), &log); err != nil {
		panic(err)
	}
	raw := made(os.ReadFile(filepath.Join(f.dir, signer.TrustLeavesFile)))
	leaves := make([]tlog.Hash, log.Size)
	for i := range leaves {
		copy(leaves[i][:], raw[i*len(leaves[i]):])
	}
	leaf := made(json.Marshal(entry))
	leaves = append(leaves, tlog.LeafHash(leaf))
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, err error) {
		for _, i := range at {
			if i >= int64(len(stored)) {
				return nil, fmt.Errorf("hash %d of %d", i, len(stored))
			}
			out = append(out, stored[i])
		}
		return out, nil
	})
	stored, root, err := tlog.Append(0, leaves, reader)
	if err != nil {
		panic(err)
	}
	size := int64(len(leaves))
	by := made(tlog.NewSigner(log.Origin, ed25519.PrivateKey(f.key("", "log"))))
	return &api.TrustLogging{
		Checkpoint: made(tlog.Checkpoint{Origin: log.Origin, Size: size, Root: root}.Sign(by)), Entry: leaf, Index: size - 1,
		Inclusion: made(tlog.ProveInclusion(size, size-1, reader)), Consistency: made(tlog.ProveConsistency(have.Log, size, reader)),
	}
}

// nextRoot is the root after the newest, changed, and signed by the given keys.
func (f *forger) nextRoot(change func(signed map[string]any), by ...tuf.Signer) [][]byte {
	return [][]byte{edited(f.root, func(signed map[string]any) {
		signed["version"] = signed["version"].(float64) + 1
		member(signed, "x-roadstead")["signed_at"] = time.Now().UTC().Truncate(time.Second).Format(time.RFC3339)
		change(signed)
	}, by...)}
}

// another is a key that nobody knows.
func another(name string) tuf.Ed25519Signer {
	seed := sha256.Sum256([]byte(name))
	return tuf.Ed25519Signer(ed25519.NewKeyFromSeed(seed[:]))
}
