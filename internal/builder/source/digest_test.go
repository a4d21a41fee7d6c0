package source_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/builder/source"
)

// The digests of a source are those that git and a line of shell give, so that anybody can hold a statement against a checkout.
func TestDigestsAreThoseOfGit(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"a.txt": "a", "a/b": "below what sorts before a.txt in no other way", "a-b": "", "deep/er/est/file": strings.Repeat("x", 1<<20), "ünï code": "ü",
	} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\n"), 0o755), os.Symlink("../out/of/it", filepath.Join(dir, "link")),
		os.MkdirAll(filepath.Join(dir, "empty/er"), 0o755)); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	got, err := source.Digests(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	shell := func(line string) string {
		cmd := exec.Command("sh", "-c", line)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return strings.Fields(string(out))[0]
	}
	if want := shell(`find . -type f | sed 's,^\./,,' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum`); got["dirHash"] != want {
		t.Errorf("dirHash %s, want %s", got["dirHash"], want)
	}
	want := shell(`export GIT_DIR=$PWD/../git GIT_WORK_TREE=$PWD GIT_CONFIG_GLOBAL=/dev/null; git init -q && git add -A . && git write-tree`)
	if got["gitTree"] != want {
		t.Errorf("gitTree %s, want %s", got["gitTree"], want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := source.Digests(ctx, root); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
}
