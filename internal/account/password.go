package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed" // the list of common passwords
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"github.com/roadstead-io/roadstead/api"
)

// Argon2id as OWASP recommends it: 19 MiB, two passes, one lane. At most maxHashing run at once, so that logins cannot take
// the server's memory or both of its cores.
const (
	argonMemory = 19 << 10 // KiB
	argonTime   = 2
	argonLanes  = 1
	argonBytes  = 32
	saltBytes   = 16
	maxHashing  = 2
	maxWaiting  = 64 // passwords being hashed or waiting for it

	minPassword = 12
	maxPassword = 1024
)

//go:embed common_passwords.txt
var commonPasswords string

// CheckPassword says whether a new password is good enough: long, not in the list of common ones, not made of the user's own
// name.
func CheckPassword(password string, names ...string) error {
	n := utf8.RuneCountInString(password)
	lower := strings.ToLower(password)
	distinct := map[rune]bool{}
	for _, r := range lower {
		distinct[r] = true
	}
	switch {
	case n < minPassword:
		return api.Errorf(api.Invalid, "the password needs at least %d characters", minPassword)
	case len(password) > maxPassword:
		return api.Errorf(api.Invalid, "the password has more than %d bytes", maxPassword)
	case len(distinct) < 5:
		return api.Errorf(api.Invalid, "the password repeats the same few characters")
	}
	for line := range strings.Lines(commonPasswords) {
		if strings.TrimSpace(line) == lower {
			return api.Errorf(api.Invalid, "the password is one of the most common ones")
		}
	}
	for _, name := range names {
		if name = strings.ToLower(name); len(name) >= 4 && strings.Contains(lower, name) && n-utf8.RuneCountInString(name) < 8 {
			return api.Errorf(api.Invalid, "the password is mostly the user's own name")
		}
	}
	return nil
}

// hashPassword gives the PHC form of a new hash.
func hashPassword(password string) string {
	salt := randomBytes(saltBytes)
	return phc(salt, argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonLanes, argonBytes))
}

// decoyHash has the form of a hash and costs as much to check, but nobody knows a password for it.
func decoyHash() string { return phc(randomBytes(saltBytes), randomBytes(argonBytes)) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return b
}

func phc(salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonLanes,
		b64.EncodeToString(salt), b64.EncodeToString(sum))
}

// samePassword checks a password against a hash of hashPassword, whatever its parameters were.
func samePassword(hash, password string) bool {
	var version, memory, passes, lanes int
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return false
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &passes, &lanes); err != nil {
		return false
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false
	}
	want, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(want) == 0 {
		return false
	}
	got := argon2.IDKey([]byte(password), salt, uint32(passes), uint32(memory), uint8(lanes), uint32(len(want))) //nolint:gosec // our own hash
	return subtle.ConstantTimeCompare(got, want) == 1
}

// hashing runs f, which hashes a password, when fewer than maxHashing others do. When many wait already, it is refused at
// once: a flood of logins shall not hold requests open.
func (a *Accounts) hashing(ctx context.Context, f func()) error {
	if a.waiting.Add(1) > maxWaiting {
		a.waiting.Add(-1)
		return api.Errorf(api.Unavailable, "too many logins at once; try again")
	}
	defer a.waiting.Add(-1)
	select {
	case a.verify <- struct{}{}:
		defer func() { <-a.verify }()
		f()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
