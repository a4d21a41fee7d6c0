package tuf

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// header is what every signed part begins with.
type header struct {
	Type    string         `json:"_type"`
	Spec    string         `json:"spec_version"`
	Version int64          `json:"version"`
	Expires string         `json:"expires"`
	Mark    *api.TrustMark `json:"x-roadstead"`
}

var (
	specForm = pattern.New(`^1(\.[0-9]{1,4}){1,2}$`)
	timeForm = "2006-01-02T15:04:05Z"
)

// file is one file after it was read: what it is, of which version, until when, and its mark. Nothing is verified.
type file struct {
	role    string
	what    string // for refusals: "root version 3"
	version int64
	expires time.Time
	mark    api.TrustMark
}

// parse reads a file of a role strictly, without verifying who signed it.
func parse[T metadata.Roles](role string, data []byte) (read[T], error) {
	var r read[T]
	bound := Bounds(role)
	if bound == 0 {
		return r, Refuse("role "+role, ReasonName, "", "a role of a fleet", role)
	}
	if err := strict(role, data, bound); err != nil {
		return r, err
	}
	var e envelope
	var h header
	if err := json.Unmarshal(data, &e); err != nil {
		return r, Refuse(role, ReasonMalformed, "", "a signed file", err.Error())
	}
	if len(e.Signed) == 0 || e.Signed[0] != '{' {
		return r, Refuse(role, ReasonMissing, "", "a signed part", "none")
	}
	if err := json.Unmarshal(e.Signed, &h); err != nil {
		return r, Refuse(role, ReasonMalformed, "", "a signed part", err.Error())
	}
	r.file = file{role: role, what: role, version: h.Version}
	if err := r.header(h); err != nil {
		return r, err
	}
	if err := checkSignatures(r.what, e.Signatures); err != nil {
		return r, err
	}
	r.Metadata = new(metadata.Metadata[T])
	if _, err := r.FromBytes(data); err != nil {
		return r, Refuse(r.what, ReasonMalformed, "", "metadata of "+role, err.Error())
	}
	// What was parsed is what is signed, byte for byte.
	ours, err := Canonical(e.Signed)
	if err != nil {
		return r, Refuse(r.what, ReasonMalformed, "", "canonical JSON", err.Error())
	}
	theirs, err := Canonical(r.Signed)
	if err != nil || string(ours) != string(theirs) {
		return r, Refuse(r.what, ReasonMalformed, "", "metadata of "+role, "members that are missing, or not written as they should be")
	}
	r.message = ours
	switch signed := any(&r.Signed).(type) {
	case *metadata.RootType:
		return r, checkRoot(r.what, signed)
	case *metadata.TargetsType:
		return r, checkTargets(r.what, role, signed)
	case *metadata.SnapshotType:
		return r, checkMeta(r.what, signed.Meta, false)
	case *metadata.TimestampType:
		return r, checkMeta(r.what, signed.Meta, true)
	}
	return r, nil
}

// read is a file that was read, as go-tuf has it.
type read[T metadata.Roles] struct {
	file
	*metadata.Metadata[T]
	message []byte // what is signed
}

func (f *file) header(h header) error {
	kind := f.role
	if Bounds(f.role) != 0 && f.role != api.TrustRoot && f.role != api.TrustSnapshot && f.role != api.TrustTimestamp {
		kind = api.TrustTargets
	}
	if h.Type != kind {
		return Refuse(f.what, ReasonType, "", kind, h.Type)
	}
	if !specForm.MatchString(h.Spec) {
		return Refuse(f.what, ReasonMalformed, "", "spec_version 1", h.Spec)
	}
	if h.Version < 1 || h.Version > MaxVersion {
		return Refuse(f.what, ReasonVersion, "", "a version from 1 to "+digits(MaxVersion), digits(h.Version))
	}
	f.what = f.role + " version " + digits(h.Version)
	if h.Expires == "" {
		return Refuse(f.what, ReasonMissing, "", "expires", "nothing")
	}
	expires, err := time.Parse(timeForm, h.Expires)
	if err != nil || expires.Format(timeForm) != h.Expires {
		return Refuse(f.what, ReasonMalformed, "", "expires as "+timeForm, h.Expires)
	}
	f.expires = expires
	if h.Mark == nil {
		return Refuse(f.what, ReasonMissing, "", markMember, "nothing")
	}
	f.mark = *h.Mark
	switch {
	case f.mark.Role != f.role:
		return Refuse(f.what, ReasonType, "", "metadata of "+f.role, "metadata of "+f.mark.Role)
	case !uuidForm.MatchString(f.mark.Fleet):
		return Refuse(f.what, ReasonFleet, "", "the fleet's uuid", f.mark.Fleet)
	case f.mark.SignedAt.IsZero() || f.mark.SignedAt.Nanosecond() != 0:
		return Refuse(f.what, ReasonMissing, "", "signed_at in whole seconds", f.mark.SignedAt.String())
	case f.mark.SignedAt.After(expires):
		return Refuse(f.what, ReasonExpired, "", "signed before it expires, "+h.Expires, f.mark.SignedAt.Format(timeForm))
	}
	return f.policy()
}

