package trust_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/apiserver/trustdoor"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/domaintest"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/release/stored"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/trust"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// world is a database with two people who know nothing of each other, each with a fleet, and a real signer.
type world struct {
	*domaintest.People
	dir        string
	alice, bob access.Caller
	hers, his  int64 // fleets
	trust      *trust.Trust
	signer     *pki.Peer
	statements ed25519.PrivateKey
}

func newWorld(t testing.TB) *world {
	w := &world{People: domaintest.NewPeople(t, stored.Migrations(), action.Migrations(), trust.Migrations()), dir: t.TempDir()}
	w.alice, w.bob = w.Visitor("alice"), w.Visitor("bob")
	w.hers, w.his = w.FleetRow(w.alice, "harbour", fleetUUID(w.alice.User)), w.FleetRow(w.bob, "harbour", fleetUUID(w.bob.User))
	w.startSigner()
	w.trust = w.process()
	return w
}

// startSigner starts a real signer role.
func (w *world) startSigner() {
	w.Helper()
	w.Must(pki.NewTestIdentities(w.dir, api.RoleSigner, api.RoleAPI))
	dir := filepath.Join(w.dir, api.RoleSigner)
	w.Must(errors.Join(signer.NewKey(filepath.Join(dir, signer.KeyFile)), signer.NewAuditKey(filepath.Join(dir, signer.AuditKeyFile)),
		signer.NewStatementKey(filepath.Join(dir, signer.StatementKeyFile)), signer.NewTrustKey(filepath.Join(dir, signer.TrustKeyFile)),
		signer.NewChannelAuthority(filepath.Join(dir, signer.ChannelCAFile))))
	text, err := os.ReadFile(filepath.Join(dir, signer.StatementKeyFile))
	w.Must(err)
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	w.Must(err)
	w.statements = key.(ed25519.PrivateKey)
	role, err := signer.New(signer.Config{Dir: dir, Site: domaintest.Site, Peers: map[string]string{api.RoleAPI: "127.0.0.1:1"}}, (&roletest.Log{}).Logger())
	w.Must(err)
	ln := roletest.Listen(w)
	roletest.Run(w, func(ctx context.Context) error { return role.Run(ctx, ln) })
	id, err := pki.LoadIdentity(filepath.Join(w.dir, api.RoleAPI))
	w.Must(err)
	w.signer = id.Client(api.RoleSigner, ln.Addr().String())
}

// process is one more process of the api role on the same database.
func (w *world) process() *trust.Trust { return w.processWith(trustdoor.Signer(w.signer)) }

func (w *world) processWith(ask func(ctx context.Context, what string, in, out any) error) *trust.Trust {
	w.Helper()
	t, err := trust.New(trust.Config{DB: w.DB, Log: slog.New(slog.NewTextHandler(w.Output(), nil)), On: true, Ask: ask})
	w.Must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- t.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
	return t
}

func fleetUUID(user int64) string { return fmt.Sprintf("%032x", user) }

func uuidOf(n int) api.DeviceUUID { return domaintest.UUID(1000 + n) }

// device makes a device.
func (w *world) device(fleetID int64, n int) *board {
	w.Helper()
	return &board{world: w, uuid: uuidOf(n), by: w.DeviceRow(fleetID, uuidOf(n), fmt.Sprintf("device %d", n), false), uuidOfFleet: w.uuid(fleetID)}
}

