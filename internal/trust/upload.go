package trust

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const maxUpload = 300 // files

// ahead is how far a counter of an owner's may be before the clock: what is listed next has a higher one.
const ahead = 24 * time.Hour

// rankOf is rank; below 0: no role that an owner signs.
func rankOf(role string) int {
	if role != api.TrustRoot && role != api.TrustTargets && role != api.TrustOwner && !strings.HasPrefix(role, api.TrustOwner+"-") || tuf.Bounds(role) == 0 {
		return -1
	}
	return rank(role)
}

// rank is the order in which files are read.
func rank(role string) int {
	switch role {
	case api.TrustRoot:
		return 0
	case api.TrustTargets:
		return 1
	case api.TrustOwner:
		return 2
	}
	return 3
}

func inOrder(a, b api.TrustFile) int {
	if r := rank(a.Role) - rank(b.Role); r != 0 {
		return r
	}
	return strings.Compare(a.Role, b.Role)
}

func cloneFiles(files map[string]*storedFile) map[string]*storedFile { return maps.Clone(files) }

// Upload takes what an owner signed, all of it or nothing. What too few have signed waits for the others. Who gives a fleet to its owner
// needs to say who may do what in it, and has proved lately who they are: from then on this server does not decide about it.
func (t *Trust) Upload(ctx context.Context, by access.Caller, name string, up api.TrustUpload) (out api.TrustUploaded, err error) {
	out = api.TrustUploaded{Published: []string{}, Waiting: []string{}}
	if up.Try != "" {
		return out, t.try(ctx, by, name, up)
	}
	if len(up.Files) == 0 || len(up.Files) > maxUpload {
		return out, api.Errorf(api.Invalid, "files: 1 to %d at once", maxUpload)
	}
	for i, f := range up.Files {
		if rankOf(f.Role) < 0 {
			return out, api.Errorf(api.Invalid, "files[%d].role: %.40q is none that an owner signs", i, f.Role)
		}
		if f.Role != api.TrustRoot && slices.ContainsFunc(up.Files[:i], func(o api.TrustFile) bool { return o.Role == f.Role }) {
			return out, api.Errorf(api.Invalid, "files[%d].role: %s is there twice", i, f.Role)
		}
	}
	u, err := t.begin(ctx, by, name, up.Files)
	if err != nil {
		return out, err
	}
	if !u.first {
		if _, err := t.ready(ctx, by, name, access.Releases); err != nil {
			return out, err
		}
	}
	err = t.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		if u.fleet, err = find(ctx, tx, by, name, access.Releases); err != nil {
			return err
		}
		u.now = tx.Now
		return u.take(ctx, tx, by, up)
	})
	if err != nil {
		return out, err
	}
	if len(u.ready) > 0 {
		if err := t.bring(ctx, u.fleet.id, want{files: u.ready, owned: u.keys.Owned}); err != nil {
			return out, err
		}
	}
	if out.Published, err = named(u.ready); err != nil {
		return out, err
	}
	if out.Waiting, err = named(u.waiting); err != nil {
		return out, err
	}
	if out.Dropped, err = named(u.gone()); err != nil {
		return out, err
	}
	return out, t.relist(ctx, u)
}

// named gives files as N.ROLE.
func named(files []api.TrustFile) ([]string, error) {
	list := []string{}
	for _, f := range files {
		version, err := versionOf(f)
		if err != nil {
			return nil, err
		}
		list = append(list, fmt.Sprintf("%d.%s", version, f.Role))
	}
	return list, nil
}

// begin asks for the keys that the files must fit, and finds out whether an owner's first root comes before anybody asked this server for
// one, or after this database lost what it had.
func (t *Trust) begin(ctx context.Context, by access.Caller, name string, files []api.TrustFile) (*upload, error) {
	u := &upload{}
	err := t.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		u.fleet, err = find(ctx, tx, by, name, access.Releases)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := t.ask(ctx, "keys", api.TrustKeysAsk{Fleet: u.fleet.uuid}, &u.keys); err != nil {
		return nil, err
	}
	if u.fleet.known || len(files) == 0 || files[0].Role != api.TrustRoot {
		return u, nil
	}
	x, err := tuf.ReadRoot(files[0].Data)
	if err != nil {
		return nil, invalid(0, err)
	}
	u.first = x.Version == 1 || u.keys.Owned
	return u, nil
}

