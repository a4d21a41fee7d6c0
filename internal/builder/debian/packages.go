package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/fetch"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Package is one package of an archive, as far as we look at it.
type Package struct {
	Name         string
	Version      string
	Architecture string // "all" for one that has none
	Source       string // the source package, "" when it has the same name
	Path         string // below the mirror
	SHA256       string
	Size         int64
	Suite        string // the directory of the suite that has it

	essential bool
	depends   []string // "Depends" and "Pre-Depends"
	provides  string
}

var nameForm = pattern.New(`^[a-z0-9][a-z0-9+.-]{0,127}$`)

// CheckName refuses what is no package's name.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return api.Errorf(api.Invalid, "%q is no package's name", name)
	}
	return nil
}

// Validate names the field that is wrong.
func (p Package) Validate() error {
	if err := CheckName(p.Name); err != nil {
		return err
	}
	if !versionForm.MatchString(p.Version) {
		return api.Errorf(api.Invalid, "%s: version: %q is none", p.Name, p.Version)
	}
	if err := cleanPath(p.Path); err != nil || !strings.HasPrefix(p.Path, "pool/") || !strings.HasSuffix(p.Path, ".deb") {
		return api.Errorf(api.Invalid, "%s: path: %q is not below pool/, or no .deb", p.Name, p.Path)
	}
	return fetch.Locked{Name: p.Name, SHA256: p.SHA256, Size: p.Size}.Validate()
}

var packageFields = map[string]bool{"Package": true, "Version": true, "Architecture": true, "Source": true, "Filename": true,
	"SHA256": true, "Size": true, "Essential": true, "Depends": true, "Pre-Depends": true, "Provides": true}

func readPackages(file, ending string, s Suite, each func(Package) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := unpack(f, ending)
	if err != nil {
		return err
	}
	list := newStanzas(io.LimitReader(plain, maxPackages), packageFields)
	for {
		fields, err := list.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return api.Errorf(api.Invalid, "it cannot be read: %v", err)
		}
		p := Package{Name: fields["Package"], Version: fields["Version"], Architecture: fields["Architecture"], Path: fields["Filename"],
			SHA256: fields["SHA256"], Suite: s.Directory, essential: fields["Essential"] == "yes", provides: fields["Provides"]}
		p.Source, _, _ = strings.Cut(fields["Source"], " ")
		p.Size, _ = strconv.ParseInt(fields["Size"], 10, 64)
		for _, d := range []string{fields["Pre-Depends"], fields["Depends"]} {
			if d != "" {
				p.depends = append(p.depends, strings.Split(d, ",")...)
			}
		}
		if err := each(p); err != nil {
			return err
		}
	}
}

// Want is what a root file system shall have.
type Want struct {
	Arch      string   // as Debian names it
	Packages  []string // and all that they need
	Essential bool     // and what every Debian system has
	Without   []string // needed by name, and left out all the same: their scripts are not run here
}

// Find says which packages of some suites make a wish come true, the newest of each, sorted by name. seen is what was accepted of the
// suites before; what is accepted now is given back.
func Find(ctx context.Context, f *fetch.Fetcher, ring *fetch.Keyring, suites []Suite, seen []Seen, wants ...Want) (map[string][]Package, []Seen, error) {
	var now []Seen
	shelves := map[string]*shelf{}
	for _, w := range wants {
		shelves[w.Arch] = newShelf()
	}
	for _, s := range suites {
		if err := s.Validate(); err != nil {
			return nil, nil, fmt.Errorf("suite %s: %w", s.Directory, err)
		}
		var last *Seen
		for i := range seen {
			if seen[i].Suite == s.Directory {
				last = &seen[i]
			}
		}
		r, err := open(ctx, f, ring, s, last)
		if err != nil {
			return nil, nil, err
		}
		now = append(now, r.seen)
		for arch, shelf := range shelves {
			for _, component := range s.Components {
				if err := r.packages(ctx, f, component, arch, shelf.add); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	found := map[string][]Package{}
	for _, w := range wants {
		list, err := shelves[w.Arch].close(w)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", w.Arch, err)
		}
		found[w.Arch] = list
	}
	return found, now, nil
}
