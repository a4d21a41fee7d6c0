package trust

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// result is what the last check came to.
type result struct {
	state     string
	commit    string // that was checked
	rejection *api.TrustRejection
}

// note keeps the result of a check for the report.
func (t *Trust) note(ctx context.Context, target *api.DeviceTarget, err error) {
	if err != nil && ctx.Err() != nil {
		return // it was not checked
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &result{state: api.TrustVerified}
	for _, app := range target.Apps {
		if commit, _ := release(app); commit != "" && app.Class != "app" && !app.IsHost {
			r.commit = commit
		}
	}
	if err != nil {
		r.state = t.stateFor(err)
		rejection, refused := tuf.Rejection(err)
		if !refused {
			rejection = tuf.Refuse("check", reasonUnavailable, "", "", err.Error()).TrustRejection
		}
		r.rejection = &rejection
	}
	if t.result == nil || t.result.commit != r.commit {
		t.images = nil // they were of another release
	}
	t.result = r
}

// Pulled says how the download of an image ended, for the report: one that is refused makes the device reject its release, until it arrives as it should. It tells
// whether that is news.
func (t *Trust) Pulled(image string, err error) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rejection, refused := tuf.Rejection(err)
	was, before := t.images[image]
	switch {
	case refused:
		if t.images == nil {
			t.images = map[string]api.TrustRejection{}
		}
		t.images[image] = rejection
		return !before || was != rejection
	case err == nil:
		delete(t.images, image)
		return before
	}
	return false // it did not arrive at all
}

const reasonUnavailable = "unavailable"

// stateFor says what a failure is: something that is refused, or something that may yet come. The caller holds mu.
func (t *Trust) stateFor(err error) string {
	rejection, refused := tuf.Rejection(err)
	switch {
	case !refused, rejection.Reason == tuf.ReasonMissing:
		return api.TrustWaiting
	case rejection.Reason == tuf.ReasonUnlisted && t.policy.Approval != api.ApprovalBuilder:
		return api.TrustWaiting // for the owner's signature
	}
	return api.TrustRejected
}

// Refused reports whether an error of a check says that a target state is refused, and not just that it waits.
func (t *Trust) Refused(err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stateFor(err) == api.TrustRejected
}

// Report is what this device says of its checks.
func (t *Trust) Report() api.TrustReport {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := api.TrustReport{State: api.TrustWaiting}
	if t.st == nil {
		rejection := tuf.Refuse("files of trust", tuf.ReasonMissing, "", "", t.broken.Error()).TrustRejection
		out.Rejection = &rejection
		return out
	}
	out.Approval, out.HeldBy, out.Versions, out.Fleet = t.policy.Approval, t.heldBy, t.versions, t.st.Fleet
	if was := t.st.Accepted; was != nil {
		out.State, out.Commit, out.Counter = api.TrustVerified, was.Commit, was.Counter
		if was.Commit != "" {
			out.SHA256 = was.SHA256
		}
	}
	if t.st.Log != nil {
		out.Checkpoint = t.st.Log.Checkpoint
	}
	if t.result != nil {
		out.State, out.Rejection = t.result.state, t.result.rejection
	}
	for _, image := range slices.Sorted(maps.Keys(t.images)) {
		if rejection := t.images[image]; out.State == api.TrustVerified {
			out.State, out.Rejection = api.TrustRejected, &rejection
		}
	}
	return out
}

// Same compares reports.
func Same(a, b api.TrustReport) bool {
	x, err := json.Marshal(a)
	y, other := json.Marshal(b)
	return errors.Join(err, other) == nil && string(x) == string(y)
}
