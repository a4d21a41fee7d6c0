package factor

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/internal/seal"
)

// keys are made of the pepper, each for one use.
type keys struct {
	pepper []byte
	seeds  seal.Key
}

func newKeys(pepper []byte) keys {
	k := keys{pepper: append([]byte(nil), pepper...)}
	var err error
	if k.seeds, err = seal.New(k.mac("totp seed key", "v1")); err != nil {
		panic(err) // the key has 32 bytes
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
	return base64.StdEncoding.EncodeToString(k.seeds.Seal(seed, fmt.Sprint("totp ", user)))
}

func (k keys) open(user int64, sealed string) ([]byte, error) {
	data, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		return nil, errors.New("factor: a seed is not what was written")
	}
	seed, err := k.seeds.Open(data, fmt.Sprint("totp ", user))
	if err != nil {
		return nil, fmt.Errorf("factor: open a seed (was the pepper changed?): %w", err)
	}
	return seed, nil
}
