package factor

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

// keys are made of the pepper, each for one use.
type keys struct {
	pepper []byte
	seeds  cipher.AEAD
}

func newKeys(pepper []byte) keys {
	k := keys{pepper: append([]byte(nil), pepper...)}
	block, err := aes.NewCipher(k.mac("totp seed key", "v1"))
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	if k.seeds, err = cipher.NewGCM(block); err != nil {
		panic(err) // AES has blocks of 16 bytes
	}
	return k
}

func (k keys) mac(domain, text string) []byte {
	m := hmac.New(sha256.New, k.pepper)
	m.Write([]byte(domain + "\x00" + text))
	return m.Sum(nil)
}

// hash is what the database has of a text that only its user knows.
func (k keys) hash(domain string, user int64, text string) string {
	return hex.EncodeToString(k.mac(domain, fmt.Sprintf("%d\x00%s", user, text)))
}

// seal encrypts a user's seed. It opens for that user only.
func (k keys) seal(user int64, seed []byte) string {
	nonce := make([]byte, k.seeds.NonceSize())
	_, _ = rand.Read(nonce) // never fails, see crypto/rand
	return base64.StdEncoding.EncodeToString(k.seeds.Seal(nonce, nonce, seed, fmt.Append(nil, "totp ", user)))
}

func (k keys) open(user int64, sealed string) ([]byte, error) {
	data, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil || len(data) < k.seeds.NonceSize() {
		return nil, errors.New("factor: a seed is not what was written")
	}
	n := k.seeds.NonceSize()
	seed, err := k.seeds.Open(nil, data[:n], data[n:], fmt.Append(nil, "totp ", user))
	if err != nil {
		return nil, fmt.Errorf("factor: open a seed (was the pepper changed?): %w", err)
	}
	return seed, nil
}
