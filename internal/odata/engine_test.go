package odata_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/odata/reference"
)

func TestInsideTransactions(t *testing.T) {
	s := newServer(t)
	ctx := t.Context()
	type label string
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		id, err := s.Insert(ctx, tx, access.Itself(), "device", map[string]any{
			"uuid": label("cc"), "nickname": "made", "is_of__device_type": 5, "belongs_to__application": int64(200), "actor": int32(9),
			"last_seen": time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.FixedZone("", 3600)), "secret_note": "s", "cpu_temp": float32(1.5), "is_online": true,
		})
		if err != nil {
			return err
		}
		if err := s.Update(ctx, tx, access.Itself(), "device", id, map[string]any{"note": (*string)(nil), "memory_usage": 4}); err != nil {
			return err
		}
		got, err := s.Query(ctx, tx, access.Itself(), "device(uuid='cc')?$select=device_name,actor,last_seen,is_online,cpu_temp,memory_usage&$expand=belongs_to__application($select=id)")
		if err != nil {
			return err
		}
		want := `[{"device_name":"made","actor":9,"last_seen":"2026-01-02T02:04:05.006Z","is_online":true,"cpu_temp":1.5,"memory_usage":4,"belongs_to__application":[{"id":200}]}]`
		if string(got) != want {
			t.Errorf("Query: got %s, want %s", got, want)
		}
		// bob does not see it, so for him it is not found
		if err := s.Update(ctx, tx, bob, "device", id, map[string]any{"note": "x"}); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("Update as bob: got %v, want not found", err)
		}
		if err := s.Remove(ctx, tx, bob, "device", id); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("Remove as bob: got %v, want not found", err)
		}
		if err := s.Remove(ctx, tx, eve, "device", id); err != nil {
			t.Errorf("Remove as eve: %v", err)
		}
		n, err := s.Query(ctx, tx, access.Itself(), "device/$count?$filter=device_name ne "+odata.Quote("it's & 100%"))
		if err != nil || string(n) != "4" {
			t.Errorf("Query count: got %s, %v, want 4", n, err)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHooks(t *testing.T) {
	var seen []odata.Change
	refuse := false
	s := newServer(t, func(c *odata.Config) {
		for _, r := range c.Model.Resources {
			if r.Name == "device_tag" {
				r.After = []odata.Hook{func(ctx context.Context, tx *db.Tx, c *odata.Change) error {
					seen = append(seen, *c)
					if _, err := tx.ExecContext(ctx, `UPDATE device SET note = 'hooked' WHERE id = 200`); err != nil {
						return err
					}
					if refuse {
						return api.Errorf(api.Invalid, "not today")
					}
					return nil
				}}
			}
		}
	})
	refuse = true
	check(t, s, []exchange{
		{bob, "DELETE", "device_tag(1)", "", 400, `"not today"`},
		{bob, "", "device_tag?$select=id", "", 0, `[{"id":1},{"id":2}]`},
		{bob, "", "device(200)?$select=note", "", 0, `[{"note":"it's ok"}]`},
	})
	refuse = false
	check(t, s, []exchange{
		{bob, "POST", "device_tag?returnResource=false", `{"device":200,"tag_key":"k","value":"v"}`, 201, `{"id":4}`},
		{bob, "PATCH", "device_tag?$filter=device eq 200", `{"value":"w"}`, 200, ""},
		{bob, "DELETE", "device_tag(4)", "", 200, ""},
		{bob, "", "device(200)?$select=note", "", 0, `[{"note":"hooked"}]`},
	})
	var got []string
	for _, c := range seen {
		data, err := json.Marshal([]any{c.Op, c.IDs, c.Values})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(data))
	}
	want := []string{`["delete",[1],null]`, `["create",[4],{"device":200,"tag_key":"k","value":"v"}]`, `["update",[1,2,4],{"value":"w"}]`, `["delete",[4],null]`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hooks saw (-want +got):\n%s", diff)
	}
}

