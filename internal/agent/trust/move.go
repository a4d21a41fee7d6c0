package trust

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// move checks a target state about another fleet. The fleet that this device believes must let it go there, and says with which root the other one
// begins; what that root leads to is checked as always. Only then the device believes the other fleet.
func (t *Trust) move(ctx context.Context, st *state, target *api.DeviceTarget, other string) error {
	if !api.DeviceUUID(other).Valid() {
		return tuf.Refuse("fleet", tuf.ReasonName, "", "a uuid", other)
	}
	here := &inquiry{st: st, persist: true}
	err := t.gather(ctx, here, "")
	if errors.Is(err, api.ErrNotFound) || errors.Is(err, api.ErrForbidden) { // the server has nothing that lets this device go
		return stays(st.Fleet, other)
	}
	if err != nil {
		if here.rooted {
			t.end()
		}
		return err
	}
	t.keep(here)
	var leave *api.TrustLeave
	for _, l := range here.o.policy.Transfers {
		if l.Device == t.cfg.UUID && l.To == other {
			leave = &l
		}
	}
	if leave == nil {
		return stays(st.Fleet, other)
	}
	root, err := t.firstRoot(ctx, other, leave.Root)
	if err != nil {
		return err
	}
	there, err := fresh(other, root)
	if err != nil {
		return err
	}
	there.Log = here.st.Log // where both fleets name the same one, it goes on from what this device saw
	was := here.st.Left[other]
	if was.Counter > 0 { // nothing older than when this device was there before
		there.Accepted = &acceptance{Counter: was.Counter, SHA256: was.SHA256}
	}
	q := &inquiry{st: there}
	commit, rel := release(target.Apps[other])
	if err := t.gather(ctx, q, commit); err != nil {
		return err
	}
	if version := q.o.Versions()[api.TrustRoot]; version < was.Root {
		return tuf.Refuse(fmt.Sprintf("root version %d", version), tuf.ReasonRollback, "", fmt.Sprint("at least ", was.Root), fmt.Sprint(version))
	}
	next, err := t.examine(q, commit, rel)
	if err != nil {
		return err
	}
	next.Said.Variables = channelVariables(target)
	left := leaving(here)
	if err := t.change(func(s *state) error {
		next.Left = maps.Clone(s.Left)
		if next.Left == nil {
			next.Left = map[string]leftBehind{}
		}
		next.Left[s.Fleet] = left
		delete(next.Left, other)
		next.Nonces, next.Before = s.Nonces, nil // it may come back
		*s = *next
		return nil
	}); err != nil {
		return err
	}
	t.log.Info("this device belongs to another fleet now", "before", st.Fleet, "fleet", other)
	if err := os.RemoveAll(Dir(t.cfg.StateDir, st.Fleet)); err != nil {
		t.log.Warn("the files of trust of the fleet before stay", "error", err)
	}
	return nil
}

func stays(fleet, other string) error {
	return tuf.Refuse("fleet", tuf.ReasonFleet, "", fleet+", which does not let this device go", other)
}

// leaving is what is remembered of a fleet.
func leaving(q *inquiry) leftBehind {
	out := leftBehind{Root: q.o.Versions()[api.TrustRoot]}
	if q.st.Accepted != nil {
		out.Counter, out.SHA256 = q.st.Accepted.Counter, q.st.Accepted.SHA256
	}
	return out
}

// firstRoot fetches the first root of a fleet, of which the digest is known.
func (t *Trust) firstRoot(ctx context.Context, fleet, digest string) ([]byte, error) {
	answer, err := t.cfg.Bundle(ctx, api.TrustHave{Nonce: rand.Text(), Fleet: fleet})
	if err != nil {
		return nil, err
	}
	if answer.Fleet != fleet {
		return nil, tuf.Refuse("bundle", tuf.ReasonFleet, "", fleet, answer.Fleet)
	}
	at := slices.IndexFunc(answer.Roots, func(root []byte) bool { return digestOf(root) == digest })
	if at < 0 {
		got := "none"
		if len(answer.Roots) > 0 {
			got = digestOf(answer.Roots[0])
		}
		return nil, tuf.Refuse("first root of fleet "+fleet, tuf.ReasonDigest, "", digest, got)
	}
	return answer.Roots[at], nil
}
