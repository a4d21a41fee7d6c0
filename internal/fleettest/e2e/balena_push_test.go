package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The real balena CLI's push with its options: what they mean arrives, and what is secret stays so.
func TestBalenaPushOptions(t *testing.T) {
	cli := os.Getenv("ROADSTEAD_BALENA_CLI")
	if cli == "" {
		t.Skip("ROADSTEAD_BALENA_CLI names no balena CLI; make test installs it")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"docker-compose.yml":            "version: '2.1'\nservices:\n  web: {build: ./web}\n  db: {build: {context: ., dockerfile: db/Dockerfile}, expose: ['80']}\n",
		"web/Dockerfile.template":       "FROM base/busybox\nARG WHAT\nCOPY . /src\nRUN echo %%BALENA_SERVICE_NAME%% on %%RESIN_MACHINE_NAME%% is $WHAT; ls /src; cat /run/secrets/recipe\nCMD [\"sleep\", \"1000\"]\n",
		"web/.dockerignore":             "own\n",
		"web/own":                       "",
		"web/roots":                     "",
		"db/Dockerfile":                 "FROM base/busybox\nCOPY . /src\nRUN find /src; printf 'a\\033]0;title\\007b\\n'\nCMD [\"sleep\", \"1000\"]\n",
		".dockerignore":                 "web/roots\n",
		".balena/balena.yml":            "build-variables: {services: {web: [WHAT=soup]}}\nbuild-secrets: {services: {web: [{source: r, dest: recipe}]}}\n",
		".balena/secrets/r":             "beef-and-barley",
		".balena/registry-secrets.json": `{"old.example.com":{"username":"u","password":"replaced-by-the-option"}}`,
		"balena.yml":                    "name: kitchen\ntype: sw.application\nversion: 3.2.1\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	registries := filepath.Join(t.TempDir(), "registries.yml")
	if err := os.WriteFile(registries, []byte("registry.example.com: {username: ann, password: for-the-registry}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	balena := func(args ...string) string {
		t.Helper()
		out, stderr, code := p.try(t, cli, args...)
		if code != 0 {
			t.Fatalf("balena %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, stderr)
		}
		return out + stderr
	}
	balena("login", "--credentials", "--email", p.admin.Email, "--password", p.admin.Password)
	balena("fleet", "create", "push-options", "--type", "generic-amd64")
	out := balena("push", "push-options", "--source", dir, "--multi-dockerignore", "--registry-secrets", registries, "--nocache", "--draft",
		"--release-tag", "ticket", "99", "--note", "with everything")
	for _, want := range []string{"web on generic-amd64 is soup", "[secret]", "services.db.expose is ignored", "   roots", "ab"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	for _, evil := range []string{"beef-and-barley", "for-the-registry", "replaced-by", "/src/.balena/secrets", "registry-secrets", "   own\n", "\x1b]0;"} {
		if strings.Contains(out, evil) {
			t.Errorf("the output holds %q", evil)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	releases := balena("release", "list", "push-options", "--json")
	for _, want := range []string{"3.2.1", "success"} {
		if !strings.Contains(releases, want) {
			t.Errorf("release list lacks %q: %s", want, releases)
		}
	}
	if out := balena("push", "push-options", "--source", dir, "--detached"); !strings.Contains(out, `"started":true`) {
		t.Errorf("a detached push: %s", out)
	}
}
