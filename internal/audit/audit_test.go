package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/ledger"
)

const site = "roadstead.test"

// world is a database with an audit log, and what signs it.
type world struct {
	*testing.T
	db  *db.DB
	key ed25519.PrivateKey

	mu   sync.Mutex // covers the rest
	now  time.Time
	last api.AuditAnchor
	down bool
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, now: time.Now().UTC()}
	w.db = dbtest.Open(t, w.clock, audit.Migrations())
	var err error
	if _, w.key, err = ed25519.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// sign signs as the signer does; its own tests say what it refuses.
func (w *world) sign(_ context.Context, ext api.AuditExtension) (api.AuditSigned, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return api.AuditSigned{}, errors.New("the signer does not answer")
	}
	hash, err := ledger.ParseHash(ext.After.Hash)
	if err != nil || w.last.Seq != 0 && ext.After != w.last {
		return api.AuditSigned{}, errors.Join(err, errors.New("no continuation"))
	}
	seq := ext.After.Seq
	for _, text := range ext.Digests {
		digest, err := ledger.ParseHash(text)
		if err != nil {
			return api.AuditSigned{}, err
		}
		seq++
		hash = ledger.Next(hash, seq, digest)
	}
	w.last = api.AuditAnchor{Seq: seq, Hash: hash.String()}
	c := api.AuditCheckpoint{Site: site, Seq: seq, Hash: hash.String(), At: db.FormatTime(w.now)}
	ledger.Sign(&c, w.key)
	return api.AuditSigned{Checkpoint: c, Key: ledger.Key(w.key.Public().(ed25519.PublicKey))}, nil
}

