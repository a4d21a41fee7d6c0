package trust_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/adrg/xdg"
	"golang.org/x/mod/sumdb/note"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// history is a log that a server shows, honest or not. A real server shows one history; this one shows whatever a test says.
type history struct {
	mu       sync.Mutex // covers all below
	site     *site
	entries  [][]byte        // that it shows
	truth    [][]byte        // of which it signed the root, and makes proofs
	signed   tlog.Checkpoint // what it signs; of the entries, unless a test lies
	lie      int             // an entry that is shown as another; -1: none
	hidden   map[int]bool    // entries of which only the hash is given
	cosigned []api.TrustCosignature
}

func newHistory(t *testing.T, s *site, entries ...string) *history {
	h := &history{site: s, lie: -1, hidden: map[int]bool{}}
	h.grow(entries...)
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", ca)
	t.Setenv("ROADSTEAD_URL", srv.URL)
	t.Setenv("ROADSTEAD_TOKEN", "a-token")
	return h
}

// grow appends entries and signs the new state.
func (h *history) grow(entries ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range entries {
		h.entries = append(h.entries, []byte(e))
	}
	size := int64(len(h.entries))
	h.truth = append([][]byte(nil), h.entries...)
	h.signed = tlog.Checkpoint{Origin: "log.roadstead.test", Size: size, Root: must(tlog.Root(size, h.reader(size)))}
}

// reader gives the stored hashes of the first entries.
func (h *history) reader(size int64) tlog.HashReader {
	leaves := make([]tlog.Hash, size)
	for i := range leaves {
		leaves[i] = tlog.LeafHash(h.truth[i])
	}
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		list := make([]tlog.Hash, len(indexes))
		for i, n := range indexes {
			list[i] = stored[n]
		}
		return list, nil
	})
	for i, leaf := range leaves {
		more, _, err := tlog.Append(int64(i), []tlog.Hash{leaf}, read)
		if err != nil {
			h.site.t.Error(err)
		}
		stored = append(stored, more...)
	}
	return read
}

func (h *history) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := func(name string) int64 {
		v, _ := strconv.ParseInt(r.URL.Query().Get(name), 10, 64)
		return v
	}
	var out any
	switch r.Method + " " + r.URL.Path {
	case "GET /trust/v1/log/checkpoint":
		signer := must(tlog.NewSigner("log.roadstead.test", ed25519.PrivateKey(h.site.keys["log"])))
		out = api.TrustCheckpoint{Checkpoint: must(h.signed.Sign(signer)), Key: h.site.logKey()}
	case "GET /trust/v1/log/entries":
		list := []api.TrustLeaf{}
		for i := n("start"); i < n("end") && i < int64(len(h.entries)); i++ {
			hash := tlog.LeafHash(h.entries[i])
			l := api.TrustLeaf{Index: i, Hash: hex.EncodeToString(hash[:]), Entry: h.entries[i]}
			if int(i) == h.lie {
				l.Entry = []byte(`{"kind":"release","name":"something harmless"}`)
			}
			if h.hidden[int(i)] {
				l.Entry = nil
			}
			list = append(list, l)
		}
		out = list
	case "GET /trust/v1/log/consistency":
		proof, err := tlog.ProveConsistency(n("from"), n("to"), h.reader(int64(len(h.truth))))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out = api.TrustLogging{Consistency: proof}
	case "POST /trust/v1/log/cosignature":
		var c api.TrustCosignature
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		h.cosigned = append(h.cosigned, c)
		out = struct{}{}
	case "GET /trust/v1/fleets/" + uuid + "/metadata/2.root.json":
		_, _ = w.Write(h.site.roots[1])
		return
	default:
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(out)
}

func entry(kind, fleet, name string, version int64, sum string) string {
	return string(must(json.Marshal(api.TrustEntry{Kind: kind, Fleet: fleet, Name: name, Version: version, SHA256: sum})))
}

