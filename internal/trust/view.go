package trust

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const maxViews = 200

// views keeps what devices of the same fleets are told, as long as nothing is published there.
type views struct {
	mu   sync.Mutex // covers made
	made map[viewKey]*view
}

// viewKey is a fleet with a release: 0 is none.
type viewKey struct{ fleet, release int64 }

func newViews() views { return views{made: map[viewKey]*view{}} }

// view is what is published about a release of a fleet. It does not change once it is made, but for the proofs, which are added.
type view struct {
	fleet  fleetRow
	signed int64                  // leaves of the log that are signed
	files  map[string]*storedFile // without root, and of the bins those of the release
	root   *storedFile
	doc    *document             // nil: the release has none yet
	listed map[string]tuf.Listed // by role of the bin

	versions map[string]int64 // of every file, also those that are not here

	mu     sync.Mutex                  // covers proofs
	proofs map[int64]*api.TrustLogging // by the size that was believed before
}

// look gives the view of a fleet and release that is current.
func (t *Trust) look(ctx context.Context, p *place) (*view, error) {
	key := viewKey{p.fleet, p.release}
	t.views.mu.Lock()
	v := t.views.made[key]
	t.views.mu.Unlock()
	if v != nil && v.fleet.known && v.fleet.changes == p.changes && v.signed == p.signed {
		return v, nil
	}
	err := t.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		v, err = readView(ctx, tx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.views.mu.Lock()
	defer t.views.mu.Unlock()
	if len(t.views.made) >= maxViews {
		clear(t.views.made)
	}
	t.views.made[key] = v
	return v, nil
}

func readView(ctx context.Context, tx *db.Tx, key viewKey) (*view, error) {
	v := &view{proofs: map[int64]*api.TrustLogging{}, listed: map[string]tuf.Listed{}}
	var err error
	if v.fleet, err = readEvenGone(ctx, tx, key.fleet); err != nil {
		return nil, err
	}
	if err := tx.QueryRowContext(ctx, `SELECT signed FROM trust_log WHERE id = 1`).Scan(&v.signed); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	roles := []string{api.TrustRoot, api.TrustTimestamp, api.TrustSnapshot, api.TrustTargets, api.TrustBuilder, api.TrustOwner}
	path := ""
	if key.release != 0 {
		if v.doc, err = readDocument(ctx, tx, `d."release" = ?`, key.release); err != nil {
			return nil, err
		}
		if v.doc != nil {
			if path, err = tuf.ReleasePath(v.doc.commit); err != nil {
				return nil, api.Errorf(api.Conflict, "%v", err)
			}
			roles = append(roles, tuf.BinRole(api.TrustBuilder, path), tuf.BinRole(api.TrustOwner, path))
		}
	}
	in, args := db.In(roles)
	if v.files, err = readFiles(ctx, tx, key.fleet, ` AND f.role IN `+in, args...); err != nil {
		return nil, err
	}
	if v.versions, err = readVersions(ctx, tx, key.fleet); err != nil {
		return nil, err
	}
	v.root = v.files[api.TrustRoot]
	delete(v.files, api.TrustRoot)
	for _, role := range roles[6:] {
		f := v.files[role]
		if f == nil {
			continue
		}
		bin, err := tuf.ReadBin(role, f.data)
		if err != nil {
			return nil, err
		}
		if l, ok := bin.Listed[path]; ok {
			v.listed[role] = l
		}
	}
	return v, nil
}

// lacks says what is to be published before a device can be answered; false: nothing.
func (v *view) lacks(now time.Time, release, above int64, log api.TrustLogKey) (w want, lacks bool) {
	w.release = release
	if f := v.files[api.TrustTargets]; f != nil && v.fleet.heldBy == api.HeldByServer && log.Key != "" {
		if x, err := tuf.ReadTargets(f.data); err == nil && x.Mark.Log != nil && *x.Mark.Log != log { // the signer keeps another log now
			w.log, lacks = log, true
		}
	}
	owned := v.fleet.heldBy == api.HeldByOwner
	switch {
	case !v.fleet.known, v.root == nil, v.files[api.TrustSnapshot].stale(now, lifeOfOnline), v.files[api.TrustTimestamp].stale(now, lifeOfOnline),
		!owned && (v.root.stale(now, lifeOfRoot) || v.files[api.TrustTargets].stale(now, lifeOfRoot)):
		lacks = true
	}
	if release == 0 {
		return w, lacks
	}
	if v.doc == nil {
		return w, true
	}
	if v.doc.proof == "" || v.fleet.approval == api.ApprovalOwner {
		return w, lacks
	}
	path, err := tuf.ReleasePath(v.doc.commit)
	if err != nil {
		return w, lacks
	}
	role := tuf.BinRole(api.TrustBuilder, path)
	l, listed := v.listed[role]
	if v.fleet.approval == api.ApprovalBuilder && above > l.Counter {
		w.above, lacks = above, true
	}
	return w, lacks || !listed || l != v.doc.listed() || v.files[role].stale(now, lifeOfBin) || v.files[api.TrustBuilder].stale(now, lifeOfBin)
}

// by says whose listing stands in the proof of a release.
func (v *view) by() string {
	if v.fleet.approval == api.ApprovalBuilder {
		return api.TrustBuilder
	}
	return api.TrustOwner
}

// prove gives the proof of the release's listing for a device that believes a log of some size; nil: it is not listed.
func (t *Trust) prove(ctx context.Context, v *view, from int64) (*api.TrustLogging, error) {
	path, err := tuf.ReleasePath(v.doc.commit)
	if err != nil {
		return nil, err
	}
	l, ok := v.listed[tuf.BinRole(v.by(), path)]
	if !ok {
		return nil, nil //nolint:nilnil // none is an answer
	}
	v.mu.Lock()
	p := v.proofs[from]
	v.mu.Unlock()
	if p != nil {
		return p, nil
	}
	if p, err = t.Book.Prove(ctx, v.doc.entry(v.fleet.uuid, v.by(), l.Counter), from); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.proofs) >= maxViews {
		clear(v.proofs)
	}
	v.proofs[from] = p
	return p, nil
}
