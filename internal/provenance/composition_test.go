package provenance_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/provenance"
)

const composed = `{"services":{"web":{"build":{"context":"."},"command":["serve","<&>"],"mem_limit":1.0,"labels":{"a":"b","io.resin.features.kernel-modules":1}}},"networks":{"n":null},"volumes":{"data":null}}`

// asSigned is the document that a server makes of the composition.
func asSigned() *api.ReleaseDocument {
	return &api.ReleaseDocument{
		Services: map[string]api.ReleaseService{"web": {
			Composition: json.RawMessage(`{"labels":{"a":"b", "io.resin.features.kernel-modules":1}, "mem_limit":1.0, "command":["serve","\u003c\u0026\u003e"]}`),
			Labels:      map[string]string{"mine": "1", "io.balena.features.dbus": "1", "io.resin.features.kernel-modules": "1"}, // the last by the composition
		}},
		Networks: map[string]json.RawMessage{"n": json.RawMessage(`{}`)}, Volumes: map[string]json.RawMessage{"data": json.RawMessage(`{ }`)},
	}
}

// A statement says how services run: a document with the same images that has them do something else is not about what was built.
func TestAStatementSaysHowServicesRun(t *testing.T) {
	ask := api.StatementRequest{Build: 7, Images: []api.StatementImage{{Service: "web", Repository: repository, Digest: sum,
		Labels: provenance.Labels(map[string]string{"mine": "2", "io.balena.features.dbus": "1"})}}}
	var err error
	if ask.Composition, err = provenance.CompositionSum([]byte(composed)); err != nil {
		t.Fatal(err)
	}
	build := api.Build{ID: 7, Commit: "abc", Repositories: []string{repository}, Fleet: &api.BuildFleet{Slug: "acme/hello"}}
	s, err := provenance.New(site, build, ask)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Runs(asSigned()); err != nil {
		t.Errorf("the document of what was built: %v", err)
	}
	for what, change := range map[string]func(d *api.ReleaseDocument, web *api.ReleaseService){
		"another command": func(_ *api.ReleaseDocument, web *api.ReleaseService) {
			web.Composition = json.RawMessage(strings.Replace(string(web.Composition), "serve", "sh", 1))
		},
		"privileged": func(_ *api.ReleaseDocument, web *api.ReleaseService) {
			web.Composition = json.RawMessage(strings.Replace(string(web.Composition), "{", `{"privileged":true,`, 1))
		},
		"no composition": func(_ *api.ReleaseDocument, web *api.ReleaseService) { web.Composition = nil },
		"a network":      func(d *api.ReleaseDocument, _ *api.ReleaseService) { d.Networks["host"] = json.RawMessage(`{}`) },
		"a volume": func(d *api.ReleaseDocument, _ *api.ReleaseService) {
			d.Volumes["data"] = json.RawMessage(`{"driver":"x"}`)
		},
		"a feature": func(_ *api.ReleaseDocument, web *api.ReleaseService) {
			web.Labels["io.balena.features.balena-socket"] = "1"
		},
		"a feature in capitals": func(_ *api.ReleaseDocument, web *api.ReleaseService) { web.Labels["IO.Resin.features.dbus"] = "1" },
		"another value of the composition's": func(_ *api.ReleaseDocument, web *api.ReleaseService) {
			web.Labels["io.resin.features.kernel-modules"] = "2"
		},
		"another value":   func(_ *api.ReleaseDocument, web *api.ReleaseService) { web.Labels["io.balena.features.dbus"] = "2" },
		"another service": func(d *api.ReleaseDocument, web *api.ReleaseService) { d.Services["db"] = *web },
	} {
		d := asSigned()
		web := d.Services["web"]
		change(d, &web)
		d.Services["web"] = web
		if err := s.Runs(d); err == nil {
			t.Errorf("%s: the statement is taken for it", what)
		}
	}
	if err := made(t).Runs(asSigned()); err != nil {
		t.Errorf("a statement from before compositions were in it: %v", err)
	}
	ask.Composition = "sha256:x"
	if _, err := provenance.New(site, build, ask); err == nil || !strings.Contains(err.Error(), "composition") {
		t.Errorf("a composition's digest that is none: %v", err)
	}
	ask.Composition, ask.Images[0].Labels = "", map[string]string{"io.balena.x": "1"}
	if _, err := provenance.New(site, build, ask); err == nil || !strings.Contains(err.Error(), "labels") {
		t.Errorf("a label's digest that is none: %v", err)
	}
}

func FuzzCompositionSum(f *testing.F) {
	for _, s := range []string{composed, `{}`, `null`, `{"services":null}`, `{"services":{"a":null}}`, `{"services":{"a":{"x":1e400}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := provenance.CompositionSum(text)
		if err != nil {
			return
		}
		var plain any
		if json.Unmarshal(text, &plain) != nil {
			return
		}
		if b, err := provenance.CompositionSum(text); err != nil || a != b {
			t.Errorf("of the same composition %s and %s: %v", a, b, err)
		}
	})
}