func many(from, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = entry("release", uuid, commit(from+i), int64(from+i), fmt.Sprint(from+i))
	}
	return list
}

// Every size of a log gives the root that was signed, read at once or bit by bit.
func TestAuditWalksTheLog(t *testing.T) {
	s := newSite(t)
	h := newHistory(t, s)
	state := filepath.Join(t.TempDir(), "state.json")
	for i := range 40 {
		out, code := run("log", "audit", "--state", state)
		if code != 0 {
			t.Fatalf("%d entries: %s", i, out)
		}
		has(t, out, fmt.Sprintf("has %d entries", i))
		h.grow(many(i, 1)...)
	}
	h.grow(many(100, 1200)...) // more than one question
	h.mu.Lock()
	h.hidden[500] = true
	h.mu.Unlock()
	out, code := run("log", "audit", "--state", state)
	if code != 0 {
		t.Fatal(out)
	}
	has(t, out, "1240 entries, of which 1201 are new")
	if out, code := run("log", "audit", "--state", filepath.Join(t.TempDir(), "fresh.json")); code != 0 {
		t.Errorf("from the beginning: %s", out)
	}
	if out, code := run("log", "tail", "-n", "3"); code != 0 || strings.Count(out, "release") != 3 {
		t.Errorf("tail: %d %s", code, out)
	}
}

// The attack: a server that shows another history than it signed, or than it showed before.
func TestAuditFindsLies(t *testing.T) {
	for name, c := range map[string]struct {
		lie  func(h *history)
		want string
	}{
		"an entry is shown as another": {func(h *history) { h.lie = 12 }, "not what its hash says"},
		"the past is another":          {func(h *history) { h.entries[3] = []byte(entry("release", uuid, commit(3), 3, "other")); h.resign() }, "does NOT go on"},
		"an entry is left out":         {func(h *history) { h.entries = append(append(h.entries[:12:12], h.entries[13:]...), []byte("filler")) }, "do not give the root"},
		"entries are cut off":          {func(h *history) { h.entries = h.entries[:8]; h.resign() }, "at least 10 leaves"},
		"the same size, another root":  {func(h *history) { h.entries = h.entries[:10]; h.entries[9] = []byte("x"); h.resign() }, "expected root"},
		"another key":                  {func(h *history) { h.site.keys["log"] = h.site.keys["thief"] }, "the log's key is"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(t, newSite(t), many(0, 10)...)
			state := filepath.Join(t.TempDir(), "state.json")
			if out, code := run("log", "audit", "--state", state); code != 0 {
				t.Fatal(out)
			}
			before := must(os.ReadFile(state))
			h.grow(many(10, 10)...)
			h.mu.Lock()
			c.lie(h)
			h.mu.Unlock()
			out, code := run("log", "audit", "--state", state)
			if code != 1 {
				t.Errorf("exit code %d: %s", code, out)
			}
			has(t, out, c.want)
			if after := must(os.ReadFile(state)); string(after) != string(before) {
				t.Error("what was seen before was forgotten")
			}
		})
	}
}

// resign signs what the entries give now.
func (h *history) resign() {
	size := int64(len(h.entries))
	h.truth = append([][]byte(nil), h.entries...)
	h.signed = tlog.Checkpoint{Origin: "log.roadstead.test", Size: size, Root: must(tlog.Root(size, h.reader(size)))}
}

