package trust

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/channel/when"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/batch"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const (
	maxRoots    = 32
	maxVersions = 600 // of a device
	lookTries   = 5
)

var (
	nonceForm  = pattern.New(`^[A-Za-z0-9_.=+/-]{16,64}$`)
	commitForm = pattern.New(`^[0-9a-f]{32}([0-9a-f]{8})?$`)
	fleetForm  = pattern.New(`^[0-9a-f]{32}$`)
	digestForm = pattern.New(`^[0-9a-f]{64}$`)
	roleForm   = pattern.New(`^(root|timestamp|snapshot|targets|director|(builder|owner)(-[0-9a-f]{2})?)$`)
)

// place is a device and what it should run.
type place struct {
	device, fleet, release int64
	changes, signed        int64
}

func readPlace(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID) (p place, err error) {
	if by.Kind != access.Device || by.Name != api.DeviceRegistryUser(uuid) {
		return p, api.ErrUnauthorized
	}
	var release, changes sql.NullInt64
	err = tx.QueryRowContext(ctx, `SELECT d.id, f.id, r.id, t.changes, (SELECT signed FROM trust_log WHERE id = 1)
		FROM device d JOIN application f ON f.id = d.belongs_to__application LEFT JOIN trust_fleet t ON t.application = f.id
		LEFT JOIN "release" r ON r.id = coalesce(d.is_pinned_on__release, f.should_be_running__release) AND r.status = 'success'
		WHERE d.id = ? AND d.uuid = ?`, by.Device, string(uuid)).Scan(&p.device, &p.fleet, &release, &changes, &p.signed)
	if errors.Is(err, sql.ErrNoRows) {
		return p, api.ErrUnauthorized
	}
	if err != nil {
		return p, fmt.Errorf("trust of device %s: %w", uuid, err)
	}
	p.release, p.changes = release.Int64, changes.Int64
	return p, nil
}

// check names the field of a question that is wrong.
func check(have api.TrustHave) error {
	switch {
	case !nonceForm.MatchString(have.Nonce):
		return api.Errorf(api.Invalid, "nonce: 16 to 64 characters of base64 or hex")
	case have.Commit != "" && !commitForm.MatchString(have.Commit):
		return api.Errorf(api.Invalid, "commit: %.60q is none", have.Commit)
	case have.Root != "" && !digestForm.MatchString(have.Root):
		return api.Errorf(api.Invalid, "root: %.70q is no SHA-256", have.Root)
	case have.Log < 0 || have.Counter < 0:
		return api.Errorf(api.Invalid, "log, counter: not below 0")
	}
	return checkVersions(have.Versions)
}

func checkVersions(versions map[string]int64) error {
	if len(versions) > maxVersions {
		return api.Errorf(api.TooLarge, "versions: at most %d", maxVersions)
	}
	for role, v := range versions {
		if !roleForm.MatchString(role) || v < 0 || v > tuf.MaxVersion {
			return api.Errorf(api.Invalid, "versions: %.40q is no role, or its version none", role)
		}
	}
	return nil
}

// Bundle gives a device what it lacks to check what it should run.
func (t *Trust) Bundle(ctx context.Context, by access.Caller, uuid api.DeviceUUID, have api.TrustHave) (*api.TrustBundle, error) {
	if err := check(have); err != nil {
		return nil, err
	}
	p, v, err := t.settle(ctx, by, uuid, have)
	if err != nil {
		return nil, err
	}
	if have.Fleet != "" && have.Fleet != v.fleet.uuid {
		return t.left(ctx, p.device, uuid, have)
	}
	out := &api.TrustBundle{Fleet: v.fleet.uuid}
	if out.Roots, err = t.roots(ctx, v, have.Versions[api.TrustRoot]); err != nil {
		return nil, err
	}
	out.Files = v.newer(have.Versions)
	ask := api.TrustDirect{Fleet: v.fleet.uuid, Device: uuid, Nonce: have.Nonce}
	if v.doc != nil {
		l := v.doc.listed()
		ask.Release = &api.TrustDirected{Commit: v.doc.commit, Length: l.Length, SHA256: l.SHA256, Counter: l.Counter}
		if have.Commit != v.doc.commit || have.Counter != l.Counter {
			out.Document = v.doc.data
		}
		if out.Proof, err = t.prove(ctx, v, have.Log); err != nil {
			return nil, err
		}
	}
	said := &directing{ask: ask, device: p.device}
	if err := t.directors.Do(ctx, said); err != nil {
		return nil, err
	}
	out.Director = said.said
	return out, nil
}

