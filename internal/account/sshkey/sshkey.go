// Package sshkey owns the SSH keys of people. It reads public keys as they are given, and refuses those that are weak or more than a key.
package sshkey

import (
	"bytes"
	"math/big"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
)

// MaxLen bounds one key with its comment, in bytes.
const MaxLen = 16 << 10

// Bounds of RSA keys: shorter ones end before the devices do that they let into, longer ones cost whoever checks them.
const (
	minRSABits = 3072
	maxRSABits = 16384
)

// Key is a public key.
type Key struct {
	Line        string // type, key and comment as they were given, in one line
	Fingerprint string // SHA256:… of the key itself, whatever its comment is
}

// Parse reads a key as it stands in a .pub file.
func Parse(text string) (Key, error) {
	text = strings.TrimSpace(text)
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	switch {
	case err != nil:
		return Key{}, api.Errorf(api.Invalid, "\"public_key\" is not an SSH public key as it stands in a .pub file.")
	case len(text) > MaxLen:
		return Key{}, api.Errorf(api.Invalid, "\"public_key\" has more than %d bytes.", MaxLen)
	case len(options) > 0:
		return Key{}, api.Errorf(api.Invalid, "\"public_key\" has options in front of the key; give the key alone.")
	case len(bytes.TrimSpace(rest)) > 0 || strings.ContainsAny(text, "\r\n"):
		return Key{}, api.Errorf(api.Invalid, "\"public_key\" holds more than one line; add each key by itself.")
	case strings.ContainsFunc(comment, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return Key{}, api.Errorf(api.Invalid, "the comment of \"public_key\" has control characters.")
	}
	if err := strong(key); err != nil {
		return Key{}, err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	if comment != "" {
		line += " " + comment
	}
	return Key{Line: line, Fingerprint: ssh.FingerprintSHA256(key)}, nil
}

// Fingerprint is that of a key which was let in before, under whatever rules held then; "" of what is no key.
func Fingerprint(line string) string {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)) //nolint:dogsled // only the key counts
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(key)
}

// strong refuses what an attacker may break, and what is no plain key.
func strong(key ssh.PublicKey) error {
	if _, ok := key.(*ssh.Certificate); ok {
		return api.Errorf(api.Invalid, "\"public_key\" is a certificate; give the key itself.")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		return strongRSA(key)
	case ssh.InsecureKeyAlgoDSA: //nolint:staticcheck // named to be refused
		return api.Errorf(api.Invalid, "\"public_key\" is a DSA key, which no device accepts any more.")
	default:
		return api.Errorf(api.Invalid, "\"public_key\" is of the type %s; there are ed25519, ecdsa, their forms for security keys, and rsa.", key.Type())
	}
}

// strongRSA reads a key's wire form: type, exponent, modulus.
func strongRSA(key ssh.PublicKey) error {
	var wire struct {
		Name string
		E, N *big.Int
	}
	if ssh.Unmarshal(key.Marshal(), &wire) != nil {
		return api.Errorf(api.Invalid, "\"public_key\" is not an SSH public key as it stands in a .pub file.")
	}
	switch bits := wire.N.BitLen(); {
	case bits < minRSABits:
		return api.Errorf(api.Invalid, "\"public_key\" is an RSA key of %d bits; it needs at least %d. An ed25519 key is shorter and stronger.", bits, minRSABits)
	case bits > maxRSABits:
		return api.Errorf(api.Invalid, "\"public_key\" is an RSA key of %d bits; at most %d are of use.", bits, maxRSABits)
	case wire.E.Cmp(big.NewInt(3)) < 0 || wire.E.Bit(0) == 0 || wire.N.Bit(0) == 0:
		return api.Errorf(api.Invalid, "\"public_key\" is an RSA key that anybody can break: its exponent or modulus is no good.")
	}
	return nil
}
