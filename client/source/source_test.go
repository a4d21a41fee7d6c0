package source_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client/source"
)

// tree makes a project; a value that begins with "->" is a link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(content, "->"); ok {
			if err := os.Symlink(target, file); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func pack(t *testing.T, p *source.Project) (names []string, content map[string]string, raw []byte) {
	t.Helper()
	var buf bytes.Buffer
	if err := p.WriteTo(&buf, nil); err != nil {
		t.Fatal(err)
	}
	raw = bytes.Clone(buf.Bytes())
	zr, err := gzip.NewReader(&buf)
	if err != nil {
		t.Fatal(err)
	}
	content = map[string]string{}
	tr := tar.NewReader(zr)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names, content, raw
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" {
			t.Errorf("%s: owner %d:%d %q, want 0:0", h.Name, h.Uid, h.Gid, h.Uname)
		}
		data, _ := io.ReadAll(tr)
		names = append(names, h.Name)
		content[h.Name] = string(data)
		if h.Typeflag == tar.TypeSymlink {
			content[h.Name] = "->" + h.Linkname
		}
	}
}

func TestScan(t *testing.T) {
	for _, tt := range []struct {
		name       string
		dockerfile string
		files      map[string]string
		want       []string
	}{
		{"plain", "", map[string]string{"Dockerfile": "x", "a/b": "1", "a/c": "2"},
			[]string{"Dockerfile", "a/", "a/b", "a/c"}},
		{"git is left out, its relatives are not", "", map[string]string{".git/config": "x", ".gitignore": "y", "sub/.git": "z"},
			[]string{".gitignore", "sub/", "sub/.git"}},
		{"a work tree's .git file", "", map[string]string{".git": "gitdir: /x", "a": ""}, []string{"a"}},
		{"ignored", "", map[string]string{".dockerignore": "node_modules\n*.log\n# a comment\n", "node_modules/x/y": "", "a.log": "", "b/a.log": "", "c": ""},
			[]string{".dockerignore", "b/", "b/a.log", "c"}},
		{"kept by an exception", "", map[string]string{".dockerignore": "*\n!src/keep", "src/keep": "", "src/drop": "", "other/x": "", "Dockerfile": ""},
			[]string{".dockerignore", "Dockerfile", "src/keep"}},
		{"everything ignored, the files that say how to build are sent", "", map[string]string{".dockerignore": "*", "Dockerfile": "", "docker-compose.yml": "", "x": ""},
			[]string{".dockerignore", "Dockerfile", "docker-compose.yml"}},
		{"a Dockerfile elsewhere", "build/my.file", map[string]string{".dockerignore": "build", "build/my.file": "", "build/x": ""},
			[]string{".dockerignore", "build/my.file"}},
		{"links are kept", "", map[string]string{"a/real": "x", "a/link": "->real", "b/up": "->../a/real", "dangling": "->nowhere"},
			[]string{"a/", "a/link", "a/real", "b/", "b/up", "dangling"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := source.Scan(tree(t, tt.files), tt.dockerfile)
			if err != nil {
				t.Fatal(err)
			}
			names, content, _ := pack(t, p)
			if diff := cmp.Diff(tt.want, names); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			for name, got := range content {
				if want := tt.files[name]; got != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestEachServiceMayIgnoreForItself(t *testing.T) {
	files := map[string]string{
		"docker-compose.yml": "", ".dockerignore": "**/drop\nweb\nweb/Docker*\n.balena\n.env*\n", "drop": "", "web/drop": "", "web/own": "", "web/keep": "", "web/Dockerfile": "",
		"web/Dockerfile.aarch64": "", "web/.dockerignore": "own\nsub/*\n!sub/kept\n", "web/sub/x": "", "web/sub/kept": "", "db/drop": "", "db/Dockerfile": "", "other/Dockerfile": "", "web/sub/deep/drop": "",
		".balena/balena.yml": "", ".balena/secrets/a": "",
	}
	scan := func(each bool) []string {
		p, err := source.Scan(tree(t, files), "", source.Service{Dir: "./web", Ignores: each}, source.Service{Dir: "db/", Ignores: each}, source.Service{Dir: "../out", Ignores: each})
		if err != nil {
			t.Fatal(err)
		}
		names, _, _ := pack(t, p)
		var out []string
		for _, n := range names {
			if !strings.HasSuffix(n, "/") {
				out = append(out, n)
			}
		}
		return out
	}
	always := []string{".balena/balena.yml", ".balena/secrets/a", ".dockerignore"}
	want := append(always, "db/Dockerfile", "docker-compose.yml", "other/Dockerfile", "web/.dockerignore", "web/Dockerfile", "web/Dockerfile.aarch64")
	if diff := cmp.Diff(want, scan(false)); diff != "" {
		t.Errorf("one list for all (-want +got):\n%s", diff)
	}
	want = append(always, "db/Dockerfile", "db/drop", "docker-compose.yml", "other/Dockerfile", "web/.dockerignore", "web/Dockerfile", "web/Dockerfile.aarch64",
		"web/drop", "web/keep", "web/sub/kept")
	if diff := cmp.Diff(want, scan(true)); diff != "" {
		t.Errorf("each its own (-want +got):\n%s", diff)
	}
}

func TestScanRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"link upwards", map[string]string{"a/evil": "->../../etc/passwd"}, "a/evil leads outside"},
		{"link to the root", map[string]string{"evil": "->/etc/passwd"}, "evil leads outside"},
		{"link to the parent", map[string]string{"evil": "->.."}, "evil leads outside"},
		{"bad pattern", map[string]string{".dockerignore": "[a-"}, ".dockerignore"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := source.Scan(tree(t, tt.files), ""); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Scan: got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := source.Scan(filepath.Join(t.TempDir(), "nowhere"), ""); err == nil {
		t.Error("Scan of nothing: no error")
	}
}

func TestPackIsDeterministicAndKeepsModes(t *testing.T) {
	dir := tree(t, map[string]string{"z": "1", "a-b": "2", "a/b": "3", "run.sh": "#!"})
	if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := source.Scan(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"pipe"}, p.Skipped); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
	_, _, one := pack(t, p)
	_, _, two := pack(t, p)
	if !bytes.Equal(one, two) {
		t.Error("packed twice, two results")
	}
	zr, err := gzip.NewReader(bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if h.Name == "run.sh" && h.Mode != 0o755 {
			t.Errorf("run.sh: mode %o, want 755", h.Mode)
		}
	}
}

func TestImages(t *testing.T) {
	dir := tree(t, map[string]string{"docker-compose.yml": "services: {}"})
	archive := filepath.Join(t.TempDir(), "web.tar")
	if err := os.WriteFile(archive, []byte("image"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := source.Scan(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AddImage("../x", archive); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("AddImage(../x): got %v, want invalid", err)
	}
	if err := p.AddImage("web", archive); err != nil {
		t.Fatal(err)
	}
	_, content, _ := pack(t, p)
	if got := content[".roadstead/images/web.tar"]; got != "image" {
		t.Errorf("image: got %q", got)
	}
}

func TestCheckBuildable(t *testing.T) {
	for name, want := range map[string]bool{"Dockerfile": true, "Dockerfile.template": true, "Dockerfile.amd64": true,
		"compose.yaml": true, "docker-compose.yml": true, "sub/Dockerfile": false, "main.go": false} {
		p, err := source.Scan(tree(t, map[string]string{name: "x"}), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.CheckBuildable(); (err == nil) != want {
			t.Errorf("%s: got %v, want buildable %v", name, err, want)
		}
	}
}

func TestFileThatShrinks(t *testing.T) {
	dir := tree(t, map[string]string{"big": strings.Repeat("x", 1000)})
	p, err := source.Scan(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "big"), 10); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteTo(io.Discard, nil); err == nil || !strings.Contains(err.Error(), "shrank") {
		t.Errorf("WriteTo: got %v, want that the file shrank", err)
	}
}
