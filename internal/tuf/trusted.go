package tuf

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/roadstead-io/roadstead/api"
)

// Trusted is what somebody believes of one fleet. It begins with a root, and takes what that leads to. What it refuses changes nothing in it.
//
// It has no clock: until SetNow was called everything that may be expired is refused. One goroutine at a time may use it.
type Trusted struct {
	fleet    string
	now      time.Time
	set      *trustedmetadata.TrustedMetadata
	held     map[string]holding // by role; those of the set, and others that wait for a snapshot to fit
	director holding
}

// holding is one verified file.
type holding struct {
	file
	data    []byte
	message []byte
}

// Open begins with a root that is believed without a signature of another: the one that came with config.json, or is stored.
func Open(fleet string, root []byte) (*Trusted, error) {
	t := &Trusted{fleet: fleet, held: map[string]holding{}}
	r, err := parse[metadata.RootType](api.TrustRoot, root)
	if err != nil {
		return nil, err
	}
	if err := t.ours(r.file); err != nil {
		return nil, err
	}
	t.set, err = trustedmetadata.New(root)
	if err != nil {
		role := r.Signed.Roles[api.TrustRoot]
		return nil, explain(r.what, r.message, signaturesOf(r.Signatures), pickMap(r.Signed.Keys, role.KeyIDs), role.Threshold, err)
	}
	t.set.RefTime = time.Time{}
	t.held[api.TrustRoot] = holding{r.file, slices.Clone(root), r.message}
	return t, nil
}

