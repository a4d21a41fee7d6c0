package trust_test

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// owner holds keys that no server has.
type owner struct {
	*world
	keys     []tuf.Ed25519Signer
	fleet    string // uuid
	server   api.TrustServerKeys
	approval api.Approval
	version  int64
	lives    time.Duration
	leaves   []api.TrustLeave
}

func (w *world) owner(fleetID int64, approval api.Approval, keys int) *owner {
	w.Helper()
	o := &owner{world: w, fleet: w.uuid(fleetID), approval: approval, lives: 365 * 24 * time.Hour}
	for i := range keys {
		o.keys = append(o.keys, newKey(i+1))
	}
	var err error
	o.server, err = w.trust.Keys(w.Context(), w.alice, o.fleet)
	w.Must(err)
	return o
}

func newKey(n int) tuf.Ed25519Signer {
	return tuf.Ed25519Signer(ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%32d", n))))
}

func (o *owner) key(raw json.RawMessage) *metadata.Key {
	k := &metadata.Key{}
	o.Must(json.Unmarshal(raw, k))
	return k
}

func (o *owner) mark() api.TrustMark {
	return api.TrustMark{Fleet: o.fleet, SignedAt: o.Now().UTC().Truncate(time.Second)}
}

func (o *owner) public() (keys []*metadata.Key) {
	for _, k := range o.keys {
		keys = append(keys, k.Public())
	}
	return keys
}

func (o *owner) signers(n int) (list []tuf.Signer) {
	for _, k := range o.keys[:n] {
		list = append(list, k)
	}
	return list
}

func (o *owner) file(role string, data []byte, err error) api.TrustFile {
	o.Helper()
	o.Must(err)
	return api.TrustFile{Role: role, Data: data}
}

// root makes a root of all of the owner's keys, of which many must sign and some have.
func (o *owner) root(version int64, threshold, signed int) api.TrustFile {
	o.Helper()
	mark := o.mark()
	mark.HeldBy = api.HeldByOwner
	x := tuf.Root{Version: version, Expires: o.Now().Add(o.lives), Mark: mark, Threshold: map[string]int{"root": threshold, "targets": threshold, "snapshot": 1, "timestamp": 1},
		Keys: map[string][]*metadata.Key{"root": o.public(), "targets": o.public(), "snapshot": {o.key(o.server.Snapshot)}, "timestamp": {o.key(o.server.Timestamp)}}}
	data, err := x.Make(o.signers(signed)...)
	return o.file(api.TrustRoot, data, err)
}

// next is a version above what the server publishes meanwhile, which takes seconds on a busy machine.
func (o *owner) next() int64 {
	o.version = max(o.version+1, o.Now().Add(time.Minute).Unix())
	return o.version
}

func (o *owner) targets(threshold, signed int) api.TrustFile {
	o.Helper()
	mark := o.mark()
	mark.Approval, mark.Shell, mark.Log, mark.Transfers = o.approval, "allowed", &o.server.Log, o.leaves
	x := tuf.Targets{Version: o.next(), Expires: o.Now().Add(o.lives), Mark: mark, Builder: o.key(o.server.Builder), Director: o.key(o.server.Director),
		Owner: o.public(), OwnerThreshold: threshold}
	data, err := x.Make(o.signers(signed)...)
	return o.file(api.TrustTargets, data, err)
}

func (o *owner) delegator(signed int) api.TrustFile {
	o.Helper()
	return o.delegatorOf(1, signed)
}

func (o *owner) delegatorOf(threshold, signed int) api.TrustFile {
	o.Helper()
	x := tuf.Delegator{By: api.TrustOwner, Version: o.next(), Expires: o.Now().Add(o.lives), Mark: o.mark(), Keys: o.public(), Threshold: threshold}
	data, err := x.Make(o.signers(signed)...)
	return o.file(api.TrustOwner, data, err)
}

// approve lists what waits for the owner.
func (o *owner) approve(u api.TrustUnsigned, signed int) api.TrustFile {
	o.Helper()
	path, err := tuf.ReleasePath(u.Commit)
	o.Must(err)
	doc, err := o.trust.Document(o.Context(), o.alice, o.fleet, u.Commit)
	o.Must(err)
	x := tuf.Bin{Role: tuf.BinRole(api.TrustOwner, path), Version: o.next(), Expires: o.Now().Add(o.lives), Mark: o.mark(),
		Listed: map[string]tuf.Listed{path: {Length: int64(len(doc)), SHA256: tuf.Digest(doc), Counter: u.Counter}}}
	data, err := x.Make(o.signers(signed)...)
	return o.file(x.Role, data, err)
}

func (o *owner) upload(files ...api.TrustFile) (api.TrustUploaded, error) {
	return o.trust.Upload(o.Context(), o.alice, o.fleet, api.TrustUpload{Files: files})
}

func (w *world) status() api.TrustStatus {
	w.Helper()
	s, err := w.trust.Status(w.Context(), w.alice, w.uuid(w.hers))
	w.Must(err)
	return s
}

// An owner takes the fleet over in place: devices follow, and run nothing that the owner has not signed.
func TestAnOwnerTakesAFleetOver(t *testing.T) {
	w := newWorld(t)
	w.target(w.hers, w.release(w.hers, 1))
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, commitOf(1))
	w.Must(err)
	o := w.owner(w.hers, api.ApprovalBoth, 1)
	up, err := o.upload(o.root(2, 1, 1), o.targets(1, 1), o.delegator(1))
	w.Must(err)
	if len(up.Published) != 3 || len(up.Waiting) != 0 || up.Published[0] != "2.root" {
		t.Errorf("published %v, waiting %v", up.Published, up.Waiting)
	}
	w.target(w.hers, w.release(w.hers, 2))
	_, err = d.check(w.trust, commitOf(2))
	if r, ok := tuf.Rejection(err); !ok || r.Reason != tuf.ReasonUnlisted && r.Reason != tuf.ReasonMissing {
		t.Fatalf("a release that the owner has not signed: %v", err)
	}
	s := w.status()
	if s.HeldBy != api.HeldByOwner || s.Approval != api.ApprovalBoth || len(s.Unsigned) != 2 || s.Unsigned[0].Commit != commitOf(2) {
		t.Fatalf("the status is %+v", s)
	}
	up, err = o.upload(o.approve(s.Unsigned[0], 1))
	w.Must(err)
	if len(up.Published) != 1 {
		t.Errorf("published %v", up.Published)
	}
	if _, err := d.check(w.trust, commitOf(2)); err != nil {
		t.Errorf("a release that the owner has signed: %v", err)
	}
	if s := w.status(); len(s.Unsigned) != 1 || s.Unsigned[0].Commit != commitOf(1) {
		t.Errorf("there wait %+v", s.Unsigned)
	}
	// Back to the one before: the owner lists it again, with a counter that is higher, and the builder follows.
	old := w.status().Unsigned[0]
	old.Counter = w.Now().Unix() + 1000
	if _, err := o.upload(o.approve(old, 1)); err != nil {
		t.Fatal(err)
	}
	w.target(w.hers, w.Number(`SELECT id FROM "release" WHERE "commit" = ?`, commitOf(1)))
	if _, err := d.check(w.trust, commitOf(1)); err != nil || d.counter != old.Counter {
		t.Errorf("back to a release that was listed again: %v, counter %d", err, d.counter)
	}
}

