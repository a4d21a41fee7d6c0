package password

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
)

const (
	lanes     = 1
	sumBytes  = 32
	saltBytes = 16
)

// Cost is how much work one hash is.
type Cost struct {
	Memory uint32 // KiB
	Passes uint32
}

// Floor is what OWASP asks for at least: 19 MiB, two passes. No machine is too slow for it.
var Floor = Cost{Memory: 19 << 10, Passes: 2}

// ceiling keeps two hashes at once from taking the memory of a small server.
const ceiling = 64 << 10 // KiB

// work is what a cost is compared by: how often a block of memory is filled.
func (c Cost) work() uint64 { return uint64(c.Memory) * uint64(c.Passes) }

// Most is how long one hash should take at most on the machine that the server runs on.
const Most = 40 * time.Millisecond

// Calibrate finds the highest cost whose hash takes no longer than most: first more memory, then more passes. It is never below the
// floor, whatever that takes. took tells how long a hash of a cost takes; nil measures it.
func Calibrate(most time.Duration, took func(Cost) time.Duration) Cost {
	if took == nil {
		took = measure
	}
	cost := Floor
	for range 16 {
		next := Cost{Memory: cost.Memory + cost.Memory/2, Passes: cost.Passes}
		if next.Memory > ceiling {
			next = Cost{Memory: cost.Memory, Passes: cost.Passes + 1}
		}
		if took(next) > most {
			return cost
		}
		cost = next
	}
	return cost
}

// measure takes the shorter of two tries: whatever else the machine did just then does not count.
func measure(c Cost) time.Duration {
	best := time.Hour
	for range 2 {
		start := time.Now()
		_ = argon2.IDKey([]byte("calibration"), make([]byte, saltBytes), c.Passes, c.Memory, lanes, sumBytes)
		best = min(best, time.Since(start))
	}
	return best
}

// Hash gives the PHC form of a new hash.
func (c Cost) Hash(password string) string {
	salt := randomBytes(saltBytes)
	return c.phc(salt, argon2.IDKey([]byte(password), salt, c.Passes, c.Memory, lanes, sumBytes))
}

// Decoy has the form of a hash and costs as much to check, but nobody knows a password for it.
func (c Cost) Decoy() string { return c.phc(randomBytes(saltBytes), randomBytes(sumBytes)) }

// DecoyLike costs as much to check as a hash does, whenever that was made.
func DecoyLike(hash string) string {
	p, ok := parse(hash)
	if !ok {
		p.cost = Floor
	}
	return p.cost.Decoy()
}

func (c Cost) phc(salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.Memory, c.Passes, lanes,
		b64.EncodeToString(salt), b64.EncodeToString(sum))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return b
}

// parsed is a hash in its parts.
type parsed struct {
	cost      Cost
	lanes     uint8
	salt, sum []byte
}

func parse(hash string) (p parsed, ok bool) {
	var version int
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return p, false
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return p, false
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.cost.Memory, &p.cost.Passes, &p.lanes); err != nil || p.cost.Passes == 0 || p.lanes == 0 {
		return p, false
	}
	var err error
	if p.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return p, false
	}
	if p.sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(p.sum) == 0 {
		return p, false
	}
	return p, true
}

// Same checks a password against a hash, whatever its cost was.
func Same(hash, password string) bool {
	p, ok := parse(hash)
	if !ok {
		return false
	}
	got := argon2.IDKey([]byte(password), p.salt, p.cost.Passes, p.cost.Memory, p.lanes, uint32(len(p.sum))) //nolint:gosec // our own hash
	return subtle.ConstantTimeCompare(got, p.sum) == 1
}

// Weaker reports whether a hash is less work than this cost: whoever has the password just then makes it anew. One that is more
// stays, so that two processes on unlike machines do not undo each other's.
func (c Cost) Weaker(hash string) bool {
	p, ok := parse(hash)
	return ok && p.cost.work() < c.work()
}
