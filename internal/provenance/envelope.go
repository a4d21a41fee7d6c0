package provenance

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/roadstead-io/roadstead/api"
)

// PayloadType is the media type of an in-toto statement in an envelope.
const PayloadType = "application/vnd.in-toto+json"

// MaxEnvelope bounds an envelope, in bytes.
const MaxEnvelope = 1 << 20

const maxSignatures = 8

// Key is a public key as it is told to everybody.
func Key(public ed25519.PublicKey) api.StatementKey {
	sum := sha256.Sum256(public)
	return api.StatementKey{ID: hex.EncodeToString(sum[:]), Public: base64.StdEncoding.EncodeToString(public)}
}

// ParseKey is the reverse, and checks that the id is that of the key.
func ParseKey(k api.StatementKey) (ed25519.PublicKey, error) {
	public, err := base64.StdEncoding.DecodeString(k.Public)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("statement key %q: not %d bytes in base64", k.ID, ed25519.PublicKeySize)
	}
	if Key(public).ID != k.ID {
		return nil, fmt.Errorf("statement key %q: its id is not its SHA-256", k.ID)
	}
	return public, nil
}

// encoding is what is signed: DSSE's PAE of type and payload.
func encoding(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(PayloadType), PayloadType, len(payload), payload)
}

// Sign puts a statement into an envelope.
func Sign(s *Statement, key ed25519.PrivateKey) (*api.Envelope, error) {
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	return &api.Envelope{
		PayloadType: PayloadType, Payload: base64.StdEncoding.EncodeToString(payload),
		Signatures: []api.EnvelopeSignature{{
			KeyID: Key(key.Public().(ed25519.PublicKey)).ID,
			Sig:   base64.StdEncoding.EncodeToString(ed25519.Sign(key, encoding(payload))),
		}},
	}, nil
}

// Errors of [Open].
var (
	ErrUnknownKey = errors.New("it is not signed by a key of this server")
	ErrSignature  = errors.New("its signature is wrong: it was changed after it was signed")
)

// Open verifies an envelope and gives the statement in it, and the id of the key that signed it. One good signature of a known
// key is enough; a wrong one of a known key is too much.
func Open(text []byte, keys []api.StatementKey) (*Statement, string, error) {
	if len(text) > MaxEnvelope {
		return nil, "", fmt.Errorf("statement: larger than %d bytes", MaxEnvelope)
	}
	var e api.Envelope
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, "", fmt.Errorf("statement: no envelope: %w", err)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		return nil, "", fmt.Errorf("statement: payload: %w", err)
	}
	if e.PayloadType != PayloadType {
		return nil, "", fmt.Errorf("statement: the envelope holds %q, not %s", e.PayloadType, PayloadType)
	}
	id, err := signerOf(e, payload, keys)
	if err != nil {
		return nil, "", fmt.Errorf("statement: %w", err)
	}
	s, err := parse(payload)
	if err != nil {
		return nil, "", fmt.Errorf("statement: %w", err)
	}
	return s, id, nil
}

// signerOf finds the known key that signed.
func signerOf(e api.Envelope, payload []byte, keys []api.StatementKey) (string, error) {
	if len(e.Signatures) > maxSignatures {
		return "", fmt.Errorf("it has more than %d signatures", maxSignatures)
	}
	found := ""
	for _, s := range e.Signatures {
		i := slices.IndexFunc(keys, func(k api.StatementKey) bool { return k.ID == s.KeyID })
		if i < 0 {
			continue
		}
		public, err := ParseKey(keys[i])
		if err != nil {
			return "", err
		}
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if err != nil || !ed25519.Verify(public, encoding(payload), sig) {
			return "", ErrSignature
		}
		found = s.KeyID
	}
	if found == "" {
		return "", ErrUnknownKey
	}
	return found, nil
}

// parse reads a statement. It was signed by us, so it is ours; but what is not of the two types that we make is refused.
func parse(payload []byte) (*Statement, error) {
	var s Statement
	if err := json.NewDecoder(bytes.NewReader(payload)).Decode(&s); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if s.Type != StatementType || s.PredicateType != PredicateType {
		return nil, fmt.Errorf("it is a %q with a %q, which is not read here", s.Type, s.PredicateType)
	}
	return &s, nil
}
