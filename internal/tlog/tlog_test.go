package tlog_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const origin = "roadstead.test/log"

func private(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func logKey(t testing.TB) api.TrustLogKey {
	key, err := tlog.VerifierKey(origin, private("log").Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return api.TrustLogKey{Origin: origin, Key: key}
}

// naive is the root of a list of leaves as RFC 6962 defines it, without anything stored.
func naive(leaves [][]byte) tlog.Hash {
	switch n := len(leaves); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256(append([]byte{0}, leaves[0]...))
	default:
		k := 1 << (bits.Len(uint(n-1)) - 1)
		left, right := naive(leaves[:k]), naive(leaves[k:])
		return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
	}
}

// grown is a log that was appended to in random steps.
type grown struct {
	leaves [][]byte
	stored []tlog.Hash
	roots  map[int64]tlog.Hash // of the sizes at which it was appended to
}

func (g *grown) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var list []tlog.Hash
	for _, i := range indexes {
		if i < 0 || i >= int64(len(g.stored)) {
			return nil, fmt.Errorf("no hash %d", i)
		}
		list = append(list, g.stored[i])
	}
	return list, nil
}

func (g *grown) append(t testing.TB, more ...[]byte) {
	t.Helper()
	var leaves []tlog.Hash
	for _, leaf := range more {
		leaves = append(leaves, tlog.LeafHash(leaf))
	}
	stored, root, err := tlog.Append(int64(len(g.leaves)), leaves, g)
	if err != nil {
		t.Fatal(err)
	}
	g.leaves, g.stored = append(g.leaves, more...), append(g.stored, stored...)
	g.roots[int64(len(g.leaves))] = root
}

func random(t testing.TB, seed uint64, size int) *grown {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	g := &grown{roots: map[int64]tlog.Hash{}}
	for len(g.leaves) < size {
		var more [][]byte
		for range 1 + rnd.IntN(5) {
			more = append(more, fmt.Appendf(nil, "leaf %d", rnd.Uint64()))
		}
		g.append(t, more...)
	}
	return g
}

// Every root, every inclusion and every consistency of small logs is what the definition says, and no other leaf, size or root passes for it.
func TestTreesAgainstTheDefinition(t *testing.T) {
	g := random(t, 7, 40)
	size := int64(len(g.leaves))
	if got := int64(len(g.stored)); got != tlog.StoredCount(size) {
		t.Fatalf("stored %d hashes, want %d", got, tlog.StoredCount(size))
	}
	for n, root := range g.roots {
		if want := naive(g.leaves[:n]); root != want {
			t.Errorf("root of %d: %v, want %v", n, root, want)
		}
	}
	at := func(n int64) tlog.Checkpoint {
		return tlog.Checkpoint{Origin: origin, Size: n, Root: naive(g.leaves[:n])}
	}
	for n := int64(1); n <= size; n++ {
		c := at(n)
		for i := range n {
			proof, err := tlog.ProveInclusion(n, i, g)
			if err != nil {
				t.Fatal(err)
			}
			l := api.TrustLogging{Entry: g.leaves[i], Index: i, Inclusion: proof}
			if err := tlog.CheckInclusion(c, l); err != nil {
				t.Errorf("leaf %d of %d: %v", i, n, err)
			}
			l.Entry = []byte("another")
			if tlog.CheckInclusion(c, l) == nil {
				t.Errorf("leaf %d of %d: another entry passes", i, n)
			}
			if n > 1 {
				l.Entry, l.Index = g.leaves[i], (i+1)%n
				if tlog.CheckInclusion(c, l) == nil {
					t.Errorf("leaf %d of %d passes as the next one", i, n)
				}
			}
		}
		for from := int64(0); from <= n; from++ {
			proof, err := tlog.ProveConsistency(from, n, g)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckConsistency(at(from), c, proof); err != nil {
				t.Errorf("%d from %d: %v", n, from, err)
			}
			if from == 0 {
				continue
			}
			other := at(from)
			other.Root[3] ^= 1
			if tlog.CheckConsistency(other, c, proof) == nil {
				t.Errorf("%d goes on from another log of %d", n, from)
			}
			if n > from && tlog.CheckConsistency(c, at(from), proof) == nil {
				t.Errorf("%d goes back to %d", n, from)
			}
		}
	}
}

