package tuf

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Signer signs with one key: an Ed25519 one over the message, an ECDSA one over its SHA-256, in ASN.1.
type Signer interface {
	Public() *metadata.Key
	Sign(message []byte) ([]byte, error)
}

// Ed25519Signer is a Signer whose key is in memory.
type Ed25519Signer ed25519.PrivateKey

// Public implements Signer.
func (s Ed25519Signer) Public() *metadata.Key {
	return Ed25519Key(ed25519.PrivateKey(s).Public().(ed25519.PublicKey))
}

// Sign implements Signer.
func (s Ed25519Signer) Sign(message []byte) ([]byte, error) {
	return ed25519.Sign(ed25519.PrivateKey(s), message), nil
}

// Ed25519Key is a public key as metadata list it.
func Ed25519Key(public ed25519.PublicKey) *metadata.Key {
	return &metadata.Key{
		Type: metadata.KeyTypeEd25519, Scheme: metadata.KeySchemeEd25519,
		Value: metadata.KeyVal{PublicKey: hex.EncodeToString(public)},
	}
}

// ECDSAKey is a public key on P-256 as metadata list it.
func ECDSAKey(public *ecdsa.PublicKey) (*metadata.Key, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, Refuse("key", ReasonKey, "", "an ECDSA key", err.Error())
	}
	key := &metadata.Key{
		Type: metadata.KeyTypeECDSA_SHA2_P256, Scheme: metadata.KeySchemeECDSA_SHA2_P256,
		Value: metadata.KeyVal{PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))},
	}
	return key, CheckKey(key)
}

// KeyID is the name of a key: the SHA-256 of its canonical JSON.
func KeyID(key *metadata.Key) string {
	data, err := Canonical(key)
	if err != nil {
		return ""
	}
	return Digest(data)
}

// CheckKey refuses a key of a kind that we do not take. Only Ed25519, and ECDSA on P-256, are taken.
func CheckKey(key *metadata.Key) error {
	_, err := publicKey("key", key)
	return err
}

// public is a key itself, and its bytes, by which it is known whatever it is called.
type public struct {
	ed    ed25519.PublicKey
	ec    *ecdsa.PublicKey
	bytes string
}

func publicKey(what string, key *metadata.Key) (public, error) {
	if key == nil {
		return public{}, Refuse(what, ReasonMissing, "", "a key", "none")
	}
	switch {
	case key.Type == metadata.KeyTypeEd25519 && key.Scheme == metadata.KeySchemeEd25519:
		raw, err := hex.DecodeString(key.Value.PublicKey)
		if err != nil || len(raw) != ed25519.PublicKeySize || strings.ToLower(key.Value.PublicKey) != key.Value.PublicKey {
			return public{}, Refuse(what, ReasonKey, KeyID(key), "64 hexadecimal digits", key.Value.PublicKey)
		}
		return public{ed: raw, bytes: string(raw)}, nil
	case (key.Type == metadata.KeyTypeECDSA_SHA2_P256 || key.Type == metadata.KeyTypeECDSA_SHA2_P256_COMPAT) && key.Scheme == metadata.KeySchemeECDSA_SHA2_P256:
		block, rest := pem.Decode([]byte(key.Value.PublicKey))
		if block == nil || len(rest) != 0 || block.Type != "PUBLIC KEY" || len(block.Headers) != 0 {
			return public{}, Refuse(what, ReasonKey, KeyID(key), "one PEM block", key.Value.PublicKey)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		ec, ok := parsed.(*ecdsa.PublicKey)
		if err != nil || !ok || ec.Curve != elliptic.P256() {
			return public{}, Refuse(what, ReasonKey, KeyID(key), "an ECDSA key on P-256", "another")
		}
		return public{ec: ec, bytes: string(block.Bytes)}, nil
	}
	return public{}, Refuse(what, ReasonKey, KeyID(key), "ed25519 or ecdsa-sha2-nistp256", key.Type+" with "+key.Scheme)
}

func (p public) verify(message, sig []byte) bool {
	if p.ed != nil {
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(p.ed, message, sig)
	}
	sum := sha256.Sum256(message)
	return ecdsa.VerifyASN1(p.ec, sum[:], sig)
}

// checkKeys looks at the keys that a file lists: known kinds, proper names, none twice, whatever it is called.
func checkKeys(what string, keys map[string]*metadata.Key) error {
	if len(keys) > MaxKeys {
		return Refuse(what, ReasonKey, "", "at most 64 keys", digits(int64(len(keys))))
	}
	seen := map[string]string{}
	for _, id := range sorted(keys) {
		if !keyIDForm.MatchString(id) {
			return Refuse(what, ReasonKey, id, "an id of hexadecimal digits", id)
		}
		p, err := publicKey(what, keys[id])
		if err != nil {
			return err
		}
		if other, twice := seen[p.bytes]; twice {
			return Refuse(what, ReasonKey, id, "each key once", "the same key as "+other)
		}
		seen[p.bytes] = id
	}
	return nil
}

// checkHolders looks at who holds a role: listed keys, none twice, and a threshold that they can reach.
func checkHolders(what, role string, ids []string, threshold int, keys map[string]*metadata.Key) error {
	for i, id := range ids {
		if _, ok := keys[id]; !ok {
			return Refuse(what, ReasonKey, id, "a key that the file lists, for "+role, "none")
		}
		if slices.Contains(ids[:i], id) {
			return Refuse(what, ReasonKey, id, "each key once for "+role, "the same id again")
		}
	}
	if threshold < 1 || threshold > len(ids) {
		return Refuse(what, ReasonThreshold, "", "for "+role+" from 1 to its "+digits(int64(len(ids)))+" keys", digits(int64(threshold)))
	}
	return nil
}

// sorted gives the names of a map in order, so that refusals do not depend on chance.
func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