// policy looks at the words of a mark that decide something.
func (f *file) policy() error {
	words := func(field, got string, allowed ...string) error {
		if !slices.Contains(allowed, got) {
			return Refuse(f.what, ReasonMalformed, "", field+" as "+strings.Join(allowed, ", "), got)
		}
		return nil
	}
	switch f.role {
	case api.TrustRoot:
		return words("held_by", f.mark.HeldBy, api.HeldByServer, api.HeldByOwner)
	case api.TrustTargets:
		if err := words("approval", string(f.mark.Approval), string(api.ApprovalBuilder), string(api.ApprovalBoth), string(api.ApprovalOwner)); err != nil {
			return err
		}
		return words("shell", f.mark.Shell, "allowed", "forbidden")
	}
	return nil
}

func checkSignatures(what string, signatures []signature) error {
	if len(signatures) > maxSigs {
		return Refuse(what, ReasonSignature, "", "at most 128 signatures", digits(int64(len(signatures))))
	}
	seen := map[string]bool{}
	for _, s := range signatures {
		if !keyIDForm.MatchString(s.KeyID) {
			return Refuse(what, ReasonKey, s.KeyID, "an id of hexadecimal digits", s.KeyID)
		}
		if _, err := hex.DecodeString(s.Sig); err != nil {
			return Refuse(what, ReasonSignature, s.KeyID, "hexadecimal digits", s.Sig)
		}
		if seen[s.KeyID] {
			return Refuse(what, ReasonSignature, s.KeyID, "one signature of each key", "another of the same")
		}
		seen[s.KeyID] = true
	}
	return nil
}

var topRoles = []string{api.TrustRoot, api.TrustSnapshot, api.TrustTargets, api.TrustTimestamp}

func checkRoot(what string, root *metadata.RootType) error {
	if !root.ConsistentSnapshot {
		return Refuse(what, ReasonMalformed, "", "consistent_snapshot true", "false")
	}
	if err := checkKeys(what, root.Keys); err != nil {
		return err
	}
	if len(root.Roles) > len(topRoles) {
		return Refuse(what, ReasonName, "", strings.Join(topRoles, ", "), strings.Join(sorted(root.Roles), ", "))
	}
	for _, name := range topRoles {
		role := root.Roles[name]
		if role == nil {
			return Refuse(what, ReasonMissing, "", "who holds "+name, "nobody")
		}
		if err := checkHolders(what, name, role.KeyIDs, role.Threshold, root.Keys); err != nil {
			return err
		}
	}
	return nil
}

// checkTargets looks at what all of the kind "targets" may hold: the fleet's targets delegate and list nothing, builder.json and owner.json
// spread over bins, bins and the director list releases.
func checkTargets(what, role string, t *metadata.TargetsType) error {
	for _, path := range sorted(t.Targets) {
		if err := checkTarget(what, path, t.Targets[path]); err != nil {
			return err
		}
		if by, bin, ok := strings.Cut(role, "-"); ok && BinOf(path) != bin {
			return Refuse(what, ReasonName, "", "releases of this bin", path+", which belongs to "+BinRole(by, path))
		}
	}
	listing := binForm.MatchString(role) || role == api.TrustDirector
	switch {
	case !listing && len(t.Targets) != 0:
		return Refuse(what, ReasonName, "", "delegations only", sorted(t.Targets)[0])
	case role == api.TrustDirector && len(t.Targets) > 1:
		return Refuse(what, ReasonMalformed, "", "one release", digits(int64(len(t.Targets))))
	case listing && t.Delegations != nil:
		return Refuse(what, ReasonMalformed, "", "no delegations", "some")
	case listing:
		return nil
	case t.Delegations == nil:
		return Refuse(what, ReasonMissing, "", "delegations", "none")
	}
	if err := checkKeys(what, t.Delegations.Keys); err != nil {
		return err
	}
	if role == api.TrustTargets {
		return checkDelegations(what, t.Delegations)
	}
	s := t.Delegations.SuccinctRoles
	if s == nil || t.Delegations.Roles != nil {
		return Refuse(what, ReasonMalformed, "", "succinct_roles", "other delegations")
	}
	if s.BitLength != api.TrustBinBits || s.NamePrefix != role {
		return Refuse(what, ReasonName, "", role+" with "+digits(api.TrustBinBits)+" bits", s.NamePrefix+" with "+digits(int64(s.BitLength)))
	}
	return checkHolders(what, "bins of "+role, s.KeyIDs, s.Threshold, t.Delegations.Keys)
}

