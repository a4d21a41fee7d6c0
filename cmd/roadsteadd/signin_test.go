package main_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The list of sign-in providers and their secrets reach the api role, and nobody else; a list that is wrong is named.
func TestSignInProvidersReachTheAPIRole(t *testing.T) {
	lists := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(lists, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("hub.secret", "a secret between two\n")
	good := write("good.yaml", "providers: [{name: hub, label: The hub, kind: github, client_id: x, client_secret_file: hub.secret}]")
	for text, want := range map[string]string{
		"providers: [{name: hub, kind: github, client_id: x, client_secret: y}]": "client_secret not found",
		"providers: [{name: hub, kind: github, client_id: x}]":                   "client_secret_file",
		"provider: []": "provider not found",
	} {
		_, stderr, code := run(t, nil, "up", "--data", openDir(t), "--domain", domain, "--listen", "127.0.0.1:0", "--sign-in-providers", write("bad.yaml", text))
		if code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d: %s, want it to name %q", text, code, stderr, want)
		}
	}
	dir := openDir(t)
	s := up(t, dir, "127.0.0.1:0", "--sign-in-providers", good)
	page := func(host, path string) string {
		t.Helper()
		status, answer := s.send("GET", host, path, "", nil)
		if status != http.StatusOK {
			t.Errorf("GET %s at %s: %d", path, host, status)
		}
		return answer
	}
	if body := page("api", "/auth/v1/providers"); !strings.Contains(body, "The hub") || strings.Contains(body, "secret") {
		t.Errorf("the providers: %s", body)
	}
	if body := page("dashboard", "/login"); !strings.Contains(body, "Log in with The hub") {
		t.Errorf("the login page: %s", body)
	}
	file := filepath.Join(dir, "roles", "api", "sign-in.json")
	data, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(data), "a secret between two") {
		t.Fatalf("what the api role is given: %s, %v", data, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its file: %v, %v", info, err)
	}
	if strings.Contains(s.log.String(), "a secret between two") {
		t.Error("a secret is in the log")
	}
	s.stop()
	s = up(t, dir, "127.0.0.1:0")
	if body := page("api", "/auth/v1/providers"); strings.TrimSpace(body) != "[]" {
		t.Errorf("without the list: %s", body)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the secrets of the last start are still there: %v", err)
	}
}