// TestNewRefuses: what would leave something open or dead is found before the server starts.
func TestNewRefuses(t *testing.T) {
	resource := func(m *odata.Model, name string) *odata.Resource {
		for _, r := range m.Resources {
			if r.Name == name {
				return r
			}
		}
		t.Fatalf("no %s", name)
		return nil
	}
	rule := func(m *odata.Model, change func(*odata.Rule)) {
		r := resource(m, "device")
		ru := r.Rules[access.User]
		change(&ru)
		r.Rules[access.User] = ru
	}
	for _, c := range []struct {
		name, want string
		change     func(m *odata.Model)
	}{
		{"no rules", "no access rules", func(m *odata.Model) { resource(m, "device").Rules = nil }},
		{"rule for the system", "no kind of caller", func(m *odata.Model) {
			resource(m, "device").Rules[access.System] = odata.Rule{Read: "true"}
		}},
		{"rule that does not parse", "rule of user: Read: expected", func(m *odata.Model) { rule(m, func(r *odata.Rule) { r.Read = "id eq" }) }},
		{"rule with an unknown property", `no property "nope"`, func(m *odata.Model) { rule(m, func(r *odata.Rule) { r.Update = "nope eq 1" }) }},
		{"rule with an unknown parameter", "no @nobody", func(m *odata.Model) { rule(m, func(r *odata.Rule) { r.Delete = "id eq @nobody" }) }},
		{"rule that is no condition", "not a condition", func(m *odata.Model) { rule(m, func(r *odata.Rule) { r.Create = "uuid" }) }},
		{"unknown written column", "Write names", func(m *odata.Model) { rule(m, func(r *odata.Rule) { r.Write = append(r.Write, "nope") }) }},
		{"computed written column", "is computed", func(m *odata.Model) { rule(m, func(r *odata.Rule) { r.Write = append(r.Write, "overall_status") }) }},
		{"unknown hidden column", "Hide names", func(m *odata.Model) { rule(m, func(r *odata.Rule) { r.Hide = []string{"nope"} }) }},
		{"action that does not parse", "action ssh", func(m *odata.Model) { resource(m, "application").Actions["ssh"][access.User] = "(" }},
		{"foreign key to nowhere", "which is no resource", func(m *odata.Model) { resource(m, "device").Columns[12].To = "nowhere" }},
		{"foreign key without a target", "needs a target", func(m *odata.Model) { resource(m, "device").Columns[12].To = "" }},
		{"name taken", "is taken", func(m *odata.Model) { resource(m, "device").Synonyms = []string{"user"} }},
		{"reverse name taken", "already has something", func(m *odata.Model) { resource(m, "device").Columns[12].Reverse = []string{"slug"} }},
		{"column twice", "declared twice", func(m *odata.Model) {
			r := resource(m, "device")
			r.Columns = append(r.Columns, text("uuid"))
		}},
		{"no id", "first column must be id", func(m *odata.Model) { resource(m, "device").Columns = resource(m, "device").Columns[1:] }},
		{"name that is SQL", "is not a name", func(m *odata.Model) { resource(m, "device").Table = `d" --` }},
		{"key of no column", "natural key names", func(m *odata.Model) { resource(m, "device").Keys = [][]string{{"nope"}} }},
		{"computed with an unknown parameter", "knows no @nobody", func(m *odata.Model) { resource(m, "device").Columns[16].SQL = "@nobody" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := testModel()
			c.change(&m)
			if _, err := odata.New(odata.Config{Model: m}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New: got %v, want %q", err, c.want)
			}
		})
	}
}

func TestCheckFindsMissingColumn(t *testing.T) {
	s := newServer(t, func(c *odata.Config) {
		c.Model.Resources[0].Columns = append(c.Model.Resources[0].Columns, text("email"))
	})
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "email") {
		t.Errorf("Check: got %v, want the missing column", err)
	}
}

