// Package source packs a project directory into the tar that a builder takes: what .dockerignore and .git hide left out, links
// kept as links, in an order that depends on nothing but the names.
package source

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// ImagesDir is where a builder looks for images that were built elsewhere, one <service>.tar each.
const ImagesDir = ".roadstead/images"

// Project is a directory that was looked through, ready to be packed.
type Project struct {
	Dir     string
	Files   int      // regular files
	Bytes   int64    // in them
	Skipped []string // sockets, pipes and devices: no project needs them
	entries []entry
}

type entry struct {
	name string // in the tar, with slashes
	file string // on disk
	info fs.FileInfo
	link string // target of a symbolic link
	data []byte // content, of a file that is on no disk
}

var (
	composeNames   = []string{"docker-compose.yml", "docker-compose.yaml", "compose.yml", "compose.yaml"}
	servicePattern = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
)

// Service is a directory of a project that an image is built from: what builds it is sent even if it is ignored.
type Service struct {
	Dir     string // in the project
	Ignores bool   // it goes by its own .dockerignore alone
}

// Scan looks through a project. dockerfile is the path of the Dockerfile inside the project, or empty; it is sent even if
// ignored, as are the usual files that say how to build.
func Scan(dir, dockerfile string, services ...Service) (*Project, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("read the project: %w", err)
	}
	if !st.IsDir() {
		return nil, api.Errorf(api.Invalid, "%s is not a directory", dir)
	}
	ignore, err := readIgnore(filepath.Join(dir, ".dockerignore"))
	if err != nil {
		return nil, err
	}
	s := &scan{
		p: &Project{Dir: dir}, parents: map[string]patternmatcher.MatchInfo{}, rules: []rule{{".", ignore}},
		always: append([]string{path.Clean(filepath.ToSlash(dockerfile))}, composeNames...), dirs: []string{"."},
	}
	for _, service := range services {
		at := path.Clean(filepath.ToSlash(service.Dir))
		if !filepath.IsLocal(at) || at == "." {
			continue
		}
		s.dirs = append(s.dirs, at)
		if !service.Ignores {
			continue
		}
		ignore, err := readIgnore(filepath.Join(dir, filepath.FromSlash(at), ".dockerignore"))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		s.rules = append(s.rules, rule{at, ignore})
	}
	// The innermost directory's rule counts.
	slices.SortStableFunc(s.rules, func(a, b rule) int { return len(b.dir) - len(a.dir) })
	if err := filepath.WalkDir(dir, s.visit); err != nil {
		return nil, fmt.Errorf("read the project: %w", err)
	}
	slices.SortFunc(s.p.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return s.p, nil
}

// Compose gives the path on disk of the project's compose file, or "".
func (p *Project) Compose() string {
	for _, n := range composeNames {
		for _, e := range p.entries {
			if e.name == n {
				return e.file
			}
		}
	}
	return ""
}

// CheckBuildable finds out early that a directory is no project at all.
func (p *Project) CheckBuildable() error {
	for _, e := range p.entries {
		if slices.Contains(composeNames, e.name) {
			return nil
		}
		if name, _, _ := strings.Cut(e.name, "."); name == "Dockerfile" && !strings.Contains(e.name, "/") {
			return nil
		}
	}
	return api.Errorf(api.Invalid, "%s has neither a Dockerfile nor a docker-compose.yml", p.Dir)
}

// AddImage puts an image archive (docker save, or OCI) into the project, to be used for a service in place of a build.
func (p *Project) AddImage(service, file string) error {
	if !servicePattern.MatchString(service) {
		return api.Errorf(api.Invalid, "%q is not the name of a service", service)
	}
	st, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("image of service %s: %w", service, err)
	}
	if !st.Mode().IsRegular() {
		return api.Errorf(api.Invalid, "image of service %s: %s is not a file", service, file)
	}
	name := path.Join(ImagesDir, service+".tar")
	p.entries = slices.DeleteFunc(p.entries, func(e entry) bool { return e.name == name })
	p.entries = append(p.entries, entry{name: name, file: file, info: st})
	p.Files++
	p.Bytes += st.Size()
	return nil
}

// AddFile puts a small file into the project that is on no disk, in place of one that is.
func (p *Project) AddFile(name string, content []byte) {
	p.entries = slices.DeleteFunc(p.entries, func(e entry) bool { return e.name == name })
	p.entries = append(p.entries, entry{name: name, data: content})
	p.Files++
	p.Bytes += int64(len(content))
}

type scan struct {
	p       *Project
	rules   []rule                              // the first whose directory holds a file counts; the last is the project's
	always  []string                            // files that are sent whatever the rules say
	dirs    []string                            // that images are built from
	parents map[string]patternmatcher.MatchInfo // of directories, which their children's matches build upon
}

// rule is a .dockerignore, for what is below its directory.
type rule struct {
	dir    string
	ignore *patternmatcher.PatternMatcher
}

// metaDirs hold what is about a project's builds. It goes along always: secrets belong on the list of what is ignored, and are
// sent all the same, apart from the rest.
var metaDirs = []string{".balena", ".resin"}

