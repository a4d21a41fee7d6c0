package builder_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/referrer"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/sbom"
	"github.com/roadstead-io/roadstead/internal/signer"
)

// statement verifies what the builder gave to the api role with a release.
func (w *world) statement(r release) *provenance.Statement {
	w.t.Helper()
	key := must(signer.StatementKey(filepath.Join(w.dir, api.RoleSigner, signer.StatementKeyFile)))(w.t)
	s, by, err := provenance.Open(r.result.Statement, []api.StatementKey{key})
	check(w.t, err)
	if by != key.ID {
		w.t.Errorf("signed by %s, want %s", by, key.ID)
	}
	var images []provenance.Image
	for _, i := range r.images {
		images = append(images, provenance.Image{Service: i.Service, Location: i.Location, Digest: digestOf(r, i.Service)})
	}
	check(w.t, s.About(site, r.ID, r.Commit, images))
	return s
}

// get reads something of a repository as a device does, through the edge, with a token of the signer's.
func (w *world) get(repository, what string) (int, []byte) {
	w.t.Helper()
	return w.getAs(api.RoleEdge, repository, what)
}

func (w *world) getAs(role, repository, what string) (int, []byte) {
	w.t.Helper()
	edge := must(pki.LoadIdentity(filepath.Join(w.dir, role)))(w.t)
	way := edge.Client(api.RoleRegistry, w.registry)
	req := must(http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+site.Host("registry2")+"/v2/"+repository+"/"+what, nil))(w.t)
	req.Header.Set("Accept", "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json")
	res := must(toRegistry{way, w.pullToken(repository)}.RoundTrip(req))(w.t)
	defer res.Body.Close()
	return res.StatusCode, must(io.ReadAll(res.Body))(w.t)
}

// repositoryFor is where the image of a service of a release lies.
func repositoryFor(t testing.TB, r release, service string) string {
	t.Helper()
	i := slices.IndexFunc(r.images, func(i api.BuildImage) bool { return i.Service == service })
	if i < 0 {
		t.Fatalf("the release has no service %q", service)
	}
	return r.images[i].Repository
}

// named finds a dependency of a statement.
func named(s *provenance.Statement, name string) provenance.Resource {
	deps := s.Predicate.BuildDefinition.ResolvedDependencies
	if i := slices.IndexFunc(deps, func(r provenance.Resource) bool { return r.Name == name }); i >= 0 {
		return deps[i]
	}
	return provenance.Resource{}
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(s[:])
}

func TestAReleaseSaysWhereItComesFrom(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	files := tree(t, "../../examples/hello")
	out := w.build(nil, files)
	if out.failed {
		t.Fatalf("stream:\n%s", out.text)
	}
	s := w.statement(out.release)

	// What the images were built from: the base, by the digest of the manifest that the build service was offered.
	bases := must(base.List(w.cfg.Bases))(t)
	if len(bases) != 1 {
		t.Fatalf("%d bases", len(bases))
	}
	want := bases[0].Images["linux/amd64"].String()
	if got := named(s, "base/busybox"); got.Sum() != want || got.Annotations["services"] != "web writer" {
		t.Errorf("the base is recorded as %+v, want %s of both services; all: %+v", got, want, s.Predicate.BuildDefinition.ResolvedDependencies)
	}
	// The source, by a digest that anybody can take again.
	dir := t.TempDir()
	for name, content := range files {
		writeFile(t, filepath.Join(dir, name), content)
	}
	shell := exec.Command("sh", "-c", `find . -type f | sed 's,^\./,,' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum`)
	shell.Dir = dir
	dirHash := string(must(shell.Output())(t)[:64])
	if got := named(s, "source").Digest["dirHash"]; got != dirHash {
		t.Errorf("the source's dirHash is %s, want %s", got, dirHash)
	}
	b := s.Predicate.BuildDefinition.ExternalParameters
	if b.Fleet != testFleet || b.Services["web"].Dockerfile != "web/Dockerfile" || b.Services["web"].BuiltElsewhere ||
		b.Services["web"].DockerfileDigest != sum([]byte(files["web/Dockerfile"])) {
		t.Errorf("parameters %+v", b)
	}
	if s.Predicate.RunDetails.Metadata.InvocationID != provenance.Invocation(site, out.release.ID) {
		t.Errorf("run details %+v", s.Predicate.RunDetails)
	}
	if runs := must(provenance.CompositionSum(out.release.ask.Composition))(t); b.Composition != runs {
		t.Errorf("how services run is recorded as %q, want %s", b.Composition, runs)
	}
	w.hangsTogether(out.release, s)
}