func checkDelegations(what string, d *metadata.Delegations) error {
	if d.SuccinctRoles != nil || len(d.Roles) > 3 {
		return Refuse(what, ReasonMalformed, "", "delegations to builder, owner and director", "others")
	}
	seen := map[string]bool{}
	for _, role := range d.Roles {
		path := "releases/*.json"
		switch role.Name {
		case api.TrustBuilder, api.TrustOwner:
		case api.TrustDirector:
			path = "devices/*.json"
		default:
			return Refuse(what, ReasonName, "", "builder, owner or director", role.Name)
		}
		if seen[role.Name] {
			return Refuse(what, ReasonName, "", "each role once", role.Name+" twice")
		}
		seen[role.Name] = true
		if role.Terminating || len(role.PathHashPrefixes) != 0 || len(role.Paths) != 1 || role.Paths[0] != path {
			return Refuse(what, ReasonName, "", role.Name+" for "+path, strings.Join(role.Paths, ", "))
		}
		if err := checkHolders(what, role.Name, role.KeyIDs, role.Threshold, d.Keys); err != nil {
			return err
		}
	}
	return nil
}

func checkTarget(what, path string, t *metadata.TargetFiles) error {
	if !pathForm.MatchString(path) {
		return Refuse(what, ReasonName, "", "releases/COMMIT.json", path)
	}
	if t == nil || t.Length < 1 || t.Length > MaxDocument {
		return Refuse(what, ReasonSize, "", "a length from 1 to "+digits(MaxDocument)+" of "+path, "another")
	}
	if len(t.Hashes) != 1 || len(t.Hashes["sha256"]) != 32 {
		return Refuse(what, ReasonDigest, "", "one SHA-256 of "+path, "something else")
	}
	l, err := listed(t)
	if err != nil || l.Counter < 1 || l.Counter > MaxVersion {
		return Refuse(what, ReasonCounter, "", "a counter of "+path, digits(l.Counter))
	}
	return nil
}

// listed reads a target, whose form was looked at.
func listed(t *metadata.TargetFiles) (Listed, error) {
	l := Listed{Length: t.Length, SHA256: hex.EncodeToString(t.Hashes["sha256"])}
	if t.Custom == nil {
		return l, Refuse("target", ReasonMissing, "", "custom", "nothing")
	}
	var custom api.ReleaseListing
	if err := json.Unmarshal(*t.Custom, &custom); err != nil {
		return l, err
	}
	l.Counter = custom.Counter
	return l, nil
}

func checkMeta(what string, meta map[string]*metadata.MetaFiles, timestamp bool) error {
	if timestamp && len(meta) != 1 {
		return Refuse(what, ReasonName, "", "snapshot.json only", strings.Join(sorted(meta), ", "))
	}
	for _, name := range sorted(meta) {
		role, ok := strings.CutSuffix(name, ".json")
		_, delegated := Delegates(role)
		switch {
		case !ok, timestamp && role != api.TrustSnapshot, !timestamp && role != api.TrustTargets && !delegated:
			return Refuse(what, ReasonName, "", "files of a fleet's metadata", name)
		}
		m := meta[name]
		if m == nil || m.Version < 1 || m.Version > MaxVersion {
			return Refuse(what, ReasonVersion, "", "a version of "+name+" from 1", "another")
		}
		if m.Length < 0 || m.Length > int64(Bounds(role)) {
			return Refuse(what, ReasonSize, "", "at most "+digits(int64(Bounds(role)))+" bytes of "+name, digits(m.Length))
		}
		if len(m.Hashes) > 1 || len(m.Hashes) == 1 && len(m.Hashes["sha256"]) != 32 {
			return Refuse(what, ReasonDigest, "", "one SHA-256 of "+name, "something else")
		}
	}
	if !timestamp && meta["targets.json"] == nil {
		return Refuse(what, ReasonMissing, "", "targets.json", "nothing")
	}
	return nil
}

// ReadRoot reads root.json. This and the other Read functions are strict, and verify nothing.
func ReadRoot(data []byte) (Root, error) {
	r, err := parse[metadata.RootType](api.TrustRoot, data)
	if err != nil {
		return Root{}, err
	}
	x := Root{Version: r.version, Expires: r.expires, Mark: r.mark, Keys: map[string][]*metadata.Key{}, Threshold: map[string]int{}}
	for name, role := range r.Signed.Roles {
		x.Keys[name] = pick(r.Signed.Keys, role.KeyIDs)
		x.Threshold[name] = role.Threshold
	}
	return x, nil
}

