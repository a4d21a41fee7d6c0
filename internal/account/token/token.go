// Package token makes the tokens of a server and tells them from others: random ones with a prefix and a checksum, which are kept as hashes
// only, and signed ones for sessions. It knows no table.
package token

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"hash/crc32"
	"math/big"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/roadstead-io/roadstead/api"
)

// Prefixes tell people (and scanners of leaked secrets) what a token is for. With the checksum at the end they tell a real token from
// what only looks like one: \brs[updfi]_[0-9A-Za-z]{49}\b, of which the last six digits are the CRC-32 of all before them.
const (
	User         = "rsu_"
	Provisioning = "rsp_"
	Device       = "rsd_"
	Fleet        = "rsf_"
	Invite       = "rsi_"
)

// Base62 is the digits of a token.
const Base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// tokenDigits base-62 digits hold 256 bits, checkDigits a CRC-32.
const (
	tokenDigits = 43
	checkDigits = 6
)

// checksum is the CRC-32 (IEEE) of a text in base 62.
func checksum(text string) string {
	n := crc32.ChecksumIEEE([]byte(text))
	digits := make([]byte, checkDigits)
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = Base62[n%uint32(len(Base62))]
		n /= uint32(len(Base62))
	}
	return string(digits)
}

// Forged reports whether a token has the form of ours and a checksum that is not right. Tokens from before there were checksums are
// shorter.
func Forged(token string) bool {
	if len(token) != len(User)+tokenDigits+checkDigits {
		return false
	}
	switch token[:len(User)] {
	case User, Provisioning, Device, Fleet, Invite:
	default:
		return false
	}
	text, sum := token[:len(token)-checkDigits], token[len(token)-checkDigits:]
	return checksum(text) != sum
}

// New makes a random token of 256 bits, with its checksum.
func New(prefix string) string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails, see crypto/rand
	n := new(big.Int).SetBytes(raw[:])
	digits := make([]byte, tokenDigits)
	base, rest := big.NewInt(int64(len(Base62))), new(big.Int)
	for i := len(digits) - 1; i >= 0; i-- {
		n.DivMod(n, base, rest)
		digits[i] = Base62[rest.Int64()]
	}
	token := prefix + string(digits)
	return token + checksum(token)
}

// Hasher turns tokens into what the database keeps of them. Without the pepper, which is not in the database, a stolen hash
// can neither be used nor tried against guesses.
type Hasher struct{ pepper []byte }

// NewHasher makes a hasher with the server's pepper.
func NewHasher(pepper []byte) Hasher { return Hasher{pepper: append([]byte(nil), pepper...)} }

// Token is the hash of an API key.
func (h Hasher) Token(token string) string { return hex.EncodeToString(h.MAC("", token)) }

// SessionID is the hash of a session token's jti.
func (h Hasher) SessionID(jti string) string { return hex.EncodeToString(h.MAC("session\x00", jti)) }

// sessionKey is the key that signs session tokens.
func (h Hasher) sessionKey() []byte { return h.MAC("session signing key\x00", "v1") }

// MAC is the hash of a text of some other kind. The domain keeps the kinds apart, and ends with a zero byte.
func (h Hasher) MAC(domain, text string) []byte {
	m := hmac.New(sha256.New, h.pepper)
	m.Write([]byte(domain))
	m.Write([]byte(text))
	return m.Sum(nil)
}

// Claims are the content of a session token. Clients read iat and exp; authTime is in milliseconds, as they expect.
type Claims struct {
	ID       int64  `json:"id"` // of the user
	AuthTime int64  `json:"authTime"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	JTI      string `json:"jti"`

	// TwoFactor is for old clients: absent when no second factor is needed, true while one is waited for, then false. What a session may
	// do its row says.
	TwoFactor *bool `json:"twoFactorRequired,omitempty"`
}

// LooksSigned tells session tokens from keys: a token of the form of a JWT is never looked up as a key.
func LooksSigned(token string) bool { return strings.Count(token, ".") == 2 }

// Sign makes a session token of its content.
func (h Hasher) Sign(c Claims) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: h.sessionKey()}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// Read checks the signature and the expiry of a session token. Every failure is the same error.
func (h Hasher) Read(token string, now time.Time) (Claims, error) {
	var c Claims
	for part := range strings.SplitSeq(token, ".") { // one token has one spelling: no white space, no bits that nobody reads
		if _, err := base64.RawURLEncoding.Strict().DecodeString(part); err != nil || strings.ContainsAny(part, "\r\n") {
			return c, api.ErrUnauthorized
		}
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		return c, api.ErrUnauthorized
	}
	payload, err := signed.Verify(h.sessionKey())
	if err != nil {
		return c, api.ErrUnauthorized
	}
	if err := json.Unmarshal(payload, &c); err != nil || c.JTI == "" || now.Unix() >= c.Expires {
		return c, api.ErrUnauthorized
	}
	return c, nil
}