func (w *world) log(keep time.Duration) *audit.Log {
	return audit.New(audit.Config{DB: w.db, Sign: w.sign, Site: site, Keep: keep})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) act(names ...string) {
	w.Helper()
	w.must(w.db.Write(w.Context(), func(tx *db.Tx) error {
		for _, name := range names {
			by := access.Caller{Kind: access.User, User: 7, Name: "ann", Address: "192.0.2.1", Request: "r1"}
			if err := audit.Record(w.Context(), tx, by, audit.Entry{Act: "device.delete", Kind: "device", ID: 1, Name: name, Organization: 3,
				Detail: map[string]any{"why": "<because>"}}); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (w *world) exec(query string, args ...any) error {
	return w.db.Write(w.Context(), func(tx *db.Tx) error {
		_, err := tx.ExecContext(w.Context(), query, args...)
		return err
	})
}

func (w *world) verify(view audit.View, keys ...api.AuditKey) *ledger.Report {
	w.Helper()
	var out bytes.Buffer
	w.must(audit.Export(w.Context(), w.db, &out, site, 0, view))
	r, err := ledger.Verify(&out, keys)
	w.must(err)
	return r
}

func TestEntriesAreSealedAndSigned(t *testing.T) {
	w := newWorld(t)
	l := w.log(0)
	var names []string
	for i := range 600 { // more than are sealed at once
		names = append(names, fmt.Sprint("d", i))
	}
	w.act(names...)
	if r := w.verify(nil); r.Last != 0 || !r.Whole() {
		t.Fatalf("before it is sealed: %+v", r)
	}
	w.must(l.SealOnce(t.Context()))
	w.must(l.CheckpointOnce(t.Context()))
	w.act("one more")
	w.must(l.SealOnce(t.Context()))
	r := w.verify(nil, ledger.Key(w.key.Public().(ed25519.PublicKey)))
	if !r.Whole() || r.First != 1 || r.Last != 601 || r.Signed != 600 || r.Checkpoints != 1 {
		t.Errorf("%+v", r)
	}
	// Nothing new, nothing signed.
	w.must(l.CheckpointOnce(t.Context()))
	w.must(l.CheckpointOnce(t.Context()))
	if r := w.verify(nil); r.Checkpoints != 2 || r.Signed != 601 {
		t.Errorf("%+v", r)
	}
}

// A reader who may not see an entry gets its link: the chain is verified all the same, and nothing can be read or guessed.
func TestWhatOthersDidIsALink(t *testing.T) {
	w := newWorld(t)
	l := w.log(0)
	w.act("mine", "SECRET", "mine", "SECRET")
	w.must(l.SealOnce(t.Context()))
	w.must(l.CheckpointOnce(t.Context()))
	view := func(*db.Tx) (string, []any) { return "x.thing_name = ?", []any{"mine"} }
	if r := w.verify(view); !r.Whole() || r.Entries != 2 || r.Links != 2 || r.Signed != 4 {
		t.Errorf("%+v", r)
	}
	var out bytes.Buffer
	w.must(audit.Export(t.Context(), w.db, &out, site, 0, view))
	var digests []string
	for text := range strings.Lines(out.String()) {
		if strings.Contains(text, "SECRET") {
			t.Errorf("a line says what its reader may not see: %s", text)
		}
		var line api.AuditLine
		w.must(json.Unmarshal([]byte(text), &line))
		if line.Link != nil {
			digests = append(digests, line.Link.Digest)
		}
	}
	if len(digests) != 2 || digests[0] == digests[1] {
		t.Errorf("two entries that say the same have the digests %v: they could be guessed", digests)
	}
	// A part of it is verified from its own beginning.
	out.Reset()
	w.must(audit.Export(t.Context(), w.db, &out, site, 2, nil))
	if r, err := ledger.Verify(&out, nil); err != nil || !r.Whole() || r.First != 3 || r.Signed != 4 {
		t.Errorf("%+v %v", r, err)
	}
	if err := audit.Export(t.Context(), w.db, &out, site, 5, nil); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("after the end: %v", err)
	}
}

// Many processes seal at once: each entry is sealed once, and the chain holds.
func TestManySealAtOnce(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for i := range 8 {
		l := w.log(0)
		all.Go(func() {
			for n := range 20 {
				err := w.db.Write(t.Context(), func(tx *db.Tx) error {
					return audit.Record(t.Context(), tx, access.Itself(), audit.Entry{Act: "a.b", Kind: "x", Name: fmt.Sprint(i, "-", n)})
				})
				if err == nil {
					err = l.SealOnce(t.Context())
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	w.must(w.log(0).SealOnce(t.Context()))
	if r := w.verify(nil); !r.Whole() || r.Last != 160 || r.Entries != 160 {
		t.Errorf("%+v", r)
	}
}

// A process that dies between the commit of an act and its sealing loses nothing: the next one seals it.
func TestWhatIsCommittedIsSealedByTheNextProcess(t *testing.T) {
	w := newWorld(t)
	w.act("one")
	w.must(w.log(0).SealOnce(t.Context()))
	w.act("two", "three") // and the process is gone
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	l := w.log(0)
	go func() { done <- l.Run(ctx) }()
	deadline := time.Now().Add(5 * time.Second)
	for w.verify(nil).Last != 3 {
		if time.Now().After(deadline) {
			t.Fatal("the entries are not sealed")
		}
	}
	w.must(l.Checkpoint(ctx))
	w.act("four") // and at the end of this one
	cancel()
	w.must(<-done)
	if r := w.verify(nil); !r.Whole() || r.Last != 4 || r.Signed < 3 {
		t.Errorf("%+v", r)
	}
}

// The database itself keeps the log from being changed. Whoever owns it can drop the triggers; then the verification tells.
func TestTheDatabaseKeepsTheLog(t *testing.T) {
	w := newWorld(t)
	l := w.log(0)
	w.act("one", "two", "three")
	w.must(l.SealOnce(t.Context()))
	w.must(l.CheckpointOnce(t.Context()))
	w.act("four")
	for name, query := range map[string]string{
		"change":                  `UPDATE audit_entry SET thing_name = 'x' WHERE seq = 2`,
		"change what is unsealed": `UPDATE audit_entry SET thing_name = 'x' WHERE seq IS NULL`,
		"seal and change":         `UPDATE audit_entry SET seq = 9, thing_name = 'x' WHERE seq IS NULL`,
		"seal again":              `UPDATE audit_entry SET hash = 'x' WHERE seq = 1`,
		"unseal":                  `UPDATE audit_entry SET seq = NULL WHERE seq = 3`,
		"delete":                  `DELETE FROM audit_entry WHERE seq = 3`,
		"delete what is unsealed": `DELETE FROM audit_entry WHERE seq IS NULL`,
		"delete all":              `DELETE FROM audit_entry`,
		"shorten":                 `UPDATE audit_chain SET seq = 2`,
		"begin later than signed": `UPDATE audit_chain SET first_seq = 4`,
		"forget the chain":        `DELETE FROM audit_chain`,
		"forget a checkpoint":     `DELETE FROM audit_checkpoint`,
		"change a checkpoint":     `UPDATE audit_checkpoint SET hash = 'x'`,
	} {
		if err := w.exec(query); err == nil {
			t.Errorf("%s: %s went through", name, query)
		}
	}
	w.act("five")
	const entry = `INTO audit_entry (id, created_at, act, result, thing, thing_id, thing_name, organization, application, about_user, is_support, by_kind,
		by_user, by_key, by_session, by_name, address, request, seq, salt, hash) SELECT %s, created_at, act, result, thing, thing_id, 'x', organization,
		application, about_user, is_support, by_kind, by_user, by_key, by_session, by_name, address, request, %s, salt, hash FROM audit_entry WHERE seq = 2`
	attacks := map[string]string{
		"come with a place": `INSERT ` + fmt.Sprintf(entry, "99", "5"), // the one that the next entry should get
		"come before all":   `UPDATE audit_entry SET seq = 0, salt = 'x', hash = 'x' WHERE seq IS NULL`,
		"a second chain":    `INSERT INTO audit_chain (id, seq, hash, first_seq, first_hash) VALUES (1, 9, 'x', 9, 'x')`,
	}
	if w.db.Dialect() == db.SQLite {
		attacks["replace an entry"] = `REPLACE ` + fmt.Sprintf(entry, "id", "seq")
		attacks["replace the chain"] = `REPLACE INTO audit_chain (id, seq, hash, first_seq, first_hash) VALUES (1, 0, 'x', 0, 'x')`
		attacks["seal over another"] = `UPDATE OR REPLACE audit_entry SET seq = 2, salt = 'x', hash = 'x' WHERE seq IS NULL`
	} else {
		for _, table := range []string{"audit_entry", "audit_chain", "audit_checkpoint", "audit_signer"} {
			attacks["empty "+table] = `TRUNCATE ` + table
		}
	}
	for name, query := range attacks {
		if err := w.exec(query); err == nil {
			t.Errorf("%s: %s went through", name, query)
		}
	}
	if w.db.Dialect() == db.SQLite {
		w.must(w.exec(`REPLACE INTO audit_checkpoint (seq, site, hash, signed_at, signed_by, signature) VALUES (3, 'x', 'x', 'x', 'x', 'x')`)) // in vain
	}
	w.must(l.SealOnce(t.Context()))
	if r := w.verify(nil); !r.Whole() || r.Last != 5 || r.Signed != 3 {
		t.Errorf("%+v", r)
	}
}

// untie drops the triggers, as the owner of the database can.
func (w *world) untie() {
	w.Helper()
	for name, table := range map[string]string{
		"audit_entry_update": "audit_entry", "audit_entry_delete": "audit_entry", "audit_entry_place": "audit_entry", "audit_chain_update": "audit_chain",
		"audit_checkpoint_update": "audit_checkpoint", "audit_checkpoint_delete": "audit_checkpoint",
	} {
		query := `DROP TRIGGER ` + name
		if w.db.Dialect() == db.Postgres {
			query += ` ON ` + table
		}
		w.must(w.exec(query))
	}
}

func TestAttacksOnTheDatabaseAreNamed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		attack []string
		want   string
	}{
		{"one byte", []string{`UPDATE audit_entry SET by_name = 'eve' WHERE seq = 17`}, "entry 17: it is not what was sealed"},
		{"the address", []string{`UPDATE audit_entry SET address = '' WHERE seq = 3`}, "entry 3: it is not what was sealed"},
		{"the detail", []string{`UPDATE audit_entry SET detail = NULL WHERE seq = 4`}, "entry 4: it is not what was sealed"},
		{"a row is gone", []string{`DELETE FROM audit_entry WHERE seq = 17`}, "entry 17 is missing"},
		{"two are swapped", []string{
			`UPDATE audit_entry SET seq = 99 WHERE seq = 8`, `UPDATE audit_entry SET seq = 8 WHERE seq = 9`, `UPDATE audit_entry SET seq = 9 WHERE seq = 99`,
		}, "entry 8: it is not what was sealed"},
		{"the tail is gone", []string{`DELETE FROM audit_entry WHERE seq > 15`}, "entries 16 to 20 are missing"},
		{"the tail is gone, and the chain shortened", []string{
			`DELETE FROM audit_entry WHERE seq > 15`, `UPDATE audit_chain SET seq = 15, hash = (SELECT hash FROM audit_entry WHERE seq = 15)`,
		}, "entries 16 to 20 are missing: a checkpoint"},
		{"a checkpoint is forged", []string{`UPDATE audit_checkpoint SET hash = (SELECT hash FROM audit_entry WHERE seq = 19)`},
			"checkpoint at entry 20: its signature does not hold"},
		{"the beginning is moved", []string{
			`DELETE FROM audit_entry WHERE seq <= 5`, `UPDATE audit_chain SET first_seq = 5, first_hash = (SELECT hash FROM audit_entry WHERE seq = 7)`,
		}, "entry 6: it is not what was sealed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			l := w.log(0)
			for i := range 20 {
				w.act(fmt.Sprint("d", i))
			}
			w.must(l.SealOnce(t.Context()))
			w.must(l.CheckpointOnce(t.Context()))
			w.untie()
			for _, query := range tt.attack {
				w.must(w.exec(query))
			}
			r := w.verify(nil)
			if r.Whole() || !strings.HasPrefix(r.Problems[0].Text, tt.want) {
				t.Errorf("got %q, want %q", r.Problems, tt.want)
			}
		})
	}
}

// Old entries go, up to a checkpoint; what is left is verified, and the removal is in the log.
func TestRetention(t *testing.T) {
	w := newWorld(t)
	l := w.log(30 * 24 * time.Hour)
	w.act("a", "b", "c")
	w.must(l.SealOnce(t.Context()))
	w.must(l.CheckpointOnce(t.Context()))
	w.act("d", "e") // as old, but not signed before the next ones
	w.must(l.SealOnce(t.Context()))
	w.advance(31 * 24 * time.Hour)
	w.act("f")
	w.must(l.SealOnce(t.Context()))
	w.must(l.CheckpointOnce(t.Context())) // covers old and new ones together
	for range 2 {                         // the second time there is nothing to remove
		w.must(l.RetainOnce(t.Context()))
	}
	w.must(l.SealOnce(t.Context()))
	r := w.verify(nil, ledger.Key(w.key.Public().(ed25519.PublicKey)))
	if !r.Whole() || r.First != 4 || r.Last != 7 || r.Signed != 6 || r.After != 3 || r.Removed != 3 {
		t.Errorf("%+v", r)
	}
	var out bytes.Buffer
	w.must(audit.Export(t.Context(), w.db, &out, site, 0, nil))
	if !strings.Contains(out.String(), `"act":"audit.remove"`) || !strings.Contains(out.String(), `\"from\":1`) || !strings.Contains(out.String(), `\"to\":3`) {
		t.Errorf("the removal is not in the log: %s", out.String())
	}
	// For ever means for ever.
	w.advance(1000 * 24 * time.Hour)
	w.must(w.log(0).RetainOnce(t.Context()))
	if r := w.verify(nil); r.First != 4 {
		t.Errorf("%+v", r)
	}
	// A log that was changed is kept as it is: it is evidence.
	w.must(l.CheckpointOnce(t.Context()))
	w.untie()
	w.must(w.exec(`UPDATE audit_entry SET hash = (SELECT hash FROM audit_entry WHERE seq = 5) WHERE seq = 7`))
	if err := l.RetainOnce(t.Context()); err == nil {
		t.Error("entries were removed from a log that was changed")
	}
}

// Without a signer the log goes on, and is signed when it is back.
func TestTheSignerMayBeAway(t *testing.T) {
	w := newWorld(t)
	l := w.log(0)
	w.down = true
	w.act("one")
	w.must(l.SealOnce(t.Context()))
	if err := l.CheckpointOnce(t.Context()); err == nil {
		t.Error("a checkpoint without a signer")
	}
	w.act("two")
	w.must(l.SealOnce(t.Context()))
	w.down = false
	w.must(l.CheckpointOnce(t.Context()))
	if r := w.verify(nil); !r.Whole() || r.Signed != 2 {
		t.Errorf("%+v", r)
	}
}

// What comes from outside is cut and cleaned, never a reason not to record.
func TestHostileTexts(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("ü", 4000)
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		by := access.Caller{Kind: access.Anonymous, Name: "a\x00b\xff", Address: long, Request: "\r\n"}
		return audit.Record(t.Context(), tx, by, audit.Entry{Act: "session.open", Kind: "user", Name: long + "\xff\x00",
			Detail: map[string]any{"text": strings.Repeat(long, 10)}})
	}))
	w.must(w.log(0).SealOnce(t.Context()))
	if r := w.verify(nil); !r.Whole() || r.Last != 1 {
		t.Errorf("%+v", r)
	}
	var detail string // one long text hides no other
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		after := map[string]any{"device_name": strings.Repeat(long, 10), "belongs_to__application": int64(7)}
		if err := audit.Record(t.Context(), tx, access.Itself(), audit.Entry{Act: "device.update", Kind: "device", Detail: map[string]any{"after": after}}); err != nil {
			return err
		}
		return tx.QueryRowContext(t.Context(), `SELECT detail FROM audit_entry WHERE act = 'device.update'`).Scan(&detail)
	}))
	if !strings.Contains(detail, `"belongs_to__application":7`) || !strings.Contains(detail, "ü…") || len(detail) > 1000 {
		t.Errorf("detail: %.200s", detail)
	}
}
