// Package ledger is the form of the audit log: how an entry becomes bytes, how entries are chained, what a checkpoint signs, and how all
// of it is verified. The server seals with it, the signer signs with it, and the command line verifies with it without any
// server. docs/audit.md describes the same for those who write a verifier of their own.
package ledger

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/roadstead-io/roadstead/api"
)

// Each thing that is hashed or signed begins with what it is, so that none can be taken for another, nor for a token.
const (
	entryContext      = "roadstead audit entry v1\n"
	linkContext       = "roadstead audit link v1\n"
	checkpointContext = "roadstead audit checkpoint v1\n"
)

// ActRemove is the act of an entry that says that older ones were removed when their time was over.
const ActRemove = "audit.remove"

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// String is a hash as it is written: 64 hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash reads one.
func ParseHash(s string) (h Hash, err error) {
	if len(s) != 2*len(h) {
		return h, errors.New("a hash has 64 hexadecimal digits")
	}
	_, err = hex.Decode(h[:], []byte(s))
	return h, err
}

// Digest is the hash of an entry's content with its salt. Its place in the chain is not part of it.
func Digest(e *api.AuditEntry) Hash {
	b := make([]byte, 0, 512)
	b = append(b, entryContext...)
	text := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s))) //nolint:gosec // texts of entries are short
		b = append(b, s...)
	}
	number := func(n int64) { text(strconv.FormatInt(n, 10)) }
	for _, s := range []string{e.Salt, e.At, e.Act, e.Result, e.Kind} {
		text(s)
	}
	number(e.ThingID)
	text(e.Name)
	for _, n := range []int64{e.Organization, e.Fleet, e.User} {
		number(n)
	}
	text(map[bool]string{true: "1", false: "0"}[e.Support])
	text(e.Detail)
	text(e.ByKind)
	for _, n := range []int64{e.ByUser, e.ByKey, e.BySession} {
		number(n)
	}
	for _, s := range []string{e.ByName, e.Address, e.Request} {
		text(s)
	}
	return sha256.Sum256(b)
}

// Next is the hash of the chain with one entry more. The chain begins with the zero hash.
func Next(previous Hash, seq int64, digest Hash) Hash {
	b := make([]byte, 0, len(linkContext)+8+2*sha256.Size)
	b = append(b, linkContext...)
	b = append(b, previous[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(seq)) //nolint:gosec // never negative
	b = append(b, digest[:]...)
	return sha256.Sum256(b)
}

// message is what a checkpoint signs.
func message(c *api.AuditCheckpoint) []byte {
	return fmt.Appendf(nil, "%s%s\n%d\n%s\n%s\n", checkpointContext, c.Site, c.Seq, c.Hash, c.At)
}

// Key is a public key as it is told.
func Key(public ed25519.PublicKey) api.AuditKey {
	return api.AuditKey{ID: Hash(sha256.Sum256(public)).String(), Public: base64.StdEncoding.EncodeToString(public)}
}

// ParseKey reads a public key, and checks that its id is its own.
func ParseKey(k api.AuditKey) (ed25519.PublicKey, error) {
	public, err := base64.StdEncoding.DecodeString(k.Public)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return nil, errors.New("a public key is 32 bytes in base64")
	}
	if Key(public).ID != k.ID {
		return nil, fmt.Errorf("the key does not have the id %.16s…", k.ID)
	}
	return public, nil
}

// Sign signs a checkpoint.
func Sign(c *api.AuditCheckpoint, key ed25519.PrivateKey) {
	c.Key = Key(key.Public().(ed25519.PublicKey)).ID
	c.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, message(c)))
}

// holds reports whether a checkpoint's signature is one of the key.
func holds(c *api.AuditCheckpoint, key ed25519.PublicKey) bool {
	signature, err := base64.StdEncoding.DecodeString(c.Signature)
	return err == nil && ed25519.Verify(key, message(c), signature)
}
