package compose_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/compose"
)

func TestCheckSaysWhatBecomesOfEveryField(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  []compose.Finding
	}{
		"kept and ignored": {map[string]string{"docker-compose.yml": "services:\n  web: {build: ., expose: [80], environment: {A: b}}\n", "Dockerfile.aarch64": "FROM x\n"},
			[]compose.Finding{{"services", compose.Kept, ""}, {"services.web.build", compose.Kept, ""}, {"services.web.environment", compose.Kept, ""},
				{"services.web.build.context", compose.Kept, ""},
				{"services.web.expose", compose.Ignored, "it only informs"}}},
		"refused by the table": {map[string]string{"compose.yaml": "services: {web: {image: x, scale: 2}}\n"},
			[]compose.Finding{{"services", compose.Kept, ""}, {"services.web.image", compose.Kept, ""},
				{"services.web.scale", compose.Refused, "belongs to Swarm; a device runs one container of each service"}}},
		"refused for its value": {map[string]string{"compose.yaml": "services: {web: {image: x, pid: 'service:db'}, db: {image: x}}\n"},
			[]compose.Finding{{"services", compose.Kept, ""}, {"services.db.image", compose.Kept, ""}, {"services.web.image", compose.Kept, ""}, {"services.web.pid", compose.Kept, ""},
				{"services.web.pid", compose.Refused, `"service:db" is not supported: it names another container`}}},
		"no Dockerfile": {map[string]string{"compose.yaml": "services: {a: {build: ./a}, b: {build: {context: a, dockerfile: Other}}}\n", "a/x": ""},
			[]compose.Finding{{"services.a.build", compose.Refused, "there is no Dockerfile in a"}, {"services.b.build.dockerfile", compose.Refused, "there is no file a/Other"}}},
		"nothing":      {map[string]string{"README": ""}, []compose.Finding{{".", compose.Refused, "there is neither a Dockerfile nor a compose file"}}},
		"a Dockerfile": {map[string]string{"Dockerfile": "FROM x\n"}, []compose.Finding{}},
		"only an ignore file": {map[string]string{"Dockerfile.dockerignore": "x\n"},
			[]compose.Finding{{".", compose.Refused, "there is neither a Dockerfile nor a compose file"}}},
		"a service too many": {map[string]string{"Dockerfile": "FROM x\n", ".balena/balena.yml": "build-variables: {services: {web: [A=b]}}"},
			[]compose.Finding{{".balena/balena.yml", compose.Ignored, "it speaks of a service web, which the project does not have"}}},
	} {
		got := compose.Check(t.Context(), project(t, c.files))
		if name == "no Dockerfile" {
			got.Findings = got.Of(compose.Refused)
		}
		if diff := cmp.Diff(c.want, got.Findings); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if (got.Fail() == nil) != (got.Count(compose.Refused) == 0) {
			t.Errorf("%s: %v", name, got.Fail())
		}
	}
	for file, text := range map[string]string{"docker-compose.yml": "services: [", "balena.yml": "a: [", ".balena/balena.yml": "build-variables: 7"} {
		r := compose.Check(t.Context(), project(t, map[string]string{"Dockerfile": "FROM x\n", file: text}))
		if refused := r.Of(compose.Refused); len(refused) != 1 || refused[0].Field != file {
			t.Errorf("%s: %v", file, r.Findings)
		}
	}
}

// What the builder lets through, the device does; what the device knows, the builder lets through or says why not.
func TestTheDeviceDoesWhatTheTableSays(t *testing.T) {
	table := map[string]compose.Field{}
	for _, s := range compose.Sections {
		if s.Place == "services.NAME" {
			for _, f := range s.Fields {
				table[f.Name] = f
			}
		}
	}
	onDevice := map[string]bool{}
	for _, name := range composition.Fields() {
		onDevice[name] = true
		if _, ok := table[name]; !ok {
			t.Errorf("the device knows %s, and the table does not", name)
		}
	}
	// These are gone when a composition reaches a device, or are the builder's business.
	atBuild := "build image platform env_file extends"
	for name, f := range table {
		if f.Support == compose.Kept && !onDevice[name] && !strings.Contains(" "+atBuild+" ", " "+name+" ") {
			t.Errorf("the table says that %s is supported, and the device leaves it out", name)
		}
	}
	// storage_opt is for compositions of other builders; ours knows better than a project what the engine stores on.
	for name := range onDevice {
		if table[name].Support != compose.Kept && name != "storage_opt" {
			t.Errorf("the device does %s, and the table says %s", name, table[name].Support)
		}
	}
}
