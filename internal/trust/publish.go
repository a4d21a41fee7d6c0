package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/trust/logbook"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// want is what a fleet's metadata should have.
type want struct {
	release int64                     // that the builder should list; 0: none
	above   int64                     // a counter that the listing should be higher than
	newer   int64                     // a version than which everything that the signer signs should be newer: a device has it, and this database is an older copy
	files   []api.TrustFile           // that were uploaded, verified
	log     api.TrustLogKey           // that the policy of a fleet which the server holds should name
	owned   bool                      // the signer knows already that the fleet is its owner's
	targets func(t *tuf.Targets) bool // changes the policy of a fleet that the server holds; false: it is as it should be
}

const publishTries = 20

// errAgain says that somebody else has published meanwhile.
var errAgain = errors.New("somebody else has published meanwhile")

// bring publishes what is missing or stale in a fleet's metadata. It does nothing when nothing is. Whoever is interrupted on any line leaves
// what was published before, and the next one does it.
func (t *Trust) bring(ctx context.Context, fleet int64, w want) error {
	var floor api.TrustFleetKeys // what the signer remembers, where that is more than the database does
	var err error
	for range publishTries {
		p := &publication{Trust: t, want: w, floor: floor}
		if err = p.do(ctx, fleet); err == nil {
			return nil
		}
		switch {
		case errors.Is(err, errAgain):
		case errors.Is(err, api.ErrConflict) && p.asked: // the signer has signed newer ones, which were not stored, or not yet
			if err := t.ask(ctx, "keys", api.TrustKeysAsk{Fleet: p.fleet.uuid}, &floor); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return fmt.Errorf("publish metadata: %w", err)
}

// publication is one attempt.
type publication struct {
	*Trust
	want
	floor api.TrustFleetKeys

	now   time.Time
	fleet fleetRow
	files map[string]*storedFile
	doc   *document
	asked bool // the signer was

	counted bool // the document was given a counter without being listed

	version, counter int64
	sign             []api.TrustSign // to be signed, in order
	signed           []api.TrustFile // to be published
	entries          []api.TrustEntry
	keys             *api.TrustFleetKeys
}

func (p *publication) do(ctx context.Context, fleet int64) error {
	if err := p.read(ctx, fleet); err != nil {
		return err
	}
	if err := p.prepare(ctx); err != nil {
		return err
	}
	if len(p.sign) == 0 && len(p.signed) == 0 && len(p.entries) == 0 && !p.counted {
		return nil
	}
	if len(p.sign) > 0 {
		var out api.TrustSignedFiles
		p.asked = true
		if err := p.ask(ctx, "sign", api.TrustSignAsk{Fleet: p.fleet.uuid, Files: p.sign}, &out); err != nil {
			return fmt.Errorf("sign metadata of fleet %s: %w", p.fleet.slug, err)
		}
		if len(out.Files) != len(p.sign) {
			return errors.New("sign metadata: the signer has answered about others")
		}
		for i, data := range out.Files {
			if p.sign[i].Role == api.TrustRoot && !p.fleet.known && p.fleet.heldBy == "" && len(p.want.files) > 0 {
				data = p.sign[i].Data // a first root of the owner's needs no other's signature
			}
			p.signed = append(p.signed, api.TrustFile{Role: p.sign[i].Role, Data: data})
		}
	}
	if len(p.want.files) > 0 {
		if err := p.verify(); err != nil {
			return err
		}
	}
	return p.publish(ctx)
}

// verify reads all that is uploaded, and what was signed for it, as a client would from the root that was there before.
func (p *publication) verify() error {
	files := map[string][]byte{}
	var roots [][]byte
	for role, f := range p.files {
		files[role] = f.data
	}
	if root := files[api.TrustRoot]; root != nil {
		roots = append(roots, root)
	}
	for _, f := range p.want.files {
		if f.Role != api.TrustRoot {
			files[f.Role] = f.Data
		}
	}
	for _, want := range p.want.files { // in their order, as they were signed
		if want.Role == api.TrustRoot {
			roots = append(roots, p.asSigned(want.Data))
		}
	}
	for _, f := range p.signed {
		if f.Role == api.TrustSnapshot || f.Role == api.TrustTimestamp {
			files[f.Role] = f.Data
		}
	}
	c, err := tuf.Open(p.fleet.uuid, roots[0])
	if err != nil {
		return wrong(err)
	}
	c.SetNow(p.now)
	for _, root := range roots[1:] {
		if err := c.Root(root); err != nil {
			return wrong(err)
		}
	}
	take := []string{api.TrustTimestamp, api.TrustSnapshot, api.TrustTargets, api.TrustOwner}
	for _, f := range p.want.files {
		if strings.Contains(f.Role, "-") {
			take = append(take, f.Role)
		}
	}
	for _, role := range take {
		if files[role] == nil {
			continue
		}
		if err := c.Take(api.TrustFile{Role: role, Data: files[role]}); err != nil {
			return wrong(err)
		}
	}
	return nil
}

// asSigned gives a root as it will be published: with the signer's signature, if that was needed.
func (p *publication) asSigned(root []byte) []byte {
	want, err := versionOf(api.TrustFile{Role: api.TrustRoot, Data: root})
	for _, f := range p.signed {
		if f.Role != api.TrustRoot || err != nil {
			continue
		}
		if v, err := versionOf(f); err == nil && v == want {
			return f.Data
		}
	}
	return root
}

// wrong is the error about files that a client would refuse.
func wrong(err error) error {
	if _, ok := tuf.Rejection(err); ok {
		return api.Errorf(api.Invalid, "files: a device would refuse them: %v", err)
	}
	return err
}

// read reads what there is.
func (p *publication) read(ctx context.Context, fleet int64) error {
	return p.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		p.now = tx.Now.UTC().Truncate(time.Second)
		if p.fleet, err = readEvenGone(ctx, tx, fleet); err != nil {
			return err
		}
		if p.files, err = readFiles(ctx, tx, fleet, ``); err != nil {
			return err
		}
		p.version, p.counter = max(p.fleet.version, p.floor.Version, p.newer), max(p.fleet.counter, p.floor.Counter)
		if p.release == 0 {
			return nil
		}
		if p.doc, err = findDocument(ctx, tx, p.fleet, p.release); err != nil {
			return err
		}
		return nil
	})
}

