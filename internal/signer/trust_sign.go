package signer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/tuf"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	maxTrustFiles = 1<<api.TrustBinBits + 8
	maxTrustBody  = 16 << 20
)

// trustSign is POST /v1/trust/sign.
func (s *Server) trustSign(w http.ResponseWriter, r *http.Request) error {
	var ask api.TrustSignAsk
	if err := decodeLarge(r, maxTrustBody, &ask); err != nil {
		return err
	}
	files, err := s.trust.sign(ask)
	if err != nil {
		s.log.WarnContext(r.Context(), "metadata are not signed", "fleet", ask.Fleet, "request", web.RequestID(r.Context()), "error", err)
		return err
	}
	roles := make([]string, len(ask.Files))
	for i, f := range ask.Files {
		roles[i] = f.Role
	}
	s.log.InfoContext(r.Context(), "signed", "for", pki.PeerRole(r), "fleet", ask.Fleet, "metadata", roles, "request", web.RequestID(r.Context()))
	return web.WriteJSON(w, http.StatusOK, api.TrustSignedFiles{Files: files})
}

// signing is one request while it is looked at.
type signing struct {
	*truster
	fleet string
	now   time.Time
	after signedOf // what is remembered when all is signed
}

// sign signs files of one fleet, all or none. What was signed is remembered first.
func (t *truster) sign(ask api.TrustSignAsk) ([][]byte, error) {
	if err := checkFleet(ask.Fleet); err != nil {
		return nil, err
	}
	if len(ask.Files) == 0 || len(ask.Files) > maxTrustFiles {
		return nil, api.Errorf(api.Invalid, "files: 1 to %d at once", maxTrustFiles)
	}
	err := t.memory.change(ask.Fleet, func(now signedOf) (signedOf, error) {
		s := signing{truster: t, fleet: ask.Fleet, now: t.now(), after: now}
		for _, f := range ask.Files {
			if err := s.check(f); err != nil {
				if _, refused := tuf.Rejection(err); refused {
					err = api.Errorf(api.Invalid, "%v", err)
				}
				return now, fmt.Errorf("%s: %w", f.Role, err)
			}
		}
		return s.after, nil
	})
	if err != nil {
		return nil, err
	}
	out := make([][]byte, len(ask.Files))
	for i, f := range ask.Files {
		key, err := t.key(ask.Fleet, roleOfKey(f.Role))
		if err != nil {
			return nil, err
		}
		if out[i], err = tuf.AddSignature(f.Data, key); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Role, err)
		}
	}
	return out, nil
}

// check looks at one file as what it says it is.
func (s *signing) check(f api.TrustSign) error {
	switch {
	case f.Role == api.TrustRoot:
		return s.root(f.Data)
	case f.Role == api.TrustTargets:
		return s.targets(f.Data)
	case f.Role == api.TrustSnapshot:
		x, err := tuf.ReadSnapshot(f.Data)
		if err != nil {
			return err
		}
		return s.online(x.Mark, x.Version, x.Expires, lifeOfOnline)
	case f.Role == api.TrustTimestamp:
		x, err := tuf.ReadTimestamp(f.Data)
		if err != nil {
			return err
		}
		return s.online(x.Mark, x.Version, x.Expires, lifeOfOnline)
	case f.Role == api.TrustBuilder:
		x, err := tuf.ReadDelegator(api.TrustBuilder, f.Data)
		if err != nil {
			return err
		}
		if x.Threshold != 1 || !s.own(x.Keys, api.TrustBuilder) {
			return api.Errorf(api.Forbidden, "keys: the builder's bins are signed by the builder's key")
		}
		return s.online(x.Mark, x.Version, x.Expires, lifeOfBin)
	case strings.HasPrefix(f.Role, api.TrustBuilder+"-"):
		return s.bin(f)
	}
	return api.Errorf(api.Forbidden, "role: %.40q is not signed here", f.Role)
}

// marked looks at what all files say.
func (s *signing) marked(mark api.TrustMark, expires time.Time, life time.Duration) error {
	switch {
	case mark.Fleet != s.fleet:
		return api.Errorf(api.Forbidden, "x-roadstead.fleet: it is of fleet %.40s", mark.Fleet)
	case mark.SignedAt.Before(s.now.Add(-trustSkew)) || mark.SignedAt.After(s.now.Add(trustSkew)):
		return api.Errorf(api.Invalid, "x-roadstead.signed_at: it is not %s now", mark.SignedAt.Format(time.RFC3339))
	case !expires.After(s.now) || expires.After(s.now.Add(life+lifeSlack)):
		return api.Errorf(api.Invalid, "expires: %s is over, or later than in %s", expires.Format(time.RFC3339), life)
	}
	return nil
}

