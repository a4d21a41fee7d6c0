package trust_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/member"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

func (o *owner) withdraw(by access.Caller, files ...string) (api.TrustWithdrawn, error) {
	return o.trust.Withdraw(o.Context(), by, o.fleet, api.TrustWithdrawal{Files: files})
}

// developer is somebody who may release in her fleet, and no more.
func (w *world) developer(name string) access.Caller {
	w.Helper()
	by := w.Visitor(name)
	w.Write(func(tx *db.Tx) error {
		return member.AddFleetMember(w.Context(), tx, by.User, w.hers, int64(access.Developer))
	})
	return by
}

// another is a root of the same version and keys that says something else.
func (o *owner) another(version int64, signed int) api.TrustFile {
	o.Helper()
	lives := o.lives
	defer func() { o.lives = lives }()
	o.lives += time.Hour
	return o.root(version, 2, signed)
}

// A root that waits holds up no release as long as it changes nothing about who signs; who would put another in its place is told what waits, and
// loses nothing; whoever may takes it back.
func TestWhatWaitsIsTakenBack(t *testing.T) {
	o, d := twoOfThree(t)
	first := o.root(3, 2, 1)
	_, err := o.upload(first)
	o.Must(err)
	o.goesOn(d, 1)
	_, err = o.upload(o.another(3, 1))
	if coded := api.AsError(err); coded.Code != api.Conflict || !strings.Contains(coded.Text, "root version 3 of alice's") || !strings.Contains(coded.Text, "trust withdraw") {
		t.Fatalf("another root in its place: %v", err)
	}
	s := o.status()
	if len(s.Pending) != 1 || !bytes.Equal(s.Pending[0].Data, first.Data) || s.Pending[0].By != "alice" || s.Pending[0].Since.IsZero() {
		t.Fatalf("there wait %+v", s.Pending)
	}

	if _, err := o.withdraw(o.bob, "3.root"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("bob takes back what waits in alice's fleet: %v", err)
	}
	if _, err := o.withdraw(o.developer("carol"), "3.root"); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a developer takes back what an owner brought: %v", err)
	}
	for name, want := range map[string]api.Code{"root": api.Invalid, "0.root": api.Invalid, "03.root": api.Invalid, "3.snapshot": api.Invalid, "3.owner-zz": api.Invalid, "": api.Invalid,
		"3.../root": api.Invalid, "2.root": api.Conflict, "1.root": api.Conflict, "4.root": api.NotFound, "3.owner-00": api.NotFound} {
		if _, err := o.withdraw(o.alice, "3.root", name); api.AsError(err).Code != want || want == api.Invalid && !strings.Contains(err.Error(), "files[1]") {
			t.Errorf("%q: %v", name, err)
		}
	}
	for what, files := range map[string][]string{"none": {}, "too many": slices.Repeat([]string{"3.root"}, 301)} {
		if _, err := o.withdraw(o.alice, files...); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(o.status().Pending) != 1 {
		t.Fatal("something was taken back all the same")
	}
	done, err := o.withdraw(o.alice, "3.root")
	if err != nil || !slices.Equal(done.Withdrawn, []string{"3.root"}) || len(o.status().Pending) != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if n := o.Number(`SELECT count(*) FROM audit_entry WHERE act = 'trust.withdraw' AND thing_id = ?`, o.hers); n != 1 {
		t.Errorf("%d entries in the audit log", n)
	}
	if _, err := o.withdraw(o.alice, "3.root"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("once more: %v", err)
	}
	if up, err := o.upload(o.another(3, 2)); err != nil || len(up.Published) != 1 {
		t.Errorf("the other root: %+v, %v", up, err)
	}
	o.goesOn(d, 2)
}

// Who brought something may take it back, without a right over others.
func TestADeveloperTakesBackTheirOwn(t *testing.T) {
	o, _ := twoOfThree(t)
	carol := o.developer("carol")
	if _, err := o.trust.Upload(t.Context(), carol, o.fleet, api.TrustUpload{Files: []api.TrustFile{o.listing(1, 1)}}); err != nil {
		t.Fatal(err)
	}
	p := o.status().Pending
	if len(p) != 1 || p[0].By != "carol" {
		t.Fatalf("there wait %+v", p)
	}
	names := []string{named(p[0])}
	if done, err := o.withdraw(carol, names...); err != nil || !slices.Equal(done.Withdrawn, names) {
		t.Errorf("%+v, %v", done, err)
	}
}

func named(p api.TrustPending) string { return fmt.Sprintf("%d.%s", p.Version, p.Role) }