// hangsTogether checks that the registry holds, beside every image, what the statement says, by a token for that image.
func (w *world) hangsTogether(r release, s *provenance.Statement) {
	t := w.t
	t.Helper()
	for _, i := range r.images {
		digest := digestOf(r, i.Service)
		status, text := w.get(i.Repository, "manifests/sha256-"+strings.TrimPrefix(digest, "sha256:"))
		var index struct {
			Manifests []struct{ Digest, ArtifactType string }
		}
		if status != http.StatusOK || json.Unmarshal(text, &index) != nil || len(index.Manifests) != 2 {
			t.Fatalf("the index of what hangs on %s: %d %s", i.Service, status, text)
		}
		if status, listed := w.get(i.Repository, "referrers/"+digest); status != http.StatusOK || !strings.Contains(string(listed), index.Manifests[0].Digest) {
			t.Errorf("the list of what refers to %s: %d %s", i.Service, status, listed)
		}
		kinds := map[string][]byte{}
		for _, m := range index.Manifests {
			_, text := w.get(i.Repository, "manifests/"+m.Digest)
			var manifest struct {
				ArtifactType string
				Subject      struct{ Digest string }
				Layers       []struct{ Digest string }
			}
			if sum(text) != m.Digest || json.Unmarshal(text, &manifest) != nil || manifest.Subject.Digest != digest ||
				manifest.ArtifactType != m.ArtifactType || len(manifest.Layers) != 1 {
				t.Fatalf("a manifest that hangs on %s: %s", i.Service, text)
			}
			_, kinds[m.ArtifactType] = w.get(i.Repository, "blobs/"+manifest.Layers[0].Digest)
		}
		bill := kinds[api.SBOMType]
		if got := s.SBOM(i.Location); got.Digest != sum(bill) {
			t.Errorf("the statement says that the bill of %s is %+v, the registry holds %s", i.Service, got, sum(bill))
		}
		if _, _, err := sbom.Read(bill); err != nil {
			t.Errorf("the bill of %s: %v", i.Service, err)
		}
		if envelope := kinds["application/vnd.dsse.envelope.v1+json"]; string(envelope) != string(r.result.Statement) {
			t.Errorf("what hangs on %s is not the statement of the release: %s", i.Service, envelope)
		}
	}
}

