// Package tlog keeps and checks an append-only log: a Merkle tree of RFC 6962 over the hashes of its leaves, whose state is said in
// signed checkpoints. golang.org/x/mod/sumdb makes trees and notes; here are what bounds their input, what appends to stored hashes, and the cosignatures of
// witnesses. It stores nothing: callers bring hashes.
package tlog

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Bounds of what comes from outside.
const (
	MaxCheckpoint = 16 << 10 // bytes of a note
	MaxEntry      = 64 << 10 // bytes of a leaf
	MaxSize       = 1 << 40  // leaves of a log
	MaxProof      = 64       // hashes of a proof
	maxOrigin     = 200      // characters
)

// ReasonLog is the reason of every refusal of this package.
const ReasonLog = "log"

// Hash is a hash of the tree.
type Hash = tlog.Hash

// HashReader reads stored hashes by their indexes, as Append numbers them.
type HashReader = tlog.HashReader

// HashReaderFunc is a function as a HashReader.
type HashReaderFunc = tlog.HashReaderFunc

// LeafHash is the hash of a leaf's bytes.
func LeafHash(leaf []byte) Hash { return tlog.RecordHash(leaf) }

// StoredCount is how many hashes are stored for a log of so many leaves.
func StoredCount(size int64) int64 { return tlog.StoredHashCount(size) }

// LeafIndex is where the hash of a leaf is stored.
func LeafIndex(n int64) int64 { return tlog.StoredHashIndex(0, n) }

// Append adds leaves, by their hashes, to a log of some size. It gives the hashes to store, from index StoredCount(size) on, and the new root.
func Append(size int64, leaves []Hash, r HashReader) (stored []Hash, root Hash, err error) {
	if size < 0 || size > MaxSize-int64(len(leaves)) {
		return nil, Hash{}, fmt.Errorf("append to a log of %d leaves: not from 0 to %d", size, int64(MaxSize))
	}
	first := StoredCount(size)
	both := HashReaderFunc(func(indexes []int64) ([]Hash, error) {
		hashes := make([]Hash, len(indexes))
		var older []int64
		var at []int
		for i, index := range indexes {
			switch n := index - first; {
			case n < 0:
				older, at = append(older, index), append(at, i)
			case n < int64(len(stored)):
				hashes[i] = stored[n]
			default:
				return nil, fmt.Errorf("hash %d is not stored yet", index)
			}
		}
		if len(older) == 0 {
			return hashes, nil
		}
		read, err := r.ReadHashes(older)
		if err != nil {
			return nil, err
		}
		if len(read) != len(older) {
			return nil, fmt.Errorf("read %d hashes, want %d", len(read), len(older))
		}
		for i, h := range read {
			hashes[at[i]] = h
		}
		return hashes, nil
	})
	for i, leaf := range leaves {
		more, err := tlog.StoredHashesForRecordHash(size+int64(i), leaf, both)
		if err != nil {
			return nil, Hash{}, fmt.Errorf("append leaf %d: %w", size+int64(i), err)
		}
		stored = append(stored, more...)
	}
	root, err = Root(size+int64(len(leaves)), both)
	return stored, root, err
}

// Root is the root of a log's first leaves.
func Root(size int64, r HashReader) (Hash, error) {
	root, err := tlog.TreeHash(size, r)
	if err != nil {
		return Hash{}, fmt.Errorf("root of %d leaves: %w", size, err)
	}
	return root, nil
}

// ProveInclusion proves that a leaf is in the log of some size.
func ProveInclusion(size, index int64, r HashReader) ([][]byte, error) {
	if size < 1 || size > MaxSize || index < 0 || index >= size {
		return nil, api.Errorf(api.Invalid, "index: must be from 0 to below size")
	}
	proof, err := tlog.ProveRecord(size, index, r)
	if err != nil {
		return nil, fmt.Errorf("prove leaf %d of %d: %w", index, size, err)
	}
	return raw(proof), nil
}

