// Package tuf makes, reads and checks the signed metadata of a fleet: files of The Update Framework, of which go-tuf verifies the
// signatures and the order, after this package has looked at the bytes more strictly than the framework asks for.
//
// It knows no clock, no file and no network: whoever calls it brings bytes and the time. Every refusal is a *Refused, which names what was refused,
// why, by which key, what was expected and what was there.
package tuf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// The largest files that are looked at, in bytes. A larger one is refused unparsed.
const (
	MaxRoot      = 128 << 10
	MaxTimestamp = 16 << 10
	MaxSnapshot  = 256 << 10
	MaxTargets   = 1 << 20 // some 5,000 devices on their way to another fleet
	MaxDelegator = 64 << 10
	MaxBin       = 1 << 20 // some 4,000 releases of one bin, a million of a fleet
	MaxDirector  = 16 << 10
	MaxCommand   = 16 << 10
	MaxDocument  = 4 << 20 // of a release
)

// Other bounds.
const (
	MaxVersion = 1 << 40 // versions that the signer gives are seconds since 1970
	MaxKeys    = 64      // that a file lists
	maxSigs    = 128     // that a file carries
	maxDepth   = 12      // of its JSON
)

// Reasons of refusals, as they stand in a TrustRejection. What callers refuse by themselves has other ones too.
const (
	ReasonSize      = "size"      // larger than such a file may be, or not as long as was said
	ReasonMalformed = "malformed" // not the JSON that is asked for
	ReasonType      = "type"      // metadata of another role
	ReasonKey       = "key"       // a key of an unknown kind, or listed twice
	ReasonName      = "name"      // a role's or a target's name that may not be
	ReasonThreshold = "threshold" // too few valid signatures, or a threshold that cannot be
	ReasonSignature = "signature" // a signature that is none
	ReasonVersion   = "version"   // not the version that was announced
	ReasonRollback  = "rollback"  // older than what was there
	ReasonExpired   = "expired"
	ReasonDigest    = "digest"
	ReasonCounter   = "counter"
	ReasonFleet     = "fleet"    // of another fleet
	ReasonDevice    = "device"   // for another device
	ReasonNonce     = "nonce"    // an answer to another question
	ReasonMissing   = "missing"  // a file, or part of one, that is needed
	ReasonUnlisted  = "unlisted" // a release that no bin lists
	ReasonClock     = "clock"    // nobody said what time it is
)

// Refused is the error of everything that is not taken.
type Refused struct{ api.TrustRejection }

// Error implements error.
func (r *Refused) Error() string {
	var b strings.Builder
	b.WriteString(r.What + ": " + r.Reason)
	if r.Key != "" {
		b.WriteString(", key " + r.Key)
	}
	if r.Expected != "" {
		b.WriteString(", expected " + r.Expected)
	}
	if r.Got != "" {
		b.WriteString(", got " + r.Got)
	}
	return b.String()
}

// Refuse makes a refusal. Key, expected and got follow as far as they are known.
func Refuse(what, reason string, more ...string) *Refused {
	r := &Refused{api.TrustRejection{What: what, Reason: reason}}
	for i, field := range []*string{&r.Key, &r.Expected, &r.Got} {
		if i < len(more) {
			*field = printable(more[i])
		}
	}
	r.What = printable(r.What)
	return r
}

// Rejection gives the refusal inside of an error.
func Rejection(err error) (api.TrustRejection, bool) {
	var r *Refused
	if errors.As(err, &r) {
		return r.TrustRejection, true
	}
	return api.TrustRejection{}, false
}

// printable bounds what comes from outside and goes into a message.
func printable(s string) string {
	const most = 200
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		s = s[:most] + "…"
	}
	return s
}

var (
	commitForm = pattern.New(`^[0-9a-f]{32}([0-9a-f]{8})?$`)
	pathForm   = pattern.New(`^releases/[0-9a-f]{32}([0-9a-f]{8})?\.json$`)
	binForm    = pattern.New(`^(builder|owner)-[0-9a-f]{2}$`)
	keyIDForm  = pattern.New(`^[0-9a-f]{1,128}$`)
	uuidForm   = pattern.New(`^[0-9a-f-]{32,36}$`)
)

// ReleasePath is the name of a release's document as a target.
func ReleasePath(commit string) (string, error) {
	if !commitForm.MatchString(commit) {
		return "", Refuse("commit", ReasonName, "", "32 or 40 lower-case hexadecimal digits", commit)
	}
	return "releases/" + commit + ".json", nil
}

// BinOf says which bin lists a path: the first eight bits of its SHA-256.
func BinOf(path string) string {
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:1])
}

// BinRole is the name of the role that lists a path: by is "builder" or "owner".
func BinRole(by, path string) string { return by + "-" + BinOf(path) }

// Bounds gives the largest size of a role's file; 0 for a name that is no role's.
func Bounds(role string) int {
	switch role {
	case api.TrustRoot:
		return MaxRoot
	case api.TrustTimestamp:
		return MaxTimestamp
	case api.TrustSnapshot:
		return MaxSnapshot
	case api.TrustTargets:
		return MaxTargets
	case api.TrustBuilder, api.TrustOwner:
		return MaxDelegator
	case api.TrustDirector:
		return MaxDirector
	}
	if binForm.MatchString(role) {
		return MaxBin
	}
	return 0
}

// Delegates says who names the keys of a role that is neither root nor named by it: "builder-3f" is delegated by "builder".
func Delegates(role string) (by string, ok bool) {
	if role == api.TrustBuilder || role == api.TrustOwner {
		return api.TrustTargets, true
	}
	if binForm.MatchString(role) {
		by, _, _ = strings.Cut(role, "-")
		return by, true
	}
	return "", false
}

// Check compares a release's document with what is listed.
func (l Listed) Check(what string, document []byte) error {
	if int64(len(document)) != l.Length {
		return Refuse(what, ReasonSize, "", digits(l.Length)+" bytes", digits(int64(len(document))))
	}
	if got := Digest(document); got != l.SHA256 {
		return Refuse(what, ReasonDigest, "", l.SHA256, got)
	}
	return nil
}

// Digest is the SHA-256 of bytes, in hexadecimal.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func digits(n int64) string { return fmt.Sprint(n) }
