// Package recipe makes base images: a recipe says what belongs into one, a lock file exactly which bytes. Everything comes through
// package fetch, so nothing gets in that was not checked, and the same lock file makes the same image, byte for byte. No program of
// an image is run while it is made: an image for another processor is made like one for this.
package recipe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/debian"
	"github.com/roadstead-io/roadstead/internal/builder/fetch"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Recipe says what belongs into a base image.
type Recipe struct {
	Name string `json:"-"` // "busybox", the directory's name

	// About says what the image is, for people.
	About string `json:"about"`
	// Platforms are the processors that there is an image for, as Debian names them.
	Platforms []string `json:"platforms"`
	// Packages of Debian's, with all that they need.
	Packages []string `json:"packages,omitempty"`
	// Without are packages that are needed by name and left out all the same.
	Without []string `json:"without,omitempty"`
	// Essential adds what every Debian system has.
	Essential bool `json:"essential,omitempty"`
	// Dpkg writes Debian's own list of packages, so that apt and dpkg work. Without it only scanners find what is there.
	Dpkg bool `json:"dpkg,omitempty"`
	// Slim leaves out manual pages, translations and documentation, but for the licences.
	Slim bool `json:"slim,omitempty"`
	// Only takes these paths out of the packages, with all below them, and the licences; empty means everything.
	Only []string `json:"only,omitempty"`
	// Resources are files from elsewhere.
	Resources []Resource `json:"resources,omitempty"`

	// What maintainers' scripts would have done. Paths are below the root.
	Directories map[string]string `json:"directories,omitempty"` // path: mode in octal digits
	Copies      map[string]string `json:"copies,omitempty"`      // path: the file that is copied
	Joined      map[string]string `json:"joined,omitempty"`      // path: the directory whose files are put together, by name
	Files       map[string]string `json:"files,omitempty"`       // path: text
	Appended    map[string]string `json:"appended,omitempty"`    // path: text to add at its end
	Links       map[string]string `json:"links,omitempty"`       // path: where to
	// Applets is the program of many names; the file "applets" beside the recipe has one path a line.
	Applets string `json:"applets,omitempty"`

	// Env and Cmd are the image's.
	Env map[string]string `json:"env,omitempty"`
	Cmd []string          `json:"cmd,omitempty"`

	applets []string
}

// Resource is a file that is no package. Its digest is in the lock file. Where whoever makes it signs it, an update follows the
// signature; otherwise somebody looks at the new one and writes its digest into the lock file.
type Resource struct {
	Name      string   `json:"name"`
	Path      string   `json:"path"` // in the image
	Mode      string   `json:"mode,omitempty"`
	URL       string   `json:"url"`
	Signature string   `json:"signature,omitempty"`
	SignedBy  []string `json:"signed_by,omitempty"`
}

// Book is a directory of recipes: a folder for each with recipe.json and lock.json, suites.json and keys/*.asc.
type Book struct {
	Suites []debian.Suite
	Keys   *fetch.Keyring
	files  fs.FS
	mirror string
}

const maxFile = 8 << 20

var nameForm = pattern.New(`^[a-z0-9]+([._-][a-z0-9]+)*$`)

// Open reads what all recipes share. Suites without a mirror of their own are taken from mirror, see [debian.LocalMirror]; without one
// nothing can be made of them.
func Open(files fs.FS, mirror string) (*Book, error) {
	b := &Book{files: files, mirror: strings.TrimSuffix(mirror, "/")}
	if mirror != "" && !strings.HasPrefix(mirror, "https://") {
		return nil, api.Errorf(api.Invalid, "mirror: %q is no https address", mirror)
	}
	if err := b.read("suites.json", &b.Suites); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for i, s := range b.Suites {
		if err := s.Validate(); err != nil {
			return nil, fmt.Errorf("suites.json: %d: %w", i+1, err)
		}
		if seen[s.Directory] {
			return nil, api.Errorf(api.Invalid, "suites.json: %s is there twice", s.Directory)
		}
		seen[s.Directory] = true
		b.Suites[i] = s.At(b.mirror)
	}
	keys, err := fs.Glob(files, "keys/*.asc")
	if err != nil {
		return nil, err
	}
	var armour []byte
	for _, file := range keys {
		text, err := readSmall(files, file)
		if err != nil {
			return nil, err
		}
		armour = append(append(armour, text...), '\n')
	}
	if b.Keys, err = fetch.ReadKeyring(armour); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return b, nil
}

// Names are the recipes that there are.
func (b *Book) Names() ([]string, error) {
	list, err := fs.Glob(b.files, "*/recipe.json")
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i] = path.Dir(list[i])
	}
	return list, nil
}

// Recipe reads one. It may be called "debian" or "base/debian".
func (b *Book) Recipe(name string) (*Recipe, error) {
	name = strings.TrimPrefix(name, "base/")
	if !nameForm.MatchString(name) {
		return nil, api.Errorf(api.Invalid, "%q is no name of a base image", name)
	}
	r := &Recipe{Name: name}
	if err := b.read(name+"/recipe.json", r); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			all, _ := b.Names()
			return nil, api.Errorf(api.NotFound, "there is no recipe for base/%s; there are %s", name, strings.Join(all, ", "))
		}
		return nil, err
	}
	if r.Applets != "" {
		text, err := readSmall(b.files, name+"/applets")
		if err != nil {
			return nil, err
		}
		r.applets = strings.Fields(string(text))
	}
	for p, text := range r.Files {
		r.Files[p] = strings.ReplaceAll(text, "{mirror}", strings.TrimPrefix(b.mirror, "https://"))
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("%s/recipe.json: %w", name, err)
	}
	return r, nil
}