// Reopen begins with what Files gave. What is expired is taken, since it was verified once: SetNow, and everything that is asked afterwards, looks at
// that. Of the files only root has to be there; one that does not verify is an error, never skipped.
func Reopen(fleet string, files []api.TrustFile) (*Trusted, error) {
	byRole := map[string][]byte{}
	for _, f := range files {
		if Bounds(f.Role) == 0 || byRole[f.Role] != nil {
			return nil, Refuse("stored "+f.Role, ReasonName, "", "each role once", f.Role)
		}
		byRole[f.Role] = f.Data
	}
	t, err := Open(fleet, byRole[api.TrustRoot])
	if err != nil {
		return nil, err
	}
	for _, role := range order(byRole) {
		if role == api.TrustRoot {
			continue
		}
		if err := t.reread(role, byRole[role]); err != nil {
			return nil, err
		}
	}
	if t.director.data != nil && t.set.Targets[api.TrustTargets] != nil {
		if err := t.signedByDirector(t.director.data); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// reread takes a stored file as far as it fits what is there already.
func (t *Trusted) reread(role string, data []byte) error {
	h, err := read1(role, data)
	if err != nil {
		return err
	}
	if err := t.ours(h.file); err != nil {
		return err
	}
	if role == api.TrustDirector {
		t.director = h
		return nil
	}
	if err := t.replay(h); err != nil {
		return err
	}
	t.held[role] = h
	return nil
}

// read1 reads a file of whatever role.
func read1(role string, data []byte) (holding, error) {
	switch role {
	case api.TrustRoot:
		r, err := parse[metadata.RootType](role, data)
		return holding{r.file, slices.Clone(data), r.message}, err
	case api.TrustTimestamp:
		r, err := parse[metadata.TimestampType](role, data)
		return holding{r.file, slices.Clone(data), r.message}, err
	case api.TrustSnapshot:
		r, err := parse[metadata.SnapshotType](role, data)
		return holding{r.file, slices.Clone(data), r.message}, err
	}
	r, err := parse[metadata.TargetsType](role, data)
	return holding{r.file, slices.Clone(data), r.message}, err
}

// replay puts a file into the set without looking at the time. One that is valid, but waits for another to fit, is no error.
func (t *Trusted) replay(h holding) error {
	was := t.set.RefTime
	t.set.RefTime = time.Time{}
	defer func() { t.set.RefTime = was }()
	var err error
	switch by, delegated := Delegates(h.role); {
	case h.role == api.TrustTimestamp:
		_, err = t.set.UpdateTimestamp(h.data)
	case h.role == api.TrustSnapshot:
		_, err = t.set.UpdateSnapshot(h.data, true)
		if t.set.Snapshot != nil && t.set.Snapshot.Signed.Version == h.version {
			err = nil // a snapshot that the timestamp has left behind still guards against older ones
		}
	case h.role == api.TrustTargets:
		if t.waits(api.TrustRoot, h) {
			return nil
		}
		_, err = t.set.UpdateTargets(h.data)
	case delegated:
		if t.waits(by, h) {
			return nil
		}
		_, err = t.set.UpdateDelegatedTargets(h.data, h.role, by)
	}
	if err != nil {
		return t.because(h, err)
	}
	return nil
}

// waits tells whether a held file cannot be looked at yet, as something above it is not there or announces another version.
func (t *Trusted) waits(by string, h holding) bool {
	if t.set.Snapshot == nil || t.set.Timestamp == nil || t.set.Snapshot.Signed.Version != t.set.Timestamp.Signed.Meta["snapshot.json"].Version {
		return true
	}
	if by != api.TrustRoot && t.set.Targets[by] == nil {
		return true
	}
	m := t.set.Snapshot.Signed.Meta[h.role+".json"]
	return m != nil && m.Version > h.version
}

// SetNow says what time it is. Earlier than the newest time that something verified was signed at, it never is.
func (t *Trusted) SetNow(now time.Time) {
	t.now = now.UTC()
	t.set.RefTime = t.Now()
}

// Now is the time by which files expire: the one of SetNow, or the floor below it. Zero: nobody said.
func (t *Trusted) Now() time.Time {
	if t.now.IsZero() {
		return t.now
	}
	if floor := t.Floor(); t.now.Before(floor) {
		return floor
	}
	return t.now
}

// Floor is the newest time that something verified was signed at.
func (t *Trusted) Floor() time.Time {
	floor := t.director.mark.SignedAt
	for _, h := range t.held {
		if h.mark.SignedAt.After(floor) {
			floor = h.mark.SignedAt
		}
	}
	return floor.UTC()
}

// Fleet is the fleet's uuid.
func (t *Trusted) Fleet() string { return t.fleet }

// RootDigest is the SHA-256 of the root that is believed, in hexadecimal.
func (t *Trusted) RootDigest() string { return Digest(t.held[api.TrustRoot].data) }

// HeldBy says who holds the root: "server" or "owner".
func (t *Trusted) HeldBy() string { return t.held[api.TrustRoot].mark.HeldBy }

// Versions gives the version of each file that is held, bins too; not the director's.
func (t *Trusted) Versions() map[string]int64 {
	versions := map[string]int64{}
	for role, h := range t.held {
		versions[role] = h.version
	}
	return versions
}

// Files gives what to store, in the order in which Reopen reads it, the director's last statement too.
func (t *Trusted) Files() []api.TrustFile {
	all := maps.Clone(t.held)
	if t.director.data != nil {
		all[api.TrustDirector] = t.director
	}
	var files []api.TrustFile
	for _, role := range order(all) {
		files = append(files, api.TrustFile{Role: role, Data: slices.Clone(all[role].data)})
	}
	return files
}

// Trim forgets the bins that do not concern a release, so that what is stored does not grow with what ever ran.
func (t *Trusted) Trim(commit string) {
	path, err := ReleasePath(commit)
	if err != nil {
		return
	}
	for role := range t.held {
		if by, bin, ok := strings.Cut(role, "-"); ok && by != "" && bin != BinOf(path) {
			delete(t.held, role)
			delete(t.set.Targets, role)
		}
	}
}

// order sorts roles so that each comes after what it is checked by.
func order[V any](byRole map[string]V) []string {
	rank := map[string]int{api.TrustRoot: 1, api.TrustTimestamp: 2, api.TrustSnapshot: 3, api.TrustTargets: 4, api.TrustBuilder: 5, api.TrustOwner: 6, api.TrustDirector: 8}
	place := func(role string) int {
		if r := rank[role]; r != 0 {
			return r
		}
		return 7
	}
	roles := sorted(byRole)
	slices.SortStableFunc(roles, func(a, b string) int { return place(a) - place(b) })
	return roles
}

// ours refuses files of another fleet.
func (t *Trusted) ours(f file) error {
	if f.mark.Fleet != t.fleet {
		return Refuse(f.what, ReasonFleet, "", t.fleet, f.mark.Fleet)
	}
	return nil
}

// Root takes the next root: the version after the one that is believed, signed by the thresholds of both. It may be expired if it is not the last. What the new
// root does not lead to any more is forgotten.
func (t *Trusted) Root(next []byte) error {
	r, err := parse[metadata.RootType](api.TrustRoot, next)
	if err != nil {
		return err
	}
	if err := t.ours(r.file); err != nil {
		return err
	}
	old := t.held[api.TrustRoot]
	if r.version <= old.version {
		return Refuse(r.what, ReasonRollback, "", digits(old.version+1), digits(r.version))
	}
	if r.version != old.version+1 {
		return Refuse(r.what, ReasonVersion, "", digits(old.version+1), digits(r.version))
	}
	set := &trustedmetadata.TrustedMetadata{Root: t.set.Root, Targets: map[string]*metadata.Metadata[metadata.TargetsType]{}, RefTime: t.set.RefTime}
	if _, err := set.UpdateRoot(next); err != nil {
		for _, by := range []*metadata.RootType{&t.set.Root.Signed, &r.Signed} {
			role := by.Roles[api.TrustRoot]
			if why := explain(r.what, r.message, signaturesOf(r.Signatures), pickMap(by.Keys, role.KeyIDs), role.Threshold, nil); why != nil {
				return why
			}
		}
		return t.because(holding{file: r.file}, err)
	}
	t.set = set
	t.held[api.TrustRoot] = holding{r.file, slices.Clone(next), r.message}
	t.resettle(api.TrustRoot)
	return nil
}

// resettle reads again what was held below a file that has changed, and forgets what does not verify any more.
func (t *Trusted) resettle(changed string) {
	below := false
	for _, role := range order(t.held) {
		if role == changed {
			below = true
			continue
		}
		if by, ok := Delegates(role); !below || ok && by != changed && t.held[by].data == nil {
			if below {
				delete(t.held, role)
			}
			continue
		}
		if err := t.replay(t.held[role]); err != nil {
			delete(t.held, role)
		}
	}
	t.set.RefTime = t.Now()
	if t.director.data != nil && t.set.Targets[api.TrustTargets] != nil {
		if t.signedByDirector(t.director.data) != nil {
			t.director = holding{}
		}
	}
}

// ready says what every reading needs: a time, and a root that is not expired.
func (t *Trusted) ready() error {
	if t.now.IsZero() {
		return Refuse("time", ReasonClock, "", "a time", "none")
	}
	return t.unexpired(api.TrustRoot)
}

// unexpired refuses when a held file is missing or too old.
func (t *Trusted) unexpired(role string) error {
	h, ok := t.held[role]
	if !ok {
		return Refuse(role, ReasonMissing, "", "a file", "none")
	}
	if t.now.IsZero() {
		return Refuse("time", ReasonClock, "", "a time", "none")
	}
	return t.alive(h.file)
}

func (t *Trusted) alive(f file) error {
	if now := t.Now(); now.After(f.expires) {
		return Refuse(f.what, ReasonExpired, "", "valid at "+now.Format(timeForm), "expired "+f.expires.Format(timeForm))
	}
	return nil
}

// Timestamp takes a timestamp. One of the version that is held already, if it is rightly signed, changes nothing, whatever it says.
func (t *Trusted) Timestamp(data []byte) error {
	r, err := parse[metadata.TimestampType](api.TrustTimestamp, data)
	if err != nil {
		return err
	}
	h := holding{r.file, slices.Clone(data), r.message}
	if err := t.ours(r.file); err != nil {
		return err
	}
	if err := t.ready(); err != nil {
		return err
	}
	set := &trustedmetadata.TrustedMetadata{Root: t.set.Root, Timestamp: t.set.Timestamp, Targets: map[string]*metadata.Metadata[metadata.TargetsType]{}}
	if old, ok := t.held[api.TrustTimestamp]; ok {
		if h.version < old.version {
			return Refuse(h.what, ReasonRollback, "", "at least "+digits(old.version), digits(h.version))
		}
		if old.version == h.version {
			if err := set.Root.VerifyDelegate(api.TrustTimestamp, r.Metadata); err != nil {
				return t.because(h, err)
			}
			return t.alive(old.file)
		}
		before, after := t.set.Timestamp.Signed.Meta["snapshot.json"].Version, r.Signed.Meta["snapshot.json"].Version
		if after < before {
			return Refuse("snapshot in "+r.what, ReasonRollback, "", "at least "+digits(before), digits(after))
		}
	}
	if _, err := set.UpdateTimestamp(data); err != nil {
		return t.because(h, err)
	}
	if err := t.alive(r.file); err != nil {
		return err
	}
	t.set = set
	t.held[api.TrustTimestamp] = h
	t.resettle(api.TrustTimestamp)
	return nil
}

// notOlder compares with what was held: a lower version is a rollback, the same one with other content a lie.
func (t *Trusted) notOlder(old, h holding) error {
	if h.version < old.version {
		return Refuse(h.what, ReasonRollback, "", "at least "+digits(old.version), digits(h.version))
	}
	if h.version == old.version && string(h.message) != string(old.message) {
		return Refuse(h.what, ReasonDigest, "", Digest(old.message), Digest(h.message))
	}
	return nil
}

// Snapshot takes the snapshot that the timestamp announces.
func (t *Trusted) Snapshot(data []byte) error {
	if err := t.ready(); err != nil {
		return err
	}
	if err := t.unexpired(api.TrustTimestamp); err != nil {
		return err
	}
	r, err := parse[metadata.SnapshotType](api.TrustSnapshot, data)
	if err != nil {
		return err
	}
	if err := t.ours(r.file); err != nil {
		return err
	}
	h := holding{r.file, slices.Clone(data), r.message}
	if err := announced(h, t.set.Timestamp.Signed.Meta["snapshot.json"]); err != nil {
		return err
	}
	if t.set.Snapshot != nil {
		for _, name := range sorted(t.set.Snapshot.Signed.Meta) {
			was, now := t.set.Snapshot.Signed.Meta[name], r.Signed.Meta[name]
			if now == nil && binForm.MatchString(strings.TrimSuffix(name, ".json")) {
				continue // a database from an old backup knows no bin of what came later; counters guard what bins list
			}
			if now == nil {
				return Refuse(name+" in "+r.what, ReasonMissing, "", digits(was.Version), "nothing")
			}
			if now.Version < was.Version {
				return Refuse(name+" in "+r.what, ReasonRollback, "", "at least "+digits(was.Version), digits(now.Version))
			}
		}
	}
	if err := t.alive(r.file); err != nil {
		return err
	}
	set := &trustedmetadata.TrustedMetadata{Root: t.set.Root, Timestamp: t.set.Timestamp, Targets: map[string]*metadata.Metadata[metadata.TargetsType]{}, RefTime: t.Now()}
	if _, err := set.UpdateSnapshot(data, false); err != nil {
		return t.because(h, err)
	}
	t.set = set
	t.held[api.TrustSnapshot] = h
	t.resettle(api.TrustSnapshot)
	return nil
}

// announced compares a file with what another says of it.
func announced(h holding, m *metadata.MetaFiles) error {
	if m == nil {
		return Refuse(h.what, ReasonMissing, "", "a file that the snapshot names", h.role)
	}
	if h.version != m.Version {
		return Refuse(h.what, ReasonVersion, "", digits(m.Version), digits(h.version))
	}
	want := metaOf(m)
	if want.Length != 0 && want.Length != int64(len(h.data)) {
		return Refuse(h.what, ReasonSize, "", digits(want.Length)+" bytes", digits(int64(len(h.data))))
	}
	if got := Digest(h.data); want.SHA256 != "" && want.SHA256 != got {
		return Refuse(h.what, ReasonDigest, "", want.SHA256, got)
	}
	return nil
}

// Targets takes the fleet's targets, of the version that the snapshot names.
func (t *Trusted) Targets(data []byte) error { return t.take(api.TrustTargets, api.TrustRoot, data) }

// Delegated takes builder.json, owner.json (by targets) or one of their bins.
func (t *Trusted) Delegated(role, by string, data []byte) error {
	if want, ok := Delegates(role); !ok || want != by {
		return Refuse("role "+role, ReasonName, "", "builder, owner or a bin of theirs", role+" by "+by)
	}
	return t.take(role, by, data)
}

// Take takes a file of whatever role below root.
func (t *Trusted) Take(f api.TrustFile) error {
	switch f.Role {
	case api.TrustRoot:
		return t.Root(f.Data)
	case api.TrustTimestamp:
		return t.Timestamp(f.Data)
	case api.TrustSnapshot:
		return t.Snapshot(f.Data)
	case api.TrustTargets:
		return t.Targets(f.Data)
	}
	by, _ := Delegates(f.Role)
	return t.Delegated(f.Role, by, f.Data)
}

func (t *Trusted) take(role, by string, data []byte) error {
	if err := t.ready(); err != nil {
		return err
	}
	if err := t.current(); err != nil {
		return err
	}
	if by != api.TrustRoot && t.set.Targets[by] == nil {
		return Refuse(by, ReasonMissing, "", "a file", "none")
	}
	r, err := parse[metadata.TargetsType](role, data)
	if err != nil {
		return err
	}
	if err := t.ours(r.file); err != nil {
		return err
	}
	h := holding{r.file, slices.Clone(data), r.message}
	if err := announced(h, t.set.Snapshot.Signed.Meta[role+".json"]); err != nil {
		return err
	}
	if err := t.alive(r.file); err != nil {
		return err
	}
	if old, ok := t.held[role]; ok {
		if err := t.notOlder(old, h); err != nil {
			return err
		}
	}
	if _, err := t.set.UpdateDelegatedTargets(data, role, by); err != nil {
		return t.because(h, err)
	}
	t.held[role] = h
	if !binForm.MatchString(role) {
		for name := range t.set.Targets {
			if above(role, name) {
				delete(t.set.Targets, name)
			}
		}
		t.resettle(role)
	}
	return nil
}

// above tells whether what a role lists depends on another one.
func above(role, name string) bool {
	by, ok := Delegates(name)
	for ok {
		if by == role {
			return true
		}
		by, ok = Delegates(by)
	}
	return false
}

// current refuses when snapshot and timestamp are not there, do not fit together or are expired.
func (t *Trusted) current() error {
	for _, role := range []string{api.TrustTimestamp, api.TrustSnapshot} {
		if err := t.unexpired(role); err != nil {
			return err
		}
	}
	return t.fits()
}

func (t *Trusted) fits() error {
	if t.set.Timestamp == nil {
		return Refuse(api.TrustTimestamp, ReasonMissing, "", "a file", "none")
	}
	want := t.set.Timestamp.Signed.Meta["snapshot.json"].Version
	if t.set.Snapshot == nil || t.set.Snapshot.Signed.Version != want {
		return Refuse(api.TrustSnapshot, ReasonMissing, "", "version "+digits(want), "another, or none")
	}
	return nil
}

// loaded gives a file of the kind "targets" that fits the snapshot.
func (t *Trusted) loaded(role string) (*metadata.Metadata[metadata.TargetsType], error) {
	if err := t.fits(); err != nil {
		return nil, err
	}
	m := t.set.Snapshot.Signed.Meta[role+".json"]
	if m == nil {
		return nil, Refuse(role, ReasonMissing, "", "a file that the snapshot names", "none")
	}
	have := t.set.Targets[role]
	if have == nil || have.Signed.Version != m.Version {
		return nil, Refuse(role, ReasonMissing, "", "version "+digits(m.Version), "another, or none")
	}
	return have, nil
}

// Policy is what the fleet's targets say. It may be expired: what a device was told last holds until it is told otherwise.
func (t *Trusted) Policy() (api.TrustMark, error) {
	if h, ok := t.held[api.TrustTargets]; ok {
		return h.mark, nil
	}
	return api.TrustMark{}, Refuse(api.TrustTargets, ReasonMissing, "", "a file", "none")
}

// Listing gives a release as the builder or the owner lists it. Everything that leads to it must be there, fit together, and be unexpired.
func (t *Trusted) Listing(by, commit string) (Listed, error) {
	path, err := ReleasePath(commit)
	if err != nil {
		return Listed{}, err
	}
	if by != api.TrustBuilder && by != api.TrustOwner {
		return Listed{}, Refuse("role "+by, ReasonName, "", "builder or owner", by)
	}
	if err := t.ready(); err != nil {
		return Listed{}, err
	}
	if err := t.current(); err != nil {
		return Listed{}, err
	}
	bin := BinRole(by, path)
	what := "release " + commit
	for _, role := range []string{api.TrustTargets, by} {
		if _, err := t.loaded(role); err != nil {
			return Listed{}, err
		}
		if err := t.unexpired(role); err != nil {
			return Listed{}, err
		}
	}
	if t.set.Snapshot.Signed.Meta[bin+".json"] == nil {
		return Listed{}, Refuse(what, ReasonUnlisted, "", "in "+bin, "no such bin")
	}
	m, err := t.loaded(bin)
	if err != nil {
		return Listed{}, err
	}
	if err := t.unexpired(bin); err != nil {
		return Listed{}, err
	}
	target := m.Signed.Targets[path]
	if target == nil {
		return Listed{}, Refuse(what, ReasonUnlisted, "", "in "+bin, "not in it")
	}
	return listed(target)
}

// Release gives a release as the fleet's approval asks for it. Where two have to list it, both say the same.
func (t *Trusted) Release(commit string) (Listed, error) {
	policy, err := t.Policy()
	if err != nil {
		return Listed{}, err
	}
	switch policy.Approval {
	case api.ApprovalBuilder:
		return t.Listing(api.TrustBuilder, commit)
	case api.ApprovalOwner:
		return t.Listing(api.TrustOwner, commit)
	case api.ApprovalBoth:
	default:
		return Listed{}, Refuse(t.held[api.TrustTargets].what, ReasonMissing, "", "an approval", string(policy.Approval))
	}
	builder, err := t.Listing(api.TrustBuilder, commit)
	if err != nil {
		return Listed{}, err
	}
	owner, err := t.Listing(api.TrustOwner, commit)
	if err != nil {
		return Listed{}, err
	}
	what := "release " + commit
	switch {
	case builder.SHA256 != owner.SHA256:
		return Listed{}, Refuse(what, ReasonDigest, "", owner.SHA256+" (owner)", builder.SHA256+" (builder)")
	case builder.Length != owner.Length:
		return Listed{}, Refuse(what, ReasonSize, "", digits(owner.Length)+" bytes (owner)", digits(builder.Length)+" (builder)")
	case builder.Counter != owner.Counter:
		return Listed{}, Refuse(what, ReasonCounter, "", digits(owner.Counter)+" (owner)", digits(builder.Counter)+" (builder)")
	}
	return owner, nil
}

// Director takes the director's answer to a question of a device: signed by the key that the targets name, unexpired, for this device, with its nonce, and not older
// than the last.
func (t *Trusted) Director(data []byte, device api.DeviceUUID, nonce string) (Director, error) {
	if err := t.ready(); err != nil {
		return Director{}, err
	}
	if _, err := t.loaded(api.TrustTargets); err != nil {
		return Director{}, err
	}
	if err := t.unexpired(api.TrustTargets); err != nil {
		return Director{}, err
	}
	r, err := parse[metadata.TargetsType](api.TrustDirector, data)
	if err != nil {
		return Director{}, err
	}
	if err := t.ours(r.file); err != nil {
		return Director{}, err
	}
	if err := t.signedByDirector(data); err != nil {
		return Director{}, err
	}
	switch {
	case r.mark.Device != device || device == "":
		return Director{}, Refuse(r.what, ReasonDevice, "", string(device), string(r.mark.Device))
	case r.mark.Nonce != nonce || nonce == "":
		return Director{}, Refuse(r.what, ReasonNonce, "", nonce, r.mark.Nonce)
	}
	if r.version < t.director.version {
		return Director{}, Refuse(r.what, ReasonRollback, "", "at least "+digits(t.director.version), digits(r.version))
	}
	if err := t.alive(r.file); err != nil {
		return Director{}, err
	}
	d, err := r.director()
	if err != nil {
		return Director{}, err
	}
	t.director = holding{r.file, slices.Clone(data), r.message}
	t.set.RefTime = t.Now()
	return d, nil
}

// signedByDirector verifies a statement's signature only.
func (t *Trusted) signedByDirector(data []byte) error {
	r, err := parse[metadata.TargetsType](api.TrustDirector, data)
	if err != nil {
		return err
	}
	if err := t.set.Targets[api.TrustTargets].VerifyDelegate(api.TrustDirector, r.Metadata); err != nil {
		return t.because(holding{r.file, data, r.message}, err)
	}
	return nil
}

// because turns an error of go-tuf into a refusal that says by which keys.
func (t *Trusted) because(h holding, err error) error {
	keys, threshold := t.holders(h.role)
	var e envelope
	if json.Unmarshal(h.data, &e) == nil && len(keys) > 0 {
		return explain(h.what, h.message, e.Signatures, keys, threshold, err)
	}
	switch {
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return Refuse(h.what, ReasonExpired, "", "", err.Error())
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		return Refuse(h.what, ReasonDigest, "", "", err.Error())
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		return Refuse(h.what, ReasonVersion, "", "", err.Error())
	}
	return Refuse(h.what, ReasonThreshold, "", "signatures of who holds "+h.role, err.Error())
}

// holders gives the keys that a role's file is to be signed with.
func (t *Trusted) holders(role string) (map[string]*metadata.Key, int) {
	if r := t.set.Root.Signed.Roles[role]; r != nil {
		return pickMap(t.set.Root.Signed.Keys, r.KeyIDs), r.Threshold
	}
	by, ok := Delegates(role)
	if role == api.TrustDirector {
		by, ok = api.TrustTargets, true
	}
	if above := t.set.Targets[by]; ok && above != nil && above.Signed.Delegations != nil {
		d := above.Signed.Delegations
		if d.SuccinctRoles != nil {
			return pickMap(d.Keys, d.SuccinctRoles.KeyIDs), d.SuccinctRoles.Threshold
		}
		for _, r := range d.Roles {
			if r.Name == role {
				return pickMap(d.Keys, r.KeyIDs), r.Threshold
			}
		}
	}
	return nil, 0
}

func pickMap(keys map[string]*metadata.Key, ids []string) map[string]*metadata.Key {
	picked := map[string]*metadata.Key{}
	for _, id := range ids {
		picked[id] = keys[id]
	}
	return picked
}

func signaturesOf(list []metadata.Signature) []signature {
	var all []signature
	for _, s := range list {
		all = append(all, signature{KeyID: s.KeyID, Sig: s.Signature.String()})
	}
	return all
}
