package recipe

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/debian"
	"github.com/roadstead-io/roadstead/internal/builder/fetch"
)

// Lock says exactly which bytes an image is made of, and how it is known that these are the right ones.
type Lock struct {
	// Made is when what it says was verified.
	Made time.Time `json:"made"`
	// Suites are the signed files that vouch for the packages.
	Suites []debian.Seen `json:"suites,omitempty"`
	// Resources are the files that are no packages.
	Resources []LockedFile `json:"resources,omitempty"`
	// Images have the packages of each platform, sorted by name.
	Images map[string][]LockedPackage `json:"images"`
}

// LockedPackage is one package of Debian's.
type LockedPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	Source  string `json:"source,omitempty"`
	Suite   string `json:"suite"`
	Path    string `json:"path"`
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
}

// LockedFile is one resource.
type LockedFile struct {
	Name   string `json:"name"`
	URL    string `json:"url"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	// SignedBy is the fingerprint of the key that vouched for it; empty: a person did, who wrote the digest here.
	SignedBy string `json:"signed_by,omitempty"`
}

// ParseLock reads a lock file and refuses whatever is not exactly of its form.
func ParseLock(text []byte) (*Lock, error) {
	l := &Lock{}
	if err := strict(text, l); err != nil {
		return nil, api.Errorf(api.Invalid, "%v", err)
	}
	return l, l.Validate()
}

// Validate names the field that is wrong.
func (l *Lock) Validate() error {
	if l.Made.IsZero() {
		return api.Errorf(api.Invalid, "made: is missing")
	}
	suites := map[string]bool{}
	for _, s := range l.Suites {
		if suites[s.Suite] {
			return api.Errorf(api.Invalid, "suites: %s is there twice", s.Suite)
		}
		suites[s.Suite] = true
		if err := fetch.CheckSHA256(s.SHA256); err != nil {
			return fmt.Errorf("suites: %s: %w", s.Suite, err)
		}
		if err := fetch.CheckFingerprint(s.SignedBy); err != nil {
			return fmt.Errorf("suites: %s: %w", s.Suite, err)
		}
		if s.Date.IsZero() {
			return api.Errorf(api.Invalid, "suites: %s: date: is missing", s.Suite)
		}
	}
	names := map[string]bool{}
	for _, r := range l.Resources {
		if names[r.Name] {
			return api.Errorf(api.Invalid, "resources: %s is there twice", r.Name)
		}
		names[r.Name] = true
		if !nameForm.MatchString(r.Name) {
			return api.Errorf(api.Invalid, "resources: name: %q is none", r.Name)
		}
		if err := (fetch.Locked{Name: r.Name, SHA256: r.SHA256, Size: r.Size}).Validate(); err != nil {
			return fmt.Errorf("resources: %w", err)
		}
	}
	if len(l.Images) == 0 {
		return api.Errorf(api.Invalid, "images: is missing")
	}
	for platform, list := range l.Images {
		if err := validatePackages(platform, list, suites); err != nil {
			return fmt.Errorf("images: %s: %w", platform, err)
		}
	}
	return nil
}

func validatePackages(platform string, list []LockedPackage, suites map[string]bool) error {
	if _, ok := platforms[platform]; !ok {
		return api.Errorf(api.Invalid, "the platform is unknown")
	}
	names := map[string]bool{}
	for _, p := range list {
		if names[p.Name] {
			return api.Errorf(api.Invalid, "%s is there twice", p.Name)
		}
		names[p.Name] = true
		if err := (debian.Package{Name: p.Name, Version: p.Version, Path: p.Path, SHA256: p.SHA256, Size: p.Size}).Validate(); err != nil {
			return err
		}
		if p.Arch != platform && p.Arch != "all" {
			return api.Errorf(api.Invalid, "%s: arch: %q is neither %s nor all", p.Name, p.Arch, platform)
		}
		if !suites[p.Suite] {
			return api.Errorf(api.Invalid, "%s: suite: %q is none of the lock file's", p.Name, p.Suite)
		}
	}
	return nil
}

// Text is the lock file, one package a line.
func (l *Lock) Text() ([]byte, error) {
	var b bytes.Buffer
	line := func(v any, last bool) error {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		b.WriteString("    ")
		b.Write(text)
		if !last {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
		return nil
	}
	fmt.Fprintf(&b, "{\n  \"made\": %q,\n  \"suites\": [\n", l.Made.UTC().Format(time.RFC3339))
	for i, s := range l.Suites {
		if err := line(s, i == len(l.Suites)-1); err != nil {
			return nil, err
		}
	}
	b.WriteString("  ],\n  \"resources\": [\n")
	for i, r := range l.Resources {
		if err := line(r, i == len(l.Resources)-1); err != nil {
			return nil, err
		}
	}
	b.WriteString("  ],\n  \"images\": {\n")
	all := slices.Sorted(maps.Keys(l.Images))
	for i, platform := range all {
		fmt.Fprintf(&b, "   %q: [\n", platform)
		for j, p := range l.Images[platform] {
			if err := line(p, j == len(l.Images[platform])-1); err != nil {
				return nil, err
			}
		}
		if i < len(all)-1 {
			b.WriteString("   ],\n")
		} else {
			b.WriteString("   ]\n")
		}
	}
	b.WriteString("  }\n}\n")
	return b.Bytes(), nil
}

// Update finds what a recipe is made of today. Everything in it was vouched for by a signature; what has none must be in the old lock
// file, and stays as it is there. old may be nil.
func (b *Book) Update(ctx context.Context, f *fetch.Fetcher, r *Recipe, old *Lock) (*Lock, error) {
	l := &Lock{Made: f.Now().UTC().Truncate(time.Second), Images: map[string][]LockedPackage{}}
	if old == nil {
		old = &Lock{}
	}
	for _, res := range r.Resources {
		file, err := b.updateResource(ctx, f, res, old)
		if err != nil {
			return nil, err
		}
		l.Resources = append(l.Resources, file)
	}
	var wants []debian.Want
	for _, p := range r.Platforms {
		l.Images[p] = []LockedPackage{}
		wants = append(wants, debian.Want{Arch: p, Packages: r.Packages, Essential: r.Essential, Without: r.Without})
	}
	if len(r.Packages) > 0 || r.Essential {
		found, seen, err := debian.Find(ctx, f, b.Keys, b.Suites, old.Suites, wants...)
		if err != nil {
			return nil, err
		}
		l.Suites = seen
		for platform, list := range found {
			for _, p := range list {
				l.Images[platform] = append(l.Images[platform], LockedPackage{Name: p.Name, Version: p.Version, Arch: p.Architecture,
					Source: p.Source, Suite: p.Suite, Path: p.Path, SHA256: p.SHA256, Size: p.Size})
			}
		}
	}
	return l, l.Validate()
}

func (b *Book) updateResource(ctx context.Context, f *fetch.Fetcher, res Resource, old *Lock) (LockedFile, error) {
	if res.Signature == "" {
		i := slices.IndexFunc(old.Resources, func(l LockedFile) bool { return l.Name == res.Name })
		if i < 0 {
			return LockedFile{}, api.Errorf(api.Invalid,
				"%s has no signature: look at it, and write its SHA-256 and size into the lock file yourself", res.Name)
		}
		return old.Resources[i], nil
	}
	got, signer, err := f.Signed(ctx, b.Keys, fetch.Signed{Name: res.Name, URL: res.URL, Signature: res.Signature, By: res.SignedBy})
	if err != nil {
		return LockedFile{}, err
	}
	return LockedFile{Name: res.Name, URL: res.URL, SHA256: got.SHA256, Size: got.Size, SignedBy: signer}, nil
}

// Same reports whether two lock files make the same images.
func (l *Lock) Same(other *Lock) bool {
	if other == nil || len(l.Images) != len(other.Images) || !slices.Equal(l.Resources, other.Resources) {
		return false
	}
	for p := range l.Images {
		if !slices.Equal(l.Images[p], other.Images[p]) {
			return false
		}
	}
	return true
}