// ReadTargets reads targets.json.
func ReadTargets(data []byte) (Targets, error) {
	r, err := parse[metadata.TargetsType](api.TrustTargets, data)
	if err != nil {
		return Targets{}, err
	}
	x := Targets{Version: r.version, Expires: r.expires, Mark: r.mark}
	for _, role := range r.Signed.Delegations.Roles {
		keys := pick(r.Signed.Delegations.Keys, role.KeyIDs)
		switch role.Name {
		case api.TrustBuilder:
			x.Builder = keys[0]
		case api.TrustDirector:
			x.Director = keys[0]
		case api.TrustOwner:
			x.Owner, x.OwnerThreshold = keys, role.Threshold
		}
	}
	return x, nil
}

// ReadDelegator reads builder.json or owner.json.
func ReadDelegator(by string, data []byte) (Delegator, error) {
	if by != api.TrustBuilder && by != api.TrustOwner {
		return Delegator{}, Refuse("role "+by, ReasonName, "", "builder or owner", by)
	}
	r, err := parse[metadata.TargetsType](by, data)
	if err != nil {
		return Delegator{}, err
	}
	s := r.Signed.Delegations.SuccinctRoles
	return Delegator{By: by, Version: r.version, Expires: r.expires, Mark: r.mark, Keys: pick(r.Signed.Delegations.Keys, s.KeyIDs), Threshold: s.Threshold}, nil
}

// ReadBin reads a bin, as "builder-3f".
func ReadBin(role string, data []byte) (Bin, error) {
	if !binForm.MatchString(role) {
		return Bin{}, Refuse("role "+role, ReasonName, "", "a bin", role)
	}
	r, err := parse[metadata.TargetsType](role, data)
	if err != nil {
		return Bin{}, err
	}
	x := Bin{Role: role, Version: r.version, Expires: r.expires, Mark: r.mark, Listed: map[string]Listed{}}
	for path, t := range r.Signed.Targets {
		if x.Listed[path], err = listed(t); err != nil {
			return Bin{}, err
		}
	}
	return x, nil
}

// ReadSnapshot reads snapshot.json.
func ReadSnapshot(data []byte) (Snapshot, error) {
	r, err := parse[metadata.SnapshotType](api.TrustSnapshot, data)
	if err != nil {
		return Snapshot{}, err
	}
	x := Snapshot{Version: r.version, Expires: r.expires, Mark: r.mark, Files: map[string]Meta{}}
	for name, m := range r.Signed.Meta {
		x.Files[strings.TrimSuffix(name, ".json")] = metaOf(m)
	}
	return x, nil
}

// ReadTimestamp reads timestamp.json.
func ReadTimestamp(data []byte) (Timestamp, error) {
	r, err := parse[metadata.TimestampType](api.TrustTimestamp, data)
	if err != nil {
		return Timestamp{}, err
	}
	return Timestamp{Version: r.version, Expires: r.expires, Mark: r.mark, Snapshot: metaOf(r.Signed.Meta["snapshot.json"])}, nil
}

// ReadDirector reads a director's statement.
func ReadDirector(data []byte) (Director, error) {
	r, err := parse[metadata.TargetsType](api.TrustDirector, data)
	if err != nil {
		return Director{}, err
	}
	return r.director()
}

func (f *file) directorOf(targets map[string]*metadata.TargetFiles) (Director, error) {
	x := Director{Version: f.version, Expires: f.expires, Mark: f.mark}
	for path, t := range targets {
		l, err := listed(t)
		if err != nil {
			return Director{}, err
		}
		x.Commit, x.Release = strings.TrimSuffix(strings.TrimPrefix(path, "releases/"), ".json"), &l
	}
	return x, nil
}

func (r *read[T]) director() (Director, error) {
	t, ok := any(&r.Signed).(*metadata.TargetsType)
	if !ok {
		return Director{}, Refuse(r.what, ReasonType, "", "a director's statement", "something else")
	}
	return r.directorOf(t.Targets)
}

func metaOf(m *metadata.MetaFiles) Meta {
	x := Meta{Version: m.Version, Length: m.Length}
	if sum := m.Hashes["sha256"]; len(sum) > 0 {
		x.SHA256 = hex.EncodeToString(sum)
	}
	return x
}

// pick gives the keys of some ids, in their order.
func pick(keys map[string]*metadata.Key, ids []string) []*metadata.Key {
	picked := make([]*metadata.Key, 0, len(ids))
	for _, id := range ids {
		picked = append(picked, keys[id])
	}
	return picked
}