// settle finds out what a device should run, and publishes what is missing for it.
func (t *Trust) settle(ctx context.Context, by access.Caller, uuid api.DeviceUUID, have api.TrustHave) (p place, v *view, err error) {
	log, err := t.Book.Key(ctx)
	if err != nil {
		return p, nil, err
	}
	for range lookTries {
		var now time.Time
		err = t.cfg.DB.ReadOne(ctx, func(tx *db.Tx) (err error) {
			now = tx.Now
			p, err = readPlace(ctx, tx, by, uuid)
			return err
		})
		if err != nil {
			return p, nil, err
		}
		if v, err = t.look(ctx, &p); err != nil {
			return p, nil, err
		}
		here := have
		if have.Fleet != "" && have.Fleet != v.fleet.uuid { // it says what it has of another fleet
			here = api.TrustHave{}
		}
		w, lacks := v.lacks(now, p.release, v.above(now, here), log)
		if newer := v.behind(now, here); newer > 0 {
			w.newer, lacks = newer, true
		}
		if !lacks {
			return p, v, nil
		}
		if err := t.bringOnce(ctx, p.fleet, w); err != nil {
			return p, nil, err
		}
	}
	return p, nil, api.Errorf(api.Unavailable, "the fleet's metadata are being published; try again")
}

// bringOnce publishes for everybody in this process who asks for the same.
func (t *Trust) bringOnce(ctx context.Context, fleet int64, w want) error {
	key := fmt.Sprintf("%d %d %d %d", fleet, w.release, w.above, w.newer)
	return t.once.Do(ctx, key, func(ctx context.Context) error { return t.bring(ctx, fleet, w) })
}

// above is the counter that a listing must not be below, for the device takes no lower one. What it cannot have from here is not believed.
func (v *view) above(now time.Time, have api.TrustHave) int64 {
	if v.doc == nil || have.Counter > max(v.fleet.counter, now.Unix()) {
		return 0
	}
	return have.Counter
}

// lostAhead is how far ahead of the clock a version may be that a device has and this database does not: there are 256 bins, which are signed all at once
// when keys change, each with a version of its own.
const lostAhead = 5 * time.Minute

// behind gives a version that a device has and that this database does not know, although only the signer can have signed it; 0: none. What was
// published since may be newer than that, and the device's file all the same newer than the one here. What is further ahead of the
// clock than that is not made anew: a device that makes up versions cannot drive them further.
func (v *view) behind(now time.Time, have api.TrustHave) (newer int64) {
	for role, version := range have.Versions {
		switch {
		case role == api.TrustTimestamp, role == api.TrustSnapshot, role == api.TrustBuilder, strings.HasPrefix(role, api.TrustBuilder+"-"):
		case role == api.TrustTargets && v.fleet.heldBy != api.HeldByOwner:
		default:
			continue
		}
		known := v.versions[role]
		lost := version > v.fleet.version || known > 0 && v.fleet.version <= now.Unix()
		if version > known && lost && version <= now.Add(lostAhead).Unix() {
			newer = max(newer, version)
		}
	}
	return newer
}

