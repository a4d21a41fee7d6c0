package factor

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// What WebAuthn asks of a server that wants no attestation is little: a challenge that comes back, the origin, flags, a count and one
// signature, whose key browsers hand over in the form that crypto/x509 reads. The usual library brings ten modules, for TPMs and
// for the certificates of authenticators' makers; this is the part that is needed.

// b64 reads what browsers write: base64url, with or without padding.
func b64(text string) ([]byte, error) {
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil, refused("it is not base64url")
	}
	return data, nil
}

func refused(why string) error {
	return api.Errorf(api.Unauthorized, "the passkey's answer does not hold: %s", why)
}

// Credential is what a browser answers, of PublicKeyCredential.toJSON.
type Credential struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Response struct {
		ClientData        string `json:"clientDataJSON"`
		AuthenticatorData string `json:"authenticatorData"`
		Signature         string `json:"signature"`  // of an assertion
		UserHandle        string `json:"userHandle"` // whose it is, as it was told; of an assertion, not of every device
		PublicKey         string `json:"publicKey"`  // of a registration: SubjectPublicKeyInfo
	} `json:"response"`
	Extensions struct {
		Properties struct {
			Resident bool `json:"rk"`
		} `json:"credProps"`
	} `json:"clientExtensionResults"`
}

// answer is a credential's answer whose form and place are right; nothing is verified of the challenge and the signature.
type answer struct {
	challenge          string
	clientData, data   []byte
	verified, attested bool // the user was verified; there is a new credential
	count              uint32
}

// read holds an answer against what it must be: of this kind of ceremony, in a page of this origin, by somebody who was there.
func (c Credential) read(ceremony, host, origin string) (a answer, err error) {
	if c.Type != "public-key" || len(c.ID) > 1400 || c.ID == "" {
		return a, refused("it is no public key")
	}
	if a.clientData, err = b64(c.Response.ClientData); err != nil {
		return a, err
	}
	if a.data, err = b64(c.Response.AuthenticatorData); err != nil {
		return a, err
	}
	var said struct {
		Type        string `json:"type"`
		Challenge   string `json:"challenge"`
		Origin      string `json:"origin"`
		CrossOrigin bool   `json:"crossOrigin"`
	}
	if json.Unmarshal(a.clientData, &said) != nil {
		return a, refused("clientDataJSON is no JSON")
	}
	sum := sha256.Sum256([]byte(host))
	switch {
	case said.Type != ceremony:
		return a, refused("it is of another ceremony")
	case said.Origin != origin || said.CrossOrigin:
		return a, refused("it is of another page")
	case len(a.data) < 37 || !bytes.Equal(a.data[:32], sum[:]):
		return a, refused("it is of another server")
	case a.data[32]&1 == 0:
		return a, refused("nobody was there")
	}
	a.challenge, a.verified, a.attested, a.count = said.Challenge, a.data[32]&4 != 0, a.data[32]&0x40 != 0, binary.BigEndian.Uint32(a.data[33:])
	return a, nil
}

// newKey gives the id and the public key of a registration.
func (c Credential) newKey(a answer) (id, key string, err error) {
	rest := a.data[37:]
	if !a.attested || len(rest) < 18 {
		return "", "", refused("there is no new credential")
	}
	n := int(binary.BigEndian.Uint16(rest[16:]))
	given, err := b64(c.ID)
	if err != nil {
		return "", "", err
	}
	if n == 0 || n > 1023 || len(rest) < 18+n || !bytes.Equal(rest[18:18+n], given) {
		return "", "", refused("the credential has another id")
	}
	spki, err := b64(c.Response.PublicKey)
	if err != nil {
		return "", "", err
	}
	if _, err := parseKey(spki); err != nil {
		return "", "", err
	}
	return base64.RawURLEncoding.EncodeToString(given), base64.RawURLEncoding.EncodeToString(spki), nil
}

func parseKey(spki []byte) (crypto.PublicKey, error) {
	if len(spki) > 2048 {
		return nil, refused("the public key is too large")
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, refused("there is no public key that this server knows")
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	case ed25519.PublicKey:
		return k, nil
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 {
			return k, nil
		}
	}
	return nil, refused("its public key is of a kind that was not asked for")
}

// signed checks the signature of an assertion.
func (c Credential) signed(a answer, key string) error {
	spki, err := b64(key)
	if err != nil {
		return fmt.Errorf("passkey: stored key: %w", err)
	}
	public, err := parseKey(spki)
	if err != nil {
		return err
	}
	signature, err := b64(c.Response.Signature)
	if err != nil {
		return err
	}
	said := sha256.Sum256(a.clientData)
	message := append(bytes.Clone(a.data), said[:]...)
	sum := sha256.Sum256(message)
	ok := false
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, sum[:], signature)
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, message, signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], signature) == nil
	}
	if !ok {
		return refused("the signature is wrong")
	}
	return nil
}
