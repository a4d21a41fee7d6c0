package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/go-jose/go-jose/v4"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// KeyFile is the name of the token key in the role's directory.
const KeyFile = "token.key"

// NewKey writes a fresh token key. The parent calls it once, before the role first starts.
func NewKey(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("token key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("token key: %w", err)
	}
	return durable.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// PublicKeys is the public half of a token key as a JSON Web Key Set: all that the registry gets to know.
func PublicKeys(file string) ([]byte, error) {
	k, err := loadKey(file)
	if err != nil {
		return nil, err
	}
	return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.public}})
}

type tokenKey struct {
	public  jose.JSONWebKey
	private *ecdsa.PrivateKey
	header  string // of every token, encoded
}

func loadKey(file string) (*tokenKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("token key: %s: no PEM block", file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("token key: %s: %w", file, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("token key: %s: not an ECDSA key on P-256", file)
	}
	public := jose.JSONWebKey{Key: &key.PublicKey, Algorithm: string(jose.ES256), Use: "sig"}
	thumb, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	public.KeyID = base64.RawURLEncoding.EncodeToString(thumb)
	header, err := json.Marshal(map[string]string{"alg": string(jose.ES256), "kid": public.KeyID, "typ": "JWT"})
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	return &tokenKey{public: public, private: key, header: base64.RawURLEncoding.EncodeToString(header)}, nil
}

// sign makes a JSON Web Token in its compact form (RFC 7515, 7518 section 3.4). It is written out here because the library's
// way costs several times the signature itself.
func (k *tokenKey) sign(claims Claims) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	const half = 32 // bytes of each of the signature's two numbers, on P-256
	enc := base64.RawURLEncoding
	token := make([]byte, 0, len(k.header)+2+enc.EncodedLen(len(payload))+enc.EncodedLen(2*half))
	token = append(append(token, k.header...), '.')
	token = enc.AppendEncode(token, payload)
	sum := sha256.Sum256(token)
	r, s, err := ecdsa.Sign(rand.Reader, k.private, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	var signature [2 * half]byte
	r.FillBytes(signature[:half])
	s.FillBytes(signature[half:])
	return string(enc.AppendEncode(append(token, '.'), signature[:])), nil
}

func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

// newEd25519Key writes a fresh key of the kind that signs what is not a token.
func newEd25519Key(file, name string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return durable.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func loadEd25519Key(file, name string) (ed25519.PrivateKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: %s: no PEM block", name, file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", name, file, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: %s: not an Ed25519 key", name, file)
	}
	return key, nil
}