func (w *world) uuid(fleetID int64) string {
	w.Helper()
	return w.Text(`SELECT uuid FROM application WHERE id = ?`, fleetID)
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func commitOf(n int) string { return fmt.Sprintf("%032x", 7_000_000+n) }

// composition is that of all releases.
const composition = `{"services":{"web":{"build":".","command":["serve"],"labels":{"a":"b"}}},"networks":{},"volumes":{"data":null}}`

// release makes a release of one service, as a build of this server ends; unproved: nobody says where it comes from.
func (w *world) release(fleetID int64, n int, unproved ...bool) (id int64) {
	w.Helper()
	ctx, commit := w.Context(), commitOf(n)
	image := digest(fmt.Sprintf("image %d of %d", n, fleetID))
	location := fmt.Sprintf("%s/v2/%032x", domaintest.Site.Host("registry2"), fleetID*1000+int64(n))
	w.Write(func(tx *db.Tx) error {
		err := tx.QueryRowContext(ctx, `INSERT INTO "release" (created_at, belongs_to__application, "commit", composition, status, source, start_timestamp, update_timestamp,
				raw_version, version, is_final, revision, semver_patch)
			VALUES (?, ?, ?, ?, 'success', 'cloud', ?, ?, '0.0.0', '{}', 1, ?, ?) RETURNING id`, tx.NowText(), fleetID, commit,
			composition, tx.NowText(), tx.NowText(), n, n).Scan(&id)
		if err != nil {
			return err
		}
		service, err := fleet.EnsureService(ctx, tx, fleetID, "web")
		if err != nil {
			return err
		}
		var img, link int64
		err = tx.QueryRowContext(ctx, `INSERT INTO image (created_at, start_timestamp, push_timestamp, is_a_build_of__service, status, content_hash, is_stored_at__image_location)
			VALUES (?, ?, ?, ?, 'success', ?, ?) RETURNING id`, tx.NowText(), tx.NowText(), tx.NowText(), service, image, location).Scan(&img)
		if err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `INSERT INTO release_image (created_at, is_part_of__release, image) VALUES (?, ?, ?) RETURNING id`, tx.NowText(), id, img).Scan(&link); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO image_label (created_at, release_image, label_name, value) VALUES (?, ?, 'io.balena.features.dbus', '1')`, tx.NowText(), link); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO registry_blob (digest, size, created_at) VALUES (?, ?, ?)`, image, 500+n, tx.NowText()); err != nil {
			return err
		}
		if len(unproved) > 0 {
			return nil
		}
		statement := w.statement(fleetID, commit, provenance.Resource{Name: location, Digest: map[string]string{"sha256": image[len("sha256:"):]},
			Annotations: map[string]string{"service": "web"}})
		_, err = tx.ExecContext(ctx, `INSERT INTO release_statement (created_at, "release", key_id, envelope) VALUES (?, ?, 'k', ?)`, tx.NowText(), id, statement)
		return err
	})
	return id
}

// statement is the signed word of where images come from.
func (w *world) statement(fleetID int64, commit string, images ...provenance.Resource) string {
	w.Helper()
	s := &provenance.Statement{Type: provenance.StatementType, PredicateType: provenance.PredicateType, Subject: images}
	from := &s.Predicate.BuildDefinition.ExternalParameters
	from.Commit = commit
	var err error
	from.Composition, err = provenance.CompositionSum([]byte(composition))
	w.Must(err)
	from.Services = map[string]provenance.ServiceParameters{"web": {Labels: provenance.Labels(map[string]string{"io.balena.features.dbus": "1"})}}
	s.Predicate.BuildDefinition.InternalParameters.FleetUUID = fleetUUID(map[int64]int64{w.hers: w.alice.User, w.his: w.bob.User}[fleetID])
	e, err := provenance.Sign(s, w.statements)
	w.Must(err)
	text, err := json.Marshal(e)
	w.Must(err)
	return string(text)
}

func (w *world) target(fleetID, release int64) {
	w.Helper()
	w.Exec(`UPDATE application SET should_be_running__release = ? WHERE id = ?`, release, fleetID)
}

// board is a device that checks what it is told, as the agent does.
type board struct {
	*world
	uuid        api.DeviceUUID
	uuidOfFleet string
	by          access.Caller
	trusted     *tuf.Trusted
	log         tlog.Checkpoint
	key         api.TrustLogKey
	counter     int64
	asked       int
}

// equip gives it a root of trust.
func (b *board) equip() {
	b.Helper()
	root, err := b.trust.Root(b.Context(), b.by, b.by.Fleet)
	b.Must(err)
	b.trusted, err = tuf.Open(root.Fleet, root.Root)
	b.Must(err)
}

// have is what it says that it has.
func (b *board) have(commit string) api.TrustHave {
	b.asked++
	return api.TrustHave{Nonce: fmt.Sprintf("%016d", b.asked), Commit: commit, Versions: b.trusted.Versions(), Log: b.log.Size, Root: b.trusted.RootDigest(), Counter: b.counter}
}

