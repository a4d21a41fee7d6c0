package debian_test

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/roadstead-io/roadstead/internal/builder/debian"
	"github.com/roadstead-io/roadstead/internal/builder/debian/debtest"
	"github.com/roadstead-io/roadstead/internal/builder/fetch"
)

func ring(t *testing.T, keys ...*openpgp.Entity) *fetch.Keyring {
	t.Helper()
	r, err := fetch.ReadKeyring(debtest.Armour(t, keys...))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func archive(t *testing.T) *debtest.Archive {
	a := debtest.New(t)
	a.Packages["amd64"] = []debtest.Deb{
		{Name: "app", Version: "1.0-1", Arch: "amd64", Depends: "lib (>= 2), either | other, virtual"},
		{Name: "lib", Version: "2:1.0", Arch: "amd64", Depends: "app"}, // a circle
		{Name: "other", Version: "1", Arch: "all"},
		{Name: "provider", Version: "1", Arch: "all", Provides: "virtual (= 1), more"},
		{Name: "base", Version: "1", Arch: "amd64", Essential: true},
		{Name: "unrelated", Version: "1", Arch: "amd64", Depends: "nothing-there"},
		{Name: "lib", Version: "3", Arch: "amd64"}, // older than 2:1.0
	}
	a.Publish(t)
	return a
}

func find(t *testing.T, a *debtest.Archive, seen ...debian.Seen) ([]string, []debian.Seen, error) {
	found, now, err := debian.Find(t.Context(), a.Fetcher(t), ring(t, a.Key), []debian.Suite{a.Suite()}, seen,
		debian.Want{Arch: "amd64", Packages: []string{"app"}, Essential: true})
	var names []string
	for _, p := range found["amd64"] {
		names = append(names, p.Name+" "+p.Version)
	}
	return names, now, err
}

func TestFindFollowsTheSignatureToEachPackage(t *testing.T) {
	a := archive(t)
	names, seen, err := find(t, a)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"app 1.0-1", "base 1", "lib 2:1.0", "other 1", "provider 1"}, names); diff != "" {
		t.Error(diff)
	}
	if len(seen) != 1 || seen[0].Suite != "test" || !seen[0].Date.Equal(a.Date) || seen[0].SignedBy != debtest.Fingerprint(a.Key) ||
		seen[0].SHA256 != debtest.Sum(a.Get("dists/test/InRelease")) {
		t.Errorf("accepted %+v", seen)
	}
	if _, _, err := find(t, a, seen...); err != nil {
		t.Errorf("the same once more: %v", err)
	}
}

