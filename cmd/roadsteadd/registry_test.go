package main_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// ask asks a role as another one.
func (s *server) ask(as, role, method, path string, in any, out any, headers ...string) (status int, header http.Header, text string) {
	s.t.Helper()
	id, err := pki.LoadIdentity(filepath.Join(s.dir, "roles", as))
	if err != nil {
		s.t.Fatal(err)
	}
	peer := id.Client(role, s.role(role).Address)
	defer peer.HTTP.CloseIdleConnections()
	var body io.Reader
	switch b := in.(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	default:
		data, err := json.Marshal(in)
		if err != nil {
			s.t.Fatal(err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, peer.URL+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := peer.HTTP.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if out != nil && res.StatusCode < 300 {
		if err := json.Unmarshal(data, out); err != nil {
			s.t.Fatal(err)
		}
	}
	return res.StatusCode, res.Header, string(data)
}

// running opens a build as the builder does and gives its repository and the token to push there.
func (s *server) running(session, fleet string) (repository, token string) {
	s.t.Helper()
	var b api.Build
	if status, _, text := s.ask("builder", "api", "POST", "/internal/v1/builds", api.BuildRequest{Slug: fleet}, &b, "Authorization: Bearer "+session); status != 201 {
		s.t.Fatalf("open a build: %d %s", status, text)
	}
	var images []api.BuildImage
	ask := api.BuildImagesRequest{Composition: json.RawMessage(`{"services":{"main":{}}}`), Services: []string{"main"}}
	if status, _, text := s.ask("builder", "api", "POST", "/internal/v1/builds/"+jsonOf(b.ID)+"/images", ask, &images); status != 200 || len(images) != 1 {
		s.t.Fatalf("images: %d %s", status, text)
	}
	var t api.SignedToken
	if status, _, text := s.ask("builder", "signer", "POST", "/v1/push-token", api.PushTokenRequest{Build: b.ID, Repository: images[0].Repository}, &t); status != 200 {
		s.t.Fatalf("push token: %d %s", status, text)
	}
	return images[0].Repository, t.Token
}

func jsonOf(v any) string {
	data, _ := json.Marshal(v) // of a number
	return string(data)
}

// Every kind of token that the server gives out tries to write the registry, itself and by what it is given for it: only the builder's
// own does, into its own repository.
func TestNoCredentialWritesTheRegistry(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	all, fleet, bob := s.credentials()
	all["a stranger's session"], all["nothing"] = bob, ""
	repo, push := s.running(all["session"], fleet)
	other, otherPush := s.running(all["session"], fleet)
	uploads := "/v2/" + repo + "/blobs/uploads/"
	for name, credential := range all {
		if status, _ := s.send("POST", "registry2", uploads, credential, nil); status != 401 && status != 403 {
			t.Errorf("%s, as it is: %d", name, status)
		}
		status, text := s.send("GET", "api", "/auth/v1/token?service=registry2."+domain+"&scope=repository:"+repo+":pull,push", credential, nil)
		if status == 401 || status == 403 {
			continue
		}
		var given struct{ Token string }
		if err := json.Unmarshal([]byte(text), &given); err != nil || status != 200 {
			t.Errorf("%s asks for a token: %d %s", name, status, text)
			continue
		}
		parts := strings.Split(given.Token, ".")
		claims, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
		if err != nil || strings.Contains(string(claims), `"push"`) {
			t.Errorf("%s is given %s %v", name, claims, err)
		}
		for _, as := range []string{"edge", "builder", "api"} {
			if status, _, _ := s.ask(as, "registry", "POST", uploads, nil, nil, "Authorization: Bearer "+given.Token); status != 401 {
				t.Errorf("%s, with what it is given, by the %s role: %d", name, as, status)
			}
		}
	}
	for _, tt := range []struct {
		what, as, token, path string
		status                int
	}{
		{"the builder's token through the edge", "edge", push, uploads, 403},
		{"the builder's token, by the api role", "api", push, uploads, 403},
		{"the builder's token, by the operator", "admin", push, uploads, 403},
		{"the builder's token in another repository", "builder", otherPush, uploads, 401},
		{"the builder's token in its own", "builder", push, uploads, 202},
		{"the other one in its own", "builder", otherPush, "/v2/" + other + "/blobs/uploads/", 202},
	} {
		if status, _, text := s.ask(tt.as, "registry", "POST", tt.path, nil, nil, "Authorization: Bearer "+tt.token); status != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.what, status, text, tt.status)
		}
	}
}

// The operator's commands on a running server: usage, quota, collection, check, and status when bytes are damaged.
func TestRegistryCommands(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0", "--registry-quota", "1MB")
	all, fleet, _ := s.credentials()
	repo, push := s.running(all["session"], fleet)
	org, _, _ := strings.Cut(fleet, "/")
	put := func(data string) (int, string) {
		status, header, text := s.ask("builder", "registry", "POST", "/v2/"+repo+"/blobs/uploads/", nil, nil, "Authorization: Bearer "+push)
		if status != 202 {
			return status, text
		}
		at := header.Get("Location")
		sum := sha256.Sum256([]byte(data))
		status, _, text = s.ask("builder", "registry", "PUT", at[strings.Index(at, "/v2/"):]+"&digest=sha256:"+hex.EncodeToString(sum[:]), data, nil,
			"Authorization: Bearer "+push, "Content-Type: application/octet-stream")
		return status, text
	}
	good := func(want string, args ...string) {
		t.Helper()
		out, text, code := run(t, nil, append([]string{"admin"}, append(args, "--data", s.dir)...)...)
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("%v: exit %d: %s %s; want %q", args, code, out, text, want)
		}
	}
	first := strings.Repeat("a", 600_000)
	if status, text := put(first); status != 201 {
		t.Fatalf("push: %d %s", status, text)
	}
	if status, text := put(strings.Repeat("b", 600_000)); status != 403 || !strings.Contains(text, "600.0 kB of the 1.0 MB") {
		t.Errorf("a push beyond the quota: %d %s", status, text)
	}
	good("600.0 kB in 1 blobs", "registry", "usage")
	good("600.0 kB", "quota", "list")
	good("2.0 MB", "quota", "set", org, "2MB")
	if status, text := put(strings.Repeat("b", 600_000)); status != 201 {
		t.Errorf("after the operator gave more: %d %s", status, text)
	}
	good("2 blobs", "registry", "check")
	good("the whole storage compared", "registry", "gc", "--scan", "--grace", "0s")
	good("images of other registries: 0 B of 10.7 GB kept", "registry", "upstreams")
	good("0 names and 0 blobs forgotten", "registry", "upstreams", "purge", "--all")
	if _, text, code := run(t, nil, "admin", "registry", "upstreams", "purge", "debian:13", "--data", s.dir); code != 1 || !strings.Contains(text, `"debian:13" is not known`) {
		t.Errorf("purge of what is not kept: exit %d %s", code, text)
	}
	good("WITNESS", "witness", "list")
	if _, text, code := run(t, nil, "admin", "witness", "remove", "nobody.example.com", "--data", s.dir); code != 1 || !strings.Contains(text, "no witness") {
		t.Errorf("a witness that there is not: exit %d %s", code, text)
	}
	if out, _, _ := run(t, nil, "status", "--data", s.dir); !strings.Contains(out, "images of other registries: ") {
		t.Errorf("the status says nothing of the pull cache: %s", out)
	}
	if _, text, code := run(t, nil, "admin", "quota", "set", org, "lots", "--data", s.dir); code != 2 || !strings.Contains(text, "no size") {
		t.Errorf("a quota that is no size: exit %d %s", code, text)
	}
	if _, text, code := run(t, nil, "admin", "quota", "set", "nobody", "1GB", "--data", s.dir); code != 1 || !strings.Contains(text, "no organization") {
		t.Errorf("a quota of nobody: exit %d %s", code, text)
	}
	sum := sha256.Sum256([]byte(first))
	h := hex.EncodeToString(sum[:])
	file := filepath.Join(s.dir, "roles", "registry", "storage", "docker", "registry", "v2", "blobs", "sha256", h[:2], h, "data")
	if err := os.WriteFile(file, []byte("b"+first[1:]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, text, code := run(t, nil, "admin", "registry", "check", "--data", s.dir); code != 1 || !strings.Contains(out, h) || !strings.Contains(text, "damaged") {
		t.Errorf("check of damage: exit %d %s %s", code, out, text)
	}
	eventually(t, "the status says it", 30*time.Second, func() bool {
		out, _, code := run(t, nil, "status", "--data", s.dir)
		return code == 1 && strings.Contains(out, h)
	})
	if log := s.log.String(); !strings.Contains(log, "ALARM") {
		t.Error("the log has no alarm")
	}
}