// ownersWord enters what an owner lists into the log.
func (p *publication) ownersWord(f api.TrustFile) error {
	if !strings.Contains(f.Role, "-") {
		return nil
	}
	x, err := tuf.ReadBin(f.Role, f.Data)
	if err != nil {
		return err
	}
	before := map[string]tuf.Listed{}
	if old := p.files[f.Role]; old != nil {
		was, err := tuf.ReadBin(f.Role, old.data)
		if err != nil {
			return err
		}
		before = was.Listed
	}
	for path, l := range x.Listed {
		if before[path] != l {
			p.entries = append(p.entries, api.TrustEntry{Kind: "release", Fleet: p.fleet.uuid, Name: commitIn(path), Version: l.Counter, SHA256: l.SHA256, By: api.TrustOwner})
		}
	}
	return nil
}

// commitIn is the commit in a target's path.
func commitIn(path string) string {
	return strings.TrimSuffix(strings.TrimPrefix(path, "releases/"), ".json")
}

// next is a version for one more file: the seconds since 1970, or more.
func (p *publication) next() int64 {
	p.version = max(p.version+1, p.now.Unix())
	return p.version
}

func (p *publication) mark() api.TrustMark {
	return api.TrustMark{Fleet: p.fleet.uuid, SignedAt: p.now}
}

// prepare finds out what is to be signed.
func (p *publication) prepare(ctx context.Context) error {
	for _, f := range p.want.files {
		version, err := versionOf(f)
		if err != nil {
			return err
		}
		if old := p.files[f.Role]; old != nil && version <= old.version {
			return api.Errorf(api.Conflict, "version %d of %s is not newer than %d, which is published", version, f.Role, old.version)
		}
		if err := p.ownersWord(f); err != nil {
			return err
		}
	}
	changed := map[string]tuf.Meta{} // what the snapshot has to say anew
	if err := p.policies(ctx, changed); err != nil {
		return err
	}
	if err := p.builder(ctx, changed); err != nil {
		return err
	}
	if p.doc != nil && p.doc.counter == 0 { // nobody lists it yet: its owner will, by this counter
		p.counter = max(p.counter+1, p.now.Unix())
		p.doc.counter, p.counted = p.counter, true
	}
	for _, f := range p.want.files {
		if f.Role == api.TrustRoot || f.Role == api.TrustTargets {
			continue
		}
		v, err := versionOf(f)
		if err != nil {
			return err
		}
		changed[f.Role] = tuf.Meta{Version: v}
	}
	return p.current(changed)
}