// What somebody who holds the mirror, but not the key, can do.
func TestArchivesThatAreRefused(t *testing.T) {
	stranger, err := openpgp.NewEntity("archive", "", "archive@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA,
		Time: func() time.Time { return debtest.Now.AddDate(-1, 0, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	const index = "dists/test/main/binary-amd64/Packages.gz"
	for name, c := range map[string]struct {
		do   func(t *testing.T, a *debtest.Archive)
		want string
	}{
		"another key": {func(t *testing.T, a *debtest.Archive) { a.Sign(t, stranger, a.Release()) }, "signed by none of the keys"},
		"one byte of InRelease": {func(_ *testing.T, a *debtest.Archive) {
			a.Set("dists/test/InRelease", []byte(strings.Replace(string(a.Get("dists/test/InRelease")), "Origin: Test", "Origin: Tezt", 1)))
		}, "does not count"},
		"not signed":   {func(_ *testing.T, a *debtest.Archive) { a.Set("dists/test/InRelease", []byte(a.Release())) }, "is not signed"},
		"no InRelease": {func(_ *testing.T, a *debtest.Archive) { a.Set("dists/test/InRelease", nil) }, "is not signed"},
		"one byte of the list": {func(_ *testing.T, a *debtest.Archive) {
			text := a.Get(index)
			text[len(text)/2] ^= 1
			a.Set(index, text)
		}, "Packages.gz has SHA-256"},
		"a longer list": {func(_ *testing.T, a *debtest.Archive) { a.Set(index, append(a.Get(index), 0)) }, "larger than"},
		"a cut list":    {func(_ *testing.T, a *debtest.Archive) { a.Set(index, a.Get(index)[:20]) }, "has 20 bytes"},
		"run out":       {func(t *testing.T, a *debtest.Archive) { a.ValidUntil = debtest.Now; a.Publish(t) }, "it was valid until 2026-11-20"},
		"no end":        {func(t *testing.T, a *debtest.Archive) { a.ValidUntil = time.Time{}; a.Publish(t) }, "until when it is valid"},
		"of tomorrow":   {func(t *testing.T, a *debtest.Archive) { a.Date = debtest.Now.AddDate(0, 0, 2); a.Publish(t) }, "in the future"},
		"another suite": {func(t *testing.T, a *debtest.Archive) { a.Codename = "older"; a.Publish(t) }, `it is of "older"`},
		"MD5 and SHA-1 only": {func(t *testing.T, a *debtest.Archive) {
			a.Sign(t, a.Key, strings.Replace(a.Release(), "SHA256:", "SHA1:", 1))
		}, "no SHA256 digests"},
		"a short digest": {func(t *testing.T, a *debtest.Archive) {
			a.Sign(t, a.Key, strings.Replace(a.Release(), debtest.Sum(a.Get(index)), debtest.Sum(a.Get(index))[:40], 1))
		}, "SHA-1 prove nothing"},
		"a list twice": {func(t *testing.T, a *debtest.Archive) {
			lines := strings.Split(strings.TrimSpace(a.Release()), "\n")
			a.Sign(t, a.Key, a.Release()+lines[len(lines)-1]+"\n")
		}, "is there twice"},
		"no list for it": {func(t *testing.T, a *debtest.Archive) {
			a.Sign(t, a.Key, strings.ReplaceAll(a.Release(), "binary-amd64", "binary-arm64"))
		}, "no list of packages for amd64"},
		"a package elsewhere": {func(t *testing.T, a *debtest.Archive) {
			a.Packages["amd64"][0].Name = "../../app"
			a.Publish(t)
		}, "is no package's name"},
		"a package that is not there": {func(t *testing.T, a *debtest.Archive) {
			a.Packages["amd64"][0].Depends = "nothing-there"
			a.Publish(t)
		}, "app needs nothing-there"},
	} {
		t.Run(name, func(t *testing.T) {
			a := archive(t)
			c.do(t, a)
			_, _, err := find(t, a)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A file that was signed once is good for ever as far as the signature goes; served again, it hides what was mended since.
func TestAReplayedReleaseIsRefused(t *testing.T) {
	a := archive(t)
	old := a.Get("dists/test/InRelease")
	a.Date = a.Date.Add(time.Hour)
	a.Publish(t)
	_, seen, err := find(t, a)
	if err != nil {
		t.Fatal(err)
	}
	a.Set("dists/test/InRelease", old)
	_, _, err = find(t, a, seen...)
	if err == nil || !strings.Contains(err.Error(), "older than what was accepted before") || !strings.Contains(err.Error(), "test/InRelease") {
		t.Errorf("got %v", err)
	}
}

func TestSuitesThatAreRefused(t *testing.T) {
	ok := debtest.New(t).Suite()
	for want, change := range map[string]func(*debian.Suite){
		"short ids":      func(s *debian.Suite) { s.SignedBy = []string{s.SignedBy[0][24:]} },
		"signed_by":      func(s *debian.Suite) { s.SignedBy = nil },
		"https":          func(s *debian.Suite) { s.Mirror = "http://deb.example.com" },
		"fallback":       func(s *debian.Suite) { s.Fallback = "http://deb.example.com" },
		"directory":      func(s *debian.Suite) { s.Directory = "../x" },
		"components":     func(s *debian.Suite) { s.Components = []string{"../x"} },
		"codename: \"\"": func(s *debian.Suite) { s.Codename = "" },
	} {
		s := ok
		change(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestPackagesThatLeadOutAreRefused(t *testing.T) {
	link := func(kind byte, name, to string) tar.Header {
		return tar.Header{Typeflag: kind, Name: name, Linkname: to, Mode: 0o644}
	}
	for name, h := range map[string]tar.Header{
		"up":               {Typeflag: tar.TypeReg, Name: "./../etc/passwd"},
		"up in the middle": {Typeflag: tar.TypeReg, Name: "./usr/../../etc/passwd"},
		"absolute":         {Typeflag: tar.TypeReg, Name: "/etc/passwd"},
		"a hard link up":   link(tar.TypeLink, "./x", "../../etc/shadow"),
		"absolute link":    link(tar.TypeLink, "./x", "/etc/shadow"),
		"a device":         {Typeflag: tar.TypeBlock, Name: "./dev/sda", Devmajor: 8},
		"a pipe":           {Typeflag: tar.TypeFifo, Name: "./run/pipe"},
	} {
		file := filepath.Join(t.TempDir(), "x.deb")
		deb := debtest.Deb{Name: "x", Version: "1", Arch: "all", Files: []tar.Header{h}}
		if err := os.WriteFile(file, deb.Bytes(t), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := debian.Unpack(file, func(*tar.Header, io.Reader) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "data.tar.gz") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestFilesThatAreNoPackages(t *testing.T) {
	ok := debtest.Deb{Name: "x", Version: "1", Arch: "all", Content: map[string]string{"./a": "b"}}.Bytes(t)
	for name, text := range map[string][]byte{
		"empty": nil, "text": []byte("<html>not found</html>"), "cut": ok[:len(ok)-40], "only a head": ok[:70],
		"another order": debtest.Pack([]debtest.Member{{Name: "data.tar.gz"}, {Name: "debian-binary", Text: []byte("2.0\n")}}),
		"another form":  debtest.Pack([]debtest.Member{{Name: "debian-binary", Text: []byte("3.0\n")}}),
		"a huge member": []byte(strings.Replace(string(ok), fmt.Sprintf("%-10d", 4), "9999999999", 1)),
	} {
		file := filepath.Join(t.TempDir(), "x.deb")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := debian.Unpack(file, func(*tar.Header, io.Reader) error { return nil }); err == nil {
			t.Errorf("%s: it was accepted", name)
		}
	}
}

func TestCompare(t *testing.T) {
	list := []string{"0~~", "0~", "0", "1.0~rc1-1", "1.0-1", "1.0-1+b1", "1.0-1+deb13u1", "1.0-2", "1.0-10", "1.0a", "1.0+x", "1.0.1", "1.9", "1.10", "2", "1:0.1", "2:0"}
	for i, a := range list {
		for j, b := range list {
			if got := debian.Compare(a, b); sign(got) != sign(i-j) {
				t.Errorf("%s against %s: %d", a, b, got)
			}
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// Debian's own program is asked, where it is.
func TestCompareAsDpkgDoes(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("dpkg is missing")
	}
	list := []string{"1.0", "1.0-0", "01.0", "1.0+b1", "1.0~~a", "1.0~~", "a", "1.a", "1.+", "1-1-1", "1.0-1~bpo1", "0:1.0", "1.2.3-4.1"}
	for _, a := range list {
		for _, b := range list {
			err := exec.CommandContext(t.Context(), "dpkg", "--compare-versions", a, "lt", b).Run()
			if (err == nil) != (debian.Compare(a, b) < 0) {
				t.Errorf("%s < %s: dpkg says %v, we %v", a, b, err == nil, debian.Compare(a, b) < 0)
			}
		}
	}
}
