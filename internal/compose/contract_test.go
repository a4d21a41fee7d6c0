package compose_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/compose"
)

func TestContract(t *testing.T) {
	for name, tc := range map[string]struct {
		file, text string
		want       string // JSON; empty: none
		code       api.Code
	}{
		"as balena's":     {"balena.yml", "name: pump\ntype: sw.application\nversion: 1.2.3\ndata:\n  x: [1, a]\n", `{"data":{"x":[1,"a"]},"name":"pump","type":"sw.application","version":"1.2.3"}`, ""},
		"the other name":  {"balena.yaml", "version: 0.1.0-rc.1\n", `{"version":"0.1.0-rc.1"}`, ""},
		"none":            {"README", "version: 1.2.3", "", ""},
		"empty":           {"balena.yml", "", "", ""},
		"a list":          {"balena.yml", "- a\n", "", api.Invalid},
		"not YAML":        {"balena.yml", "a: [", "", api.Invalid},
		"a key of a list": {"balena.yml", "a:\n  ? [1, 2]\n  : b\n", "", api.Invalid},
		"too large":       {"balena.yml", "a: " + strings.Repeat("a", 1<<17), "", api.TooLarge},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, tc.file), []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		got, err := compose.Contract(root)
		if string(got) != tc.want || tc.code != "" && !errors.Is(err, &api.Error{Code: tc.code}) || tc.code == "" && err != nil {
			t.Errorf("%s: %s %v, want %s %s", name, got, err, tc.want, tc.code)
		}
		_ = root.Close()
	}
}

// The attack: nine lines of references that unfold to gigabytes.
func TestAContractCannotUnfold(t *testing.T) {
	text := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 'b'; i <= 'j'; i++ {
		text += string(i) + ": &" + string(i) + " [" + strings.Repeat("*"+string(i-1)+",", 9) + "*" + string(i-1) + "]\n"
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "balena.yml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	if got, err := compose.Contract(root); err == nil {
		t.Errorf("taken: %d bytes", len(got))
	}
}