// online looks at what is signed again and again: its version is no lower than the clock, so that what is signed with an old copy of the
// database is not older than what devices have.
func (s *signing) online(mark api.TrustMark, version int64, expires time.Time, life time.Duration) error {
	if err := s.marked(mark, expires, life); err != nil {
		return err
	}
	switch {
	case version < s.now.Add(-trustSkew).Unix() || version > s.now.Add(trustAhead).Unix():
		return api.Errorf(api.Invalid, "version: %d is far from the seconds since 1970", version)
	case version <= s.after.version:
		return api.Errorf(api.Conflict, "version: %d is not newer than %d, which was signed", version, s.after.version)
	}
	s.after.version = version
	return nil
}

// own says whether keys are the one that is derived for a role.
func (s *signing) own(keys []*metadata.Key, role string) bool {
	key, err := s.key(s.fleet, role)
	return err == nil && len(keys) == 1 && tuf.KeyID(keys[0]) == tuf.KeyID(key.Public())
}

// root signs a root that the server holds, until the one that gives the fleet to its owner.
func (s *signing) root(data []byte) error {
	x, err := tuf.ReadRoot(data)
	if err != nil {
		return err
	}
	message, _, err := tuf.Signed(data)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(message)
	switch {
	case x.Mark.Fleet != s.fleet:
		return api.Errorf(api.Forbidden, "x-roadstead.fleet: it is of fleet %.40s", x.Mark.Fleet)
	case s.after.owned && sum == s.after.handed:
		return nil // the answer got lost
	case s.after.owned:
		return api.Errorf(api.Forbidden, "the fleet's owner holds its root")
	case x.Mark.HeldBy == api.HeldByOwner && x.Version == s.after.root+1:
		s.after.root, s.after.owned, s.after.handed = x.Version, true, sum
		return nil
	case x.Version <= s.after.root:
		return api.Errorf(api.Conflict, "version: %d is not newer than %d, which was signed", x.Version, s.after.root)
	case x.Mark.HeldBy != api.HeldByServer:
		return api.Errorf(api.Forbidden, "x-roadstead.held_by: a root of the owner's that comes after version %d is signed once, not version %d", s.after.root, x.Version)
	}
	for _, role := range []string{api.TrustRoot, api.TrustTargets, api.TrustSnapshot, api.TrustTimestamp} {
		if !s.own(x.Keys[role], role) || x.Threshold[role] != 1 {
			return api.Errorf(api.Forbidden, "keys: the server's root has the server's keys, also for %s", role)
		}
	}
	s.after.root = x.Version
	return s.marked(x.Mark, x.Expires, lifeOfRoot)
}

// targets signs the policy of a fleet whose root the server holds: what the builder lists is run.
func (s *signing) targets(data []byte) error {
	x, err := tuf.ReadTargets(data)
	if err != nil {
		return err
	}
	switch {
	case s.after.owned:
		return api.Errorf(api.Forbidden, "the fleet's owner signs its targets")
	case x.Version <= s.after.targets:
		return api.Errorf(api.Conflict, "version: %d is not newer than %d, which was signed", x.Version, s.after.targets)
	case x.Version > s.now.Add(trustAhead).Unix():
		return api.Errorf(api.Invalid, "version: %d is far from the seconds since 1970", x.Version)
	case x.Mark.Approval != api.ApprovalBuilder || len(x.Owner) != 0:
		return api.Errorf(api.Forbidden, "x-roadstead.approval: without an owner's root it is %s", api.ApprovalBuilder)
	case x.Builder == nil || x.Director == nil || !s.own([]*metadata.Key{x.Builder}, api.TrustBuilder) || !s.own([]*metadata.Key{x.Director}, api.TrustDirector):
		return api.Errorf(api.Forbidden, "keys: the server delegates to its own keys")
	}
	s.after.targets = x.Version
	return s.marked(x.Mark, x.Expires, lifeOfRoot)
}