// Signatures of several people come one after the other, and are put together.
func TestSignaturesWaitForEachOther(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	d.equip()
	o := w.owner(w.hers, api.ApprovalOwner, 3)
	root, targets := o.root(2, 2, 1), o.targets(2, 1)
	up, err := o.upload(root, targets)
	w.Must(err)
	if len(up.Published) != 0 || len(up.Waiting) != 2 {
		t.Fatalf("published %v, waiting %v", up.Published, up.Waiting)
	}
	s := w.status()
	if len(s.Pending) != 2 || s.HeldBy != api.HeldByServer || len(s.Pending[0].Signed) != 1 || s.Pending[0].Threshold != 2 {
		t.Fatalf("the status is %+v", s)
	}
	for i := range s.Pending {
		data, err := tuf.AddSignature(s.Pending[i].Data, o.keys[2])
		w.Must(err)
		up, err = o.upload(api.TrustFile{Role: s.Pending[i].Role, Data: data})
		w.Must(err)
		if i == 0 && len(up.Published) != 0 {
			break // the root goes out alone only when what there is fits it
		}
	}
	if s = w.status(); len(s.Pending) != 0 || s.HeldBy != api.HeldByOwner {
		t.Errorf("after the second signature: %+v; the last upload gave %+v", s, up)
	}
	if _, err := d.check(w.trust, ""); err != nil || d.trusted.HeldBy() != api.HeldByOwner {
		t.Errorf("the device: %v", err)
	}
}

