package trust_test

import (
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// twoOfThree is a fleet whose owner has three keys, of which two must sign, and a device.
func twoOfThree(t *testing.T) (*owner, *board) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	d.equip()
	o := w.owner(w.hers, api.ApprovalBoth, 3)
	_, err := o.upload(o.root(2, 2, 2), o.targets(2, 2), o.delegatorOf(2, 2))
	w.Must(err)
	if s := w.status(); s.HeldBy != api.HeldByOwner || len(s.Pending) != 0 {
		t.Fatalf("the status is %+v", s)
	}
	return o, d
}

// listing is the bin in which a release waits for its owner, signed by so many.
func (o *owner) listing(n, signed int) api.TrustFile {
	o.Helper()
	o.target(o.hers, o.release(o.hers, n))
	for _, u := range o.status().Unsigned {
		if u.Commit == commitOf(n) {
			return o.approve(u, signed)
		}
	}
	o.Fatalf("release %d does not wait for its owner", n)
	return api.TrustFile{}
}

// goesOn fails the test when what two have signed is not published, or a device does not run it.
func (o *owner) goesOn(d *board, n int) {
	o.Helper()
	if up, err := o.upload(o.listing(n, 2)); err != nil || len(up.Published) != 1 {
		o.Errorf("what enough have signed: published %v, %v", up.Published, err)
	}
	if _, err := d.check(o.trust, commitOf(n)); err != nil {
		o.Errorf("a device: %v", err)
	}
}

// Who may upload, and has no key, leaves nothing that waits: it would keep the owners from signing anything.
func TestWithoutAKeyNothingWaits(t *testing.T) {
	o, d := twoOfThree(t)
	for what, files := range map[string][]api.TrustFile{
		"a root that nobody signed":     {o.root(3, 2, 0)},
		"a root that only its own sign": {o.stranger().root(3, 1, 1)},
		"targets that nobody signed":    {o.targets(2, 0)},
	} {
		if _, err := o.upload(files...); api.AsError(err).Code != api.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	if s := o.status(); len(s.Pending) != 0 {
		t.Errorf("there wait %d files", len(s.Pending))
	}
	o.goesOn(d, 1)
}

// stranger has another key, and means the same fleet.
func (o *owner) stranger() *owner {
	s := *o
	s.keys = []tuf.Ed25519Signer{newKey(99)}
	return &s
}

// Two roots that wait would be one: the first is never published, and the second comes after nothing.
func TestOneRootWaitsAtATime(t *testing.T) {
	o, d := twoOfThree(t)
	if _, err := o.upload(o.root(3, 2, 1), o.root(4, 2, 1)); api.AsError(err).Code != api.Invalid || !strings.Contains(err.Error(), "files") {
		t.Errorf("two roots with too few signatures: %v", err)
	}
	o.goesOn(d, 1)
	if up, err := o.upload(o.root(3, 2, 2), o.root(4, 2, 2)); err != nil || len(up.Published) != 2 {
		t.Errorf("two roots with enough: %v, %v", up, err)
	}
	o.goesOn(d, 2)
}

// What waited too long, or was signed by a key that signs no more, is in nobody's way.
func TestWhatWaitsInVainIsDropped(t *testing.T) {
	t.Run("expired", func(t *testing.T) {
		o, d := twoOfThree(t)
		o.Pass(-2 * time.Minute) // the signer's clock is not ours
		o.lives = time.Minute
		_, err := o.upload(o.listing(1, 1))
		o.Must(err)
		if s := o.status(); len(s.Pending) != 1 {
			t.Fatalf("there wait %d files", len(s.Pending))
		}
		o.Pass(2 * time.Minute)
		if s := o.status(); len(s.Pending) != 0 {
			t.Errorf("after it has expired there wait %d files", len(s.Pending))
		}
		o.lives = 24 * time.Hour
		o.goesOn(d, 2)
	})
	t.Run("a key that is gone", func(t *testing.T) {
		o, d := twoOfThree(t)
		_, err := o.upload(o.listing(1, 1)) // by the first key
		o.Must(err)
		before := o.signers(2)
		o.keys = append(o.keys[1:], newKey(98))
		root := o.root(3, 2, 2)
		for _, s := range before {
			if root.Data, err = tuf.AddSignature(root.Data, s); err != nil && !strings.Contains(err.Error(), "signed") {
				t.Fatal(err)
			}
		}
		if _, err := o.upload(root, o.targets(2, 2), o.delegatorOf(2, 2)); err != nil {
			t.Fatalf("a key is replaced while something waits: %v", err)
		}
		if s := o.status(); len(s.Pending) != 0 {
			t.Errorf("there wait %d files", len(s.Pending))
		}
		o.goesOn(d, 2)
	})
	t.Run("a version far ahead", func(t *testing.T) {
		o, d := twoOfThree(t)
		version := o.version
		o.version = 1 << 39
		_, err := o.upload(o.targets(2, 1))
		o.Must(err)
		o.version = version
		if _, err := o.upload(o.targets(2, 1)); api.AsError(err).Code != api.Conflict {
			t.Errorf("an older one with too few signatures: %v", err)
		}
		if up, err := o.upload(o.targets(2, 2)); err != nil || len(up.Published) != 1 {
			t.Errorf("what enough have signed: %v, %v", up, err)
		}
		o.goesOn(d, 1)
	})
}
