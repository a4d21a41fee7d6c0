package inventory

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime/debug"
	"strings"

	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/sbom"
)

// finding is what one file of an image tells of packages.
type finding struct {
	packages []sbom.Package
	system   string // "debian-12", from os-release
	problem  string // why the file tells less than it should
}

// reader takes a file of one kind in. What is wrong with the file becomes the finding's problem; an error is one of the layer.
type reader func(r io.Reader) finding

const (
	maxFile  = 32 << 20 // of a package database
	maxSmall = 256 << 10
	maxLine  = 64 << 10
)

var (
	distInfo = pattern.New(`(^|/)[^/]+\.(dist-info/METADATA|egg-info/PKG-INFO)$`)
	nodeFile = pattern.New(`(^|/)node_modules/(@[^/]+/)?[^/]+/package\.json$`)
	rpmFile  = pattern.New(`^(var/lib/rpm|usr/lib/sysimage/rpm)/(Packages|Packages\.db|rpmdb\.sqlite)$`)
)

// readerOf tells who reads the file at a path; nil: nobody does by its name.
func readerOf(name string) reader {
	switch {
	case name == "var/lib/dpkg/status":
		return dpkg
	case path.Dir(name) == "var/lib/dpkg/status.d" && !strings.HasSuffix(name, ".md5sums"):
		return dpkg
	case name == "lib/apk/db/installed", name == "usr/lib/apk/db/installed":
		return apk
	case name == "etc/os-release", name == "usr/lib/os-release":
		return osRelease
	case distInfo.MatchString(name):
		return python
	case nodeFile.MatchString(name):
		return node
	case rpmFile.MatchString(name):
		return func(io.Reader) finding { return finding{problem: "the packages of an rpm database are not read"} }
	}
	return nil
}

// lines calls f with every line of at most maxLine bytes; longer ones are cut. It reads at most limit bytes, and says whether there
// was more.
func lines(r io.Reader, limit int64, f func(line string) bool) (more bool, err error) {
	limited := &io.LimitedReader{R: r, N: limit}
	br := bufio.NewReaderSize(limited, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			keep := string(line)
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = br.ReadSlice('\n')
			}
			line = []byte(keep)
		}
		if len(line) > 0 && !f(strings.TrimRight(string(line), "\r\n")) {
			return false, nil
		}
		if errors.Is(err, io.EOF) {
			return limited.N <= 0, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// problem words what kept a file from being read whole.
func problem(what string, more bool, err error) string {
	switch {
	case err != nil:
		return what + " cannot be read"
	case more:
		return fmt.Sprintf("%s is too large to be read whole", what)
	}
	return ""
}

// dpkg reads stanzas of Debian's database. A package that is not installed any more leaves its stanza behind.
func dpkg(r io.Reader) (f finding) {
	var p sbom.Package
	status := ""
	end := func() {
		if p.Name != "" && (status == "" || strings.HasSuffix(status, " installed")) {
			f.add(p)
		}
		p, status = sbom.Package{}, ""
	}
	more, err := lines(r, maxFile, func(line string) bool {
		if line == "" {
			end()
			return f.room()
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "Package":
			p.Kind, p.Name = sbom.Debian, value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Arch = value
		case "Status":
			status = value
		}
		return true
	})
	end()
	f.note(problem("the database of dpkg", more, err))
	return f
}

// apk reads Alpine's database.
func apk(r io.Reader) (f finding) {
	var p sbom.Package
	end := func() {
		if p.Name != "" {
			f.add(p)
		}
		p = sbom.Package{}
	}
	more, err := lines(r, maxFile, func(line string) bool {
		if line == "" {
			end()
			return f.room()
		}
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "P":
			p.Kind, p.Name = sbom.Alpine, value
		case "V":
			p.Version = value
		case "A":
			p.Arch = value
		}
		return true
	})
	end()
	f.note(problem("the database of apk", more, err))
	return f
}

var systemForm = pattern.New(`^[a-z0-9._-]{1,40}$`)

func osRelease(r io.Reader) (f finding) {
	var id, version string
	_, _ = lines(r, maxSmall, func(line string) bool {
		name, value, _ := strings.Cut(line, "=")
		value = strings.Trim(value, `"'`)
		switch name {
		case "ID":
			id = value
		case "VERSION_ID":
			version = value
		}
		return true
	})
	if systemForm.MatchString(id) {
		f.system = id
		if systemForm.MatchString(version) {
			f.system += "-" + version
		}
	}
	return f
}