// policies makes root and targets of a fleet that the server holds.
func (p *publication) policies(ctx context.Context, changed map[string]tuf.Meta) error {
	uploaded := map[string][]byte{}
	for _, f := range p.want.files {
		if f.Role == api.TrustRoot || f.Role == api.TrustTargets {
			if uploaded[f.Role] = f.Data; f.Role == api.TrustTargets {
				v, err := versionOf(f)
				if err != nil {
					return err
				}
				changed[f.Role] = tuf.Meta{Version: v}
			}
		}
	}
	over := p.fleet.heldBy != api.HeldByOwner && (p.fleet.known || !p.owned)
	for _, f := range p.want.files {
		if f.Role == api.TrustRoot && over { // the signer learns that the fleet is its owner's, and signs over to it
			over = false
			p.sign = append(p.sign, api.TrustSign{Role: f.Role, Data: f.Data})
			continue
		}
		p.signed = append(p.signed, f)
	}
	if len(uploaded) > 0 || p.fleet.heldBy == api.HeldByOwner {
		return nil
	}
	root, targets := p.files[api.TrustRoot], p.files[api.TrustTargets]
	if root.stale(p.now, lifeOfRoot) {
		if err := p.makeRoot(ctx, root); err != nil {
			return err
		}
	}
	policy := tuf.Targets{}
	if targets != nil {
		var err error
		if policy, err = tuf.ReadTargets(targets.data); err != nil {
			return err
		}
	}
	changes := p.targets != nil && p.targets(&policy)
	changes = changes || p.log.Key != "" && policy.Mark.Log != nil && *policy.Mark.Log != p.log
	if !changes && p.newer == 0 && !targets.stale(p.now, lifeOfRoot) {
		return nil
	}
	return p.makeTargets(ctx, policy, changed)
}

// ownKeys are the server's keys of the fleet.
func (p *publication) ownKeys(ctx context.Context) (*api.TrustFleetKeys, error) {
	if p.keys == nil {
		p.keys = &api.TrustFleetKeys{}
		if err := p.ask(ctx, "keys", api.TrustKeysAsk{Fleet: p.fleet.uuid}, p.keys); err != nil {
			return nil, err
		}
		if p.keys.Owned {
			return nil, api.Errorf(api.Unavailable, "The fleet's owner holds its root, and this database does not have it: upload it again.")
		}
	}
	return p.keys, nil
}

func parseKeys(raw ...json.RawMessage) ([]*metadata.Key, error) {
	keys := make([]*metadata.Key, len(raw))
	for i, text := range raw {
		keys[i] = &metadata.Key{}
		if err := json.Unmarshal(text, keys[i]); err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
	}
	return keys, nil
}

func (p *publication) makeRoot(ctx context.Context, old *storedFile) error {
	own, err := p.ownKeys(ctx)
	if err != nil {
		return err
	}
	keys, err := parseKeys(own.Root, own.Targets, own.Snapshot, own.Timestamp)
	if err != nil {
		return err
	}
	x := tuf.Root{Version: own.RootVersion + 1, Expires: p.now.Add(lifeOfRoot), Mark: p.mark(), Keys: map[string][]*metadata.Key{}, Threshold: map[string]int{}}
	if old != nil {
		x.Version = max(x.Version, old.version+1)
	}
	x.Mark.HeldBy = api.HeldByServer
	for i, role := range []string{api.TrustRoot, api.TrustTargets, api.TrustSnapshot, api.TrustTimestamp} {
		x.Keys[role], x.Threshold[role] = keys[i:i+1], 1
	}
	data, err := x.Make()
	if err != nil {
		return err
	}
	p.sign = append(p.sign, api.TrustSign{Role: api.TrustRoot, Data: data})
	return nil
}

