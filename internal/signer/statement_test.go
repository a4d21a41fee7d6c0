package signer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/signer"
)

// about asks for the statement of a build with one image.
func about(build int64, repository string) api.StatementRequest {
	return api.StatementRequest{
		Build: build, StartedAt: "2026-11-28T10:00:00Z", FinishedAt: "2026-11-28T10:01:00Z",
		Source: map[string]string{"gitTree": strings.Repeat("a", 40)},
		Images: []api.StatementImage{{
			Service: "main", Repository: repository, Digest: "sha256:" + strings.Repeat("1", 64), Origin: "Standard Dockerfile",
			Bases: []api.ImageBase{{Name: "docker.io/library/alpine:3.20", Digest: "sha256:" + strings.Repeat("2", 64)}},
		}},
	}
}

// Whoever has stolen the builder's identity can have a statement signed about the build that runs, and about nothing else.
func TestAStolenBuilderGetsNoStatementOfOtherBuilds(t *testing.T) {
	b := start(t)
	with := func(f func(*api.StatementRequest)) api.StatementRequest {
		ask := about(7, mine)
		f(&ask)
		return ask
	}
	long := strings.Repeat("x", 2000)
	for _, tt := range []struct {
		name, role string
		ask        api.StatementRequest
		status     int
		says       string
	}{
		{"its own build", "builder", about(7, mine), 200, "payloadType"},
		{"a build that has ended", "builder", about(8, mine), 403, "not running"},
		{"a build that is not there", "builder", about(99, mine), 403, "no build"},
		{"an answer about another build", "builder", about(9, mine), 500, ""},
		{"an image of another build", "builder", about(7, other), 400, "no repository"},
		{"an image too many", "builder", with(func(a *api.StatementRequest) {
			a.Images = append(a.Images, about(7, other).Images[0])
		}), 400, "has 1, not 2"},
		{"no image", "builder", with(func(a *api.StatementRequest) { a.Images = nil }), 400, "1 to 100"},
		{"no digest", "builder", with(func(a *api.StatementRequest) { a.Images[0].Digest = "latest" }), 400, "digest"},
		{"a digest that is none of a base", "builder", with(func(a *api.StatementRequest) { a.Images[0].Bases[0].Digest = "sha256:x" }), 400, "base"},
		{"escapes in the name of a base", "builder", with(func(a *api.StatementRequest) { a.Images[0].Bases[0].Name = "a\x1b[31m" }), 400, "base"},
		{"a long name", "builder", with(func(a *api.StatementRequest) { a.Images[0].Dockerfile = long }), 400, "too long"},
		{"a commit that is none", "builder", with(func(a *api.StatementRequest) { a.Git = &api.GitSource{Commit: "HEAD"} }), 400, "git"},
		{"a source without digest", "builder", with(func(a *api.StatementRequest) { a.Source = map[string]string{"gitTree": "x"} }), 400, "source"},
		{"the api role", "api", about(7, mine), 403, "api"},
		{"the registry", "registry", about(7, mine), 403, "registry"},
		{"the edge", "edge", about(7, mine), 403, "edge"},
		{"the parent", "parent", about(7, mine), 403, "parent"},
		{"the operator", "admin", about(7, mine), 403, "admin"},
	} {
		status, body := b.post(t, tt.role, "/v1/statement", tt.ask)
		if status != tt.status || !strings.Contains(body, tt.says) {
			t.Errorf("%s: %d %s, want %d %q", tt.name, status, body, tt.status, tt.says)
		}
	}
}

// What is signed is what the api role says of the build, and holds against everybody's public key.
func TestTheStatementIsOfTheBuildThatRuns(t *testing.T) {
	b := start(t)
	file := filepath.Join(b.dir, "signer", signer.StatementKeyFile)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v %v", info, err)
	}
	key, err := signer.StatementKey(file)
	if err != nil {
		t.Fatal(err)
	}
	status, body := b.post(t, "builder", "/v1/statement", about(7, mine))
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	s, by, err := provenance.Open([]byte(body), []api.StatementKey{key})
	if err != nil || by != key.ID {
		t.Fatalf("%v, by %s", err, by)
	}
	p := s.Predicate.BuildDefinition
	if p.ExternalParameters.Fleet != "acme/hello" || p.ExternalParameters.Commit != strings.Repeat("c", 32) || p.InternalParameters.Release != 7 {
		t.Errorf("%+v", p)
	}
	if !slices.ContainsFunc(p.ResolvedDependencies, func(r provenance.Resource) bool {
		return r.Name == "docker.io/library/alpine:3.20" && r.Digest["sha256"] == strings.Repeat("2", 64) && r.Annotations["services"] == "main"
	}) {
		t.Errorf("dependencies %+v", p.ResolvedDependencies)
	}
	// The keys of the signer are not each other's: a checkpoint's does not open a statement.
	audit, err := signer.AuditKey(filepath.Join(b.dir, "signer", signer.AuditKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := provenance.Open([]byte(body), []api.StatementKey{api.StatementKey(audit)}); err == nil {
		t.Error("the audit log's key opens a statement")
	}
	var e api.Envelope
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.PayloadType != provenance.PayloadType || len(e.Signatures) != 1 {
		t.Errorf("%v %+v", err, e)
	}
}
