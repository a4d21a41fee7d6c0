package syntax_test

import (
	"os"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

var limits = syntax.Limits{URL: 16 << 10, Depth: 32, Nodes: 2000, Expands: 40, Lambdas: 8, List: 500, Top: 100_000}

// FuzzParse: no text makes the parser panic, and every refusal is the client's fault. The seeds are the engine's catalogue of
// requests.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"queries", "clients", "refused", "tenants"} {
		data, err := os.ReadFile("../testdata/" + name + ".txt")
		if err != nil {
			f.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			_, request, ok := strings.Cut(strings.TrimSpace(line), " ")
			if ok && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "#") {
				path, query, _ := strings.Cut(strings.ReplaceAll(request, " ", "%20"), "?")
				f.Add(path, query)
			}
		}
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		req, err := syntax.ParseRequest(limits, "/v7/", path, query)
		if err != nil && api.AsError(err).Code != api.Invalid || err == nil && req == nil {
			t.Errorf("%q ? %q: %v, %v", path, query, req, err)
		}
	})
}
