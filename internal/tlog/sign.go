package tlog

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Kinds of signatures on a note, by the byte that stands before the key.
const (
	kindEd25519     = 1
	kindCosignature = 4
)

// key is one that signs or verifies notes. With private nil it verifies only.
type key struct {
	name    string
	kind    byte
	public  ed25519.PublicKey
	private crypto.Signer
	now     func() time.Time // of a cosignature
}

// NewSigner signs checkpoints as the log of that name.
func NewSigner(name string, private ed25519.PrivateKey) (note.Signer, error) {
	if len(private) != ed25519.PrivateKeySize {
		return nil, errKey
	}
	return key{name: name, kind: kindEd25519, public: private.Public().(ed25519.PublicKey), private: private}, goodName(name)
}

// VerifierKey is the log's public key, as package note writes it.
func VerifierKey(name string, public ed25519.PublicKey) (string, error) {
	return note.NewEd25519VerifierKey(name, public)
}

// NewWitness cosigns checkpoints (c2sp.org/tlog-cosignature, version 1): it says that it saw this one at that time, and none that does not fit.
func NewWitness(name string, private crypto.Signer, now func() time.Time) (note.Signer, error) {
	if k, ok := private.(ed25519.PrivateKey); ok && len(k) != ed25519.PrivateKeySize {
		return nil, errKey
	}
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errKey
	}
	return key{name: name, kind: kindCosignature, public: public, private: private, now: now}, goodName(name)
}

// WitnessKey is a witness's public key as text.
func WitnessKey(name string, public ed25519.PublicKey) string {
	k := key{name: name, kind: kindCosignature, public: public}
	return fmt.Sprintf("%s+%08x+%s", name, k.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{k.kind}, public...)))
}

// ParseWitness reads what WitnessKey wrote.
func ParseWitness(text string) (note.Verifier, error) {
	refuse := func(got string) error {
		return tuf.Refuse("key of a witness", ReasonLog, "", "NAME+HASH+BASE64 of an Ed25519 cosignature key", got)
	}
	name, rest, _ := strings.Cut(text, "+")
	hash, encoded, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != kindCosignature || len(text) > 2*maxOrigin {
		return nil, refuse(text)
	}
	if err := goodName(name); err != nil {
		return nil, err
	}
	k := key{name: name, kind: kindCosignature, public: raw[1:]}
	if hash != fmt.Sprintf("%08x", k.KeyHash()) {
		return nil, refuse("hash " + hash)
	}
	return k, nil
}

func goodName(name string) error {
	if name == "" || len(name) > maxOrigin || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '+' }) {
		return tuf.Refuse("name of a log", ReasonLog, "", "printable characters without space and plus", name)
	}
	return nil
}

// Name implements note.Signer and note.Verifier.
func (k key) Name() string { return k.name }

// KeyHash implements note.Signer and note.Verifier.
func (k key) KeyHash() uint32 {
	sum := sha256.Sum256(append([]byte(k.name+"\n"+string(k.kind)), k.public...))
	return binary.BigEndian.Uint32(sum[:])
}

// Sign implements note.Signer.
func (k key) Sign(msg []byte) ([]byte, error) {
	if k.kind == kindEd25519 {
		return k.private.Sign(nil, msg, crypto.Hash(0))
	}
	at := k.now().Unix()
	if at < 0 {
		return nil, fmt.Errorf("cosign at %d: not a time", at)
	}
	sig := binary.BigEndian.AppendUint64(nil, uint64(at))
	by, err := k.private.Sign(nil, cosigned(at, msg), crypto.Hash(0))
	return append(sig, by...), err
}

// Verify implements note.Verifier.
func (k key) Verify(msg, sig []byte) bool {
	if k.kind == kindEd25519 {
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(k.public, msg, sig)
	}
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	at := binary.BigEndian.Uint64(sig)
	return at < 1<<62 && ed25519.Verify(k.public, cosigned(int64(at), msg), sig[8:])
}

// cosigned is what a witness signs.
func cosigned(at int64, msg []byte) []byte {
	return append([]byte("cosignature/v1\ntime "+strconv.FormatInt(at, 10)+"\n"), msg...)
}

// Cosign adds a signature to a checkpoint that was opened, whose others stay.
func Cosign(msg string, by note.Signer) (string, error) {
	if len(msg) > MaxCheckpoint {
		return "", tuf.Refuse(checkpointWord, ReasonLog, "", fmt.Sprintf("at most %d bytes", MaxCheckpoint), strconv.Itoa(len(msg)))
	}
	// Nothing is verified here: signatures of whoever else stay as they are.
	n, err := note.Open([]byte(msg), note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		n = unverified.Note
	} else if err != nil {
		return "", tuf.Refuse(checkpointWord, ReasonLog, "", "a signed note", err.Error())
	}
	signed, err := note.Sign(n, by)
	if err != nil {
		return "", fmt.Errorf("cosign: %w", err)
	}
	return string(signed), nil
}
