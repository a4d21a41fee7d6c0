package trust_test

import (
	"errors"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
)

// Whether somebody might upload is said before they make keys: by the same rules, and nothing is taken.
func TestWhetherOneMightUpload(t *testing.T) {
	w := newWorld(t)
	fleet := w.uuid(w.hers)
	try := func(by access.Caller, up api.TrustUpload) error {
		_, err := w.trust.Upload(t.Context(), by, fleet, up)
		return err
	}
	stranger, keyed := w.bob, w.alice
	keyed.Session = 0
	for _, tt := range []struct {
		what string
		by   access.Caller
		up   api.TrustUpload
		want error
	}{
		{"who may, in a fresh session", w.alice, api.TrustUpload{Try: api.TrustTryRoot}, nil},
		{"who may, files", w.alice, api.TrustUpload{Try: api.TrustTryFiles}, nil},
		{"with a key, files", keyed, api.TrustUpload{Try: api.TrustTryFiles}, nil},
		{"with a key, the root", keyed, api.TrustUpload{Try: api.TrustTryRoot}, api.ErrForbidden},
		{"somebody else", stranger, api.TrustUpload{Try: api.TrustTryFiles}, api.ErrNotFound},
		{"something else", w.alice, api.TrustUpload{Try: "x"}, api.ErrInvalid},
		{"with files", w.alice, api.TrustUpload{Try: api.TrustTryFiles, Files: []api.TrustFile{{Role: api.TrustRoot}}}, api.ErrInvalid},
	} {
		if err := try(tt.by, tt.up); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.what, err, tt.want)
		}
	}
	if _, err := w.processWith(nil).Upload(t.Context(), w.alice, fleet, api.TrustUpload{Try: api.TrustTryFiles}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("without a signer: %v", err)
	}
	o := w.owner(w.hers, api.ApprovalBoth, 1)
	if _, err := o.upload(o.root(2, 1, 1), o.targets(1, 1), o.delegator(1)); err != nil {
		t.Fatal(err)
	}
	if err := try(keyed, api.TrustUpload{Try: api.TrustTryRoot}); err != nil {
		t.Errorf("a next root of the owner's, which needs no fresh session: %v", err)
	}
}