// ProveConsistency proves that a log of one size goes on from what it was at an earlier one. From an empty one nothing has to be proved.
func ProveConsistency(from, to int64, r HashReader) ([][]byte, error) {
	if from < 0 || to < from || to > MaxSize {
		return nil, api.Errorf(api.Invalid, "from: must be from 0 to to")
	}
	if from == 0 || from == to {
		return [][]byte{}, nil
	}
	proof, err := tlog.ProveTree(to, from, r)
	if err != nil {
		return nil, fmt.Errorf("prove %d from %d: %w", to, from, err)
	}
	return raw(proof), nil
}

func raw(proof []Hash) [][]byte {
	list := make([][]byte, len(proof))
	for i := range proof {
		list[i] = proof[i][:]
	}
	return list
}

// hashes turns what came from outside into hashes.
func hashes(what string, proof [][]byte) ([]Hash, error) {
	if len(proof) > MaxProof {
		return nil, tuf.Refuse(what, ReasonLog, "", fmt.Sprintf("at most %d hashes", MaxProof), strconv.Itoa(len(proof)))
	}
	list := make([]Hash, len(proof))
	for i, h := range proof {
		if len(h) != tlog.HashSize {
			return nil, tuf.Refuse(what, ReasonLog, "", "hashes of 32 bytes", strconv.Itoa(len(h)))
		}
		list[i] = Hash(h)
	}
	return list, nil
}

// Checkpoint is the state of a log.
type Checkpoint struct {
	Origin string // its name, the note's first line
	Size   int64
	Root   Hash
}

// Text is the checkpoint as it is signed.
func (c Checkpoint) Text() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// Sign makes a note of a checkpoint.
func (c Checkpoint) Sign(signers ...note.Signer) (string, error) {
	if _, err := parse(c.Text(), c.Origin); err != nil {
		return "", err
	}
	msg, err := note.Sign(&note.Note{Text: c.Text()}, signers...)
	if err != nil {
		return "", fmt.Errorf("sign the checkpoint of %d leaves: %w", c.Size, err)
	}
	return string(msg), nil
}

const checkpointWord = "checkpoint"

