package apiserver_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/odata/reference"
)

const (
	referencePage = "../../docs/reference/odata.md"
	openAPIFile   = "../../docs/reference/openapi.json"
)

const referenceHead = `# The resources

Generated from what the server serves, with answers of a running one: ` + "`go test ./internal/apiserver -run Reference -update`" + `.
How to ask is in [the data API](../odata.md), who may see which rows in [permissions](../permissions.md); the same for programs is
in [openapi.json](openapi.json).

A column that nobody is named for is written by the server alone. A link is ` + "`{\"__id\":5}`" + ` until it is expanded, and then a list of one
row or none. Dates are UTC. The examples were asked by the administrator of an organization.

`

// TestReferenceIsCurrent: the manual's page and the OpenAPI document say what the server serves, no more and no less.
func TestReferenceIsCurrent(t *testing.T) {
	c := newCorpus(t)
	// What nothing in that world has by itself: an action that waits, a device that checks what it runs, a server of the control channel.
	c.do(c.tokens["user"], "POST", "/device-actions/v1", api.NewAction{Devices: []api.DeviceUUID{alphaUUID}, Verb: api.ActPing}).want(http.StatusAccepted)
	c.exec(`INSERT INTO device_trust (created_at, device, state, "commit", counter, versions, checkpoint, seen_at) VALUES (?, ?, 'verified', ?, 12, '{}', '', ?)`,
		then, c.ids["alpha"], goodHash, then)
	c.insert("", "service_instance", fields{"ip_address": "192.0.2.10"})
	m := c.running.Model()
	words := reference.Words{About: aboutResources, Units: unitsOfColumns, Examples: map[string]reference.Example{}}
	for _, r := range m.Resources {
		request := "GET /v7/" + r.Name + "?$top=1"
		if q := exampleQueries[r.Name]; q != "" {
			request = "GET /v7/" + r.Name + "?" + q
		}
		a := c.do(c.tokens["user"], "GET", encoded(strings.TrimPrefix(request, "GET ")), nil).want(http.StatusOK)
		var d struct{ D []json.RawMessage }
		a.into(&d)
		if len(d.D) == 0 {
			t.Errorf("%s: the example is empty", request)
		}
		shown := strings.ReplaceAll(settled(strings.TrimSpace(a.body)), "<now>", "2026-01-31T12:00:00.000Z")
		words.Examples[r.Name] = reference.Example{Request: request, Answer: json.RawMessage(shown)}
	}
	var page bytes.Buffer
	page.WriteString(referenceHead)
	if err := reference.WriteMarkdown(&page, m, words); err != nil {
		t.Fatal(err)
	}
	current(t, referencePage, page.Bytes())

	var routes []reference.Route
	for _, rt := range apiserver.Routes() {
		if rt.Internal || strings.HasPrefix(rt.Path, "/v") {
			continue
		}
		name := strings.TrimSpace(rt.Method + " " + strings.TrimSuffix(rt.Path, "{$}"))
		if aboutRoutes[name] == "" {
			t.Errorf("route %s: nothing is said about it", name)
		}
		public := len(rt.Who) == 1 && rt.Who[0] == access.Anonymous
		routes = append(routes, reference.Route{Method: rt.Method, Path: rt.Path, About: aboutRoutes[name], Public: public})
	}
	doc, err := reference.OpenAPI(m, words, "/v7/", "The API of a Roadstead server. See the manual for the dialect of the queries.", routes)
	if err != nil {
		t.Fatal(err)
	}
	checkOpenAPI(t, doc)
	current(t, openAPIFile, doc)
}

// current compares a generated file with the one in the manual.
func current(t *testing.T, file string, want []byte) {
	t.Helper()
	if updating() {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not current; run this test with -update and read what changed", file)
	}
}

// checkOpenAPI: every reference leads somewhere, every operation has a name of its own and an answer, and every example is a row.
func checkOpenAPI(t *testing.T, doc []byte) {
	t.Helper()
	var all struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Responses   map[string]any
			Parameters  []struct{ Name, In string }
		}
		Components map[string]map[string]any
	}
	if err := json.Unmarshal(doc, &all); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(all.OpenAPI, "3.1") || len(all.Paths) < 100 {
		t.Errorf("got version %q with %d paths", all.OpenAPI, len(all.Paths))
	}
	for i, part := range strings.Split(string(doc), `"$ref": "#/components/`) {
		place, _, _ := strings.Cut(part, `"`)
		section, name, _ := strings.Cut(place, "/")
		if i > 0 && all.Components[section][name] == nil {
			t.Errorf("a reference to %q, which is nowhere", place)
		}
	}
	seen := map[string]bool{}
	for path, operations := range all.Paths {
		for method, op := range operations {
			if op.OperationID == "" || seen[op.OperationID] || len(op.Responses) == 0 {
				t.Errorf("%s %s: operation %q", method, path, op.OperationID)
			}
			seen[op.OperationID] = true
			for _, p := range op.Parameters {
				if p.In == "path" && !strings.Contains(path, "{"+p.Name+"}") {
					t.Errorf("%s %s has no {%s}", method, path, p.Name)
				}
			}
		}
	}
}