// try says whether somebody might upload, so that nobody makes keys in vain.
func (t *Trust) try(ctx context.Context, by access.Caller, name string, up api.TrustUpload) error {
	if len(up.Files) > 0 || up.Try != api.TrustTryFiles && up.Try != api.TrustTryRoot {
		return api.Errorf(api.Invalid, "try: %s or %s, and no files", api.TrustTryFiles, api.TrustTryRoot)
	}
	if t.cfg.Ask == nil {
		return errNoSigner
	}
	return t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		f, err := find(ctx, tx, by, name, access.Releases)
		if err != nil || up.Try == api.TrustTryFiles {
			return err
		}
		return (&upload{fleet: f}).mayTake(ctx, tx, by, []api.TrustFile{{Role: api.TrustRoot}})
	})
}

// invalid names the file that is wrong.
func invalid(i int, err error) error {
	if _, ok := tuf.Rejection(err); ok {
		return api.Errorf(api.Invalid, "files[%d]: %v", i, err)
	}
	return err
}

// upload is one request while it is looked at.
type upload struct {
	fleet fleetRow
	now   time.Time
	keys  api.TrustFleetKeys
	first bool // the fleet has no root yet

	ready   []api.TrustFile // to be published together: a root alone leaves nothing to run by, where it changes who signs the rest
	waiting []api.TrustFile
	raised  []raise // releases that the owner listed with another counter
	dropped []given // what waited, and can never be published

	pending []pendingFile          // what waited before
	later   map[string]*storedFile // the files as they would be once all that waits is in force
}

// reset begins anew: a transaction may be run again.
func (u *upload) reset() {
	u.ready, u.waiting, u.raised, u.dropped, u.pending, u.later = nil, nil, nil, nil, nil, nil
}

// given is a file that is looked at: from the upload, or one that waited.
type given struct {
	api.TrustFile
	at      int            // its place in the upload; -1: it waited
	instead *api.TrustFile // another one that waits, in whose place it would come
}

// raise is a release that was listed with a counter.
type raise struct {
	commit  string
	counter int64
}

// take checks everything, and keeps it as waiting until it is published.
func (u *upload) take(ctx context.Context, tx *db.Tx, by access.Caller, up api.TrustUpload) error {
	u.reset()
	files, err := readFiles(ctx, tx, u.fleet.id, ``)
	if err != nil {
		return err
	}
	if u.pending, err = readPending(ctx, tx, u.fleet.id); err != nil {
		return err
	}
	all, err := merge(u.pending, up.Files)
	if err != nil {
		return err
	}
	if err := u.sort(all, files); err != nil {
		return err
	}
	taken := slices.Concat(u.ready, u.waiting)
	if err := u.mayTake(ctx, tx, by, taken); err != nil {
		return err
	}
	for _, f := range u.dropped {
		if err := dropPending(ctx, tx, u.fleet.id, f.Role); err != nil {
			return err
		}
	}
	for _, f := range taken {
		if err := keepPending(ctx, tx, u.fleet.id, f, by); err != nil {
			return err
		}
	}
	if err := u.keepRaised(ctx, tx); err != nil {
		return err
	}
	roles := make([]string, 0, len(up.Files))
	for _, f := range up.Files {
		roles = append(roles, f.Role)
	}
	return audit.Record(ctx, tx, by, audit.Entry{Act: "trust.upload", Kind: "application", ID: u.fleet.id, Name: u.fleet.slug, Fleet: u.fleet.id,
		Organization: u.fleet.organization, Detail: map[string]any{"files": strings.Join(roles, " ")}})
}