func (p *publication) makeTargets(ctx context.Context, x tuf.Targets, changed map[string]tuf.Meta) error {
	own, err := p.ownKeys(ctx)
	if err != nil {
		return err
	}
	keys, err := parseKeys(own.Builder, own.Director)
	if err != nil {
		return err
	}
	leaves, shell := x.Mark.Transfers, x.Mark.Shell
	if shell == "" {
		shell = "allowed"
	}
	x.Version = max(x.Version+1, own.TargetsVersion+1, p.now.Unix())
	x.Expires, x.Mark, x.Builder, x.Director = p.now.Add(lifeOfRoot), p.mark(), keys[0], keys[1]
	x.Mark.Approval, x.Mark.Shell, x.Mark.Log, x.Mark.Transfers = api.ApprovalBuilder, shell, &own.Log, leaves
	data, err := x.Make()
	if err != nil {
		return err
	}
	changed[api.TrustTargets] = tuf.Meta{Version: x.Version}
	p.sign = append(p.sign, api.TrustSign{Role: api.TrustTargets, Data: data})
	return nil
}

// builder makes the bins of the builder's that are missing something, or stale, and the file that delegates to them.
func (p *publication) builder(ctx context.Context, changed map[string]tuf.Meta) error {
	var bins []string
	if p.newer > 0 { // which of them devices know of is not known: all are there then
		for i := range 1 << api.TrustBinBits {
			bins = append(bins, fmt.Sprintf("%s-%02x", api.TrustBuilder, i))
		}
	}
	if p.doc != nil && p.doc.proof != "" && p.wordOfBuilder() {
		path, err := tuf.ReleasePath(p.doc.commit)
		if err != nil {
			return api.Errorf(api.Conflict, "release %s: %v", p.doc.commit, err)
		}
		bins = append(bins, tuf.BinRole(api.TrustBuilder, path))
	}
	slices.Sort(bins)
	made := false
	for _, bin := range slices.Compact(bins) {
		ok, err := p.makeBin(bin, changed)
		if err != nil {
			return err
		}
		made = made || ok
	}
	old := p.files[api.TrustBuilder]
	if p.newer == 0 && !old.stale(p.now, lifeOfBin) || old == nil && !made {
		return nil
	}
	own := &api.TrustFleetKeys{}
	if err := p.ask(ctx, "keys", api.TrustKeysAsk{Fleet: p.fleet.uuid}, own); err != nil {
		return err
	}
	keys, err := parseKeys(own.Builder)
	if err != nil {
		return err
	}
	x := tuf.Delegator{By: api.TrustBuilder, Version: p.next(), Expires: p.now.Add(lifeOfBin), Mark: p.mark(), Keys: keys, Threshold: 1}
	data, err := x.Make()
	if err != nil {
		return err
	}
	changed[api.TrustBuilder] = tuf.Meta{Version: x.Version}
	p.sign = append(p.sign, api.TrustSign{Role: api.TrustBuilder, Data: data})
	return nil
}

// wordOfBuilder says whether the builder's word counts in the fleet.
func (p *publication) wordOfBuilder() bool { return p.fleet.approval != api.ApprovalOwner }

// makeBin makes one bin, if it lacks something or is stale.
func (p *publication) makeBin(role string, changed map[string]tuf.Meta) (made bool, err error) {
	old := p.files[role]
	x := tuf.Bin{Role: role, Listed: map[string]tuf.Listed{}}
	ask := api.TrustSign{Role: role}
	if old != nil {
		if x, err = tuf.ReadBin(role, old.data); err != nil {
			return false, err
		}
		ask.Before = old.data
	}
	adds, first, err := p.list(role, x.Listed)
	if err != nil {
		return false, err
	}
	if !adds && p.newer == 0 && (old == nil || !old.stale(p.now, lifeOfBin)) {
		return false, nil
	}
	if first {
		ask.Proofs = []api.TrustShown{{Document: p.doc.data, Statement: []byte(p.doc.proof)}}
	}
	x.Version, x.Expires, x.Mark = p.next(), p.now.Add(lifeOfBin), p.mark()
	if ask.Data, err = x.Make(); err != nil {
		return false, err
	}
	changed[role] = tuf.Meta{Version: x.Version}
	p.sign = append(p.sign, ask)
	return true, nil
}

