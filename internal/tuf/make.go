package tuf

import (
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
)

// markMember is the member of a signed part that holds our mark.
const markMember = "x-roadstead"

// Root says who holds the top roles. Mark.Role is set by Make, here and in all the others.
type Root struct {
	Version   int64
	Expires   time.Time
	Mark      api.TrustMark
	Keys      map[string][]*metadata.Key // by role: root, targets, snapshot, timestamp
	Threshold map[string]int             // by role
}

// Targets is a fleet's policy (in the mark), and to whom the rest is delegated.
type Targets struct {
	Version        int64
	Expires        time.Time
	Mark           api.TrustMark
	Builder        *metadata.Key
	Director       *metadata.Key
	Owner          []*metadata.Key // none: the owner lists no releases
	OwnerThreshold int
}

// Delegator is builder.json or owner.json: it spreads what its role lists over bins, which its own holders sign.
type Delegator struct {
	By        string // builder or owner
	Version   int64
	Expires   time.Time
	Mark      api.TrustMark
	Keys      []*metadata.Key
	Threshold int
}

// Bin lists releases by their paths.
type Bin struct {
	Role    string // as builder-3f
	Version int64
	Expires time.Time
	Mark    api.TrustMark
	Listed  map[string]Listed // by path, as ReleasePath makes it
}

// Listed is one release's document.
type Listed struct {
	Length  int64
	SHA256  string
	Counter int64
}

// Meta announces a file. Length and SHA256 may be left out; in snapshots they are for bins, which would otherwise cost each device 30 KiB.
type Meta struct {
	Version int64
	Length  int64
	SHA256  string
}

// Snapshot says which versions of the files belong together.
type Snapshot struct {
	Version int64
	Expires time.Time
	Mark    api.TrustMark
	Files   map[string]Meta // by role
}

// Timestamp says which snapshot is the newest.
type Timestamp struct {
	Version  int64
	Expires  time.Time
	Mark     api.TrustMark
	Snapshot Meta
}

// Director says what one device should run, and by its mark whether its channel is wanted.
type Director struct {
	Version int64
	Expires time.Time
	Mark    api.TrustMark
	Commit  string  // of the release; empty: none is named
	Release *Listed // nil when none is named
}

// MetaOf announces a file with all that can be said.
func MetaOf(version int64, file []byte) Meta {
	return Meta{Version: version, Length: int64(len(file)), SHA256: Digest(file)}
}

// Canonical encodes a value as canonical JSON, which is what is signed.
func Canonical(v any) ([]byte, error) { return cjson.EncodeCanonical(v) }

// CanonicalDigest is the SHA-256 of the canonical JSON of a value, in hex.
func CanonicalDigest(v any) (string, error) {
	text, err := Canonical(v)
	if err != nil {
		return "", err
	}
	return Digest(text), nil
}

// Make writes root.json.
func (x Root) Make(signers ...Signer) ([]byte, error) {
	root := metadata.Root(x.Expires)
	root.Signed.Version = x.Version
	root.Signed.UnrecognizedFields = marked(x.Mark, api.TrustRoot)
	for role, keys := range x.Keys {
		holders := &metadata.Role{KeyIDs: []string{}, Threshold: x.Threshold[role]}
		holders.KeyIDs = list(keys, root.Signed.Keys)
		root.Signed.Roles[role] = holders
	}
	return finish(api.TrustRoot, root, signers)
}

// Make writes targets.json.
func (x Targets) Make(signers ...Signer) ([]byte, error) {
	t := metadata.Targets(x.Expires)
	t.Signed.Version = x.Version
	t.Signed.UnrecognizedFields = marked(x.Mark, api.TrustTargets)
	d := &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
	delegate := func(role string, keys []*metadata.Key, threshold int, path string) {
		d.Roles = append(d.Roles, metadata.DelegatedRole{Name: role, KeyIDs: list(keys, d.Keys), Threshold: threshold, Paths: []string{path}})
	}
	if x.Builder != nil {
		delegate(api.TrustBuilder, []*metadata.Key{x.Builder}, 1, "releases/*.json")
	}
	if len(x.Owner) > 0 {
		delegate(api.TrustOwner, x.Owner, x.OwnerThreshold, "releases/*.json")
	}
	if x.Director != nil {
		delegate(api.TrustDirector, []*metadata.Key{x.Director}, 1, "devices/*.json")
	}
	t.Signed.Delegations = d
	return finish(api.TrustTargets, t, signers)
}

