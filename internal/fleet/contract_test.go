package fleet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

func documents(t *testing.T, w *releasetest.World) (docs []fleet.TypeDocument) {
	t.Helper()
	w.Read(func(tx *db.Tx) (err error) {
		docs, err = fleet.TypeDocuments(t.Context(), tx)
		return err
	})
	return docs
}

func TestDeviceTypes(t *testing.T) {
	w := releasetest.New(t)
	w.Write(func(tx *db.Tx) error { return w.Fleets.Prepare(t.Context(), tx) }) // again, as at every start
	docs := documents(t, w)
	for name, want := range map[string]string{
		"generic-amd64": "generic-amd64", "raspberrypi4-64": "raspberrypi4-64", "raspberrypi5": "raspberrypi5",
		"raspberrypi0-2w-64": "raspberrypi0-2w-64", "jetson-xavier": "jetson-xavier", "rockpi-4b-rk3399": "rockpi-4b-rk3399",
		"nuc": "intel-nuc", "beaglebone": "beaglebone-black", "Raspberry Pi 5": "raspberrypi5",
	} {
		if doc, err := fleet.FindTypeDocument(docs, name); err != nil || doc.Slug != want || doc.Aliases[0] != want {
			t.Errorf("%s: %+v %v", name, doc, err)
		}
	}
	if _, err := fleet.FindTypeDocument(docs, "toaster"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("toaster: %v", err)
	}
	rows := w.Rows(access.Nobody(), "device_type?$select=slug,contract&$expand=device_type_alias($select=is_referenced_by__alias),"+
		"is_of__cpu_architecture($select=slug),belongs_to__device_family($select=name;$expand=is_manufactured_by__device_manufacturer($select=name))")
	if len(rows) < 20 || len(rows) != len(docs) {
		t.Errorf("%d device types, %d documents", len(rows), len(docs))
	}
	for _, row := range rows {
		slug, contract := row["slug"].(string), row["contract"].(map[string]any)
		if !strings.Contains(strings.Join(aliases(row), " "), slug) {
			t.Errorf("%s is not its own alias", slug)
		}
		data, arch := contract["data"].(map[string]any), row["is_of__cpu_architecture"].([]any)[0].(map[string]any)["slug"]
		// What the SDK makes its instructions from.
		if contract["slug"] != slug || data["arch"] != arch || data["media"].(map[string]any)["defaultBoot"] == nil ||
			data["connectivity"] == nil || data["led"] == nil || contract["partials"] == nil {
			t.Errorf("%s: its contract lacks something: %v", slug, contract)
		}
		if f := row["belongs_to__device_family"].([]any); len(f) != 1 || f[0].(map[string]any)["name"] == data["family"] {
			t.Errorf("%s: its family %v has no name", slug, data["family"])
		}
	}
	one := w.Rows(access.Nobody(), "device_type(slug='raspberrypi5')?$select=id&$expand=belongs_to__device_family($select=slug;"+
		"$expand=is_manufactured_by__device_manufacturer($select=slug))")
	if got := fmt.Sprint(one); !strings.Contains(got, "slug:raspberrypi-broadcom") || !strings.Contains(got, "slug:raspberry-pi") {
		t.Errorf("the family of a Raspberry Pi 5: %s", got)
	}
	for _, tc := range []struct {
		device, build string
		want          bool
	}{{"amd64", "amd64", true}, {"aarch64", "armv7hf", true}, {"aarch64", "rpi", true}, {"armv7hf", "rpi", true}, {"armv7hf",
		"aarch64", false}, {"amd64", "i386", false}} {
		if got := fleet.Runs(tc.device, tc.build); got != tc.want {
			t.Errorf("Runs(%s, %s): got %v", tc.device, tc.build, got)
		}
	}
}

func aliases(row map[string]any) (names []string) {
	for _, a := range row["device_type_alias"].([]any) {
		names = append(names, a.(map[string]any)["is_referenced_by__alias"].(string))
	}
	return names
}

// Every board says how its image is called; one that is written over a cable has no flasher.
func TestImagesOfDeviceTypes(t *testing.T) {
	docs := documents(t, releasetest.New(t))
	for slug, want := range map[string]string{
		"raspberrypi4-64": "balena-image-raspberrypi4-64.balenaos-img", "intel-nuc": "balena-image-flasher-intel-nuc.balenaos-img",
		"jetson-xavier": "balena-image-jetson-xavier.balenaos-img", "rockpro64": "balena-image-rockpro64.balenaos-img",
	} {
		if doc, err := fleet.FindTypeDocument(docs, slug); err != nil || doc.Yocto.DeployArtifact != want {
			t.Errorf("%s: %q %v, want %q", slug, doc.Yocto.DeployArtifact, err, want)
		}
	}
}