// newer gives the files that a device does not have, in the order in which they are read.
func (v *view) newer(have map[string]int64) []api.TrustFile {
	var out []api.TrustFile
	add := func(role string) {
		if f := v.files[role]; f != nil && f.version != have[role] {
			out = append(out, api.TrustFile{Role: role, Data: f.data})
		}
	}
	for _, role := range []string{api.TrustTimestamp, api.TrustSnapshot, api.TrustTargets} {
		add(role)
	}
	for _, by := range []string{api.TrustBuilder, api.TrustOwner} {
		add(by)
		for role := range v.files {
			if strings.HasPrefix(role, by+"-") {
				add(role)
			}
		}
	}
	return out
}

// roots gives the roots after a version.
func (t *Trust) roots(ctx context.Context, v *view, after int64) (roots [][]byte, err error) {
	if v.root != nil && v.root.version == after {
		return nil, nil
	}
	err = t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		roots = nil
		list, err := db.Column[string](ctx, tx, `SELECT data FROM trust_file WHERE application = ? AND role = 'root' AND version > ? ORDER BY version LIMIT ?`,
			v.fleet.id, after, maxRoots)
		for _, data := range list {
			roots = append(roots, []byte(data))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("roots of fleet %d: %w", v.fleet.id, err)
	}
	return roots, nil
}

// left gives a device the metadata of a fleet that it came from, which say that it may go.
func (t *Trust) left(ctx context.Context, device int64, uuid api.DeviceUUID, have api.TrustHave) (*api.TrustBundle, error) {
	var v *view
	err := t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		fleet, err := findLeft(ctx, tx, device, have.Fleet)
		if err != nil {
			return err
		}
		v, err = readView(ctx, tx, viewKey{fleet: fleet.id})
		return err
	})
	if err != nil {
		return nil, err
	}
	if v.fleet.heldBy != api.HeldByOwner {
		if err := t.letGo(ctx, v.fleet.id); err != nil {
			return nil, err
		}
		err := t.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
			v, err = readView(ctx, tx, viewKey{fleet: v.fleet.id})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if _, ok := leaveOf(v.files[api.TrustTargets], uuid); !ok {
		return nil, api.ErrNotFound
	}
	log, err := t.Book.Key(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if w, lacks := v.lacks(now, 0, 0, log); lacks {
		if err := t.bringOnce(ctx, v.fleet.id, w); err != nil {
			return nil, err
		}
		err := t.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
			v, err = readView(ctx, tx, viewKey{fleet: v.fleet.id})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	out := &api.TrustBundle{Fleet: v.fleet.uuid, Files: v.newer(have.Versions)}
	out.Roots, err = t.roots(ctx, v, have.Versions[api.TrustRoot])
	return out, err
}

// directing is one statement to a device, to be signed together with others.
type directing struct {
	ask    api.TrustDirect
	device int64
	said   []byte
}

// direct has statements signed that are asked for at the same time.
func (t *Trust) direct(ctx context.Context, all []*batch.Ask[*directing]) error {
	list := make([]api.TrustDirect, len(all))
	ids := make([]int64, len(all))
	for i, a := range all {
		list[i], ids[i] = a.Of.ask, a.Of.device
	}
	if t.cfg.Switches != nil {
		var said map[int64]when.Switch
		var now time.Time
		err := t.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
			now = tx.Now
			said, err = t.cfg.Switches(ctx, tx, ids)
			return err
		})
		if err != nil {
			return err
		}
		for i, id := range ids {
			list[i].Channel = channelOf(said[id], now)
		}
	}
	var out []api.TrustSigned
	if err := t.ask(ctx, "director", list, &out); err != nil {
		return err
	}
	if len(out) != len(list) {
		return errors.New("trust: the signer has answered about others")
	}
	for i, a := range all {
		a.Of.said, a.Err = out[i].Data, nil
		if out[i].Refused != "" {
			a.Err = fmt.Errorf("trust: the signer refuses: %s", out[i].Refused)
		}
	}
	return nil
}

// channelOf says whether a channel is wanted: now, or some time as it is switched. When exactly the device reads from its variables.
func channelOf(s when.Switch, now time.Time) *api.TrustChannel {
	on, _ := s.On(now)
	return &api.TrustChannel{Wanted: on || !s.Next(now).IsZero()}
}