// Make writes builder.json or owner.json.
func (x Delegator) Make(signers ...Signer) ([]byte, error) {
	t := metadata.Targets(x.Expires)
	t.Signed.Version = x.Version
	t.Signed.UnrecognizedFields = marked(x.Mark, x.By)
	d := &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	d.SuccinctRoles = &metadata.SuccinctRoles{KeyIDs: list(x.Keys, d.Keys), Threshold: x.Threshold, BitLength: api.TrustBinBits, NamePrefix: x.By}
	t.Signed.Delegations = d
	return finish(x.By, t, signers)
}

// Make writes a bin.
func (x Bin) Make(signers ...Signer) ([]byte, error) {
	t := metadata.Targets(x.Expires)
	t.Signed.Version = x.Version
	t.Signed.UnrecognizedFields = marked(x.Mark, x.Role)
	for path, l := range x.Listed {
		file, err := l.target(path)
		if err != nil {
			return nil, err
		}
		t.Signed.Targets[path] = file
	}
	return finish(x.Role, t, signers)
}

// Make writes snapshot.json.
func (x Snapshot) Make(signers ...Signer) ([]byte, error) {
	s := metadata.Snapshot(x.Expires)
	s.Signed.Version = x.Version
	s.Signed.UnrecognizedFields = marked(x.Mark, api.TrustSnapshot)
	s.Signed.Meta = map[string]*metadata.MetaFiles{}
	for role, m := range x.Files {
		file, err := m.file(role)
		if err != nil {
			return nil, err
		}
		s.Signed.Meta[role+".json"] = file
	}
	return finish(api.TrustSnapshot, s, signers)
}

// Make writes timestamp.json.
func (x Timestamp) Make(signers ...Signer) ([]byte, error) {
	t := metadata.Timestamp(x.Expires)
	t.Signed.Version = x.Version
	t.Signed.UnrecognizedFields = marked(x.Mark, api.TrustTimestamp)
	file, err := x.Snapshot.file(api.TrustSnapshot)
	if err != nil {
		return nil, err
	}
	t.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": file}
	return finish(api.TrustTimestamp, t, signers)
}

// Make writes a director's statement.
func (x Director) Make(signers ...Signer) ([]byte, error) {
	t := metadata.Targets(x.Expires)
	t.Signed.Version = x.Version
	t.Signed.UnrecognizedFields = marked(x.Mark, api.TrustDirector)
	if x.Release != nil {
		path, err := ReleasePath(x.Commit)
		if err != nil {
			return nil, err
		}
		file, err := x.Release.target(path)
		if err != nil {
			return nil, err
		}
		t.Signed.Targets[path] = file
	}
	return finish(api.TrustDirector, t, signers)
}

// target is a listing as TUF writes it.
func (l Listed) target(path string) (*metadata.TargetFiles, error) {
	sum, err := hex.DecodeString(l.SHA256)
	if err != nil || len(sum) != 32 {
		return nil, Refuse("target "+path, ReasonDigest, "", "64 hexadecimal digits", l.SHA256)
	}
	custom, err := json.Marshal(api.ReleaseListing{Counter: l.Counter})
	if err != nil {
		return nil, err
	}
	raw := json.RawMessage(custom)
	return &metadata.TargetFiles{Length: l.Length, Hashes: metadata.Hashes{"sha256": sum}, Custom: &raw}, nil
}

// file is an announcement as TUF writes it.
func (m Meta) file(role string) (*metadata.MetaFiles, error) {
	file := &metadata.MetaFiles{Version: m.Version, Length: m.Length}
	if m.SHA256 != "" {
		sum, err := hex.DecodeString(m.SHA256)
		if err != nil || len(sum) != 32 {
			return nil, Refuse(role+".json", ReasonDigest, "", "64 hexadecimal digits", m.SHA256)
		}
		file.Hashes = metadata.Hashes{"sha256": sum}
	}
	return file, nil
}