// parse reads a note's text. Further lines are none of ours; there may be none.
func parse(text, origin string) (Checkpoint, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != 3 || !strings.HasSuffix(text, "\n") {
		return Checkpoint{}, tuf.Refuse(checkpointWord, ReasonLog, "", "three lines", strconv.Itoa(len(lines)))
	}
	if lines[0] != origin || origin == "" || len(origin) > maxOrigin {
		return Checkpoint{}, tuf.Refuse(checkpointWord, ReasonLog, "", "the log "+origin, lines[0])
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || size > MaxSize || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, tuf.Refuse(checkpointWord, ReasonLog, "", "a size", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, tuf.Refuse(checkpointWord, ReasonLog, "", "a root of 32 bytes", lines[2])
	}
	c := Checkpoint{Origin: origin, Size: size, Root: Hash(root)}
	if c.Text() != text {
		return Checkpoint{}, tuf.Refuse(checkpointWord, ReasonLog, "", "a checkpoint as it is written", "another spelling")
	}
	return c, nil
}

// ReadCheckpoint reads a note's text without verifying who signed it.
func ReadCheckpoint(msg string) (Checkpoint, error) {
	text, _, ok := strings.Cut(msg, "\n\n")
	if !ok || len(msg) > MaxCheckpoint {
		return Checkpoint{}, tuf.Refuse(checkpointWord, ReasonLog, "", "a signed note", "something else")
	}
	origin, _, _ := strings.Cut(text, "\n")
	return parse(text+"\n", origin)
}

// Open verifies a checkpoint: it must be of this log, and signed by its key. Of the witnesses it gives the names of those that cosigned.
func Open(msg string, key api.TrustLogKey, witnesses ...note.Verifier) (c Checkpoint, cosigned []string, err error) {
	if len(msg) > MaxCheckpoint {
		return c, nil, tuf.Refuse(checkpointWord, ReasonLog, "", fmt.Sprintf("at most %d bytes", MaxCheckpoint), strconv.Itoa(len(msg)))
	}
	log, err := note.NewVerifier(key.Key)
	if err != nil {
		return c, nil, tuf.Refuse("key of the log", ReasonLog, key.Key, "a verifier's key", err.Error())
	}
	n, err := note.Open([]byte(msg), note.VerifierList(append([]note.Verifier{log}, witnesses...)...))
	if err != nil {
		return c, nil, tuf.Refuse(checkpointWord, ReasonLog, key.Key, "a signature of the log", err.Error())
	}
	signed := false
	for _, s := range n.Sigs {
		if s.Name == log.Name() && s.Hash == log.KeyHash() {
			signed = true
			continue
		}
		cosigned = append(cosigned, s.Name)
	}
	if !signed {
		return c, nil, tuf.Refuse(checkpointWord, ReasonLog, key.Key, "a signature of the log", "none")
	}
	c, err = parse(n.Text, key.Origin)
	return c, cosigned, err
}

// CheckInclusion checks that the entry is a leaf of the checkpoint. The checkpoint itself was opened before.
func CheckInclusion(c Checkpoint, l api.TrustLogging) error {
	const what = "entry of the log"
	if len(l.Entry) == 0 || len(l.Entry) > MaxEntry {
		return tuf.Refuse(what, ReasonLog, "", fmt.Sprintf("1 to %d bytes", MaxEntry), strconv.Itoa(len(l.Entry)))
	}
	if l.Index < 0 || l.Index >= c.Size {
		return tuf.Refuse(what, ReasonLog, "", "an index below "+strconv.FormatInt(c.Size, 10), strconv.FormatInt(l.Index, 10))
	}
	proof, err := hashes(what, l.Inclusion)
	if err != nil {
		return err
	}
	if err := tlog.CheckRecord(proof, c.Size, c.Root, l.Index, LeafHash(l.Entry)); err != nil {
		return tuf.Refuse(what, ReasonLog, "", "proof that it is in the checkpoint of "+strconv.FormatInt(c.Size, 10), err.Error())
	}
	return nil
}

// CheckConsistency checks that a checkpoint goes on from an older one, which may be empty.
func CheckConsistency(older, c Checkpoint, proof [][]byte) error {
	const what = "checkpoint"
	switch {
	case older.Origin != "" && older.Origin != c.Origin:
		return tuf.Refuse(what, ReasonLog, "", "the log "+older.Origin, c.Origin)
	case c.Size < older.Size:
		return tuf.Refuse(what, ReasonLog, "", "at least "+strconv.FormatInt(older.Size, 10)+" leaves", strconv.FormatInt(c.Size, 10))
	case older.Size == 0:
		return nil
	case c.Size == older.Size:
		if c.Root != older.Root {
			return tuf.Refuse(what, ReasonLog, "", "root "+older.Root.String(), c.Root.String())
		}
		return nil
	}
	list, err := hashes(what, proof)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(list, c.Size, c.Root, older.Size, older.Root); err != nil {
		return tuf.Refuse(what, ReasonLog, "", "that it goes on from "+strconv.FormatInt(older.Size, 10)+" leaves with root "+older.Root.String(), err.Error())
	}
	return nil
}

// Check opens what a bundle brings and checks all of it against what was believed before. It gives the new checkpoint, which is believed from now on.
func Check(l api.TrustLogging, key api.TrustLogKey, older Checkpoint) (Checkpoint, error) {
	c, _, err := Open(l.Checkpoint, key)
	if err != nil {
		return Checkpoint{}, err
	}
	if err := CheckConsistency(older, c, l.Consistency); err != nil {
		return Checkpoint{}, err
	}
	return c, CheckInclusion(c, l)
}

var errKey = errors.New("the key of a log or a witness is an Ed25519 key")
