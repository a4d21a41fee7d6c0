package base_test

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/roadstead-io/roadstead/internal/builder/base"
)

func rootfs(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for name, content := range files {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		_, _ = tw.Write([]byte(content))
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func mustImport(t *testing.T, dir, arch string, archive []byte) {
	t.Helper()
	if err := base.Import(dir, "base/tiny", bytes.NewReader(archive), arch); err != nil {
		t.Fatalf("Import: %v", err)
	}
}

func list(t *testing.T, dir string) map[string]v1.Hash {
	t.Helper()
	bases, err := base.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(bases) != 1 || bases[0].Name != "base/tiny" {
		t.Fatalf("List: %+v, want base/tiny alone", bases)
	}
	return bases[0].Images
}

func TestImportKeepsOneImagePerArchitecture(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bases")
	mustImport(t, dir, "amd64", rootfs(t, map[string]string{"bin/sh": "one"}))
	first := list(t, dir)
	mustImport(t, dir, "aarch64", rootfs(t, map[string]string{"bin/sh": "arm"}))
	mustImport(t, dir, "amd64", rootfs(t, map[string]string{"bin/sh": "one"}))
	again := list(t, dir)
	if first["linux/amd64"] == (v1.Hash{}) || first["linux/amd64"] != again["linux/amd64"] {
		t.Errorf("the same archive gave %v, then %v", first, again)
	}
	if _, ok := again["linux/arm64"]; !ok || len(again) != 2 {
		t.Errorf("List: %v, want both architectures", again)
	}
	mustImport(t, dir, "amd64", rootfs(t, map[string]string{"bin/sh": "two"}))
	if now := list(t, dir); now["linux/amd64"] == again["linux/amd64"] || now["linux/arm64"] != again["linux/arm64"] {
		t.Errorf("after a new amd64: %v, was %v", now, again)
	}
	idx, err := layout.ImageIndexFromPath(filepath.Join(dir, "tiny"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Errorf("the layout is not valid: %v", err)
	}
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, _ error) error {
		if info, _ := d.Info(); info.Mode().Perm()&0o004 == 0 {
			t.Errorf("%s is not readable by the builder: %v", p, info.Mode())
		}
		return nil
	})
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("leftovers: %v", entries)
	}
}

func TestImportTakesAnOCILayout(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	mustImport(t, from, "amd64", rootfs(t, map[string]string{"bin/sh": "x"}))
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := tw.AddFS(os.DirFS(filepath.Join(from, "tiny"))); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	mustImport(t, to, "amd64", buf.Bytes())
	if diff := cmp.Diff(list(t, from), list(t, to)); diff != "" {
		t.Errorf("another image than was exported (-want +got):\n%s", diff)
	}
	err := base.Import(to, "base/tiny", bytes.NewReader(buf.Bytes()), "aarch64")
	if err == nil || !strings.Contains(err.Error(), "no image for linux/arm64") {
		t.Errorf("Import for another architecture: %v", err)
	}
}

func TestImportRefuses(t *testing.T) {
	good := rootfs(t, map[string]string{"bin/sh": "x"})
	for name, c := range map[string]struct {
		base, arch string
		data       []byte
		want       string
	}{
		"no prefix":    {"busybox", "amd64", good, "no name for a base image"},
		"path":         {"base/../x", "amd64", good, "no name for a base image"},
		"architecture": {"base/x", "vax", good, `unknown architecture "vax"`},
		"not a tar":    {"base/x", "amd64", []byte(strings.Repeat("no", 1000)), "not a tar archive"},
		"empty":        {"base/x", "amd64", rootfs(t, nil), "empty"},
		"outside":      {"base/x", "amd64", rootfs(t, map[string]string{"../x": ""}), "leads outside"},
		"bad layout":   {"base/x", "amd64", rootfs(t, map[string]string{"oci-layout": "{}"}), "not an OCI layout"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := base.Import(dir, c.base, bytes.NewReader(c.data), c.arch)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Import: %v, want it to speak of %q", err, c.want)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Errorf("leftovers: %v", entries)
			}
		})
	}
}
