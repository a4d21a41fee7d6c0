package trust_test

import (
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/trust/overview"
)

// The list of fleets says who holds each root and how many devices check; to each person of their own fleets only.
func TestFleetsInShort(t *testing.T) {
	w := newWorld(t)
	list := func(by access.Caller) (out []api.TrustFleet) {
		t.Helper()
		w.Must(w.DB.Read(t.Context(), func(tx *db.Tx) (err error) {
			out, err = overview.Fleets(t.Context(), tx, by)
			return err
		}))
		return out
	}
	one, two := w.device(w.hers, 1), w.device(w.hers, 2)
	w.device(w.his, 3)
	if got := list(w.alice); len(got) != 1 || got[0].Fleet != w.uuid(w.hers) || got[0].HeldBy != "" || got[0].Devices[api.TrustUnverified] != 2 {
		t.Errorf("before anything was signed: %+v", got)
	}
	w.status()
	w.Must(w.trust.Report(t.Context(), one.by, one.uuid, api.TrustReport{State: api.TrustVerified}))
	w.Must(w.trust.Report(t.Context(), two.by, two.uuid, api.TrustReport{State: api.TrustRejected, Rejection: &api.TrustRejection{What: "root version 3", Reason: "signature"}}))
	if got := list(w.alice); len(got) != 1 || got[0].HeldBy != api.HeldByServer || got[0].Approval != api.ApprovalBuilder || len(got[0].Devices) != 2 ||
		got[0].Devices[api.TrustVerified] != 1 || got[0].Devices[api.TrustRejected] != 1 {
		t.Errorf("alice's fleets: %+v", got)
	}
	if got := list(w.bob); len(got) != 1 || got[0].Fleet != w.uuid(w.his) || got[0].Devices[api.TrustUnverified] != 1 {
		t.Errorf("bob's fleets: %+v", got)
	}
	if err := w.DB.Read(t.Context(), func(tx *db.Tx) error { _, err := overview.Fleets(t.Context(), tx, one.by); return err }); err == nil {
		t.Error("a device has a list of fleets")
	}
}

// Who has signed a release is said of just the document that it has.
func TestWhoHasSignedAReleaseIsSaid(t *testing.T) {
	w := newWorld(t)
	w.release(w.hers, 1)
	w.target(w.hers, w.release(w.hers, 2))
	w.device(w.hers, 1).equip()
	says := func(commit string) (text string, waits bool) {
		t.Helper()
		s := w.status()
		for _, l := range s.Releases {
			if l.Commit == commit {
				return l.Says(s.Approval)
			}
		}
		t.Fatalf("%s is not among %+v", commit, s.Releases)
		return "", false
	}
	w.Must(w.trust.PublishOnce(t.Context()))
	if text, waits := says(commitOf(2)); text != "builder" || waits {
		t.Errorf("what the builder listed: %q, %v", text, waits)
	}
	if text, waits := says(commitOf(1)); text != "nobody yet: the builder lists it when a device asks for it" || waits {
		t.Errorf("what nobody asked for: %q, %v", text, waits)
	}
	o := w.owner(w.hers, api.ApprovalBoth, 1)
	_, err := o.upload(o.root(2, 1, 1), o.targets(1, 1), o.delegator(1))
	w.Must(err)
	if text, waits := says(commitOf(2)); text != "waits for the owner's signature" || !waits {
		t.Errorf("what the owner has not signed: %q, %v", text, waits)
	}
	for _, u := range w.status().Unsigned {
		if u.Commit == commitOf(2) {
			_, err = o.upload(o.approve(u, 1))
			w.Must(err)
		}
	}
	if text, waits := says(commitOf(2)); text != "builder and owner" || waits {
		t.Errorf("what the owner signed: %q, %v", text, waits)
	}
	if text, waits := says(commitOf(1)); text != "waits for the owner's signature" || !waits {
		t.Errorf("the other one: %q, %v", text, waits)
	}
	w.Exec(`UPDATE trust_document SET counter = counter + 1 WHERE "commit" = ?`, commitOf(2)) // listed again, and not signed again
	if text, waits := says(commitOf(2)); text == "builder and owner" || !waits {
		t.Errorf("with another counter: %q, %v", text, waits)
	}
}