// What a bundle brings is checked whole: signature, origin, entry, and that the log is the one that was believed.
func TestCheck(t *testing.T) {
	g := random(t, 9, 20)
	signer, err := tlog.NewSigner(origin, private("log"))
	if err != nil {
		t.Fatal(err)
	}
	checkpoint := func(n int, by note.Signer, at string) string {
		msg, err := tlog.Checkpoint{Origin: at, Size: int64(n), Root: naive(g.leaves[:n])}.Sign(by)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	older := tlog.Checkpoint{Origin: origin, Size: 11, Root: naive(g.leaves[:11])}
	good := func() api.TrustLogging {
		inclusion, err := tlog.ProveInclusion(20, 3, g)
		if err != nil {
			t.Fatal(err)
		}
		consistency, err := tlog.ProveConsistency(11, 20, g)
		if err != nil {
			t.Fatal(err)
		}
		return api.TrustLogging{Checkpoint: checkpoint(20, signer, origin), Entry: g.leaves[3], Index: 3, Inclusion: inclusion, Consistency: consistency}
	}
	c, err := tlog.Check(good(), logKey(t), older)
	if err != nil || c.Size != 20 {
		t.Fatalf("Check: %v %v", c, err)
	}
	foreign, err := tlog.NewSigner(origin, private("foreign"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(*api.TrustLogging, *tlog.Checkpoint){
		"signed by another":  func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Checkpoint = checkpoint(20, foreign, origin) },
		"another origin":     func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Checkpoint = checkpoint(20, signer, "other.test/log") },
		"no checkpoint":      func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Checkpoint = "" },
		"huge checkpoint":    func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Checkpoint = strings.Repeat("a", 1<<20) },
		"older checkpoint":   func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Checkpoint = checkpoint(10, signer, origin) },
		"another history":    func(_ *api.TrustLogging, o *tlog.Checkpoint) { o.Root[0] ^= 1 },
		"no consistency":     func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Consistency = nil },
		"short hash":         func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Consistency[0] = l.Consistency[0][1:] },
		"too many hashes":    func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Inclusion = make([][]byte, 1000) },
		"another entry":      func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Entry = []byte("x") },
		"huge entry":         func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Entry = make([]byte, 1<<20) },
		"no entry":           func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Entry = nil },
		"negative index":     func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Index = -1 },
		"index past the end": func(l *api.TrustLogging, _ *tlog.Checkpoint) { l.Index = 20 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			l, o := good(), older
			change(&l, &o)
			_, err := tlog.Check(l, logKey(t), o)
			if r, ok := tuf.Rejection(err); !ok || r.Reason != tlog.ReasonLog {
				t.Errorf("Check: %v, want a refusal because of the log", err)
			}
		})
	}
}

