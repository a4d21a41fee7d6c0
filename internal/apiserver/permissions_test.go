package apiserver

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata/reference"
	"github.com/roadstead-io/roadstead/internal/pki"
)

var update = flag.Bool("update", false, "write docs/permissions.md")

const permissionPage = "../../docs/permissions.md"

const permissionHead = `# Who may do what

This page is generated from what the server enforces: ` + "`go test ./internal/apiserver -run PermissionPage -update`" + `.

Kinds of callers: **anonymous** (no token), **user** (a session, or a named API key), **device** (a device's own key),
**provisioning** (a key that registers devices into one fleet), and the other **roles** of the server, known by their certificates.
Whoever a route does not name is refused: 401 without a token and with a provisioning key, 403 otherwise.
What a caller may not see does not exist for it: an empty list, or 404.

## Routes

| route | who |
|---|---|
`

// The manual's permission page says what the server enforces, no more and no less.
func TestPermissionPageIsCurrent(t *testing.T) {
	dir := t.TempDir()
	if err := pki.NewTestIdentities(dir, api.RoleAPI); err != nil {
		t.Fatal(err)
	}
	role := filepath.Join(dir, api.RoleAPI)
	if err := os.WriteFile(filepath.Join(role, "pepper"), make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Dir: role, Site: api.Site{Domain: "roadstead.test"}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var page bytes.Buffer
	page.WriteString(permissionHead)
	for _, rt := range s.list() {
		method, path := rt.method, strings.TrimSuffix(rt.path, "{$}")
		if method == "" {
			method = "any"
		}
		fmt.Fprintf(&page, "| `%s %s` | %s |\n", method, path, whoText(rt))
	}
	page.WriteString("\n## Resources under `/v7/`\n\n")
	var tables bytes.Buffer
	if err := reference.WritePermissions(&tables, s.model()); err != nil {
		t.Fatal(err)
	}
	page.WriteString(strings.ReplaceAll(tables.String(), "\n## ", "\n### "))
	if *update {
		if err := os.WriteFile(permissionPage, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(permissionPage)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, page.Bytes()) {
		t.Errorf("%s is not current; run this test with -update and read what changed", permissionPage)
	}
}

func whoText(rt route) string {
	if len(rt.roles) > 0 {
		return "roles " + strings.Join(rt.roles, ", ")
	}
	var kinds []string
	for _, k := range rt.who {
		if k == access.Anonymous && len(rt.who) == 1 {
			return "everybody, no token is looked at"
		}
		kinds = append(kinds, string(k))
	}
	if strings.HasPrefix(rt.path, "/v") && len(rt.who) > 1 {
		return strings.Join(kinds, ", ") + ": row by row, see below"
	}
	return strings.Join(kinds, ", ")
}