// python reads the header of a distribution's metadata.
func python(r io.Reader) (f finding) {
	p := sbom.Package{Kind: sbom.Python}
	_, err := lines(r, maxSmall, func(line string) bool {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case strings.EqualFold(name, "Name") && p.Name == "":
			p.Name = value
		case strings.EqualFold(name, "Version") && p.Version == "":
			p.Version = value
		}
		return line != ""
	})
	if p.Name != "" {
		f.add(p)
	}
	f.note(problem("a Python package", false, err))
	return f
}

func node(r io.Reader) (f finding) {
	data, err := io.ReadAll(io.LimitReader(r, maxSmall+1))
	var p struct{ Name, Version string }
	switch {
	case err != nil || len(data) > maxSmall:
		f.note(problem("a package.json", len(data) > maxSmall, err))
	case json.Unmarshal(data, &p) == nil && p.Name != "" && p.Version != "":
		f.add(sbom.Package{Kind: sbom.Node, Name: p.Name, Version: p.Version})
	}
	return f
}

// The build information that Go's linker puts into a program: a header of 32 bytes at a multiple of 16, and after it two strings
// with their lengths. It is looked for as the file goes by; the file's own tables, which anybody can forge, are not believed.
var goMagic = []byte("\xff Go buildinf:")

const (
	goHeader  = 32
	goAlign   = 16
	goInline  = 2  // flag: the strings follow the header
	goMark    = 16 // bytes of a mark before and after the modules
	goWindow  = 1 << 20
	goVersion = 256 // bytes of the version at most
)

// golang looks through a program of at most the size that its reader gives.
func golang(br *bufio.Reader) (f finding, err error) {
	offset := int64(0)
	skip := func(n int) {
		k, _ := br.Discard(n)
		offset += int64(k)
	}
	for {
		window, err := br.Peek(goWindow)
		if err != nil && !errors.Is(err, io.EOF) {
			return f, err
		}
		at := bytes.Index(window, goMagic)
		if at < 0 {
			if err != nil {
				skip(len(window))
				return f, nil
			}
			skip(len(window) - len(goMagic) + 1)
			continue
		}
		skip(at)
		if offset%goAlign == 0 {
			window, err := br.Peek(goWindow)
			if err != nil && !errors.Is(err, io.EOF) {
				return f, err
			}
			if version, modules, ok := goStrings(window); ok {
				f.modules(version, modules)
				return f, nil
			}
		}
		skip(1)
	}
}

// goStrings takes the two strings out of what begins with the header.
func goStrings(b []byte) (version, modules string, ok bool) {
	if len(b) < goHeader || b[15]&goInline == 0 {
		return "", "", false
	}
	b = b[goHeader:]
	next := func(limit uint64) (string, bool) {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > limit || uint64(len(b)-k) < n {
			return "", false
		}
		s := string(b[k : k+int(n)])
		b = b[k+int(n):]
		return s, true
	}
	if version, ok = next(goVersion); !ok || !strings.HasPrefix(version, "go") {
		return "", "", false
	}
	modules, ok = next(goWindow)
	return version, modules, ok
}

// modules adds what a Go program says that it was made of.
func (f *finding) modules(version, text string) {
	version, _, _ = strings.Cut(version, " ")
	f.add(sbom.Package{Kind: sbom.Go, Name: "stdlib", Version: strings.TrimPrefix(version, "go")})
	if len(text) < 2*goMark {
		return
	}
	info, err := debug.ParseBuildInfo(text[goMark : len(text)-goMark])
	if err != nil {
		f.note("a Go program's list of modules cannot be read")
		return
	}
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Path != "" && f.room() {
			f.add(sbom.Package{Kind: sbom.Go, Name: m.Path, Version: m.Version})
		}
	}
}

// maxFound is how many packages one file may tell of.
const maxFound = 50_000

func (f *finding) room() bool {
	if len(f.packages) >= maxFound {
		f.note(fmt.Sprintf("a file tells of more than %d packages", maxFound))
		return false
	}
	return true
}

// add takes a package, unless its words cannot be shown.
func (f *finding) add(p sbom.Package) {
	if !p.Good() {
		f.note("packages with names or versions that cannot be shown are left out")
		return
	}
	f.packages = append(f.packages, p)
}

func (f *finding) note(problem string) {
	if f.problem == "" {
		f.problem = problem
	}
}
