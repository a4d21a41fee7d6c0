package signer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/ledger"
	"github.com/roadstead-io/roadstead/internal/signer"
)

// chain is a log of digests, each made of a number and a word.
type chain struct{ digests []ledger.Hash }

func (c *chain) grow(n int, word string) {
	for range n {
		c.digests = append(c.digests, ledger.Digest(&api.AuditEntry{ThingID: int64(len(c.digests)), Name: word}))
	}
}

// at is the chain's hash at an entry.
func (c *chain) at(seq int64) api.AuditAnchor {
	var h ledger.Hash
	for i, d := range c.digests[:seq] {
		h = ledger.Next(h, int64(i+1), d)
	}
	return api.AuditAnchor{Seq: seq, Hash: h.String()}
}

// after asks to go on from an entry up to another.
func (c *chain) after(seq, upTo int64) api.AuditExtension {
	ext := api.AuditExtension{After: c.at(seq)}
	for _, d := range c.digests[seq:upTo] {
		ext.Digests = append(ext.Digests, d.String())
	}
	return ext
}

func (b *bench) checkpoint(t *testing.T, ext api.AuditExtension) (api.AuditSigned, int, string) {
	t.Helper()
	var signed api.AuditSigned
	status, body := b.post(t, "api", "/v1/audit-checkpoint", ext)
	if status == 200 {
		if err := json.Unmarshal([]byte(body), &signed); err != nil {
			t.Fatal(err)
		}
	}
	return signed, status, body
}

// The signer signs what goes on from what it has signed, and nothing else: no fork, no older place, no gap. It remembers over a restart.
func TestOnlyContinuationsOfTheAuditLogAreSigned(t *testing.T) {
	b := start(t)
	var mine, forged chain
	mine.grow(40, "true")
	forged.grow(20, "true")
	forged.grow(40, "forged") // differs after entry 20
	first, status, body := b.checkpoint(t, mine.after(0, 30))
	if status != 200 || first.Checkpoint.Seq != 30 || first.Checkpoint.Hash != mine.at(30).Hash || first.Checkpoint.Site != site.Domain {
		t.Fatalf("%d %s", status, body)
	}
	refused := func(name string, ext api.AuditExtension, want int, says string) {
		t.Helper()
		if _, status, body := b.checkpoint(t, ext); status != want || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s, want %d %q", name, status, body, want, says)
		}
	}
	attacks := func() {
		t.Helper()
		refused("a fork from the last checkpoint's number", forged.after(30, 40), 409, "not the one that was signed")
		refused("a fork from before the last checkpoint", forged.after(10, 40), 409, "entry 30 is not the one that was signed")
		refused("a fork from the beginning", forged.after(0, 60), 409, "entry 30 is not the one that was signed")
		refused("an older place", mine.after(0, 20), 409, "comes before the last one that was signed")
		refused("an older place of a fork", forged.after(0, 29), 409, "comes before the last")
		refused("a place that was never signed", mine.after(35, 40), 409, "never signed")
		refused("nothing new", mine.after(30, 30), 400, "1 to 5000")
		refused("no hash", api.AuditExtension{After: api.AuditAnchor{Seq: 30, Hash: "x"}, Digests: []string{mine.digests[0].String()}}, 400, "after")
		refused("no digest", api.AuditExtension{After: mine.at(30), Digests: []string{"x"}}, 400, "digests")
		refused("too many", api.AuditExtension{After: mine.at(30), Digests: make([]string, api.MaxAuditDigests+1)}, 400, "1 to 5000")
		refused("before the beginning", api.AuditExtension{After: api.AuditAnchor{Seq: -5, Hash: mine.at(0).Hash}, Digests: []string{mine.digests[0].String()}}, 400, "after")
	}
	attacks()
	// An answer that got lost: asked again, the same is answered, also from further back.
	for _, from := range []int64{0, 10, 29} {
		if again, status, body := b.checkpoint(t, mine.after(from, 30)); status != 200 || again != first {
			t.Errorf("asked again from %d: %d %s", from, status, body)
		}
	}
	b.run(t, "127.0.0.1:1") // another process with the same directory
	attacks()
	second, status, body := b.checkpoint(t, mine.after(20, 40)) // from before the last one, but through it
	if status != 200 || second.Checkpoint.Seq != 40 || second.Checkpoint.Hash != mine.at(40).Hash {
		t.Fatalf("%d %s", status, body)
	}
	// Everybody can verify it, and it is no registry token: another kind of key.
	key, err := signer.AuditKey(filepath.Join(b.dir, "signer", signer.AuditKeyFile))
	if err != nil || key != second.Key {
		t.Errorf("%v %v", key, err)
	}
	if info, err := os.Stat(filepath.Join(b.dir, "signer", signer.AuditKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	for _, role := range []string{"builder", "edge", "registry", "parent", "admin", "signer"} {
		if status, _ := b.post(t, role, "/v1/audit-checkpoint", mine.after(40, 40)); status != 403 {
			t.Errorf("%s asks for a checkpoint: %d", role, status)
		}
	}
}

// A signer that cannot read what it signed signs nothing: it would not know what it may go on from.
func TestASignerThatForgotDoesNotStart(t *testing.T) {
	b := start(t)
	var c chain
	c.grow(5, "true")
	if _, status, body := b.checkpoint(t, c.after(0, 3)); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	file := filepath.Join(b.dir, "signer", signer.AuditFile)
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, status, _ := b.checkpoint(t, c.after(3, 5)); status != 500 {
		t.Errorf("it signed with a memory that it cannot read: %d", status)
	}
	cfg := signer.Config{Dir: filepath.Join(b.dir, "signer"), Site: site, Peers: map[string]string{"api": "127.0.0.1:1"}}
	if _, err := signer.New(cfg, b.log.Logger()); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("it started: %v", err)
	}
}
