package recipe

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // dpkg's list of configuration files has it; nothing trusts it
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/debian"
	"github.com/roadstead-io/roadstead/internal/builder/fetch"
)

// platforms are the processors that images can be made for: Debian's names, and the ones that fleets have for them.
var platforms = map[string]string{"amd64": "amd64", "arm64": "aarch64", "armhf": "armv7hf", "i386": "i386"}

// Arch is the name that fleets have for one of Debian's architectures.
func Arch(platform string) string { return platforms[platform] }

// Make fetches what a lock file names for a platform, and writes the root file system of it as a tar archive. Nothing is written
// unless everything was there and as the lock file says. tmp is a directory for what lies around meanwhile.
func (b *Book) Make(ctx context.Context, f *fetch.Fetcher, r *Recipe, l *Lock, platform, tmp string, w io.Writer) (err error) {
	list, ok := l.Images[platform]
	if !ok {
		return api.Errorf(api.NotFound, "base/%s: the lock file has nothing for %s", r.Name, platform)
	}
	if err := r.fits(l, platform); err != nil {
		return fmt.Errorf("base/%s: %w", r.Name, err)
	}
	debs, err := b.fetchPackages(ctx, f, l, list)
	if err != nil {
		return fmt.Errorf("base/%s for %s: %w", r.Name, platform, err)
	}
	t, err := newTree(tmp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	if err := r.unpack(t, list, debs); err != nil {
		return fmt.Errorf("base/%s for %s: %w", r.Name, platform, err)
	}
	if err := r.resources(ctx, f, t, l); err != nil {
		return fmt.Errorf("base/%s: %w", r.Name, err)
	}
	if err := r.finish(t); err != nil {
		return fmt.Errorf("base/%s for %s: %w", r.Name, platform, err)
	}
	return t.write(w)
}

// fits refuses a lock file that was made for another recipe.
func (r *Recipe) fits(l *Lock, platform string) error {
	for _, want := range r.Packages {
		if !slices.ContainsFunc(l.Images[platform], func(p LockedPackage) bool { return p.Name == want }) {
			return api.Errorf(api.Invalid, "the lock file has no %s for %s; update it", want, platform)
		}
	}
	for _, want := range r.Resources {
		if !slices.ContainsFunc(l.Resources, func(f LockedFile) bool { return f.Name == want.Name && f.URL == want.URL }) {
			return api.Errorf(api.Invalid, "the lock file has no digest of %s at %s; update it", want.Name, want.URL)
		}
	}
	return nil
}

// fetchPackages gives the files of packages, in their order. All of them are fetched before anything is made of one.
func (b *Book) fetchPackages(ctx context.Context, f *fetch.Fetcher, l *Lock, list []LockedPackage) ([]string, error) {
	files := make([]string, len(list))
	for i, p := range list {
		urls, err := b.urls(l, p)
		if err != nil {
			return nil, err
		}
		if files[i], err = f.File(ctx, fetch.Locked{Name: path.Base(p.Path), URLs: urls, SHA256: p.SHA256, Size: p.Size}); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func (b *Book) urls(l *Lock, p LockedPackage) ([]string, error) {
	for _, s := range b.Suites {
		if s.Directory != p.Suite {
			continue
		}
		if s.Mirror == "" {
			return nil, api.Errorf(api.Invalid, "%s: there is no mirror: this machine's apt names none of Debian's; name one (--mirror, up --base-mirror)", s.Directory)
		}
		list := []string{s.Mirror + "/" + p.Path}
		if s.Fallback != "" {
			at := strings.ReplaceAll(s.Fallback, "{time}", l.Made.UTC().Format("20060102T150405Z"))
			list = append(list, at+"/"+p.Path)
		}
		return list, nil
	}
	return nil, api.Errorf(api.Invalid, "%s: suites.json has no suite %s", p.Name, p.Suite)
}

// unpack puts the packages into the tree. base-files comes first: it has the links that other packages' paths lead through.
func (r *Recipe) unpack(t *tree, list []LockedPackage, debs []string) error {
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		first := func(i int) int {
			if list[i].Name == "base-files" {
				return 0
			}
			return 1
		}
		return first(a) - first(b)
	})
	var status []string
	for _, i := range order {
		p := list[i]
		var paths []string
		c, err := debian.Unpack(debs[i], func(h *tar.Header, body io.Reader) error {
			if !r.wants(h.Name, h.Typeflag == tar.TypeDir) {
				return nil
			}
			paths = append(paths, "/"+h.Name)
			return t.add(p.Name, h, body)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", path.Base(p.Path), err)
		}
		control, err := checkControl(p, c)
		if err != nil {
			return fmt.Errorf("%s: %w", path.Base(p.Path), err)
		}
		if !r.Dpkg {
			if err := t.put("var/lib/dpkg/status.d/"+p.Name, regular(0o644), []byte(control)); err != nil {
				return err
			}
			continue
		}
		stanza, err := install(t, p, c, control, paths)
		if err != nil {
			return err
		}
		status = append(status, stanza)
	}
	if !r.Dpkg {
		return nil
	}
	slices.Sort(status)
	return errors.Join(t.put("var/lib/dpkg/status", regular(0o644), []byte(strings.Join(status, "\n"))),
		t.put("var/lib/dpkg/info/format", regular(0o644), []byte("1\n")))
}

// checkControl makes sure that a package is the one that its name in the archive said.
func checkControl(p LockedPackage, c *debian.Contents) (string, error) {
	for _, want := range []string{"Package: " + p.Name, "Version: " + p.Version, "Architecture: " + p.Arch} {
		if !slices.Contains(strings.Split(c.Control, "\n"), want) {
			return "", api.Errorf(api.Invalid, "its control file does not say %q", want)
		}
	}
	return strings.TrimRight(c.Control, "\n") + "\n", nil
}

// wants reports whether a path of a package comes into the image.
func (r *Recipe) wants(p string, dir bool) bool {
	const docs = "usr/share/doc/"
	if rest, ok := strings.CutPrefix(p, docs); ok && (r.Slim || len(r.Only) > 0) {
		_, file, deep := strings.Cut(rest, "/")
		return !deep && !dir || file == "copyright"
	}
	if r.Slim {
		for _, left := range []string{"usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/groff",
			"usr/share/bug", "usr/share/linda"} {
			if strings.HasPrefix(p, left+"/") {
				return false
			}
		}
	}
	if len(r.Only) == 0 {
		return true
	}
	return slices.ContainsFunc(r.Only, func(only string) bool { return p == only || strings.HasPrefix(p, only+"/") })
}

func regular(mode int64) entry { return entry{kind: tar.TypeReg, mode: mode} }

// install writes what dpkg keeps of a package, and gives its paragraph of the list.
func install(t *tree, p LockedPackage, c *debian.Contents, control string, paths []string) (string, error) {
	name := "var/lib/dpkg/info/" + p.Name
	if strings.Contains(control, "\nMulti-Arch: same\n") {
		name += ":" + p.Arch
	}
	files := map[string][]byte{"list": []byte("/.\n" + strings.Join(paths, "\n") + "\n")}
	maps.Copy(files, c.Scripts)
	for _, what := range slices.Sorted(maps.Keys(files)) {
		mode := int64(0o644)
		if bytes.HasPrefix(files[what], []byte("#!")) {
			mode = 0o755
		}
		if err := t.put(name+"."+what, regular(mode), files[what]); err != nil {
			return "", err
		}
	}
	first, rest, _ := strings.Cut(control, "\n")
	stanza := first + "\nStatus: install ok installed\n" + rest
	var list strings.Builder
	for line := range strings.Lines(string(c.Scripts["conffiles"])) {
		file := strings.TrimSpace(line)
		if !strings.HasPrefix(file, "/") {
			continue
		}
		text, err := t.text(strings.TrimPrefix(file, "/"))
		if err != nil {
			continue // left out, or removed on upgrade
		}
		sum := md5.Sum(text) //nolint:gosec // see the import
		list.WriteString("\n " + file + " " + hex.EncodeToString(sum[:]))
	}
	if list.Len() > 0 {
		stanza += "Conffiles:" + list.String() + "\n"
	}
	return stanza, nil
}

// resources puts the files in that are no packages.
func (r *Recipe) resources(ctx context.Context, f *fetch.Fetcher, t *tree, l *Lock) error {
	for _, res := range r.Resources {
		i := slices.IndexFunc(l.Resources, func(l LockedFile) bool { return l.Name == res.Name })
		file, err := f.File(ctx, fetch.Locked{Name: res.Name, URLs: []string{res.URL}, SHA256: l.Resources[i].SHA256, Size: l.Resources[i].Size})
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		mode, err := octal(res.Mode, 0o644)
		if err != nil {
			return fmt.Errorf("resources: %s: mode: %w", res.Name, err)
		}
		if err := t.put(res.Path, regular(mode), text); err != nil {
			return err
		}
	}
	return nil
}

func octal(text string, otherwise int64) (int64, error) {
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 8, 64)
	if err != nil || n < 0 || n > 0o7777 {
		return 0, api.Errorf(api.Invalid, "%q is no mode in octal digits", text)
	}
	return n, nil
}

// finish does what maintainers' scripts would have done.
func (r *Recipe) finish(t *tree) error {
	for _, p := range slices.Sorted(maps.Keys(r.Directories)) {
		mode, err := octal(r.Directories[p], 0o755)
		if err != nil {
			return fmt.Errorf("directories: %s: %w", p, err)
		}
		if err := t.put(p, entry{kind: tar.TypeDir, mode: mode}, nil); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(r.Copies)) {
		text, err := t.text(r.Copies[p])
		if err != nil {
			return fmt.Errorf("copies: %s: %w", p, err)
		}
		if err := t.put(p, regular(0o644), text); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(r.Joined)) {
		if err := r.join(t, p); err != nil {
			return fmt.Errorf("joined: %s: %w", p, err)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(r.Files)) {
		if err := t.put(p, regular(0o644), []byte(r.Files[p])); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(r.Appended)) {
		text, err := t.text(p)
		if err != nil {
			return fmt.Errorf("appended: %s: %w", p, err)
		}
		if err := t.put(p, regular(0o644), append(text, r.Appended[p]...)); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(r.Links)) {
		if err := t.put(p, entry{kind: tar.TypeSymlink, mode: 0o777, link: r.Links[p]}, nil); err != nil {
			return err
		}
	}
	return r.linkApplets(t)
}

func (r *Recipe) join(t *tree, p string) error {
	var all []byte
	for _, file := range t.below(r.Joined[p]) {
		text, err := t.text(file)
		if err != nil {
			return err
		}
		all = append(all, text...)
		if len(text) > 0 && text[len(text)-1] != '\n' {
			all = append(all, '\n')
		}
	}
	if len(all) == 0 {
		return api.Errorf(api.NotFound, "there is nothing below %s", r.Joined[p])
	}
	return t.put(p, regular(0o644), all)
}

// linkApplets makes a link to a program of many names for each of them. The names come from a list, for the program is not run; each
// must be one that the program holds.
func (r *Recipe) linkApplets(t *tree) error {
	if r.Applets == "" {
		return nil
	}
	program, err := t.text(r.Applets)
	if err != nil {
		return fmt.Errorf("applets: %w", err)
	}
	for _, p := range r.applets {
		if !bytes.Contains(program, []byte("\x00"+path.Base(p)+"\x00")) {
			return api.Errorf(api.Invalid, "applets: %s does not know the name %s", r.Applets, path.Base(p))
		}
		at, err := t.place(p)
		if err != nil {
			return fmt.Errorf("applets: %w", err)
		}
		if t.entries[at] != nil {
			continue
		}
		if err := t.put(p, entry{kind: tar.TypeSymlink, mode: 0o777, link: "/" + r.Applets}, nil); err != nil {
			return fmt.Errorf("applets: %w", err)
		}
	}
	return nil
}