func TestBadUploadsAreRefusedWhole(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	d.equip()
	o := w.owner(w.hers, api.ApprovalBuilder, 2)
	foreign := w.owner(w.hers, api.ApprovalBuilder, 1)
	foreign.fleet = w.uuid(w.his)
	wrong := o.root(2, 1, 1)
	wrong.Data = []byte(strings.Replace(string(wrong.Data), `"sig":"`, `"sig":"00`, 1))
	wrong.Data = []byte(strings.Replace(string(wrong.Data), `00"}]`, `"}]`, 1))
	short := w.owner(w.hers, api.ApprovalBuilder, 1)
	short.lives = -time.Hour
	director := w.owner(w.hers, api.ApprovalBuilder, 1)
	director.server.Director = director.server.Builder
	for name, up := range map[string][]api.TrustFile{
		"files":         {},
		"role":          {{Role: "snapshot", Data: []byte("{}")}},
		"JSON":          {{Role: "root", Data: []byte("{")}},
		"fleet":         {foreign.root(2, 1, 1)},
		"next root":     {o.root(3, 1, 1)},
		"signature":     {wrong},
		"none of its":   {o.root(2, 1, 1), {Role: api.TrustTargets, Data: unsigned(o.targets(1, 1).Data)}},
		"would refuse":  {o.root(2, 1, 1)}, // without a policy that its keys have signed
		"director":      {o.root(2, 1, 1), director.targets(1, 1)},
		"nobody is nam": {o.root(2, 1, 1), o.targets(1, 1), {Role: o.approveAny().Role, Data: o.approveAny().Data}},
	} {
		_, err := o.upload(up...)
		if coded := api.AsError(err); err == nil || coded.Code != api.Invalid && coded.Code != api.Conflict {
			t.Errorf("%s: %v", name, err)
		} else if name == "files" && !strings.Contains(coded.Text, "files") || name == "director" && !strings.Contains(coded.Text, "director") {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
	_ = short
	if s := w.status(); s.HeldBy != api.HeldByServer {
		t.Errorf("something was taken: %+v", s)
	}
	if _, err := w.trust.Upload(t.Context(), w.bob, o.fleet, api.TrustUpload{Files: []api.TrustFile{o.root(2, 1, 1)}}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("bob uploads to alice's fleet: %v", err)
	}
	key := w.alice
	key.Session = 0
	if _, err := w.trust.Upload(t.Context(), key, o.fleet, api.TrustUpload{Files: []api.TrustFile{o.root(2, 1, 1), o.targets(1, 1)}}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a key gives the fleet away: %v", err)
	}
	if _, err := d.check(w.trust, ""); err != nil {
		t.Errorf("the device: %v", err)
	}
}

// approveAny is a bin of an owner's of whom the policy says nothing yet.
func (o *owner) approveAny() api.TrustFile {
	path, err := tuf.ReleasePath(commitOf(1))
	o.Must(err)
	x := tuf.Bin{Role: tuf.BinRole(api.TrustOwner, path), Version: o.next(), Expires: o.Now().Add(o.lives), Mark: o.mark(), Listed: map[string]tuf.Listed{}}
	data, err := x.Make(o.signers(1)...)
	return o.file(x.Role, data, err)
}

func unsigned(data []byte) []byte {
	var e map[string]json.RawMessage
	_ = json.Unmarshal(data, &e)
	e["signatures"] = json.RawMessage("[]")
	out, _ := json.Marshal(e)
	return out
}

// A fleet that nobody asked about begins with its owner's root.
func TestAFleetBeginsWithItsOwner(t *testing.T) {
	w := newWorld(t)
	o := w.owner(w.hers, api.ApprovalBuilder, 1)
	up, err := o.upload(o.root(1, 1, 1), o.targets(1, 1))
	w.Must(err)
	if !slices.Contains(up.Published, "1.root") {
		t.Errorf("published %v", up.Published)
	}
	w.target(w.hers, w.release(w.hers, 1))
	d := w.device(w.hers, 1)
	d.equip()
	if _, err := d.check(w.trust, commitOf(1)); err != nil {
		t.Error(err)
	}
	// The signer has seen that the fleet is its owner's: whoever has the api role gets no other root from it.
	w.Exec(`DELETE FROM trust_fleet`)
	w.Exec(`DELETE FROM trust_file`)
	if _, err := w.trust.Status(t.Context(), w.alice, o.fleet); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("without the owner's files: %v", err)
	}
	if _, err := o.upload(o.root(1, 1, 1), o.targets(1, 1)); err != nil {
		t.Errorf("the owner's files again: %v", err)
	}
	if _, err := d.check(w.trust, commitOf(1)); err != nil {
		t.Errorf("the device goes on: %v", err)
	}
}