// bin signs a bin of the builder's: what was in the one before, which this signer signed, and what it is shown to have been built here.
func (s *signing) bin(f api.TrustSign) error {
	x, err := tuf.ReadBin(f.Role, f.Data)
	if err != nil {
		return err
	}
	before := map[string]tuf.Listed{}
	if len(f.Before) > 0 {
		old, err := s.before(f)
		if err != nil {
			return err
		}
		before = old.Listed
	}
	shown := map[string]tuf.Listed{}
	for _, p := range f.Proofs {
		path, l, err := s.shown(p)
		if err != nil {
			return err
		}
		shown[path] = l
	}
	for path, l := range x.Listed {
		if old, ok := before[path]; ok && old == l {
			continue
		}
		known, ok := shown[path]
		if old, was := before[path]; !ok && was && old.SHA256 == l.SHA256 {
			known, ok = old, true // listed once more
		}
		switch {
		case !ok:
			return api.Errorf(api.Forbidden, "%s: nothing was shown that says it was built here", path)
		case known.SHA256 != l.SHA256 || known.Length != l.Length:
			return api.Errorf(api.Forbidden, "%s: its document is another than the one that was shown", path)
		case l.Counter <= s.after.counter:
			return api.Errorf(api.Conflict, "%s: counter %d is not higher than %d, which was listed", path, l.Counter, s.after.counter)
		case l.Counter > s.now.Add(trustAhead).Unix():
			return api.Errorf(api.Invalid, "%s: counter %d is far from the seconds since 1970", path, l.Counter)
		}
		s.after.counter = l.Counter
	}
	return s.online(x.Mark, x.Version, x.Expires, lifeOfBin)
}

// before reads the bin that another takes the place of. It counts when this signer's own signature is on it.
func (s *signing) before(f api.TrustSign) (x tuf.Bin, err error) {
	key, err := s.key(s.fleet, api.TrustBuilder)
	if err != nil {
		return x, err
	}
	if x, err = tuf.ReadBin(f.Role, f.Before); err != nil {
		return x, err
	}
	message, _, err := tuf.Signed(f.Before)
	if err != nil {
		return x, err
	}
	sig := ed25519.Sign(ed25519.PrivateKey(key), message) // the same each time
	if x.Mark.Fleet != s.fleet || !bytes.Contains(f.Before, []byte(hex.EncodeToString(sig))) {
		return x, api.Errorf(api.Forbidden, "before: it was not signed here for this fleet")
	}
	return x, nil
}

// shown checks a document against the statement of where its release comes from: same fleet, same commit, exactly its images, run in the way that
// the builder saw.
func (s *signing) shown(p api.TrustShown) (path string, l tuf.Listed, err error) {
	var doc api.ReleaseDocument
	if err := json.Unmarshal(p.Document, &doc); err != nil {
		return "", l, api.Errorf(api.Invalid, "document: %v", err)
	}
	if path, err = tuf.ReleasePath(doc.Commit); err != nil {
		return "", l, err
	}
	statement, _, err := provenance.Open(p.Statement, s.mine)
	if err != nil {
		return "", l, api.Errorf(api.Forbidden, "%s: %v", path, err)
	}
	build := statement.Predicate.BuildDefinition
	switch {
	case doc.Fleet != s.fleet || build.InternalParameters.FleetUUID != s.fleet:
		return "", l, api.Errorf(api.Forbidden, "%s: document and statement are of fleets %.40s and %.40s", path, doc.Fleet, build.InternalParameters.FleetUUID)
	case build.ExternalParameters.Commit != doc.Commit:
		return "", l, api.Errorf(api.Forbidden, "%s: the statement is about commit %.60s", path, build.ExternalParameters.Commit)
	case doc.Provenance != tuf.Digest(p.Statement):
		return "", l, api.Errorf(api.Forbidden, "%s: provenance: the document names another statement", path)
	}
	var said, built []string
	for name, service := range doc.Services {
		for _, i := range service.Images {
			said = append(said, name+" "+i.Platform+" "+i.Digest)
		}
	}
	for _, r := range statement.Subject {
		built = append(built, r.Annotations["service"]+" "+r.Annotations["platform"]+" "+r.Sum())
	}
	slices.Sort(said)
	slices.Sort(built)
	if !slices.Equal(said, built) {
		return "", l, api.Errorf(api.Forbidden, "%s: the document has other images than were built", path)
	}
	if err := statement.Runs(&doc); err != nil {
		return "", l, api.Errorf(api.Forbidden, "%s: %v", path, err)
	}
	return path, tuf.Listed{Length: int64(len(p.Document)), SHA256: tuf.Digest(p.Document)}, nil
}