// check asks, and checks the answer for a commit. It gives what it may run.
func (b *board) check(t *trust.Trust, commit string) (*api.TrustBundle, error) {
	have := b.have(commit)
	bundle, err := t.Bundle(b.Context(), b.by, b.uuid, have)
	if err != nil {
		return nil, err
	}
	return bundle, b.believe(bundle, have, commit)
}

func (b *board) believe(bundle *api.TrustBundle, have api.TrustHave, commit string) error {
	b.trusted.SetNow(b.Now())
	for _, root := range bundle.Roots {
		if err := b.trusted.Root(root); err != nil {
			return err
		}
	}
	for _, f := range bundle.Files {
		if err := b.trusted.Take(f); err != nil {
			return err
		}
	}
	d, err := b.trusted.Director(bundle.Director, b.uuid, have.Nonce)
	if err != nil {
		return err
	}
	if commit == "" {
		return nil
	}
	l, err := b.trusted.Release(commit)
	if err != nil {
		return err
	}
	switch {
	case d.Release == nil || *d.Release != l || d.Commit != commit:
		return fmt.Errorf("the director names %+v, the bins %+v", d, l)
	case l.Counter < b.counter:
		return fmt.Errorf("counter %d is below %d", l.Counter, b.counter)
	case bundle.Document != nil && (tuf.Digest(bundle.Document) != l.SHA256 || int64(len(bundle.Document)) != l.Length):
		return errors.New("another document")
	case bundle.Document == nil && l.Counter != b.counter:
		return errors.New("no document")
	}
	policy, err := b.trusted.Policy()
	if err != nil {
		return err
	}
	if bundle.Proof == nil {
		return errors.New("no proof")
	}
	if b.key != *policy.Log { // the fleet names another log
		b.key, b.log = *policy.Log, tlog.Checkpoint{}
	}
	c, err := tlog.Check(*bundle.Proof, *policy.Log, b.log)
	if err != nil {
		return err
	}
	var e api.TrustEntry
	if err := json.Unmarshal(bundle.Proof.Entry, &e); err != nil {
		return err
	}
	if e.Kind != "release" || e.Fleet != b.uuidOfFleet || e.Name != commit || e.Version != l.Counter || e.SHA256 != l.SHA256 {
		return fmt.Errorf("the log has %+v", e)
	}
	b.log, b.counter = c, l.Counter
	return nil
}

// twin is a signer with the same keys that has signed nothing yet: what a thief of the keys has.
func (w *world) twin(forgets bool) func(ctx context.Context, what string, in, out any) error {
	w.Helper()
	dir := w.TempDir()
	own, theirs := filepath.Join(w.dir, api.RoleSigner), filepath.Join(dir, api.RoleSigner)
	w.Must(os.Mkdir(theirs, 0o700))
	files, err := os.ReadDir(own)
	w.Must(err)
	for _, f := range files {
		if f.Name() == "trust-log.json" || f.Name() == "trust-log.leaves" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(own, f.Name()))
		w.Must(err)
		w.Must(os.WriteFile(filepath.Join(theirs, f.Name()), data, 0o600))
	}
	if !forgets { // the same log, from its beginning
		name, err := json.Marshal(map[string]string{"origin": w.logKey().Origin})
		w.Must(err)
		w.Must(os.WriteFile(filepath.Join(theirs, signer.TrustLogFile), name, 0o600))
	}
	role, err := signer.New(signer.Config{Dir: theirs, Site: domaintest.Site, Peers: map[string]string{api.RoleAPI: "127.0.0.1:1"}}, (&roletest.Log{}).Logger())
	w.Must(err)
	ln := roletest.Listen(w)
	roletest.Run(w, func(ctx context.Context) error { return role.Run(ctx, ln) })
	id, err := pki.LoadIdentity(filepath.Join(w.dir, api.RoleAPI))
	w.Must(err)
	return trustdoor.Signer(id.Client(api.RoleSigner, ln.Addr().String()))
}