// A witness's signature is over the time and the checkpoint, and changes nothing for who does not ask for it.
func TestWitness(t *testing.T) {
	signer, err := tlog.NewSigner(origin, private("log"))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1700000000, 0)
	witness, err := tlog.NewWitness("witness.example.com", private("witness"), func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	msg, err := tlog.Checkpoint{Origin: origin, Size: 1, Root: naive([][]byte{{1}})}.Sign(signer)
	if err != nil {
		t.Fatal(err)
	}
	cosigned, err := tlog.Cosign(msg, witness)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := tlog.ParseWitness(tlog.WitnessKey("witness.example.com", private("witness").Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	if _, by, err := tlog.Open(cosigned, logKey(t), verifier); err != nil || len(by) != 1 || by[0] != "witness.example.com" {
		t.Errorf("Open: cosigned by %v, %v", by, err)
	}
	if _, by, err := tlog.Open(msg, logKey(t), verifier); err != nil || len(by) != 0 {
		t.Errorf("Open without a cosignature: %v, %v", by, err)
	}
	if _, by, err := tlog.Open(cosigned, logKey(t)); err != nil || len(by) != 0 {
		t.Errorf("Open without a witness: %v, %v", by, err)
	}
	// The signature's own bytes: time, then Ed25519 over the header and the text.
	line := strings.Split(strings.TrimSpace(cosigned), "\n")
	raw, err := base64.StdEncoding.DecodeString(line[len(line)-1][strings.LastIndex(line[len(line)-1], " ")+1:])
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(cosigned, "\n\n")
	public := private("witness").Public().(ed25519.PublicKey)
	if !ed25519.Verify(public, []byte("cosignature/v1\ntime 1700000000\n"+text+"\n"), raw[4+8:]) {
		t.Error("the cosignature is not over what the specification says")
	}
	if only, _, _ := tlog.Open(strings.Replace(cosigned, "\n\n", "\n\n", 1), logKey(t)); only.Size != 1 {
		t.Errorf("size %d", only.Size)
	}
	alone, err := tlog.Checkpoint{Origin: origin, Size: 1, Root: naive([][]byte{{1}})}.Sign(witness)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tlog.Open(alone, logKey(t), verifier); err == nil {
		t.Error("a witness alone passes for the log")
	}
}

func TestAppendRefuses(t *testing.T) {
	g := random(t, 3, 5)
	if _, _, err := tlog.Append(-1, nil, g); err == nil {
		t.Error("Append to -1: no error")
	}
	if _, _, err := tlog.Append(int64(len(g.leaves))+8, []tlog.Hash{{}}, g); err == nil {
		t.Error("Append past what is stored: no error")
	}
	if _, err := tlog.ProveInclusion(5, 5, g); err == nil {
		t.Error("ProveInclusion(5, 5): no error")
	}
	if _, err := tlog.ProveConsistency(6, 5, g); err == nil {
		t.Error("ProveConsistency(6, 5): no error")
	}
}

func FuzzOpen(f *testing.F) {
	signer, err := tlog.NewSigner(origin, private("log"))
	if err != nil {
		f.Fatal(err)
	}
	msg, err := tlog.Checkpoint{Origin: origin, Size: 3, Root: naive([][]byte{{1}, {2}, {3}})}.Sign(signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg)
	f.Add("a\n1\n\n\n— x y\n")
	key := logKey(f)
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := tlog.ReadCheckpoint(text); err == nil && !strings.HasPrefix(text, c.Text()) {
			t.Errorf("ReadCheckpoint(%q) = %q", text, c.Text())
		}
		if c, _, err := tlog.Open(text, key); err == nil && !strings.HasPrefix(text, c.Text()) {
			t.Errorf("Open(%q) = %q", text, c.Text())
		}
	})
}

func FuzzParseWitness(f *testing.F) {
	f.Add(tlog.WitnessKey("witness.example.com", private("witness").Public().(ed25519.PublicKey)))
	f.Fuzz(func(t *testing.T, text string) {
		v, err := tlog.ParseWitness(text)
		if err == nil && !strings.HasPrefix(text, fmt.Sprintf("%s+%08x+", v.Name(), v.KeyHash())) {
			t.Errorf("ParseWitness(%q) is %s+%08x", text, v.Name(), v.KeyHash())
		}
	})
}

func FuzzCheckProofs(f *testing.F) {
	f.Add([]byte("leaf"), int64(0), int64(1), []byte{})
	f.Fuzz(func(t *testing.T, entry []byte, index, size int64, proof []byte) {
		var list [][]byte
		for len(proof) >= 32 {
			list, proof = append(list, proof[:32]), proof[32:]
		}
		c := tlog.Checkpoint{Origin: origin, Size: size, Root: naive([][]byte{[]byte("something else entirely")})}
		if err := tlog.CheckInclusion(c, api.TrustLogging{Entry: entry, Index: index, Inclusion: list}); err == nil && string(entry) != "something else entirely" {
			t.Error("a proof of nothing passes")
		}
		_ = tlog.CheckConsistency(tlog.Checkpoint{Origin: origin, Size: index, Root: tlog.Hash{1}}, c, list)
	})
}