// csdlDocument is what a reader of CSDL makes of a metadata document.
type csdlDocument struct {
	XMLName xml.Name
	Version string `xml:"Version,attr"`
	Schema  struct {
		XMLName   xml.Name
		Namespace string `xml:"Namespace,attr"`
		Types     []struct {
			Name string `xml:"Name,attr"`
			Key  struct {
				Name string `xml:"Name,attr"`
			} `xml:"Key>PropertyRef"`
			Properties  []csdlProperty `xml:"Property"`
			Navigations []csdlProperty `xml:"NavigationProperty"`
		} `xml:"EntityType"`
		Sets []struct {
			Name string `xml:"Name,attr"`
			Type string `xml:"EntityType,attr"`
		} `xml:"EntityContainer>EntitySet"`
	} `xml:"DataServices>Schema"`
}

type csdlProperty struct {
	Name     string `xml:"Name,attr"`
	Type     string `xml:"Type,attr"`
	Nullable string `xml:"Nullable,attr"`
}

// TestMetadata: the document holds together as CSDL, and shows what the caller may see.
func TestMetadata(t *testing.T) {
	s := newServer(t)
	a := s.do(bob, "GET", "/v7/$metadata", "")
	var doc csdlDocument
	if err := xml.Unmarshal([]byte(a.body), &doc); err != nil || a.status != 200 {
		t.Fatal(a.status, err)
	}
	if doc.XMLName.Space != "http://docs.oasis-open.org/odata/ns/edmx" || doc.Schema.XMLName.Space != "http://docs.oasis-open.org/odata/ns/edm" ||
		doc.Version != "4.01" || len(doc.Schema.Types) != len(testModel().Resources) {
		t.Errorf("got %v %v %q with %d types", doc.XMLName, doc.Schema.XMLName, doc.Version, len(doc.Schema.Types))
	}
	types := map[string]bool{}
	for _, typ := range doc.Schema.Types {
		types[doc.Schema.Namespace+"."+typ.Name] = true
	}
	for _, typ := range doc.Schema.Types {
		names := map[string]bool{}
		for _, p := range append(typ.Properties, typ.Navigations...) {
			if names[p.Name] {
				t.Errorf("%s.%s is there twice", typ.Name, p.Name)
			}
			names[p.Name] = true
			inner, many := strings.CutPrefix(strings.TrimSuffix(p.Type, ")"), "Collection(")
			if !types[inner] && !strings.HasPrefix(inner, "Edm.") || many == (p.Nullable != "") {
				t.Errorf("%s.%s: type %q, nullable %q", typ.Name, p.Name, p.Type, p.Nullable)
			}
		}
		if !names[typ.Key.Name] {
			t.Errorf("%s has no key", typ.Name)
		}
	}
	sets := map[string]string{}
	for _, set := range doc.Schema.Sets {
		if !types[set.Type] || sets[set.Name] != "" {
			t.Errorf("set %s of %s", set.Name, set.Type)
		}
		sets[set.Name] = set.Type
	}
	if sets["device_tag"] == "" || sets["device_tag"] != sets["device__has__tag_key"] {
		t.Errorf("long and short name of tags: %v", sets)
	}
	for _, hidden := range []string{"password", "hash", "secret_note"} {
		if strings.Contains(a.body, `"`+hidden+`"`) {
			t.Errorf("$metadata shows %s", hidden)
		}
	}
	if a := s.do(nobody, "GET", "/v7/$metadata", ""); strings.Contains(a.body, `"device"`) || !strings.Contains(a.body, `"device_type"`) {
		t.Errorf("$metadata for nobody: %s", a.body)
	}
}

func TestPermissionPage(t *testing.T) {
	var b strings.Builder
	if err := reference.WritePermissions(&b, testModel()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n## api_key\n", "| user | `is_of__actor eq @actor` | – | – | – | never sees `hash` |",
		"| device | `id eq @device` | – | `id eq @device` | – | writes `memory_usage`; ignored `device_name`; never sees `note` `secret_note` |",
		"| anonymous | all | – | – | – |  |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the page lacks %q in\n%s", want, b.String())
		}
	}
	want := 0
	for _, r := range testModel().Resources {
		want += len(r.Rules)
	}
	if got := len(reference.Permissions(testModel())); got != want {
		t.Errorf("Permissions: got %d rules, want %d", got, want)
	}
}