// A root of an owner's fleet that the owner's machine did not sign, and one thing said twice, are alarms.
func TestAuditKnowsWhatWasSignedHere(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello")
	h := newHistory(t, s, entry("root", uuid, "root", 2, digestOf(s.roots[1])), entry("release", uuid, commit(1), 5, "a"))
	link(t, o.dir)
	state := filepath.Join(t.TempDir(), "state.json")
	if out, code := run("log", "audit", "--state", state); code != 0 {
		t.Fatal(out)
	}
	targets := must(tuf.ReadTargets(s.files["targets"])).Version
	h.grow(entry("targets", uuid, "targets", targets, digestOf(s.files["targets"])))
	if out, code := run("log", "audit", "--state", state); code != 0 {
		t.Errorf("the targets that were signed here: %s", out)
	}
	h.grow(entry("targets", uuid, "targets", targets+1, strings.Repeat("d", 64)))
	if out, code := run("log", "audit", "--state", state); code != 1 || !strings.Contains(out, "is newer than version") {
		t.Errorf("targets that nobody here signed: %d %s", code, out)
	}
	h.mu.Lock()
	h.hidden[len(h.entries)] = true
	h.mu.Unlock()
	h.grow(entry("root", uuid, "root", 3, strings.Repeat("e", 64)))
	if out, code := run("log", "audit", "--state", state); code != 0 || !strings.Contains(out, "Of 1 new entries only the hash was shown") {
		t.Errorf("an entry that is hidden: %d %s", code, out)
	}
	h.grow(entry("root", uuid, "root", 3, strings.Repeat("b", 64)))
	out, code := run("log", "audit", "--state", state)
	if code != 1 {
		t.Errorf("a root that nobody here signed: %d", code)
	}
	has(t, out, "root 3 of the fleet "+uuid)
	h.grow(entry("root", uuid, "root", 2, strings.Repeat("c", 64)))
	if out, code := run("log", "audit", "--state", state); code != 1 || !strings.Contains(out, "is not the one that is kept here") {
		t.Errorf("another root 2: %d %s", code, out)
	}
	h.grow(entry("release", uuid, commit(1), 6, "a"), entry("release", uuid, commit(1), 6, "b"))
	out, code = run("log", "audit", "--state", state)
	if code != 1 {
		t.Errorf("one thing said twice: %d", code)
	}
	has(t, out, "twice, with different contents")
	if out, code := run("log", "audit", "--state", state); code != 0 {
		t.Errorf("an alarm is told once: %s", out)
	}
}

// An audit tells of what it looked at, and what of it it could compare; what is hidden is no silence.
func TestAuditSaysWhatItLookedAt(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello", "--approval", "builder+owner")
	s.build(commit(1), `{"image": "web"}`)
	o.does(s, "release", "sign", commit(1))
	path := must(tuf.ReleasePath(commit(1)))
	l := must(tuf.ReadBin(tuf.BinRole("owner", path), s.files[tuf.BinRole("owner", path)])).Listed[path]
	said := func(by, sum string, counter int64) string {
		return string(must(json.Marshal(api.TrustEntry{Kind: "release", Fleet: uuid, Name: commit(1), Version: counter, SHA256: sum, By: by})))
	}
	targets := must(tuf.ReadTargets(s.files["targets"])).Version
	h := newHistory(t, s, entry("root", uuid, "root", 1, digestOf(s.roots[0])), entry("root", uuid, "root", 2, digestOf(s.roots[1])),
		entry("targets", uuid, "targets", targets, digestOf(s.files["targets"])), entry("targets", uuid, "targets", targets-1, strings.Repeat("1", 64)),
		entry("owner", uuid, "owner", 1, digestOf(s.files["owner"])),
		said("builder", l.SHA256, l.Counter), said("owner", l.SHA256, l.Counter), said("owner", strings.Repeat("2", 64), l.Counter-1),
		entry("root", strings.Repeat("f", 32), "root", 1, strings.Repeat("3", 64)), entry("root", "no fleet's name", "root", 1, strings.Repeat("3", 64)))
	link(t, o.dir)
	state := filepath.Join(t.TempDir(), "state.json")
	out, code := run("log", "audit", "--state", state, "--strict", "-o", "json")
	var v struct {
		Hidden int64 `json:"hidden"`
		Kinds  []struct {
			Kind                          string
			Entries, Same, Older, Foreign int64
		} `json:"kinds"`
	}
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&v); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s", code, err, out)
	}
	want := "owner 1 1 0 0; release by builder 1 0 1 0; release by owner 2 1 1 0; root 4 1 1 2; targets 2 1 1 0; "
	got := ""
	for _, k := range v.Kinds {
		got += fmt.Sprintf("%s %d %d %d %d; ", k.Kind, k.Entries, k.Same, k.Older, k.Foreign)
	}
	if got != want || v.Hidden != 0 {
		t.Errorf("it looked at %s hidden %d; want %s", got, v.Hidden, want)
	}
	h.mu.Lock()
	h.hidden[len(h.entries)] = true
	h.mu.Unlock()
	h.grow(many(50, 1)...)
	before := must(os.ReadFile(state))
	out, code = run("log", "audit", "--state", state, "--strict")
	if code != 1 || !strings.Contains(out, "Of 1 new entries only the hash was shown") {
		t.Errorf("a hidden entry, where none should be: %d %s", code, out)
	}
	if err := os.WriteFile(state, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := run("log", "audit", "--state", state); code != 0 || !strings.Contains(out, "only the hash was shown") {
		t.Errorf("a hidden entry, which may be: %d %s", code, out)
	}
	h.grow(said("owner", strings.Repeat("4", 64), l.Counter+1))
	if out, code := run("log", "audit", "--state", state); code != 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), "release by owner 1 0 1 0") {
		t.Errorf("a release that another owner may have signed: %d %s", code, out)
	}
	h.grow(said("owner", strings.Repeat("5", 64), l.Counter))
	if out, code := run("log", "audit", "--state", state); code != 1 || !strings.Contains(out, "the one that was signed here") {
		t.Errorf("another document than was signed: %d %s", code, out)
	}
}