// A build writes whatever it likes into its image and its output; none of it becomes what the release says of itself.
func TestABuildCannotSpeakForItself(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	fake := "sha256:" + strings.Repeat("e", 64)
	status := strings.Join([]string{
		"Package: honest\nStatus: install ok installed\nVersion: 1.0\nArchitecture: amd64\n",
		"Package: ev\x1b[31mil\nStatus: install ok installed\nVersion: 1\n",
		"Package: ../../../etc/passwd\nStatus: install ok installed\nVersion: 1\n",
		"Package: removed\nStatus: deinstall ok config-files\nVersion: 1\n",
	}, "\n")
	out := w.build(nil, map[string]string{
		"status": status,
		"Dockerfile": `FROM base/busybox
LABEL containerimage.digest="` + fake + `"
COPY status /var/lib/dpkg/status
COPY status /sbom.cdx.json
COPY status /provenance.json
RUN echo '#1 FROM docker.io/library/evil@` + fake + `'; echo 'containerimage.digest: ` + fake + `'; echo 'resolvedDependencies: evil'
`,
	})
	if out.failed {
		t.Fatalf("stream:\n%s", out.text)
	}
	s := w.statement(out.release)
	payload := string(must(json.Marshal(s))(t))
	if strings.Contains(payload, "eeeeeeee") || strings.Contains(payload, "evil") {
		t.Errorf("the build spoke in the statement: %s", payload)
	}
	repository := repositoryFor(t, out.release, "main")
	_, bill := w.get(repository, "blobs/"+s.SBOM(site.Host("registry2")+"/"+repository).Digest)
	packages, notes, err := sbom.Read(bill)
	check(t, err)
	want := []sbom.Package{
		{Kind: sbom.Debian, Name: "../../../etc/passwd", Version: "1"},
		{Kind: sbom.Debian, Name: "honest", Version: "1.0", Arch: "amd64"},
	}
	// The base image says what it is made of by itself.
	got := slices.DeleteFunc(packages, func(p sbom.Package) bool { return p.Kind != sbom.Debian || p.Name == "busybox-static" })
	if !slices.Equal(got, want) || len(notes) != 1 || !strings.Contains(notes[0], "cannot be shown") {
		t.Errorf("packages %+v, notes %q", got, notes)
	}
	if strings.Contains(string(bill), `"pkg:deb/debian/../`) || strings.ContainsRune(string(bill), 0x1b) {
		t.Errorf("the bill plays games: %s", bill)
	}
}

// An image that was built elsewhere is said to be, and the release says no more of it than what is known.
func TestWhatWasBuiltElsewhereIsSaidToBe(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	out := w.build(nil, map[string]string{"docker-compose.yml": "version: '2'\nservices:\n  main:\n    image: base/busybox\n"})
	if out.failed {
		t.Fatalf("stream:\n%s", out.text)
	}
	s := w.statement(out.release)
	p := s.Predicate.BuildDefinition.ExternalParameters.Services["main"]
	if !p.BuiltElsewhere || p.Origin != "External image" || p.Dockerfile != "" || p.DockerfileDigest != "" {
		t.Errorf("parameters %+v", p)
	}
	if named(s, "base/busybox").Sum() == "" {
		t.Errorf("dependencies %+v", s.Predicate.BuildDefinition.ResolvedDependencies)
	}
	w.hangsTogether(out.release, s)
}

func writeFile(t testing.TB, file, content string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(file), 0o755))
	check(t, os.WriteFile(file, []byte(content), 0o644))
}

// A list of packages that cannot be made does not keep a build from its end; the release says why there is none.
func TestAReleaseWithoutAListOfPackagesSaysSo(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	var status strings.Builder
	for i := range 60_000 {
		fmt.Fprintf(&status, "Package: p%d\nVersion: 1\n\n", i)
	}
	files := map[string]string{"Dockerfile": "FROM base/busybox\n"}
	for i := range 2 { // a file tells of so many at most, and a layer of no more
		files[fmt.Sprintf("s%d", i)] = status.String()
	}
	files["Dockerfile"] += "COPY s0 s1 /var/lib/dpkg/status.d/\n"
	out := w.build(nil, files)
	if out.failed || out.release.Status != api.StatusSuccess {
		t.Fatalf("stream:\n%s", out.text)
	}
	s := w.statement(out.release)
	repository := repositoryFor(t, out.release, "main")
	bill := s.SBOM(site.Host("registry2") + "/" + repository)
	if bill.Digest != "" || !strings.Contains(bill.Missing, "more than 50000 packages") || !strings.Contains(out.text, "no bill of materials could be made") {
		t.Errorf("%+v; stream:\n%s", bill, out.text)
	}
}