// Keys that change hold up what the keys of before sign; taken back, they do not, and what waited because of them is published.
func TestNewKeysHoldUpReleases(t *testing.T) {
	o, d := twoOfThree(t)
	keys := slices.Clone(o.keys)
	o.keys = append(slices.Clone(keys[:2]), newKey(98))
	root, targets := o.root(3, 2, 1), o.targets(2, 1)
	_, err := o.upload(root, targets)
	o.Must(err)
	o.keys = keys
	release := o.listing(1, 2)
	up, err := o.upload(release)
	if err != nil || len(up.Published) != 0 || len(up.Waiting) != 3 {
		t.Fatalf("while other keys wait: %+v, %v", up, err)
	}
	done, err := o.withdraw(o.alice, "3.root")
	if err != nil || len(done.Withdrawn) != 2 || len(done.Published) != 1 || len(done.Waiting) != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, err := d.check(o.trust, commitOf(1)); err != nil {
		t.Errorf("a device: %v", err)
	}
	o.goesOn(d, 2)
}

// Whoever has enough signatures is not kept by one who has too few: what waited can never be in force, and that is said.
func TestEnoughDecideOtherwise(t *testing.T) {
	o, d := twoOfThree(t)
	_, err := o.upload(o.root(3, 2, 1))
	o.Must(err)
	up, err := o.upload(o.another(3, 2))
	if err != nil || !slices.Equal(up.Published, []string{"3.root"}) || !slices.Equal(up.Dropped, []string{"3.root"}) {
		t.Fatalf("%+v, %v", up, err)
	}
	if p := o.status().Pending; len(p) != 0 {
		t.Errorf("there wait %d files", len(p))
	}
	o.goesOn(d, 1)
}

// Owners make the same version at the same time: one of them waits, the others are told, and what waits is whole.
func TestOwnersMakeOneVersionAtATime(t *testing.T) {
	o, _ := twoOfThree(t)
	var files []api.TrustFile
	lives := o.lives
	for i := range 6 {
		o.lives = lives + time.Duration(i)*time.Hour
		files = append(files, o.root(3, 2, 1))
	}
	o.lives = lives
	var wait sync.WaitGroup
	errs := make([]error, len(files))
	for i, f := range files {
		wait.Go(func() { _, errs[i] = o.upload(f) })
	}
	wait.Wait()
	taken := -1
	for i, err := range errs {
		switch {
		case err == nil && taken < 0:
			taken = i
		case err == nil:
			t.Errorf("both %d and %d wait", taken, i)
		case !errors.Is(err, api.ErrConflict):
			t.Errorf("%d: %v", i, err)
		}
	}
	if taken < 0 {
		t.Fatal("none waits")
	}
	p := o.status().Pending
	if len(p) != 1 || !bytes.Equal(p[0].Data, files[taken].Data) {
		t.Fatalf("there wait %+v", p)
	}
	data, err := tuf.AddSignature(p[0].Data, o.keys[1])
	o.Must(err)
	if up, err := o.upload(api.TrustFile{Role: api.TrustRoot, Data: data}); err != nil || len(up.Published) != 1 {
		t.Errorf("with the second signature: %+v, %v", up, err)
	}
}

// The only key gives way to one on another machine: that one has still to sign everything, and is shown everything.
func TestTheOnlyKeyGivesWay(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	d.equip()
	o := w.owner(w.hers, api.ApprovalOwner, 1)
	_, err := o.upload(o.root(2, 1, 1), o.targets(1, 1), o.delegator(1))
	w.Must(err)
	before := o.keys[0]
	o.keys = []tuf.Ed25519Signer{newKey(97)}
	root := o.root(3, 1, 0)
	root.Data, err = tuf.AddSignature(root.Data, before)
	w.Must(err)
	if up, err := o.upload(root, o.targets(1, 0), o.delegator(0)); err != nil || len(up.Waiting) != 3 {
		t.Fatalf("%+v, %v", up, err)
	}
	pending := w.status().Pending
	if len(pending) != 3 {
		t.Fatalf("the other machine is shown %d files", len(pending))
	}
	var files []api.TrustFile
	for _, p := range pending {
		data, err := tuf.AddSignature(p.Data, o.keys[0])
		w.Must(err)
		files = append(files, api.TrustFile{Role: p.Role, Data: data})
	}
	if up, err := o.upload(files...); err != nil || len(up.Published) != 3 {
		t.Fatalf("%+v, %v", up, err)
	}
	if _, err := d.check(w.trust, ""); err != nil {
		t.Errorf("a device: %v", err)
	}
}