func TestCompareAndWitness(t *testing.T) {
	s := newSite(t)
	h := newHistory(t, s, many(0, 7)...)
	dir := t.TempDir()
	seen := filepath.Join(dir, "checkpoint.txt")
	if out, code := run("log", "audit", "--state", filepath.Join(dir, "state"), "--write", seen); code != 0 {
		t.Fatal(out)
	}
	h.grow(many(7, 6)...)
	if out, code := run("log", "compare", seen); code != 0 {
		t.Errorf("it goes on: %s", out)
	}
	newOwner(t) // its passphrase
	key := filepath.Join(dir, "witness.key")
	if out, code := run("trust", "key", key); code != 0 {
		t.Fatal(out)
	}
	if out, code := run("log", "witness", "--key", key, "--name", "witness.example.com", "--state", filepath.Join(dir, "state")); code != 0 {
		t.Fatal(out)
	}
	h.mu.Lock()
	got := h.cosigned
	h.mu.Unlock()
	if len(got) != 1 {
		t.Fatalf("cosignatures: %+v", got)
	}
	c, names, err := tlog.Open(got[0].Checkpoint, s.logKey(), []note.Verifier{must(tlog.ParseWitness(got[0].Witness))}...)
	if err != nil || c.Size != 13 || len(names) != 1 || names[0] != "witness.example.com" {
		t.Errorf("the cosignature: %+v %q %v", c, names, err)
	}
	h.mu.Lock()
	h.entries[2] = []byte("another")
	h.resign()
	h.mu.Unlock()
	out, code := run("log", "compare", seen)
	if code != 1 {
		t.Errorf("two histories: exit code %d", code)
	}
	has(t, out, "TWO HISTORIES")
	if out, code := run("log", "witness", "--key", key, "--name", "witness.example.com", "--state", filepath.Join(dir, "state")); code == 0 {
		t.Errorf("a witness cosigned another history: %s", out)
	}
	if len(h.cosigned) != 1 {
		t.Error("it was sent")
	}
}

// link has the directory that is kept of the fleet where it is looked for.
func link(t *testing.T, dir string) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	xdg.Reload()
	t.Cleanup(xdg.Reload)
	home := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "roadstead", "trust")
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(home, uuid)); err != nil {
		t.Fatal(err)
	}
}

func digestOf(data []byte) string { return tuf.Digest(data) }
