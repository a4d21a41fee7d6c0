package trust

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const (
	maxRejecting = 50
	maxUnsigned  = 50 // releases, the newest, that are looked at for the owner's word
)

// Status says what is known of a fleet's trust.
func (t *Trust) Status(ctx context.Context, by access.Caller, name string) (out api.TrustStatus, err error) {
	f, err := t.ready(ctx, by, name, 0)
	if err != nil {
		return out, err
	}
	if f.approval != api.ApprovalBuilder {
		if err := t.documents(ctx, f); err != nil {
			return out, err
		}
	}
	err = t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		if f, err = find(ctx, tx, by, name, 0); err != nil {
			return err
		}
		out = api.TrustStatus{Fleet: f.uuid, Slug: f.slug, HeldBy: f.heldBy, Approval: f.approval, Shell: f.shell, Roles: []api.TrustRole{},
			Pending: []api.TrustPending{}, Unsigned: []api.TrustUnsigned{}, Devices: map[string]int64{}, Rejecting: []api.TrustDevice{}}
		files, err := readFiles(ctx, tx, f.id, ``)
		if err != nil {
			return err
		}
		holders, err := holdersOf(files)
		if err != nil {
			return err
		}
		if out.Roles, err = rolesOf(files, holders); err != nil {
			return err
		}
		if out.Pending, err = pendingOf(ctx, tx, f.id, files); err != nil {
			return err
		}
		if f.approval != api.ApprovalBuilder {
			if out.Unsigned, err = unsigned(ctx, tx, f.id, files); err != nil {
				return err
			}
		}
		if out.Releases, err = listings(ctx, tx, f.id, files); err != nil {
			return err
		}
		if out.Leaving, err = leaving(ctx, tx, f.id); err != nil {
			return err
		}
		return devicesOf(ctx, tx, f.id, &out)
	})
	return out, err
}

// documents makes those of the newest releases of a fleet whose owner signs them.
func (t *Trust) documents(ctx context.Context, f fleetRow) error {
	var lacking []int64
	err := t.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		lacking, err = db.Column[int64](ctx, tx, `SELECT r.id FROM (SELECT id FROM "release" WHERE belongs_to__application = ? AND status = 'success'
			ORDER BY created_at DESC LIMIT ?) r LEFT JOIN trust_document d ON d."release" = r.id WHERE d."release" IS NULL`, f.id, maxUnsigned)
		return err
	})
	if err != nil {
		return fmt.Errorf("releases of fleet %s: %w", f.slug, err)
	}
	for _, release := range lacking {
		if err := t.bringOnce(ctx, f.id, want{release: release}); err != nil && !errors.Is(err, api.ErrConflict) { // that one cannot be signed
			return err
		}
	}
	return nil
}

// holder is who signs a role.
type holder struct {
	keys      []*metadata.Key
	threshold int
}

// same compares holders.
func (h holder) same(o holder) bool {
	a, b := h.ids(), o.ids()
	slices.Sort(a)
	slices.Sort(b)
	return h.threshold == o.threshold && slices.Equal(a, b)
}

func (h holder) ids() []string {
	ids := make([]string, len(h.keys))
	for i, k := range h.keys {
		ids[i] = tuf.KeyID(k)
	}
	return ids
}

// holdersOf reads from a fleet's files who signs which role; bins are their delegator's.
func holdersOf(files map[string]*storedFile) (map[string]holder, error) {
	out := map[string]holder{}
	if f := files[api.TrustRoot]; f != nil {
		x, err := tuf.ReadRoot(f.data)
		if err != nil {
			return nil, err
		}
		for role, keys := range x.Keys {
			out[role] = holder{keys, x.Threshold[role]}
		}
	}
	if f := files[api.TrustTargets]; f != nil {
		x, err := tuf.ReadTargets(f.data)
		if err != nil {
			return nil, err
		}
		if x.Builder != nil {
			out[api.TrustBuilder] = holder{[]*metadata.Key{x.Builder}, 1}
		}
		if x.Director != nil {
			out[api.TrustDirector] = holder{[]*metadata.Key{x.Director}, 1}
		}
		if len(x.Owner) > 0 {
			out[api.TrustOwner] = holder{x.Owner, x.OwnerThreshold}
		}
	}
	for _, by := range []string{api.TrustBuilder, api.TrustOwner} {
		if f := files[by]; f != nil {
			x, err := tuf.ReadDelegator(by, f.data)
			if err != nil {
				return nil, err
			}
			out[by+"-"] = holder{x.Keys, x.Threshold}
		}
	}
	return out, nil
}

// holderOf is who signs a role.
func holderOf(holders map[string]holder, role string) holder {
	if by, _, ok := strings.Cut(role, "-"); ok {
		return holders[by+"-"]
	}
	return holders[role]
}

