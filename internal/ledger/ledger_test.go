package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/ledger"
)

const site = "roadstead.test"

// log is an export of 20 entries: entry 5 and 6 as links, checkpoints at 10 and 18.
func log(t *testing.T, key ed25519.PrivateKey) []string {
	t.Helper()
	out := []string{line(t, api.AuditLine{Header: &api.AuditHeader{
		Version: 1, Site: site, After: api.AuditAnchor{Hash: ledger.Hash{}.String()}, Last: 20,
		Keys: []api.AuditKey{ledger.Key(key.Public().(ed25519.PublicKey))},
	}})}
	var hash ledger.Hash
	for seq := int64(1); seq <= 20; seq++ {
		e := entry(seq)
		digest := ledger.Digest(&e)
		hash = ledger.Next(hash, seq, digest)
		e.Hash = hash.String()
		if seq == 5 || seq == 6 {
			out = append(out, line(t, api.AuditLine{Link: &api.AuditLink{Seq: seq, Digest: digest.String(), Hash: e.Hash}}))
		} else {
			out = append(out, line(t, api.AuditLine{Entry: &e}))
		}
		if seq == 10 || seq == 18 {
			c := api.AuditCheckpoint{Site: site, Seq: seq, Hash: e.Hash, At: "2026-11-28T12:00:00.000Z"}
			ledger.Sign(&c, key)
			out = append(out, line(t, api.AuditLine{Checkpoint: &c}))
		}
	}
	return append(out, line(t, api.AuditLine{End: &api.AuditEnd{Seq: 20, Entries: 18, Links: 2}}))
}

func entry(seq int64) api.AuditEntry {
	return api.AuditEntry{
		Seq: seq, At: "2026-11-28T11:00:00.000Z", Act: "device.delete", Result: "done", Kind: "device", ThingID: 100 + seq, Name: fmt.Sprint("d", seq),
		Organization: 1, Fleet: 2, User: 3, Support: seq%2 == 0, Detail: `{"after":{"a":"<b>"}}`, ByKind: "user", ByUser: 4, ByKey: 5, BySession: 6,
		ByName: "ann", Address: "192.0.2.1", Request: "r", Salt: strings.Repeat(fmt.Sprintf("%02x", seq), 16),
	}
}