// keepRaised keeps the counters of what is going to be published.
func (u *upload) keepRaised(ctx context.Context, tx *db.Tx) error {
	if err := u.raise(); err != nil {
		return err
	}
	for _, r := range u.raised {
		if _, err := tx.ExecContext(ctx, `UPDATE trust_document SET counter = ? WHERE application = ? AND "commit" = ? AND counter < ?`,
			r.counter, u.fleet.id, r.commit, r.counter); err != nil {
			return fmt.Errorf("upload: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE trust_fleet SET counter = ? WHERE application = ? AND counter < ?`, r.counter, u.fleet.id, r.counter); err != nil {
			return fmt.Errorf("upload: %w", err)
		}
	}
	return nil
}

// mayTake asks for more of who takes a fleet away from the server.
func (u *upload) mayTake(ctx context.Context, tx *db.Tx, by access.Caller, all []api.TrustFile) error {
	if u.fleet.heldBy == api.HeldByOwner || !slices.ContainsFunc(all, func(f api.TrustFile) bool { return f.Role == api.TrustRoot }) {
		return nil
	}
	if err := rights.Require(ctx, tx, by, u.fleet.id, access.Members); err != nil {
		return err
	}
	return rights.RequireFresh(ctx, tx, by)
}

// merge puts uploaded files and those that wait together: signatures of the same are added, another of the same role stands beside the one that waits.
func merge(pending []pendingFile, uploaded []api.TrustFile) ([]given, error) {
	all := make([]given, len(pending))
	for i, f := range pending {
		all[i] = given{TrustFile: f.TrustFile, at: -1}
	}
	for i, f := range uploaded {
		version, err := versionOf(f)
		if err != nil {
			return nil, invalid(i, err)
		}
		at := slices.IndexFunc(all, func(o given) bool {
			v, err := versionOf(o.TrustFile)
			return o.Role == f.Role && (f.Role != api.TrustRoot || err == nil && v == version)
		})
		if at < 0 {
			all = append(all, given{TrustFile: f, at: i})
			continue
		}
		if both, err := tuf.MergeSignatures(all[at].Data, f.Data); err == nil {
			f.Data = both
			all[at] = given{TrustFile: f, at: i}
			continue
		}
		if all[at].at >= 0 {
			return nil, api.Errorf(api.Invalid, "files[%d].role: version %d of %s is there twice", i, version, f.Role)
		}
		waits := all[at].TrustFile
		all[at] = given{TrustFile: f, at: i, instead: &waits}
	}
	slices.SortStableFunc(all, func(a, b given) int { return inOrder(a.TrustFile, b.TrustFile) })
	return all, nil
}

// sort finds out what of the files may be published, as a client would read them from the stored root on, and what waits. What waited and fits no
// more, as it has expired, or whoever signed it signs no more, is dropped: it must not be in the way of others.
func (u *upload) sort(all []given, files map[string]*storedFile) error {
	as := cloneFiles(files)
	u.later = cloneFiles(files)
	waits := map[string]bool{} // roles below which nothing can be looked at
	for _, f := range all {
		err := u.place(f, as, waits)
		if code := api.AsError(err).Code; err != nil && f.at < 0 && (code == api.Invalid || code == api.Conflict) {
			u.dropped = append(u.dropped, f)
			continue
		}
		if err != nil {
			return err
		}
	}
	if u.first && len(u.ready) > 0 && !slices.ContainsFunc(u.ready, func(f api.TrustFile) bool { return f.Role == api.TrustTargets }) {
		return api.Errorf(api.Invalid, "files: a first root comes with its targets")
	}
	if err := u.whole(as, waits); err != nil {
		return err
	}
	if roots := slices.DeleteFunc(slices.Clone(u.waiting), func(f api.TrustFile) bool { return f.Role != api.TrustRoot }); len(roots) > 1 {
		return api.Errorf(api.Invalid, "files: a root that has too few signatures must be the last one")
	}
	return nil
}

// place says of one file whether it may be published, or waits.
func (u *upload) place(f given, as map[string]*storedFile, waits map[string]bool) error {
	version, expires, err := lifeOf(f.TrustFile)
	if err != nil {
		return invalid(f.at, err)
	}
	if err := u.check(f, version, expires, as, waits); err != nil {
		return err
	}
	whole, err := u.signed(f, as, waits)
	if err != nil {
		return err
	}
	if f.instead != nil {
		if stands, err := u.stands(*f.instead, as, waits); err != nil {
			return err
		} else if stands && !whole {
			return u.apart(f)
		}
		u.dropped = append(u.dropped, given{TrustFile: *f.instead, at: -1}) // enough have decided otherwise
	}
	u.later[f.Role] = &storedFile{f.Role, version, expires, f.Data}
	if !whole {
		waits[f.Role] = true
		u.waiting = append(u.waiting, f.TrustFile)
		return nil
	}
	as[f.Role] = u.later[f.Role]
	u.ready = append(u.ready, f.TrustFile)
	return nil
}

// whole keeps a root back that would leave the fleet without a policy, for its keys have not signed the one that is published: it waits for
// the one that comes with it.
func (u *upload) whole(as map[string]*storedFile, waits map[string]bool) error {
	has := func(role string) bool {
		return slices.ContainsFunc(u.ready, func(f api.TrustFile) bool { return f.Role == role })
	}
	policy := as[api.TrustTargets]
	if !has(api.TrustRoot) || has(api.TrustTargets) || policy == nil {
		return nil
	}
	holders, err := holdersOf(as)
	if err != nil {
		return err
	}
	h := holderOf(holders, api.TrustTargets)
	valid, err := tuf.Signers(policy.data, h.keys)
	switch {
	case err != nil:
		return err
	case len(valid) >= h.threshold:
		return nil
	case !waits[api.TrustTargets]:
		return api.Errorf(api.Invalid, "files: the new root's keys have not signed the targets that are published; upload targets with it")
	}
	u.ready, u.waiting = nil, append(u.ready, u.waiting...)
	return nil
}

// raise finds out which releases are listed, with which counters.
func (u *upload) raise() error {
	for _, f := range u.ready {
		if !strings.Contains(f.Role, "-") {
			continue
		}
		x, err := tuf.ReadBin(f.Role, f.Data)
		if err != nil {
			return err
		}
		for path, l := range x.Listed {
			u.raised = append(u.raised, raise{commitIn(path), l.Counter})
		}
	}
	return nil
}

// check looks at one file as far as that does not depend on who signed it.
func (u *upload) check(f given, version int64, expires time.Time, as map[string]*storedFile, waits map[string]bool) error {
	i := f.at
	if !expires.After(u.now) {
		return api.Errorf(api.Invalid, "files[%d]: %s expired %s", i, f.Role, expires.Format(time.RFC3339))
	}
	old := as[f.Role]
	switch {
	case f.Role == api.TrustRoot && old != nil && version != old.version+1 && !waits[api.TrustRoot]:
		return api.Errorf(api.Conflict, "files[%d]: the next root has version %d, not %d", i, old.version+1, version)
	case old != nil && version <= old.version:
		return api.Errorf(api.Conflict, "files[%d]: version %d of %s is not newer than %d, which is published", i, version, f.Role, old.version)
	}
	mark, err := u.content(i, f.TrustFile)
	if err != nil {
		return err
	}
	if mark.Fleet != u.fleet.uuid {
		return api.Errorf(api.Invalid, "files[%d]: x-roadstead.fleet: it is of fleet %.40s, not %s", i, mark.Fleet, u.fleet.uuid)
	}
	return nil
}

// content reads a file, and what of it this server has to fit.
func (u *upload) content(i int, f api.TrustFile) (api.TrustMark, error) {
	switch f.Role {
	case api.TrustRoot:
		x, err := tuf.ReadRoot(f.Data)
		if err == nil && x.Mark.HeldBy != api.HeldByOwner {
			err = api.Errorf(api.Invalid, "files[%d]: x-roadstead.held_by: what is uploaded is held by the owner", i)
		}
		if err == nil && (!hasKey(x.Keys[api.TrustSnapshot], u.keys.Snapshot) || !hasKey(x.Keys[api.TrustTimestamp], u.keys.Timestamp) ||
			x.Threshold[api.TrustSnapshot] != 1 || x.Threshold[api.TrustTimestamp] != 1) {
			err = api.Errorf(api.Invalid, "files[%d]: snapshot and timestamp: this server's keys sign them (GET …/keys)", i)
		}
		return x.Mark, invalid(i, err)
	case api.TrustTargets:
		x, err := tuf.ReadTargets(f.Data)
		switch {
		case err != nil:
		case x.Director == nil || !hasKey([]*metadata.Key{x.Director}, u.keys.Director):
			err = api.Errorf(api.Invalid, "files[%d]: director: this server's key tells devices what to run (GET …/keys)", i)
		case x.Mark.Approval != api.ApprovalOwner && (x.Builder == nil || !hasKey([]*metadata.Key{x.Builder}, u.keys.Builder)):
			err = api.Errorf(api.Invalid, "files[%d]: builder: this server's key lists what was built here (GET …/keys)", i)
		case x.Mark.Approval != api.ApprovalBuilder && len(x.Owner) == 0:
			err = api.Errorf(api.Invalid, "files[%d]: owner: with the approval %s the owner's keys are needed", i, x.Mark.Approval)
		case x.Mark.Log != nil && *x.Mark.Log != u.keys.Log:
			err = api.Errorf(api.Invalid, "files[%d]: x-roadstead.log: this server's log is %s with the key %s", i, u.keys.Log.Origin, u.keys.Log.Key)
		}
		return x.Mark, invalid(i, err)
	case api.TrustOwner:
		x, err := tuf.ReadDelegator(api.TrustOwner, f.Data)
		return x.Mark, invalid(i, err)
	}
	x, err := tuf.ReadBin(f.Role, f.Data)
	if err != nil {
		return x.Mark, invalid(i, err)
	}
	for path, l := range x.Listed {
		if l.Counter > u.now.Add(ahead).Unix() {
			return x.Mark, api.Errorf(api.Invalid, "files[%d]: %s: counter %d is far above the seconds since 1970", i, path, l.Counter)
		}
	}
	return x.Mark, nil
}

func hasKey(keys []*metadata.Key, own []byte) bool {
	parsed, err := parseKeys(own)
	return err == nil && slices.ContainsFunc(keys, func(k *metadata.Key) bool { return tuf.KeyID(k) == tuf.KeyID(parsed[0]) })
}

// signed says whether enough have signed a file. A root needs those of the one before too, for whom the signer signs as long as the server holds it; one of
// theirs must be there before it may wait.
func (u *upload) signed(f given, as map[string]*storedFile, waits map[string]bool) (bool, error) {
	by := as
	if f.Role == api.TrustRoot {
		by = map[string]*storedFile{api.TrustRoot: {role: f.Role, data: f.Data}}
		if old := as[api.TrustRoot]; old != nil {
			was, err := tuf.ReadRoot(old.data)
			if err != nil {
				return false, err
			}
			if was.Mark.HeldBy == api.HeldByOwner {
				if whole, err := u.enough(f, holder{was.Keys[api.TrustRoot], was.Threshold[api.TrustRoot]}, false); err != nil || !whole {
					return false, err
				}
			}
		}
	} else if above := aboveOf(f.Role); waits[above] || waits[api.TrustRoot] || f.Role != api.TrustTargets && waits[api.TrustTargets] {
		if decided, err := u.decided(roleOrBins(f.Role), as); err != nil || !decided {
			return false, err // who must sign it is not decided yet
		}
	}
	holders, err := holdersOf(by)
	if err != nil {
		return false, err
	}
	h := holderOf(holders, f.Role)
	if len(h.keys) == 0 {
		return false, api.Errorf(api.Invalid, "files[%d]: nobody is named who signs %s", f.at, f.Role)
	}
	return u.enough(f, h, f.Role == api.TrustRoot)
}

// roleOrBins is one name for all bins.
func roleOrBins(role string) string {
	if by, _, bin := strings.Cut(role, "-"); bin {
		return by + "-"
	}
	return role
}

// aboveOf is the role that says who signs another.
func aboveOf(role string) string {
	switch {
	case strings.Contains(role, "-"):
		return api.TrustOwner
	case role == api.TrustOwner:
		return api.TrustTargets
	}
	return api.TrustRoot
}

// enough counts the signatures of those who hold a role. A file that none of them has signed, or with a wrong signature of one, is refused.
func (u *upload) enough(f given, h holder, mayLack bool) (bool, error) {
	i := f.at
	valid, err := tuf.Signers(f.Data, h.keys)
	if err != nil {
		return false, invalid(i, err)
	}
	_, given, err := tuf.Signed(f.Data)
	if err != nil {
		return false, invalid(i, err)
	}
	for _, id := range h.ids() {
		if slices.Contains(given, id) && !slices.Contains(valid, id) {
			return false, api.Errorf(api.Invalid, "files[%d]: the signature of key %s on %s is wrong", i, id, f.Role)
		}
	}
	if len(valid) == 0 && !mayLack {
		return false, api.Errorf(api.Invalid, "files[%d]: %s is signed by none of its keys: %s", i, f.Role, strings.Join(h.ids(), ", "))
	}
	return len(valid) >= h.threshold, nil
}

// relist has the builder list with the same counter what the owner has listed with a new one.
func (t *Trust) relist(ctx context.Context, u *upload) error {
	var releases []int64
	err := t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		releases = nil
		f, err := readFleet(ctx, tx, `f.id = ?`, u.fleet.id)
		if err != nil || f.approval != api.ApprovalBoth {
			return err
		}
		for _, r := range u.raised {
			d, err := readDocument(ctx, tx, `d.application = ? AND d."commit" = ?`, f.id, r.commit)
			if err != nil {
				return err
			}
			if d != nil && d.proof != "" && d.counter == r.counter {
				releases = append(releases, d.release)
			}
		}
		return nil
	})
	for _, release := range releases {
		err = errors.Join(err, t.bringOnce(ctx, u.fleet.id, want{release: release}))
	}
	return err
}
