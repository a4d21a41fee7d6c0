package trust

import (
	"encoding/json"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// logged checks that the listing of a release stands in the transparency log which the fleet's targets name, and that this log goes on from the one that was seen
// last: a server that shows others another history cannot show this device theirs later.
func logged(q *inquiry, now *acceptance) (*believed, error) {
	key, st := q.o.policy.Log, q.st
	if key == nil {
		return nil, nil //nolint:nilnil // the fleet asks for no log
	}
	var older tlog.Checkpoint
	was := st.Log
	if was != nil && was.TrustLogKey != *key { // the owner named another log
		was = nil
	}
	proof := q.answer.Proof
	if proof == nil {
		if was != nil && st.Accepted != nil && st.Accepted.Commit == now.Commit && st.Accepted.Counter == now.Counter && st.Accepted.SHA256 == now.SHA256 {
			return was, nil // it was shown before
		}
		return nil, tuf.Refuse("log", tuf.ReasonMissing, "", "a proof that the release stands in "+key.Origin, "none")
	}
	if was != nil {
		var err error
		if older, err = tlog.ReadCheckpoint(was.Checkpoint); err != nil {
			return nil, err
		}
	}
	next, err := tlog.Check(*proof, *key, older)
	if err != nil {
		return nil, err
	}
	by := api.TrustOwner
	if now.Approval == api.ApprovalBuilder {
		by = api.TrustBuilder
	}
	want, err := json.Marshal(api.TrustEntry{Kind: "release", Fleet: q.o.Fleet(), Name: now.Commit, Version: now.Counter, SHA256: now.SHA256, By: by})
	if err != nil {
		return nil, err
	}
	if string(want) != string(proof.Entry) {
		return nil, tuf.Refuse("entry of the log", tlog.ReasonLog, "", string(want), string(proof.Entry))
	}
	return &believed{TrustLogKey: *key, Checkpoint: proof.Checkpoint, Size: next.Size}, nil
}
