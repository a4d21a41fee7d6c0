package origin_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/origin"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/internal/provenance"
)

var key = ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize)))

const (
	repository = "v2/0123456789abcdef0123456789abcdef"
	bom        = `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"type":"library","name":"libc6","version":"2.36","purl":"pkg:deb/debian/libc6@2.36"}]}`
)

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// server is one whose storage somebody has changed: it answers what a test says.
type server struct {
	site     api.Site
	release  int64
	image    string // digest of the row
	service  string
	envelope string
	bill     string
	keys     []api.StatementKey
	client   *client.Client
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	switch {
	case r.URL.Path == "/provenance/v1/keys":
		answer(s.keys)
	case r.URL.Path == "/auth/v1/token":
		answer(map[string]string{"token": "t"})
	case strings.HasPrefix(r.URL.Path, "/v2/"+repository+"/blobs/"):
		_, _ = w.Write([]byte(s.bill))
	default:
		answer(map[string]any{"d": []any{map[string]any{
			"id": s.release, "commit": "abc", "status": "success", "composition": map[string]any{"services": map[string]any{s.service: map[string]any{}}},
			"release_statement": []any{map[string]string{"key_id": "x", "envelope": s.envelope}},
			"release_image": []any{map[string]any{"image": []any{map[string]any{
				"is_stored_at__image_location": s.site.Host("registry2") + "/" + repository, "content_hash": s.image, "image_size": 5,
				"is_a_build_of__service": []any{map[string]string{"service_name": s.service}},
			}}}},
		}}})
	}
}

