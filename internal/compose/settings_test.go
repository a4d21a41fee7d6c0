package compose_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/internal/compose"
)

func settings(t *testing.T, file, text string) (*compose.Settings, error) {
	t.Helper()
	return compose.ReadSettings(project(t, map[string]string{file: text}))
}

func TestSettingsAreOfAllOrOfOne(t *testing.T) {
	s, err := settings(t, ".balena/balena.yml", `
build-variables:
  global: [A=1, "B=two words", C=]
  services:
    web: {B: 3, D: true}
    gone: [X=1]
build-secrets:
  global: [{source: recipe, dest: my-recipe}]
  services:
    web: [{source: deep/key, dest: ssh/id}]
`)
	if err != nil {
		t.Fatal(err)
	}
	got := []any{s.Variables("web"), s.Variables("db"), s.Strangers([]compose.Service{{Name: "web"}})}
	want := []any{map[string]string{"A": "1", "B": "3", "C": "", "D": "true"}, map[string]string{"A": "1", "B": "two words", "C": ""}, []string{"gone"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
	secrets, mounted := s.Secrets("web", []string{"recipe", "deep/key", "other"})
	if diff := cmp.Diff(map[string]string{"my-recipe": "recipe", "ssh/id": "deep/key"}, secrets); diff != "" || !mounted {
		t.Errorf("secrets of web, mounted %v (-want +got):\n%s", mounted, diff)
	}
	if secrets, _ := s.Secrets("db", nil); len(secrets) != 1 {
		t.Errorf("secrets of db: %v", secrets)
	}
	// JSON, in balena's old place.
	if s, err := settings(t, ".resin/resin.json", `{"build-variables":{"global":{"A":"1"}}}`); err != nil || s.Variables("x")["A"] != "1" {
		t.Errorf("the old place: %v %v", s, err)
	}
	// None: every file of the directory is a secret by its own name.
	s, err = settings(t, "README", "")
	if err != nil {
		t.Fatal(err)
	}
	if secrets, mounted := s.Secrets("x", []string{"npmrc"}); mounted || secrets["npmrc"] != "npmrc" {
		t.Errorf("without a file: %v %v", secrets, mounted)
	}
}

func TestBadSettingsAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no list":          {"build-variables: {global: 7}", "build-variables.global: expected a list"},
		"no value":         {"build-variables: {global: [A]}", `build-variables.global: expected NAME=VALUE, not "A"`},
		"bad name":         {"build-variables: {services: {w: ['A B=1']}}", `build-variables.services.w: "A B"`},
		"a list in it":     {"build-variables: {global: {A: [1]}}", "build-variables.global.A: a variable is a text"},
		"of the builder":   {"build-variables: {global: [BUILDKIT_SYNTAX=evil/front]}", "not the project's to set"},
		"long":             {"build-variables: {global: [A=" + strings.Repeat("a", 40<<10) + "]}", "longer than"},
		"path":             {"build-secrets: {global: [{source: ../../etc/shadow, dest: x}]}", `"../../etc/shadow" cannot be the name of a secret`},
		"absolute":         {"build-secrets: {global: [{source: x, dest: /etc/passwd}]}", `"/etc/passwd" cannot be`},
		"hidden":           {"build-secrets: {services: {w: [{source: x, dest: a/../b}]}}", `"a/../b" cannot be`},
		"options":          {"build-secrets: {global: [{source: x, dest: 'y,target=/bin/sh'}]}", "cannot be the name"},
		"nothing":          {"build-secrets: {global: [{source: x}]}", "build-secrets.global[0]: a secret has a source"},
		"not YAML":         {"a: [", ".balena/balena.yml:"},
		"too large":        {"a: " + strings.Repeat("a", 70<<10), "larger than"},
		"too many":         {"build-variables: {global: [" + strings.Join(numbered(300), ", ") + "]}", "more than 256"},
		"unfolds":          {aliases("build-variables: {global: *i}"), ".balena/balena.yml:"},
		"a list of things": {"build-secrets: [x]", ".balena/balena.yml:"},
	} {
		_, err := settings(t, ".balena/balena.yml", c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), ".balena/balena.yml") {
			t.Errorf("%s: %v, want it to speak of %s", name, err, c.want)
		}
		if err != nil && len(err.Error()) > 2000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func numbered(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = "A" + strings.Repeat("x", i%200) + string(rune('a'+i/200)) + "=1"
	}
	return out
}

// aliases is a YAML bomb with an end of its own.
func aliases(end string) string {
	text := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 'b'; i <= 'i'; i++ {
		text += string(i) + ": &" + string(i) + " [" + strings.Repeat("*"+string(i-1)+",", 9) + "*" + string(i-1) + "]\n"
	}
	return text + end
}