// What the build service writes down becomes names and digests.
func TestBasesAreReadFromTheBuildServicesRecord(t *testing.T) {
	hex := strings.Repeat("a", 64)
	record := func(deps string) string {
		return `{"predicate":{"buildDefinition":{"resolvedDependencies":[` + deps + `]}}}`
	}
	got := must(builder.BasesOf([]byte(record(`
		{"uri":"pkg:docker/alpine@3.20?platform=linux%2Famd64","digest":{"sha256":"`+hex+`"}},
		{"uri":"pkg:docker/registry.example.com:5000/team/x@1?digest=sha256:`+hex+`&platform=linux%2Famd64","digest":{"sha256":"`+hex+`"}},
		{"uri":"pkg:oci/base?digest=sha256:`+hex+`&platform=linux%2Famd64","digest":{"sha256":"`+hex+`"}},
		{"uri":"https://example.com/a\u001b[31m","digest":{"sha256":"`+hex+`"}},
		{"uri":"https://example.com/git#main","digest":{"sha1":"`+strings.Repeat("b", 40)+`"}}`)),
		map[string]string{"context:base/busybox": "oci-layout://base@sha256:" + hex, "context:other": "oci-layout://base@sha256:" + strings.Repeat("c", 64)}, noName))(t)
	want := []api.ImageBase{
		{Name: "docker.io/library/alpine:3.20", Digest: "sha256:" + hex}, {Name: "registry.example.com:5000/team/x:1", Digest: "sha256:" + hex},
		{Name: "base/busybox", Digest: "sha256:" + hex}, {Name: "https://example.com/a?[31m", Digest: "sha256:" + hex},
		{Name: "https://example.com/git#main", Digest: "sha1:" + strings.Repeat("b", 40)},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if _, err := builder.BasesOf([]byte("{"), nil, noName); err == nil {
		t.Error("a record that cannot be read was read")
	}
}

// What was hung on an image before stays, when it is done again because an answer was lost.
func TestWhatHangsOnAnImageStays(t *testing.T) {
	w := newWorld(t, "unix:///nowhere", builder.Limits{})
	repository := "v2/" + strings.Repeat("a", 32)
	w.releases.set(func(s *releases) {
		s.builds[1] = &release{Build: api.Build{ID: 1, Status: api.StatusRunning, Repositories: []string{repository}, Fleet: &api.BuildFleet{}}}
	})
	id := must(pki.LoadIdentity(filepath.Join(w.dir, api.RoleBuilder)))(t)
	peer := id.Client(api.RoleSigner, w.cfg.Peers[api.RoleSigner])
	res := must(peer.HTTP.Post(peer.URL+"/v1/push-token", "application/json",
		strings.NewReader(string(must(json.Marshal(api.PushTokenRequest{Build: 1, Repository: repository}))(t)))))(t)
	defer res.Body.Close()
	var token api.SignedToken
	check(t, json.NewDecoder(res.Body).Decode(&token))
	way := toRegistry{id.Client(api.RoleRegistry, w.registry), token.Token}
	a := referrer.Artifacts{Way: way, Host: site.Host("registry2"), Repository: repository}
	subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest("sha256:" + strings.Repeat("b", 64)), Size: 3}
	for _, document := range []string{"first", "second", "second"} {
		check(t, hangAndList(t.Context(), &a, subject, document))
	}
	status, text := w.get(repository, "manifests/sha256-"+strings.Repeat("b", 64))
	var index ocispec.Index
	if status != http.StatusOK || json.Unmarshal(text, &index) != nil || len(index.Manifests) != 2 {
		t.Errorf("%d %s", status, text)
	}
	a.Repository = "v2/" + strings.Repeat("c", 32)
	if err := hangAndList(t.Context(), &a, subject, "x"); err == nil {
		t.Error("something hangs in a repository that the token is not for")
	}
}

// noName is of a build that had no image of another registry.
func noName(_, _ string) string { return "" }

// hangAndList hangs a document on an image and writes the index.
func hangAndList(ctx context.Context, a *referrer.Artifacts, subject ocispec.Descriptor, document string) error {
	d, err := a.Hang(ctx, subject, "application/x-test", []byte(document), nil)
	if err != nil {
		return err
	}
	return a.List(ctx, subject, []ocispec.Descriptor{d})
}
