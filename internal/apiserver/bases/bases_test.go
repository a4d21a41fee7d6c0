package bases_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver/bases"
	"github.com/roadstead-io/roadstead/internal/shelf"
	"github.com/roadstead-io/roadstead/internal/web"
)

func TestRoutes(t *testing.T) {
	dir := t.TempDir()
	digest := "sha256:" + strings.Repeat("ab", 32)
	home := filepath.Join(dir, "debian")
	if err := os.MkdirAll(filepath.Join(home, "records"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := api.BaseImage{Name: "base/debian", Images: map[string]api.BaseBuild{"linux/amd64": {Digest: digest}}}
	if err := shelf.Write(home, b); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"records/" + digest[7:] + ".spdx.json": "parts", "records/secret": "secret"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "older"), 0o755); err != nil { // imported before anything was noted
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, path string
		status    int
		want      string
	}{
		{dir, "/base/v1/images", 200, digest},
		{"", "/base/v1/images", 200, "[]"},
		{filepath.Join(dir, "nothing"), "/base/v1/images", 200, "[]"},
		{dir, "/base/v1/images/" + digest + "/sbom", 200, "parts"},
		{dir, "/base/v1/images/" + digest + "/lock", 404, "nothing is known"},
		{dir, "/base/v1/images/" + digest + "/secret", 404, "there are sbom"},
		{dir, "/base/v1/images/sha256:*/sbom", 404, "there are sbom"},
		{dir, "/base/v1/images/..%2f..%2fsecret/sbom", 404, "there are sbom"},
		{"", "/base/v1/images/" + digest + "/sbom", 404, "there are sbom"},
	} {
		mux := http.NewServeMux()
		for _, r := range bases.Routes(c.dir) {
			if err := r.Check(); err != nil {
				t.Fatal(err)
			}
			mux.Handle(r.Method+" "+r.Path, web.Handle(slog.New(slog.DiscardHandler), r.Handle))
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %d %s, want %d %q", c.path, w.Code, w.Body, c.status, c.want)
		}
	}
}