func marked(mark api.TrustMark, role string) map[string]any {
	mark.Role = role
	mark.SignedAt = mark.SignedAt.UTC().Truncate(time.Second)
	return map[string]any{markMember: mark}
}

// list puts keys among those of a file and gives their ids.
func list(keys []*metadata.Key, into map[string]*metadata.Key) []string {
	ids := make([]string, 0, len(keys))
	for _, key := range keys {
		id := KeyID(key)
		into[id] = key
		ids = append(ids, id)
	}
	return ids
}

// finish signs and writes a file, and reads it as others will: what we would refuse, we do not make.
func finish[T metadata.Roles](role string, m *metadata.Metadata[T], signers []Signer) ([]byte, error) {
	expires := map[string]*time.Time{}
	switch signed := any(&m.Signed).(type) {
	case *metadata.RootType:
		expires[""] = &signed.Expires
	case *metadata.TargetsType:
		expires[""] = &signed.Expires
	case *metadata.SnapshotType:
		expires[""] = &signed.Expires
	case *metadata.TimestampType:
		expires[""] = &signed.Expires
	}
	*expires[""] = expires[""].UTC().Truncate(time.Second)
	if len(signers) > 0 {
		message, err := Canonical(m.Signed)
		if err != nil {
			return nil, err
		}
		for _, s := range signers {
			sig, err := s.Sign(message)
			if err != nil {
				return nil, err
			}
			m.Signatures = append(m.Signatures, metadata.Signature{KeyID: KeyID(s.Public()), Signature: sig})
		}
	}
	file, err := m.ToBytes(false)
	if err != nil {
		return nil, err
	}
	if _, err := parse[T](role, file); err != nil {
		return nil, err
	}
	return file, nil
}

// envelope is a signed file whose signed part is left as it is.
type envelope struct {
	Signed     json.RawMessage `json:"signed"`
	Signatures []signature     `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// open reads a file of any role as an envelope.
func open(what string, file []byte) (envelope, []byte, error) {
	var e envelope
	if err := strict(what, file, MaxTargets); err != nil {
		return e, nil, err
	}
	if err := json.Unmarshal(file, &e); err != nil || len(e.Signed) == 0 {
		return e, nil, Refuse(what, ReasonMalformed, "", "a signed file", "something else")
	}
	message, err := Canonical(e.Signed)
	if err != nil {
		return e, nil, Refuse(what, ReasonMalformed, "", "canonical JSON", err.Error())
	}
	return e, message, nil
}

// Signed gives what the signatures of a file are over, in canonical JSON, and the ids of the keys that have signed, unverified.
func Signed(file []byte) (message []byte, by []string, err error) {
	e, message, err := open("file", file)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range e.Signatures {
		by = append(by, s.KeyID)
	}
	return message, by, nil
}

// AddSignature signs a file. A signature of the same key, if there is one, is replaced.
func AddSignature(file []byte, signer Signer) ([]byte, error) {
	e, message, err := open("file", file)
	if err != nil {
		return nil, err
	}
	sig, err := signer.Sign(message)
	if err != nil {
		return nil, err
	}
	e.add(signature{KeyID: KeyID(signer.Public()), Sig: hex.EncodeToString(sig)})
	return json.Marshal(e)
}

// MergeSignatures puts the signatures of two copies of a file together. The signed parts must be the same.
func MergeSignatures(a, b []byte) ([]byte, error) {
	left, message, err := open("file", a)
	if err != nil {
		return nil, err
	}
	right, other, err := open("file", b)
	if err != nil {
		return nil, err
	}
	if string(message) != string(other) {
		return nil, Refuse("file", ReasonDigest, "", Digest(message), Digest(other))
	}
	for _, s := range right.Signatures {
		left.add(s)
	}
	return json.Marshal(left)
}

func (e *envelope) add(s signature) {
	for i := range e.Signatures {
		if e.Signatures[i].KeyID == s.KeyID {
			e.Signatures[i] = s
			return
		}
	}
	e.Signatures = append(e.Signatures, s)
}