// kept reports whether a file is sent whatever the rules say.
func (s *scan) kept(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	if slices.Contains(metaDirs, top) || slices.Contains(s.always, name) {
		return true
	}
	base := path.Base(name)
	return slices.Contains(s.dirs, path.Dir(name)) &&
		(base == "Dockerfile" || strings.HasPrefix(base, "Dockerfile.") || base == ".dockerignore")
}

// ruleOf gives the rule for a file, and the file's path as the rule sees it.
func (s *scan) ruleOf(name string) (*patternmatcher.PatternMatcher, string) {
	for _, r := range s.rules {
		switch {
		case r.dir == ".":
			return r.ignore, name
		case r.dir == name:
			return nil, "" // the directory itself is sent
		case strings.HasPrefix(name, r.dir+"/"):
			return r.ignore, strings.TrimPrefix(name, r.dir+"/")
		}
	}
	return nil, ""
}

func readIgnore(file string) (*patternmatcher.PatternMatcher, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return patternmatcher.New(nil)
	}
	if err != nil {
		return nil, fmt.Errorf("read .dockerignore: %w", err)
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read .dockerignore: %w", err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, api.Errorf(api.Invalid, ".dockerignore: %v", err)
	}
	return m, nil
}

func (s *scan) visit(file string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(s.p.Dir, file)
	if err != nil || rel == "." {
		return err
	}
	name := filepath.ToSlash(rel)
	if name == ".git" {
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil // the file that stands in a work tree or a submodule
	}
	ignored, err := s.ignored(name, d.IsDir())
	if err != nil {
		return fmt.Errorf(".dockerignore: %w", err)
	}
	if ignored && !s.kept(name) {
		if d.IsDir() && !s.mayHoldKept(name) {
			return fs.SkipDir
		}
		return nil
	}
	info, err := d.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone since the directory was read
	}
	if err != nil {
		return err
	}
	return s.add(name, file, info)
}

func (s *scan) ignored(name string, isDir bool) (bool, error) {
	ignore, seen := s.ruleOf(name)
	if ignore == nil {
		return false, nil
	}
	// A directory at the top of its rule has no parent there.
	var parent patternmatcher.MatchInfo
	if strings.Contains(seen, "/") {
		parent = s.parents[path.Dir(name)]
	}
	ignored, match, err := ignore.MatchesUsingParentResults(filepath.FromSlash(seen), parent)
	if isDir && err == nil {
		s.parents[name] = match
	}
	return ignored, err
}

// mayHoldKept reports whether an ignored directory may hold something that is sent all the same.
func (s *scan) mayHoldKept(name string) bool {
	if ignore, _ := s.ruleOf(name); ignore != nil && ignore.Exclusions() {
		return true
	}
	below := func(a string) bool { return a == name || strings.HasPrefix(a, name+"/") }
	return slices.ContainsFunc(s.always, below) || slices.ContainsFunc(s.dirs, below)
}

func (s *scan) add(name, file string, info fs.FileInfo) error {
	e := entry{name: name, file: file, info: info}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		s.p.Files++
		s.p.Bytes += info.Size()
	case mode.IsDir():
		e.name += "/"
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(file)
		if err != nil {
			return err
		}
		e.link = filepath.ToSlash(target)
		if leaves(name, e.link) {
			return api.Errorf(api.Invalid, "the link %s leads outside of the project, to %s; remove it or add it to .dockerignore",
				name, target)
		}
	default:
		s.p.Skipped = append(s.p.Skipped, name)
		return nil
	}
	s.p.entries = append(s.p.entries, e)
	return nil
}

func leaves(name, target string) bool {
	if path.IsAbs(target) || filepath.IsAbs(filepath.FromSlash(target)) {
		return true
	}
	end := path.Join(path.Dir(name), target)
	return end == ".." || strings.HasPrefix(end, "../")
}

// WriteTo writes the project as a tar compressed with gzip. progress, when not nil, is told how many bytes of files went out.
func (p *Project) WriteTo(w io.Writer, progress func(n int64)) error {
	zw, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	if progress == nil {
		progress = func(int64) {}
	}
	for _, e := range p.entries {
		if err := e.write(tw, progress); err != nil {
			return fmt.Errorf("pack %s: %w", e.name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return zw.Close()
}

func (e entry) write(tw *tar.Writer, progress func(int64)) error {
	if e.info == nil {
		h := &tar.Header{Name: e.name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(e.data))}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := (&counting{tw, progress}).Write(e.data)
		return err
	}
	h := &tar.Header{
		Name: e.name, Mode: int64(e.info.Mode().Perm()), ModTime: e.info.ModTime().Truncate(time.Second),
	}
	switch {
	case e.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
		return tw.WriteHeader(h)
	case e.info.IsDir():
		h.Typeflag = tar.TypeDir
		return tw.WriteHeader(h)
	}
	f, err := os.Open(e.file)
	if err != nil {
		return err
	}
	defer f.Close()
	h.Typeflag, h.Size = tar.TypeReg, e.info.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(&counting{tw, progress}, io.LimitReader(f, h.Size))
	if err != nil {
		return err
	}
	if n != h.Size {
		return api.Errorf(api.Invalid, "the file shrank from %d to %d bytes while it was packed", h.Size, n)
	}
	return nil
}

type counting struct {
	w        io.Writer
	progress func(int64)
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.progress(int64(n))
	return n, err
}
