// Package seal encrypts what a role keeps where others may look: in the database, or in a browser. What is sealed opens with the same key and at the
// same place only, so that it is of no use anywhere else.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// ErrBroken says that something is not what was sealed with this key at this place.
var ErrBroken = errors.New("it is not what was sealed")

// Key seals for one use. It is AES-256-GCM, with a random nonce in front of each text.
type Key struct{ aead cipher.AEAD }

// New takes 32 bytes that serve for nothing else.
func New(key []byte) (Key, error) {
	if len(key) != 32 {
		return Key{}, fmt.Errorf("seal: the key has %d bytes, not 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return Key{}, fmt.Errorf("seal: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return Key{}, fmt.Errorf("seal: %w", err)
	}
	return Key{aead}, nil
}

// Derive makes the key for one use out of a secret that has others.
func Derive(secret []byte, use string) (Key, error) {
	if len(secret) < 32 {
		return Key{}, fmt.Errorf("the secret has %d bytes, not 32", len(secret))
	}
	key, err := hkdf.Key(sha256.New, secret, nil, use, 32)
	if err != nil {
		return Key{}, fmt.Errorf("seal: %w", err)
	}
	return New(key)
}

// Seal seals a text for a place.
func (k Key) Seal(text []byte, place string) []byte {
	nonce := make([]byte, k.aead.NonceSize(), k.aead.NonceSize()+len(text)+k.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails, see crypto/rand
	return k.aead.Seal(nonce, nonce, text, []byte(place))
}

// Open gives the text back.
func (k Key) Open(sealed []byte, place string) ([]byte, error) {
	n := k.aead.NonceSize()
	if len(sealed) < n {
		return nil, ErrBroken
	}
	text, err := k.aead.Open(nil, sealed[:n], sealed[n:], []byte(place))
	if err != nil {
		return nil, ErrBroken
	}
	return text, nil
}