// list lists the document in its bin, with a new counter where it needs one; first: for the first time.
func (p *publication) list(role string, listed map[string]tuf.Listed) (adds, first bool, err error) {
	if p.doc == nil || p.doc.proof == "" {
		return false, false, nil
	}
	path, err := tuf.ReleasePath(p.doc.commit)
	if err != nil || tuf.BinRole(api.TrustBuilder, path) != role {
		return false, false, err
	}
	now := listed[path]
	if now == p.doc.listed() && now.Counter > p.above {
		return false, false, nil
	}
	if p.doc.counter <= now.Counter || p.doc.counter == 0 || p.doc.counter <= p.above || p.fleet.approval == api.ApprovalBuilder {
		p.counter = max(p.counter+1, p.above+1, p.now.Unix())
		p.doc.counter = p.counter
	} // otherwise its owner has listed it with that one
	p.counter = max(p.counter, p.doc.counter)
	listed[path] = p.doc.listed()
	p.entries = append(p.entries, p.doc.entry(p.fleet.uuid, api.TrustBuilder, p.doc.counter))
	return true, now.SHA256 != p.doc.sha256, nil
}

// current makes snapshot and timestamp where they are stale, or something has changed.
func (p *publication) current(changed map[string]tuf.Meta) error {
	snapshot, timestamp := p.files[api.TrustSnapshot], p.files[api.TrustTimestamp]
	if len(changed) == 0 && len(p.sign) == 0 && len(p.signed) == 0 && p.newer == 0 && !snapshot.stale(p.now, lifeOfOnline) && !timestamp.stale(p.now, lifeOfOnline) {
		return nil
	}
	x := tuf.Snapshot{Version: p.next(), Expires: p.now.Add(lifeOfOnline), Mark: p.mark(), Files: map[string]tuf.Meta{}}
	for role, f := range p.files {
		switch role {
		case api.TrustRoot, api.TrustSnapshot, api.TrustTimestamp:
		default:
			x.Files[role] = tuf.Meta{Version: f.version}
		}
	}
	for role, m := range changed {
		x.Files[role] = m
	}
	data, err := x.Make()
	if err != nil {
		return err
	}
	p.sign = append(p.sign, api.TrustSign{Role: api.TrustSnapshot, Data: data})
	y := tuf.Timestamp{Version: p.next(), Expires: p.now.Add(lifeOfOnline), Mark: p.mark(), Snapshot: tuf.Meta{Version: x.Version}}
	if data, err = y.Make(); err != nil {
		return err
	}
	p.sign = append(p.sign, api.TrustSign{Role: api.TrustTimestamp, Data: data})
	return nil
}

