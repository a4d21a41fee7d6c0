// Package debian reads a Debian archive the way apt does: the signature over a suite's InRelease vouches for the digests of its
// lists of packages, and these for each package. It finds out which packages a root file system needs, and unpacks them.
package debian

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/fetch"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

const (
	maxRelease  = 4 << 20
	maxIndex    = 256 << 20 // compressed
	maxPackages = 1 << 30   // unpacked
	maxField    = 1 << 20
)

// Suite is one part of an archive that packages are taken from.
type Suite struct {
	Codename   string   `json:"codename"`   // "trixie", as its Release file says
	Directory  string   `json:"directory"`  // below dists/; "trixie", "trixie-security"
	Components []string `json:"components"` // "main"
	// Archive is its name below a mirror, "debian" or "debian-security"; a suite that has a Mirror of its own needs none. See [Suite.At].
	Archive string `json:"archive,omitempty"`
	Mirror  string `json:"mirror,omitempty"` // "https://mirror.example.com/debian"
	// Fallback is where packages are that the mirror does not have any more; {time} stands for when the lock file was made.
	Fallback string `json:"fallback,omitempty"`
	// SignedBy are the fingerprints of the keys whose signature counts.
	SignedBy []string `json:"signed_by"`
	// Expires says that its Release file must say until when it is valid.
	Expires bool `json:"expires,omitempty"`
}

var (
	wordForm      = pattern.New(`^[a-z0-9][a-z0-9.-]{0,60}$`)
	directoryForm = pattern.New(`^[a-z0-9][a-z0-9.-]{0,60}(/[a-z0-9][a-z0-9.-]{0,60})?$`)
)

// Validate names the field that is wrong.
func (s Suite) Validate() error {
	switch {
	case !wordForm.MatchString(s.Codename):
		return api.Errorf(api.Invalid, "codename: %q is none", s.Codename)
	case !directoryForm.MatchString(s.Directory):
		return api.Errorf(api.Invalid, "directory: %q is none", s.Directory)
	case len(s.Components) == 0:
		return api.Errorf(api.Invalid, "components: is missing")
	case s.Mirror == "" && !wordForm.MatchString(s.Archive):
		return api.Errorf(api.Invalid, "archive: %q is none, and there is no mirror", s.Archive)
	case s.Mirror != "" && !strings.HasPrefix(s.Mirror, "https://"):
		return api.Errorf(api.Invalid, "mirror: %q is no https address", s.Mirror)
	case s.Fallback != "" && !strings.HasPrefix(s.Fallback, "https://"):
		return api.Errorf(api.Invalid, "fallback: %q is no https address", s.Fallback)
	case len(s.SignedBy) == 0:
		return api.Errorf(api.Invalid, "signed_by: is missing: the fingerprints of the keys whose signature counts")
	}
	for _, c := range s.Components {
		if !wordForm.MatchString(c) {
			return api.Errorf(api.Invalid, "components: %q is none", c)
		}
	}
	for _, print := range s.SignedBy {
		if err := fetch.CheckFingerprint(print); err != nil {
			return fmt.Errorf("signed_by: %w", err)
		}
	}
	return nil
}

// Seen is what was accepted of a suite: nothing older is accepted after it.
type Seen struct {
	Suite    string    `json:"suite"` // its directory
	Date     time.Time `json:"date"`
	SHA256   string    `json:"sha256"` // of InRelease
	SignedBy string    `json:"signed_by"`
}

// release is a Release file that was checked.
type release struct {
	suite  Suite
	seen   Seen
	byHash bool
	files  map[string]sum // by name
}

type sum struct {
	sha256 string
	size   int64
}

// open fetches and checks the Release file of a suite. last is what was accepted before, if anything was.
func open(ctx context.Context, f *fetch.Fetcher, ring *fetch.Keyring, s Suite, last *Seen) (*release, error) {
	if s.Mirror == "" {
		return nil, api.Errorf(api.Invalid, "%s: there is no mirror: this machine's apt names none of Debian's; name one (--mirror, up --base-mirror)", s.Directory)
	}
	name := s.Directory + "/InRelease"
	text, err := f.Text(ctx, name, s.Mirror+"/dists/"+name, maxRelease)
	if err != nil {
		return nil, err
	}
	plain, signer, err := ring.Open(name, text, s.SignedBy, f.Now())
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(text)
	r, err := parseRelease(plain)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r.suite = s
	r.seen.Suite, r.seen.SHA256, r.seen.SignedBy = s.Directory, hex.EncodeToString(digest[:]), signer
	if err := r.fresh(f.Now(), last); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &r.release, nil
}

// parsed is a Release file with what is only needed to judge it.
type parsed struct {
	release
	codename   string
	validUntil time.Time
}