// statement is one of a release, signed well.
func (s *server) statement(t *testing.T, release int64, change func(*api.StatementRequest)) string {
	t.Helper()
	ask := api.StatementRequest{Build: release, Images: []api.StatementImage{{
		Service: "web", Repository: repository, Digest: digest("image"), Origin: "Standard Dockerfile", SBOM: &api.ImageSBOM{Digest: digest(bom), Packages: 1},
	}}}
	change(&ask)
	made, err := provenance.New(s.site, api.Build{ID: release, Commit: "abc", Repositories: []string{repository}, Fleet: &api.BuildFleet{Slug: "acme/hello"}}, ask)
	if err != nil {
		t.Fatal(err)
	}
	e, err := provenance.Sign(made, key)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func start(t *testing.T) *server {
	t.Helper()
	s := &server{release: 7, image: digest("image"), service: "web", bill: bom, keys: []api.StatementKey{provenance.Key(key.Public().(ed25519.PublicKey))}}
	srv := httptest.NewTLSServer(s)
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	s.site = api.Site{Domain: u.Hostname(), Port: port}
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	if s.client, err = client.New(client.Config{URL: srv.URL, Token: "x", CA: pool}); err != nil {
		t.Fatal(err)
	}
	s.envelope = s.statement(t, 7, func(*api.StatementRequest) {})
	return s
}

func (s *server) show(t *testing.T, f func(context.Context, *cmdline.App, *client.Client, string, string) error, output string) (string, error) {
	t.Helper()
	var out, errs bytes.Buffer
	app := &cmdline.App{Terminal: &terminal.Terminal{Out: &out, Err: &errs}, Output: output}
	err := f(t.Context(), app, s.client, "7", "")
	return out.String(), err
}

// What was changed in the server's storage after it was signed is not shown, as what it is or at all.
func TestAStoredStatementThatWasChangedIsNotShown(t *testing.T) {
	for _, output := range []string{"table", "json"} {
		s := start(t)
		if out, err := s.show(t, origin.Provenance, output); err != nil || !strings.Contains(out, "acme/hello") {
			t.Fatalf("%v\n%s", err, out)
		}
		if out, err := s.show(t, origin.SBOM, output); err != nil || !strings.Contains(out, "libc6") {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*server)
		says   string
		bills  bool // only the bills are changed
	}{
		{"a letter of the payload", func(s *server) { s.envelope = strings.Replace(s.envelope, `"payload":"ey`, `"payload":"eY`, 1) }, "", false},
		{"a statement of another release of the same image", func(s *server) {
			s.envelope = s.statement(t, 8, func(*api.StatementRequest) {})
		}, "it is about", false},
		{"an image that was replaced", func(s *server) { s.image = digest("evil") }, "was built", false},
		{"a service that was renamed", func(s *server) { s.service = "db" }, "was built for service", false},
		{"a statement and a key of somebody else", func(s *server) {
			s.keys = []api.StatementKey{{ID: s.keys[0].ID, Public: strings.Repeat("A", 43) + "="}}
		}, "its id is not", false},
		{"no key", func(s *server) { s.keys = nil }, "not signed by a key", false},
		{"another bill", func(s *server) { s.bill = strings.Replace(bom, "2.36", "2.37", 1) }, "is something else", true},
		{"a bill that never ends", func(s *server) { s.bill = strings.Repeat(" ", 17<<20) }, "larger than", true},
		{"a bill that is none, signed", func(s *server) {
			s.bill = "{}"
			s.envelope = s.statement(t, 7, func(a *api.StatementRequest) { a.Images[0].SBOM.Digest = digest("{}") })
		}, "not CycloneDX", true},
		{"a bill with escapes, signed", func(s *server) {
			s.bill = strings.Replace(bom, "libc6", `\u001b[31m`, 1)
			s.envelope = s.statement(t, 7, func(a *api.StatementRequest) { a.Images[0].SBOM.Digest = digest(s.bill) })
		}, "is no package", true},
	} {
		s := start(t)
		tt.change(s)
		show := []func(context.Context, *cmdline.App, *client.Client, string, string) error{origin.SBOM}
		if !tt.bills {
			show = append(show, origin.Provenance)
		}
		for _, f := range show {
			if out, err := s.show(t, f, "table"); err == nil || !strings.Contains(err.Error(), tt.says) || out != "" {
				t.Errorf("%s: %v, want %q\n%s", tt.name, err, tt.says, out)
			}
		}
	}
}

func TestPrivilegesAreFoundInEveryForm(t *testing.T) {
	for _, tt := range []struct {
		block  string
		labels map[string]string
		want   string
	}{
		{`{}`, nil, ""},
		{`{"privileged":true}`, nil, "privileged"},
		{`{"privileged":false,"pid":"service:web","network_mode":"bridge"}`, nil, ""},
		{`{"cap_add":["SYS_ADMIN","NET_ADMIN"],"devices":["/dev/mem:/dev/mem"]}`, nil, "cap_add: NET_ADMIN|cap_add: SYS_ADMIN|devices: /dev/mem:/dev/mem"},
		{`{"network_mode":"host","pid":"host","ipc":"host","userns_mode":"host","uts":"host"}`, nil, "ipc: host|network_mode: host|pid: host|userns_mode: host|uts: host"},
		{`{"security_opt":["seccomp=unconfined"],"sysctls":{"net.ipv4.ip_forward":1}}`, nil, "security_opt: seccomp=unconfined|sysctls: net.ipv4.ip_forward=1"},
		{`{"devices":[{"source":"/dev/x","target":"/dev/y"}]}`, nil, `devices: {"source":"/dev/x","target":"/dev/y"}`},
		{`{"labels":{"io.balena.features.supervisor-api":"1"}}`, nil, "feature: supervisor-api"},
		{`{"labels":["io.balena.features.dbus=1"]}`, nil, "feature: dbus"},
		{`{"labels":{"io.balena.features.dbus":"0"}}`, map[string]string{"io.balena.features.dbus": "1"}, ""},
		{`{}`, map[string]string{"io.balena.features.balena-socket": "1", "io.resin.features.kernel-modules": "true"}, "feature: balena-socket|feature: kernel-modules"},
	} {
		var block map[string]any
		if err := json.Unmarshal([]byte(tt.block), &block); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(origin.Privileges(block, tt.labels), "|"); got != tt.want {
			t.Errorf("%s with %v: %q, want %q", tt.block, tt.labels, got, tt.want)
		}
	}
}