func line(t *testing.T, l api.AuditLine) string {
	t.Helper()
	data, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func verify(t *testing.T, lines []string, keys ...api.AuditKey) *ledger.Report {
	t.Helper()
	r, err := ledger.Verify(strings.NewReader(strings.Join(lines, "\n")+"\n"), keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// at is the index of the line of an entry or link.
func at(lines []string, seq int) int {
	return slices.IndexFunc(lines, func(s string) bool {
		return strings.HasPrefix(s, fmt.Sprintf(`{"entry":{"seq":%d,`, seq)) || strings.HasPrefix(s, fmt.Sprintf(`{"link":{"seq":%d,`, seq))
	})
}

func checkpointAt(lines []string, seq int) int {
	return slices.IndexFunc(lines, func(s string) bool {
		return strings.HasPrefix(s, fmt.Sprintf(`{"checkpoint":{"site":"%s","seq":%d,`, site, seq))
	})
}

func TestAWholeLogIsWhole(t *testing.T) {
	key := newKey(t)
	r := verify(t, log(t, key))
	if !r.Whole() || r.First != 1 || r.Last != 20 || r.Entries != 18 || r.Links != 2 || r.Checkpoints != 2 || r.Signed != 18 || r.Pinned {
		t.Errorf("%+v", r)
	}
	if r := verify(t, log(t, key), ledger.Key(key.Public().(ed25519.PublicKey))); !r.Whole() || !r.Pinned {
		t.Errorf("with the key that was kept: %+v", r)
	}
}

// Each attack, and the places that are named.
func TestAttacksAreNamed(t *testing.T) {
	key, thief := newKey(t), newKey(t)
	kept := ledger.Key(key.Public().(ed25519.PublicKey))
	for _, tt := range []struct {
		name   string
		change func(l []string) []string
		keys   []api.AuditKey
		want   []string // begin of each problem, in order
	}{
		{"a byte of an entry", func(l []string) []string {
			l[at(l, 17)] = strings.Replace(l[at(l, 17)], `"d17"`, `"d71"`, 1)
			return l
		}, nil, []string{"entry 17: it is not what was sealed"}},
		{"a byte of a salt", func(l []string) []string {
			l[at(l, 4)] = strings.Replace(l[at(l, 4)], `"salt":"04`, `"salt":"05`, 1)
			return l
		}, nil, []string{"entry 4: it is not what was sealed"}},
		{"the digest of a link", func(l []string) []string {
			l[at(l, 5)] = strings.Replace(l[at(l, 5)], `"digest":"`, `"digest":"zz`, 1)
			return l
		}, nil, []string{"entry 5: its digest cannot be read", "entry 5: it is not what was sealed"}},
		{"a line is deleted", func(l []string) []string { return slices.Delete(l, at(l, 7), at(l, 7)+1) }, nil,
			[]string{"entry 7 is missing", "the end of the export counts 18 entries"}},
		{"a link is deleted", func(l []string) []string { return slices.Delete(l, at(l, 6), at(l, 6)+1) }, nil,
			[]string{"entry 6 is missing", "the end of the export counts 18 entries and 2 links, and there are 18 and 1"}},
		{"some are deleted", func(l []string) []string { return slices.Delete(l, at(l, 12), at(l, 15)) }, nil,
			[]string{"entries 12 to 14 are missing", "the end"}},
		{"two are in another order", func(l []string) []string {
			i, j := at(l, 13), at(l, 14)
			l[i], l[j] = l[j], l[i]
			return l
		}, nil, []string{"entry 14 stands before entry 13"}},
		{"two far ones are in another order", func(l []string) []string {
			i, j := at(l, 2), at(l, 16)
			l[i], l[j] = l[j], l[i]
			return l
		}, nil, []string{"entry 2 stands after entry 15", "entry 16 stands before entry 3"}},
		{"two swap their numbers", func(l []string) []string {
			i, j := at(l, 13), at(l, 14)
			l[i], l[j] = strings.Replace(l[j], `"seq":14`, `"seq":13`, 1), strings.Replace(l[i], `"seq":13`, `"seq":14`, 1)
			return l
		}, nil, []string{"entry 13:", "entry 14:", "entry 15:"}},
		{"one stands there twice", func(l []string) []string { return slices.Insert(l, at(l, 9), l[at(l, 8)]) }, nil,
			[]string{"entry 8 stands there a second time", "the end"}},
		{"the end is cut", func(l []string) []string { return l[:at(l, 16)] }, nil, []string{"the export has no end: it was cut after entry 15"}},
		{"the tail is cut and the end written anew", func(l []string) []string {
			cut := slices.Clone(l[:at(l, 16)])
			return append(cut, l[checkpointAt(l, 18)], strings.NewReplacer(`"seq":20`, `"seq":15`, `"entries":18`, `"entries":13`).Replace(l[len(l)-1]))
		}, nil, []string{"entries 16 to 18 are missing: a checkpoint"}},
		{"a checkpoint is forged", func(l []string) []string {
			i := checkpointAt(l, 18)
			l[i] = strings.Replace(l[i], "2026-11-28", "2026-11-29", 1)
			return l
		}, nil, []string{"checkpoint at entry 18: its signature does not hold"}},
		{"a checkpoint of another key", func(l []string) []string {
			l[checkpointAt(l, 18)] = log(t, thief)[checkpointAt(l, 18)]
			return l
		}, nil, []string{"checkpoint at entry 18: it is signed by another key"}},
		{"a checkpoint of another server", func(l []string) []string {
			c := api.AuditCheckpoint{Site: "other.test", Seq: 18, Hash: ledger.Hash{}.String()}
			ledger.Sign(&c, key)
			l[checkpointAt(l, 18)] = line(t, api.AuditLine{Checkpoint: &c})
			return l
		}, nil, []string{`checkpoint at entry 18: it is of the server "other.test"`}},
		{"all is sealed anew from an entry on", func(l []string) []string { return resealed(t, l, 12) }, nil,
			[]string{"checkpoint at entry 18: the log up to there is not the one that was signed on 2026-11-28T12:00:00.000Z; what stands after entry 10"}},
		{"all is sealed and signed anew with another key", func([]string) []string { return log(t, thief) }, []api.AuditKey{kept},
			[]string{"checkpoint at entry 10: it is signed by another key", "checkpoint at entry 18: it is signed by another key"}},
		{"rubbish among the lines", func(l []string) []string { return slices.Insert(l, at(l, 3), `{"entry":`) }, nil, []string{"line 4, after entry 2, cannot be read"}},
		{"a field that nobody knows", func(l []string) []string {
			l[at(l, 3)] = strings.Replace(l[at(l, 3)], `{"seq"`, `{"also":1,"seq"`, 1)
			return l
		}, nil, []string{"line 4, after entry 2", "entry 3 is missing", "the end"}},
	} {
		r := verify(t, tt.change(log(t, key)), tt.keys...)
		ok := len(r.Problems) == len(tt.want)
		for i, p := range r.Problems {
			ok = ok && strings.HasPrefix(p.Text, tt.want[i])
		}
		if !ok {
			t.Errorf("%s: got %q, want %q", tt.name, r.Problems, tt.want)
		}
	}
}

// resealed changes an entry and makes the chain after it fit.
func resealed(t *testing.T, lines []string, from int64) []string {
	t.Helper()
	var hash ledger.Hash
	for i, text := range lines {
		var l api.AuditLine
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		switch {
		case l.Link != nil:
			digest, _ := ledger.ParseHash(l.Link.Digest)
			hash = ledger.Next(hash, l.Link.Seq, digest)
		case l.Entry != nil:
			if l.Entry.Seq == from {
				l.Entry.ByName = "somebody else"
			}
			hash = ledger.Next(hash, l.Entry.Seq, ledger.Digest(l.Entry))
			l.Entry.Hash = hash.String()
			lines[i] = line(t, l)
		}
	}
	return lines
}

// What the signer remembers holds against a log that says nothing of it.
func TestCheckpointsKnownFromElsewhere(t *testing.T) {
	key := newKey(t)
	lines := log(t, key)
	var l api.AuditLine
	if err := json.Unmarshal([]byte(lines[checkpointAt(lines, 18)]), &l); err != nil {
		t.Fatal(err)
	}
	short := append(slices.Clone(lines[:at(lines, 16)]), line(t, api.AuditLine{End: &api.AuditEnd{Seq: 15, Entries: 13, Links: 2}}))
	keys := []api.AuditKey{ledger.Key(key.Public().(ed25519.PublicKey))}
	r, err := ledger.Verify(strings.NewReader(strings.Join(short, "\n")), keys)
	if err != nil || !r.Whole() {
		t.Fatalf("nothing tells that the tail is gone: %v %v", r, err)
	}
	r, err = ledger.Verify(strings.NewReader(strings.Join(short, "\n")), keys, *l.Checkpoint)
	if err != nil || len(r.Problems) != 1 || r.Problems[0].Seq != 16 {
		t.Errorf("%v %v", r, err)
	}
}

// No field of an entry is left out of its digest, and none can be moved into its neighbour.
func TestEveryFieldCounts(t *testing.T) {
	e := entry(1)
	var fields map[string]any
	data, _ := json.Marshal(e)
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	for name, v := range fields {
		if name == "seq" || name == "hash" { // these are the chain's
			continue
		}
		changed := map[string]any{}
		for k, v := range fields {
			changed[k] = v
		}
		switch v := v.(type) {
		case string:
			changed[name] = v + "x"
		case float64:
			changed[name] = v + 1
		case bool:
			changed[name] = !v
		}
		var other api.AuditEntry
		data, _ := json.Marshal(changed)
		if err := json.Unmarshal(data, &other); err != nil {
			t.Fatal(err)
		}
		if ledger.Digest(&other) == ledger.Digest(&e) {
			t.Errorf("%s is not part of the digest", name)
		}
	}
	a, b := e, e
	a.Act, a.Result = "ab", "c"
	b.Act, b.Result = "a", "bc"
	if ledger.Digest(&a) == ledger.Digest(&b) {
		t.Error("a border between two fields can be moved")
	}
}

// The encoding never changes: a log of today is verified in ten years.
func TestTheEncodingStays(t *testing.T) {
	e := entry(1)
	const digest = "ea2e22cf95d407e2444f52fde4554fa93c1a6ea766f354faabfa9358640ad302"
	const chain = "5d907b3d09693d5c4cb1541d426233464b44f10e324fe978d2c33e7a6fb158b8"
	if got := ledger.Digest(&e).String(); got != digest {
		t.Errorf("digest %s, want %s", got, digest)
	}
	if got := ledger.Next(ledger.Hash{}, 1, ledger.Digest(&e)).String(); got != chain {
		t.Errorf("chain %s, want %s", got, chain)
	}
}

func FuzzVerify(f *testing.F) {
	_, key, _ := ed25519.GenerateKey(bytes.NewReader(make([]byte, 64)))
	f.Add([]byte(strings.Join(log(&testing.T{}, key), "\n")))
	f.Add([]byte(`{"header":{"roadstead_audit":1,"after":{"seq":9223372036854775807,"hash":""}}}`))
	f.Add([]byte(`{"header":{"roadstead_audit":1,"after":{"seq":1,"hash":"` + strings.Repeat("0", 64) + `"}}}
{"entry":{"seq":9223372036854775807}}
{"checkpoint":{"seq":-5}}
{"end":{"seq":9223372036854775807}}`))
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = ledger.Verify(bytes.NewReader(data), nil) })
}

// A file whose numbers jump is answered, and costs no more memory than one that is long.
func TestNumbersThatJump(t *testing.T) {
	lines := log(t, newKey(t))
	forged := slices.Clone(lines[:len(lines)-1])
	for i := int64(1); i <= 2000; i++ {
		e := entry(0)
		e.Seq, e.Hash = 20+i<<20, ledger.Hash{1}.String()
		forged = append(forged, line(t, api.AuditLine{Entry: &e}))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := verify(t, forged)
	runtime.ReadMemStats(&after)
	if r.Whole() {
		t.Error("it is whole")
	}
	if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 500 {
		t.Errorf("it took %d MiB", used)
	}
}