func rolesOf(files map[string]*storedFile, holders map[string]holder) ([]api.TrustRole, error) {
	list := []api.TrustRole{}
	for role, f := range files {
		h := holderOf(holders, role)
		list = append(list, api.TrustRole{Name: role, Version: f.version, Expires: f.expires, Keys: h.ids(), Threshold: h.threshold})
	}
	if h, ok := holders[api.TrustDirector]; ok {
		list = append(list, api.TrustRole{Name: api.TrustDirector, Keys: h.ids(), Threshold: h.threshold})
	}
	slices.SortFunc(list, func(a, b api.TrustRole) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// pendingOf says who has signed what waits. Who must sign it is said by what waits before it, if that is there.
func pendingOf(ctx context.Context, tx *db.Tx, fleet int64, files map[string]*storedFile) ([]api.TrustPending, error) {
	waiting, err := readPending(ctx, tx, fleet)
	if err != nil {
		return nil, err
	}
	list := []api.TrustPending{}
	as, rooted := cloneFiles(files), false
	for _, f := range waiting {
		version, expires, err := lifeOf(f.TrustFile)
		if err != nil {
			return nil, err
		}
		if old := as[f.Role]; !expires.After(tx.Now) || old != nil && (version <= old.version || f.Role == api.TrustRoot && version != old.version+1) {
			continue // it can never be published: the next upload takes it away
		}
		if f.Role == api.TrustRoot {
			rooted = true // the keys that it names may all have still to sign what comes with it
			as[f.Role] = &storedFile{f.Role, version, expires, f.Data}
		}
		holders, err := holdersOf(as)
		if err != nil {
			return nil, err
		}
		h := holderOf(holders, f.Role)
		signed, err := tuf.Signers(f.Data, h.keys)
		if err != nil {
			return nil, err
		}
		if signed == nil && f.Role != api.TrustRoot && len(h.keys) > 0 && !rooted {
			continue // who signed it signs no more
		}
		if signed == nil {
			signed = []string{}
		}
		list = append(list, api.TrustPending{Role: f.Role, Version: version, Data: f.Data, Signed: signed, Threshold: h.threshold, By: f.by, Since: f.since})
		as[f.Role] = &storedFile{f.Role, version, expires, f.Data}
	}
	return list, nil
}

// unsigned lists the newest releases that the owner has not signed.
func unsigned(ctx context.Context, tx *db.Tx, fleet int64, files map[string]*storedFile) ([]api.TrustUnsigned, error) {
	rows, err := tx.QueryContext(ctx, `SELECT d."commit", d.sha256, d.counter, r.created_at FROM (SELECT id, created_at FROM "release"
		WHERE belongs_to__application = ? AND status = 'success' ORDER BY created_at DESC LIMIT ?) r JOIN trust_document d ON d."release" = r.id`, fleet, maxUnsigned)
	if err != nil {
		return nil, fmt.Errorf("unsigned releases: %w", err)
	}
	defer func() { _ = rows.Close() }()
	list := []api.TrustUnsigned{}
	for rows.Next() {
		var u api.TrustUnsigned
		var at string
		if err := rows.Scan(&u.Commit, &u.SHA256, &u.Counter, &at); err != nil {
			return nil, fmt.Errorf("unsigned releases: %w", err)
		}
		if u.CreatedAt, err = db.ParseTime(at); err != nil {
			return nil, fmt.Errorf("unsigned releases: %w", err)
		}
		path, err := tuf.ReleasePath(u.Commit)
		if err != nil {
			continue // it cannot be listed
		}
		if f := files[tuf.BinRole(api.TrustOwner, path)]; f != nil {
			bin, err := tuf.ReadBin(f.role, f.data)
			if err != nil {
				return nil, err
			}
			if l := bin.Listed[path]; l.SHA256 == u.SHA256 && l.Counter == u.Counter {
				continue
			}
		}
		list = append(list, u)
	}
	return list, rows.Err()
}

// devicesOf counts the devices of a fleet by what they say, and lists those that refuse something.
func devicesOf(ctx context.Context, tx *db.Tx, fleet int64, out *api.TrustStatus) error {
	rows, err := tx.QueryContext(ctx, `SELECT coalesce(t.state, 'unverified'), count(*) FROM device d LEFT JOIN device_trust t ON t.device = d.id
		WHERE d.belongs_to__application = ? GROUP BY coalesce(t.state, 'unverified')`, fleet)
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	for rows.Next() {
		var state string
		var n int64
		if err := rows.Scan(&state, &n); err != nil {
			return errors.Join(err, rows.Close())
		}
		out.Devices[state] = n
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	rows, err = tx.QueryContext(ctx, `SELECT d.uuid, d.device_name, coalesce(t.rejected, ''), coalesce(t.rejection_reason, ''), coalesce(t.rejection_key, ''),
			coalesce(t.rejection_expected, ''), coalesce(t.rejection_got, ''), t.seen_at FROM device_trust t JOIN device d ON d.id = t.device
		WHERE d.belongs_to__application = ? AND t.state = 'rejected' ORDER BY t.seen_at DESC LIMIT ?`, fleet, maxRejecting)
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var d api.TrustDevice
		var at string
		r := &d.Rejection
		if err := rows.Scan(&d.UUID, &d.Name, &r.What, &r.Reason, &r.Key, &r.Expected, &r.Got, &at); err != nil {
			return fmt.Errorf("devices: %w", err)
		}
		if d.SeenAt, err = db.ParseTime(at); err != nil {
			return fmt.Errorf("devices: %w", err)
		}
		out.Rejecting = append(out.Rejecting, d)
	}
	return rows.Err()
}
