package odata_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/internal/access"
)

var update = flag.Bool("update", false, "write the answers that came into the golden files")

// TestQueries runs every request of a golden file: "caller url", the status if it is not 200, and the body under it. The
// files are the catalogue of what the dialect can do, and of what it refuses with which words.
func TestQueries(t *testing.T) {
	callers := map[string]access.Caller{"bob": bob, "eve": eve, "device": alpha, "nobody": nobody}
	for _, file := range []string{"testdata/queries.txt", "testdata/clients.txt", "testdata/refused.txt", "testdata/tenants.txt"} {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(file, "testdata/"), ".txt"), func(t *testing.T) {
			s := newServer(t)
			if err := s.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for line := range strings.Lines(string(data)) {
				line = strings.TrimSuffix(line, "\n")
				if line == "" || strings.HasPrefix(line, "#") {
					fmt.Fprintln(&got, line)
					continue
				}
				who, url, ok := strings.Cut(line, " ")
				caller, known := callers[who]
				if !ok || !known || strings.HasPrefix(line, " ") {
					continue // the expected answer
				}
				a := s.do(caller, "GET", "/v7/"+url, "")
				fmt.Fprintln(&got, line)
				if a.status != 200 {
					fmt.Fprintf(&got, "  %d %s\n", a.status, a.body)
				} else {
					fmt.Fprintf(&got, "  %s\n", strings.TrimSuffix(strings.TrimPrefix(a.body, `{"d":`), "}"))
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(data), got.String()); diff != "" {
				t.Errorf("-want +got, run with -update to accept:\n%s", diff)
			}
		})
	}
}