const pump = `{"slug":"acme-pump","type":"hw.device-type","name":"Acme Pump","aliases":["pump"],
	"assets":{"logo":{"url":"https://example.com/pump.svg"}},"data":{"arch":"armv7hf","family":"acme","manufacturer":"acme"}}`

func TestAnOperatorsOwnDeviceTypes(t *testing.T) {
	w := releasetest.New(t)
	prepare := func(files map[string]string) error {
		own := fstest.MapFS{}
		for name, text := range files {
			own[name] = &fstest.MapFile{Data: []byte(text)}
		}
		return w.DB.Write(t.Context(), func(tx *db.Tx) error {
			return fleet.New(fleet.Config{Accounts: w.Accounts, Site: releasetest.Site, Contracts: own}).Prepare(t.Context(), tx)
		})
	}
	if err := prepare(map[string]string{"acme-pump.json": pump, "README.md": "not read"}); err != nil {
		t.Fatal(err)
	}
	w.Fleet(w.Alice, "pumps", "acme-pump")
	w.Want(access.Nobody(), "GET", "device_type?$select=slug,name,logo&$filter=device_type_alias/any(a:a/is_referenced_by__alias eq 'pump')",
		nil, 200, `[{"slug":"acme-pump","name":"Acme Pump","logo":"https://example.com/pump.svg"}]`)
	// One of ours can be replaced, and a type that is not given any more stays.
	if err := prepare(map[string]string{"intel-nuc.json": strings.NewReplacer("acme-pump", "intel-nuc", "Acme Pump", "Our NUC", `["pump"]`,
		`["nuc"]`, "armv7hf", "amd64").Replace(pump)}); err != nil {
		t.Fatal(err)
	}
	w.Want(access.Nobody(), "GET", "device_type?$select=name&$filter=slug in ('intel-nuc','acme-pump')&$orderby=name asc", nil, 200,
		`[{"name":"Acme Pump"},{"name":"Our NUC"}]`)

	for name, tc := range map[string]struct{ file, text, want string }{
		"not JSON":      {"a.json", "{", "a.json: it is not a JSON object"},
		"a list":        {"a.json", "[]", "a.json: it is not a JSON object"},
		"another name":  {"pump.json", pump, `pump.json: slug: the file of "acme-pump" must be named acme-pump.json`},
		"slug":          {"A_b.json", strings.Replace(pump, `"acme-pump"`, `"A_b"`, 1), `slug: "A_b" is not made of`},
		"path":          {"a.json", strings.Replace(pump, `"acme-pump"`, `"../a"`, 1), `slug: "../a" is not made of`},
		"type":          {"acme-pump.json", strings.Replace(pump, "hw.device-type", "sw.os", 1), `type: "sw.os" must be hw.device-type`},
		"no name":       {"acme-pump.json", strings.Replace(pump, "Acme Pump", "", 1), "name: must have"},
		"arch":          {"acme-pump.json", strings.Replace(pump, "armv7hf", "z80", 1), `data.arch: "z80" is none of aarch64`},
		"wrong type":    {"acme-pump.json", strings.Replace(pump, `"armv7hf"`, `7`, 1), "data.arch: must be a string, not a number"},
		"alias":         {"acme-pump.json", strings.Replace(pump, `["pump"]`, `["ok","a b"]`, 1), `aliases[1]: "a b" is not made of`},
		"taken alias":   {"acme-pump.json", strings.Replace(pump, `["pump"]`, `["intel-nuc"]`, 1), `aliases[0]: "intel-nuc" is a name of intel-nuc`},
		"logo":          {"acme-pump.json", strings.Replace(pump, "https:", "javascript:", 1), `assets.logo.url: begins with "javascript:"`},
		"family":        {"acme-pump.json", strings.Replace(pump, `"acme",`, `"a/b",`, 1), `data.family: "a/b"`},
		"too large":     {"acme-pump.json", strings.Replace(pump, "Acme Pump", strings.Repeat("a", 1<<18), 1), "larger than"},
		"several wrong": {"acme-pump.json", `{"slug":"acme-pump"}`, "type: "},
	} {
		if err := prepare(map[string]string{tc.file: tc.text}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
	if err := prepare(map[string]string{"acme-pump.json": `{"slug":"acme-pump"}`}); err == nil ||
		!strings.Contains(err.Error(), "data.arch") || !strings.Contains(err.Error(), "name") {
		t.Errorf("not everything that is wrong is said: %v", err)
	}
}

func FuzzContract(f *testing.F) {
	f.Add([]byte(pump))
	f.Add([]byte(`{"slug":"a","data":null,"aliases":[null]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := fleet.ParseContract(raw)
		if err == nil && (c.Slug == "" || strings.ContainsAny(c.Slug, "/. ") || !json.Valid(raw)) {
			t.Errorf("taken: %q", raw)
		}
	})
}
