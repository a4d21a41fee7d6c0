package compose_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"

	"github.com/roadstead-io/roadstead/internal/compose"
)

var update = flag.Bool("update", false, "write docs/composition.md")

const manual = "../../docs/composition.md"

const begin, end = "<!-- generated from internal/compose: begin -->\n", "<!-- generated: end -->\n"

// The manual's tables are the builder's own.
func TestTheManualTellsWhatTheBuilderDoes(t *testing.T) {
	var b strings.Builder
	for _, s := range compose.Sections {
		fmt.Fprintf(&b, "### `%s`\n\n| field | | |\n|---|---|---|\n", s.Place)
		for _, f := range s.Fields {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Name, f.Support, f.Note)
		}
		b.WriteString("\n")
	}
	data, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(data), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has lost its marks", manual)
	}
	want := head + begin + "\n" + b.String() + end + tail
	if want == string(data) {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date: go test ./internal/compose -update", manual)
	}
	if err := os.WriteFile(manual, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Every field of the compose specification that the parser knows has a row, and a refused one has a reason.
func TestTheTableIsComplete(t *testing.T) {
	var spec map[string]any
	if err := json.Unmarshal([]byte(schema.Schema), &spec); err != nil {
		t.Fatal(err)
	}
	defs := spec["$defs"].(map[string]any)
	build := properties(defs, defs["service"])["build"]
	for place, known := range map[string]map[string]any{
		"Top level":           properties(defs, spec),
		"services.NAME":       properties(defs, defs["service"]),
		"services.NAME.build": properties(defs, build),
		"networks.NAME":       properties(defs, defs["network"]),
		"volumes.NAME":        properties(defs, defs["volume"]),
	} {
		rows := map[string]compose.Field{}
		for _, s := range compose.Sections {
			if s.Place != place {
				continue
			}
			for _, f := range s.Fields {
				if _, twice := rows[f.Name]; twice {
					t.Errorf("%s: %s has two rows", place, f.Name)
				}
				rows[f.Name] = f
				if f.Support != compose.Kept && f.Note == "" {
					t.Errorf("%s: %s is %s without a reason", place, f.Name, f.Support)
				}
			}
		}
		if len(known) < 5 {
			t.Errorf("%s: the specification has only %d fields; is the schema read right?", place, len(known))
		}
		for name := range known {
			if _, ok := rows[name]; !ok {
				t.Errorf("%s: the specification's field %s has no row", place, name)
			}
		}
		for name := range rows {
			if _, ok := known[name]; !ok {
				t.Errorf("%s: the specification knows no field %s", place, name)
			}
		}
	}
}

// properties joins the fields of a schema and of what it is made of.
func properties(defs map[string]any, node any) map[string]any {
	out := map[string]any{}
	m, _ := node.(map[string]any)
	if ref, ok := m["$ref"].(string); ok {
		for k, v := range properties(defs, defs[ref[strings.LastIndexByte(ref, '/')+1:]]) {
			out[k] = v
		}
	}
	if p, ok := m["properties"].(map[string]any); ok {
		for k, v := range p {
			out[k] = v
		}
	}
	for _, key := range []string{"allOf", "oneOf", "anyOf"} {
		list, _ := m[key].([]any)
		for _, item := range list {
			for k, v := range properties(defs, item) {
				out[k] = v
			}
		}
	}
	return out
}