// publish stores what was signed, unless somebody else has published since this began.
func (p *publication) publish(ctx context.Context) error {
	more := false
	err := p.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		row, err := p.policy()
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `UPDATE trust_fleet SET changes = changes + 1, version = ?, counter = CASE WHEN counter > ? THEN counter ELSE ? END, held_by = ?, approval = ?, shell = ?
			WHERE application = ? AND changes = ?`, p.version, p.counter, p.counter, row.heldBy, string(row.approval), row.shell, p.fleet.id, p.fleet.changes)
		if err == nil && !p.fleet.known {
			res, err = tx.ExecContext(ctx, `INSERT INTO trust_fleet (application, created_at, changes, version, counter, held_by, approval, shell)
				SELECT f.id, CAST(? AS TEXT), 1, CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT) FROM application f WHERE f.id = ?
				ON CONFLICT (application) DO NOTHING`, tx.NowText(), p.version, p.counter, row.heldBy, string(row.approval), row.shell, p.fleet.id)
		}
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(errAgain, err)
		}
		entries := slices.Clone(p.entries)
		for _, f := range p.signed {
			entry, err := p.store(ctx, tx, f)
			if err != nil {
				return err
			}
			if entry != nil {
				entries = append(entries, *entry)
			}
		}
		for _, f := range p.want.files {
			version, err := versionOf(f)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM trust_pending WHERE application = ? AND role = ? AND version <= ?`, p.fleet.id, f.Role, version); err != nil {
				return fmt.Errorf("publish: %w", err)
			}
		}
		if err := p.storeDocument(ctx, tx); err != nil {
			return err
		}
		more = len(entries) > 0
		return logbook.Append(ctx, tx, entries)
	})
	if err != nil || !more {
		return err
	}
	return p.Book.Extend(ctx)
}

// policy is what the newest root and targets say.
func (p *publication) policy() (fleetRow, error) {
	row := p.fleet
	for _, f := range p.signed {
		switch f.Role {
		case api.TrustRoot:
			x, err := tuf.ReadRoot(f.Data)
			if err != nil {
				return row, err
			}
			row.heldBy = x.Mark.HeldBy
		case api.TrustTargets:
			x, err := tuf.ReadTargets(f.Data)
			if err != nil {
				return row, err
			}
			row.approval, row.shell = x.Mark.Approval, x.Mark.Shell
		}
	}
	return row, nil
}

// store stores one file, and takes older versions away that nobody asks for any more. It gives the file's entry in the log, if it has one.
func (p *publication) store(ctx context.Context, tx *db.Tx, f api.TrustFile) (*api.TrustEntry, error) {
	version, expires, err := lifeOf(f)
	if err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO trust_file (created_at, application, role, version, expires_at, data) VALUES (?, ?, ?, ?, ?, ?)`,
		tx.NowText(), p.fleet.id, f.Role, version, db.FormatTime(expires), string(f.Data))
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", f.Role, err)
	}
	kind := ""
	switch f.Role {
	case api.TrustRoot, api.TrustTargets, api.TrustOwner:
		kind = f.Role
	}
	if f.Role != api.TrustRoot {
		if old := p.files[f.Role]; old != nil { // the one before stays, for those who are just reading it
			if _, err := tx.ExecContext(ctx, `DELETE FROM trust_file WHERE application = ? AND role = ? AND version < ?`, p.fleet.id, f.Role, old.version); err != nil {
				return nil, fmt.Errorf("publish %s: %w", f.Role, err)
			}
		}
	}
	if kind == "" {
		return nil, nil //nolint:nilnil // it has none
	}
	return &api.TrustEntry{Kind: kind, Fleet: p.fleet.uuid, Name: f.Role, Version: version, SHA256: tuf.Digest(f.Data)}, nil
}

func (p *publication) storeDocument(ctx context.Context, tx *db.Tx) error {
	if p.doc == nil {
		return nil
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO trust_document ("release", created_at, application, "commit", counter, sha256, data) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT ("release") DO UPDATE SET counter = excluded.counter WHERE trust_document.counter < excluded.counter`,
		p.doc.release, tx.NowText(), p.fleet.id, p.doc.commit, p.doc.counter, p.doc.sha256, string(p.doc.data))
	if err != nil {
		return fmt.Errorf("publish %s: %w", p.doc.commit, err)
	}
	return nil
}

// lifeOf reads version and end of a file.
func lifeOf(f api.TrustFile) (version int64, expires time.Time, err error) {
	switch f.Role {
	case api.TrustRoot:
		x, err := tuf.ReadRoot(f.Data)
		return x.Version, x.Expires, err
	case api.TrustTargets:
		x, err := tuf.ReadTargets(f.Data)
		return x.Version, x.Expires, err
	case api.TrustSnapshot:
		x, err := tuf.ReadSnapshot(f.Data)
		return x.Version, x.Expires, err
	case api.TrustTimestamp:
		x, err := tuf.ReadTimestamp(f.Data)
		return x.Version, x.Expires, err
	case api.TrustBuilder, api.TrustOwner:
		x, err := tuf.ReadDelegator(f.Role, f.Data)
		return x.Version, x.Expires, err
	}
	x, err := tuf.ReadBin(f.Role, f.Data)
	return x.Version, x.Expires, err
}

func versionOf(f api.TrustFile) (int64, error) {
	v, _, err := lifeOf(f)
	return v, err
}