func parseRelease(text []byte) (*parsed, error) {
	p := &parsed{release: release{files: map[string]sum{}}}
	fields, err := newStanzas(bytes.NewReader(text), nil).next()
	if err != nil {
		return nil, api.Errorf(api.Invalid, "it cannot be read: %v", err)
	}
	p.codename, p.byHash = fields["Codename"], fields["Acquire-By-Hash"] == "yes"
	if p.seen.Date, err = date(fields["Date"]); err != nil {
		return nil, api.Errorf(api.Invalid, "Date: %v", err)
	}
	if v := fields["Valid-Until"]; v != "" {
		if p.validUntil, err = date(v); err != nil {
			return nil, api.Errorf(api.Invalid, "Valid-Until: %v", err)
		}
	}
	list := fields["SHA256"]
	if list == "" {
		return nil, api.Errorf(api.Invalid, "it has no SHA256 digests (MD5 and SHA-1 prove nothing)")
	}
	for line := range strings.Lines(list) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 {
			return nil, api.Errorf(api.Invalid, "SHA256: %q is no digest, size and name", strings.TrimSpace(line))
		}
		size, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || size < 0 {
			return nil, api.Errorf(api.Invalid, "SHA256: %q is no size", words[1])
		}
		if err := fetch.CheckSHA256(words[0]); err != nil {
			return nil, fmt.Errorf("SHA256: %s: %w", words[2], err)
		}
		if _, twice := p.files[words[2]]; twice {
			return nil, api.Errorf(api.Invalid, "SHA256: %s is there twice", words[2])
		}
		p.files[words[2]] = sum{words[0], size}
	}
	return p, nil
}

// date reads a time as archives write it.
func date(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, errors.New("is missing")
	}
	for _, form := range []string{"Mon, 2 Jan 2006 15:04:05 UTC", "Mon, _2 Jan 2006 15:04:05 UTC", time.RFC1123} {
		if t, err := time.Parse(form, s); err == nil {
			return t.UTC(), nil
		}
	}
	t, err := http.ParseTime(s)
	if err != nil {
		return t, fmt.Errorf("%q is no time", s)
	}
	return t.UTC(), nil
}

// fresh refuses a Release file of another suite, one that has run out, and one that is older than what was accepted before: its
// signature is good for ever, but what it vouches for may have known holes.
func (p *parsed) fresh(now time.Time, last *Seen) error {
	const stamp = time.RFC3339
	switch {
	case p.codename != p.suite.Codename:
		return api.Errorf(api.Invalid, "it is of %q, not of %q", p.codename, p.suite.Codename)
	case p.seen.Date.After(now.Add(24 * time.Hour)):
		return api.Errorf(api.Invalid, "its Date is in the future, %s", p.seen.Date.Format(stamp))
	case p.suite.Expires && p.validUntil.IsZero():
		return api.Errorf(api.Invalid, "it does not say until when it is valid")
	case !p.validUntil.IsZero() && !now.Before(p.validUntil):
		return api.Errorf(api.Invalid, "it was valid until %s", p.validUntil.Format(stamp))
	case last != nil && p.seen.Date.Before(last.Date):
		return api.Errorf(api.Invalid, "it is of %s, older than what was accepted before (%s): the mirror is behind, or replays",
			p.seen.Date.Format(stamp), last.Date.Format(stamp))
	}
	return nil
}

// packages fetches a list of packages and calls each with every package of it.
func (r *release) packages(ctx context.Context, f *fetch.Fetcher, component, arch string, each func(Package) error) error {
	dir := component + "/binary-" + arch + "/"
	for _, ending := range []string{".xz", ".gz"} {
		name := dir + "Packages" + ending
		known, ok := r.files[name]
		if !ok {
			continue
		}
		at := name
		if r.byHash { // stays the same while the mirror changes
			at = dir + "by-hash/SHA256/" + known.sha256
		}
		if known.size > maxIndex {
			return api.Errorf(api.TooLarge, "%s/%s is larger than %d bytes", r.suite.Directory, name, maxIndex)
		}
		l := fetch.Locked{Name: r.suite.Directory + "/" + name, SHA256: known.sha256, Size: known.size,
			URLs: []string{r.suite.Mirror + "/dists/" + r.suite.Directory + "/" + at}}
		file, err := f.File(ctx, l)
		if err != nil {
			return err
		}
		if err := readPackages(file, ending, r.suite, each); err != nil {
			return fmt.Errorf("%s: %w", l.Name, err)
		}
		return nil
	}
	return api.Errorf(api.Invalid, "%s/InRelease names no list of packages for %s in %s", r.suite.Directory, arch, component)
}

// unpack reads compressed data, by the ending of its name.
func unpack(r io.Reader, ending string) (io.Reader, error) {
	switch ending {
	case "":
		return r, nil
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		return xz.NewReader(bufio.NewReaderSize(r, 1<<16))
	}
	return nil, api.Errorf(api.Invalid, "%q is no compression that is read", ending)
}

// cleanPath refuses a path below an archive's root that leads elsewhere.
func cleanPath(p string) error {
	if p == "" || len(p) > 500 || p != path.Clean(p) || strings.HasPrefix(p, "/") || strings.HasPrefix(p, "../") || p == ".." ||
		strings.ContainsAny(p, "\\\x00\n?#") {
		return api.Errorf(api.Invalid, "%q is no path below the archive", p)
	}
	return nil
}