// Lock reads the lock file of a recipe.
func (b *Book) Lock(r *Recipe) (*Lock, error) {
	text, err := readSmall(b.files, r.Name+"/lock.json")
	if err != nil {
		return nil, err
	}
	l, err := ParseLock(text)
	if err != nil {
		return nil, fmt.Errorf("%s/lock.json: %w", r.Name, err)
	}
	return l, nil
}

func (b *Book) read(file string, into any) error {
	text, err := readSmall(b.files, file)
	if err != nil {
		return err
	}
	if err := strict(text, into); err != nil {
		return api.Errorf(api.Invalid, "%s: %v", file, err)
	}
	return nil
}

func readSmall(files fs.FS, name string) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = api.Errorf(api.TooLarge, "%s is larger than %d bytes", name, maxFile)
	}
	return text, err
}

// strict decodes JSON whose every field must be known, and named once.
func strict(text []byte, into any) error {
	if err := once(json.NewDecoder(bytes.NewReader(text))); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after its end")
	}
	return nil
}

// once refuses an object that names a key twice: readers differ in which of them counts.
func once(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			key, err := d.Token()
			if err != nil {
				return err
			}
			name := strings.ToLower(key.(string)) // the decoder takes names in any case
			if seen[name] {
				return fmt.Errorf("field %q is there twice", key)
			}
			seen[name] = true
		}
		if err := once(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

func (r *Recipe) validate() error {
	if r.About == "" {
		return api.Errorf(api.Invalid, "about: is missing")
	}
	if len(r.Platforms) == 0 {
		return api.Errorf(api.Invalid, "platforms: is missing")
	}
	for _, p := range r.Platforms {
		if _, ok := platforms[p]; !ok {
			return api.Errorf(api.Invalid, "platforms: %q is unknown", p)
		}
	}
	for _, p := range slices.Concat(r.Packages, r.Without) {
		if err := debian.CheckName(p); err != nil {
			return fmt.Errorf("packages: %w", err)
		}
	}
	for what, list := range map[string]map[string]string{"directories": r.Directories, "copies": r.Copies, "joined": r.Joined,
		"files": r.Files, "appended": r.Appended, "links": r.Links} {
		for p := range list {
			if err := below(p); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
	}
	for _, p := range slices.Concat(r.Only, r.applets) {
		if err := below(p); err != nil {
			return fmt.Errorf("only, applets: %w", err)
		}
	}
	names := map[string]bool{}
	for _, res := range r.Resources {
		if names[res.Name] {
			return api.Errorf(api.Invalid, "resources: %s is there twice", res.Name)
		}
		names[res.Name] = true
		if err := res.validate(); err != nil {
			return fmt.Errorf("resources: %w", err)
		}
	}
	return nil
}

func (r Resource) validate() error {
	if !nameForm.MatchString(r.Name) {
		return api.Errorf(api.Invalid, "name: %q is none", r.Name)
	}
	if err := below(r.Path); err != nil {
		return fmt.Errorf("%s: path: %w", r.Name, err)
	}
	if !strings.HasPrefix(r.URL, "https://") || r.Signature != "" && !strings.HasPrefix(r.Signature, "https://") {
		return api.Errorf(api.Invalid, "%s: url, signature: only https is used", r.Name)
	}
	if (r.Signature == "") != (len(r.SignedBy) == 0) {
		return api.Errorf(api.Invalid, "%s: signature and signed_by go together", r.Name)
	}
	for _, print := range r.SignedBy {
		if err := fetch.CheckFingerprint(print); err != nil {
			return fmt.Errorf("%s: signed_by: %w", r.Name, err)
		}
	}
	return nil
}

// below refuses what is no clean path below the root.
func below(p string) error {
	if p == "" || p == "." || p == ".." || p != path.Clean(p) || path.IsAbs(p) || strings.HasPrefix(p, "../") || strings.ContainsAny(p, "\x00\\") {
		return api.Errorf(api.Invalid, "%q is no path below the root", p)
	}
	return nil
}

// Hosts are those that recipes fetch from. Whoever keeps the recipes has chosen them, so they may be reached wherever they are.
func (b *Book) Hosts(recipes ...*Recipe) []string {
	addresses := []string{}
	for _, s := range b.Suites {
		addresses = append(addresses, s.Mirror, s.Fallback)
	}
	for _, r := range recipes {
		for _, res := range r.Resources {
			addresses = append(addresses, res.URL, res.Signature)
		}
	}
	var hosts []string
	for _, a := range addresses {
		if u, err := url.Parse(strings.ReplaceAll(a, "{time}", "")); err == nil && u.Hostname() != "" {
			hosts = append(hosts, u.Hostname())
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
