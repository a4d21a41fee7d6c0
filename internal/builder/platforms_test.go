package builder_test

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// machines are the fleet of these tests: amd64 by its device type, and two kinds of ARM.
var machines = []struct {
	arch, deviceType, goarch, platform string
	machine                            elf.Machine
}{
	{"amd64", "generic-amd64", "amd64", "linux/amd64", elf.EM_X86_64},
	{"aarch64", "generic-aarch64", "arm64", "linux/arm64", elf.EM_AARCH64},
	{"armv7hf", "generic-armv7ahf", "arm", "linux/arm/v7", elf.EM_ARM},
}

func mixed(s *releases) {
	for _, m := range machines[1:] {
		s.also = append(s.also, api.BuildArch{Arch: m.arch, DeviceType: m.deviceType})
	}
}

// program says for which machine it was made, and writes that into a file when it is told to.
const program = `package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	fmt.Println("I run on", runtime.GOARCH)
	if len(os.Args) > 1 {
		if err := os.WriteFile(os.Args[1], []byte(runtime.GOARCH), 0o644); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}
`

// programs makes the program for every machine, as files of a project: bin/<architecture>.
func programs(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "main.go"), program)
	writeFile(t, filepath.Join(dir, "go.mod"), "module program\n\ngo 1.22\n")
	files := map[string]string{}
	for _, m := range machines {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", m.arch, ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+m.goarch, "GOARM=7", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v: %s", err, out)
		}
		files["bin/"+m.arch] = string(must(os.ReadFile(filepath.Join(dir, m.arch)))(t))
	}
	return files
}

// index reads an index of the registry with its images, by platform.
func (w *world) index(repository, digest string) map[string]v1.Image {
	w.t.Helper()
	edge := must(pki.LoadIdentity(filepath.Join(w.dir, api.RoleEdge)))(w.t)
	way := toRegistry{edge.Client(api.RoleRegistry, w.registry), w.pullToken(repository)}
	ref := must(name.NewDigest(site.Host("registry2") + "/" + repository + "@" + digest))(w.t)
	idx := must(remote.Index(ref, remote.WithTransport(way)))(w.t)
	images := map[string]v1.Image{}
	for _, d := range must(idx.IndexManifest())(w.t).Manifests {
		images[d.Platform.String()] = must(idx.Image(d.Digest))(w.t)
	}
	return images
}

// fileIn reads a file of an image.
func fileIn(t *testing.T, img v1.Image, name string) []byte {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		check(t, err)
		if strings.TrimPrefix(h.Name, "/") == name {
			return must(io.ReadAll(tr))(t)
		}
	}
}

// platformsOf asks what can be built, as somebody.
func (w *world) platformsOf(token string) (int, api.BuildPlatforms) {
	w.t.Helper()
	req := must(http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.edge.URL+"/build/v1/platforms", nil))(w.t)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res := must(w.edge.HTTP.Do(req))(w.t)
	defer res.Body.Close()
	var out api.BuildPlatforms
	if res.StatusCode == http.StatusOK {
		check(w.t, json.NewDecoder(res.Body).Decode(&out))
	}
	return res.StatusCode, out
}

// One compose project becomes, of each service, an index with the right machine in each image: programs that were copied, what a
// template and a Dockerfile of an architecture chose, and, where the worker runs them, what a step wrote that ran on that machine.
func TestOneProjectForSeveralArchitectures(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.releases.set(mixed)
	for _, token := range []string{"", strangerToken} {
		if status, _ := w.platformsOf(token); status != http.StatusUnauthorized {
			t.Errorf("%q asks for the platforms: %d", token, status)
		}
	}
	_, what := w.platformsOf(readerToken)
	if len(what.Workers) != 1 || what.Workers[0].Name != "local" || what.Workers[0].Error != "" {
		t.Fatalf("platforms: %+v", what)
	}
	runs := func(platform string) bool {
		return slices.ContainsFunc(what.Workers[0].Platforms, func(p api.WorkerPlatform) bool { return p.Platform == platform })
	}
	step, all := "RUN [\"/program\", \"/ran\"]\n", true
	for _, m := range machines {
		if !runs(m.platform) {
			step, all = "", false // then the images are made all the same
			t.Logf("no step runs for %s: %+v", m.platform, what.Workers[0].Missing)
		}
	}
	files := programs(t)
	files["docker-compose.yml"] = "services:\n  tool: {build: tool}\n  data: {build: data}\n"
	for _, m := range machines {
		files["tool/"+m.arch] = files["bin/"+m.arch]
		delete(files, "bin/"+m.arch)
		files["data/Dockerfile."+m.arch] = "FROM scratch\nCOPY " + m.arch + ".txt /data\nLABEL made=for-" + m.arch + "\n"
		files["data/"+m.arch+".txt"] = "data of " + m.arch
	}
	files["tool/Dockerfile.template"] = "FROM scratch\nCOPY %%BALENA_ARCH%% /program\n" + step + "LABEL machine=%%BALENA_MACHINE_NAME%%\n"
	query := url.Values{}
	if !all {
		query.Set("foreign", "true")
	}
	out := w.build(query, files)
	if out.failed {
		t.Fatalf("stream:\n%s", out.text)
	}
	if !strings.Contains(out.text, "for generic-amd64 (amd64), aarch64, armv7hf") || !strings.Contains(out.text, "[tool linux/arm64] ") ||
		!strings.Contains(out.text, "with images for 3 platforms") {
		t.Errorf("stream:\n%s", out.text)
	}
	tool := w.index(repositoryFor(t, out.release, "tool"), digestOf(out.release, "tool"))
	data := w.index(repositoryFor(t, out.release, "data"), digestOf(out.release, "data"))
	var largest int64
	for _, m := range machines {
		img := tool[m.platform]
		if img == nil || data[m.platform] == nil {
			t.Fatalf("no image for %s: %v %v", m.platform, tool, data)
		}
		largest = max(largest, sizeOf(t, img))
		cfg := must(img.ConfigFile())(t)
		if got := cfg.OS + "/" + cfg.Architecture; !strings.HasPrefix(m.platform, got) || cfg.Config.Labels["machine"] != m.deviceType {
			t.Errorf("%s: the image is for %s, its label %q", m.platform, got, cfg.Config.Labels["machine"])
		}
		file := must(elf.NewFile(bytes.NewReader(fileIn(t, img, "program"))))(t)
		if file.Machine != m.machine {
			t.Errorf("%s: the program is for %s", m.platform, file.Machine)
		}
		if ran := string(fileIn(t, img, "ran")); all && ran != m.goarch {
			t.Errorf("%s: the step ran on %q, want %s", m.platform, ran, m.goarch)
		}
		if got := string(fileIn(t, data[m.platform], "data")); got != "data of "+m.arch {
			t.Errorf("%s: %q", m.platform, got)
		}
	}
	i := slices.IndexFunc(out.release.result.Images, func(r api.BuildImageResult) bool { return r.Digest == digestOf(out.release, "tool") })
	if r := out.release.result.Images[i]; r.Size != largest || r.Labels["machine"] != "generic-amd64" {
		t.Errorf("the release records %d bytes and %v, want %d of the largest image, and the fleet's own labels", r.Size, r.Labels, largest)
	}
	w.indexIsProved(out.release)

	// The same again makes the same index, from the caches.
	again := w.build(query, files)
	if digestOf(again.release, "tool") != digestOf(out.release, "tool") {
		t.Errorf("the same project became %s and %s", digestOf(out.release, "tool"), digestOf(again.release, "tool"))
	}
}

func sizeOf(t *testing.T, img v1.Image) int64 {
	t.Helper()
	m := must(img.Manifest())(t)
	size := must(img.Size())(t) + m.Config.Size
	for _, l := range m.Layers {
		size += l.Size
	}
	return size
}

// indexIsProved checks that the statement names the index and each of its images, and that both hang together in the registry.
func (w *world) indexIsProved(r release) {
	t := w.t
	t.Helper()
	s := w.statement(r)
	repository := repositoryFor(t, r, "tool")
	named := map[string]string{} // digest by platform
	for _, subject := range s.Subject {
		if subject.Annotations["service"] == "tool" {
			named[subject.Annotations["platform"]] = subject.Sum()
		}
	}
	if named[""] != digestOf(r, "tool") || len(named) != 1+len(machines) {
		t.Errorf("the statement is about %v", named)
	}
	var location string
	for _, i := range r.images {
		if i.Service == "tool" {
			location = i.Location
		}
	}
	bills := s.SBOMs(location)
	if len(bills) != len(machines) || bills[0].Platform != "linux/amd64" {
		t.Errorf("bills of materials: %+v", bills)
	}
	for _, b := range bills {
		if b.Image != named[b.Platform] || b.Digest == "" {
			t.Errorf("the bill of %s is of %s (%+v)", b.Platform, b.Image, b)
			continue
		}
		if status, text := w.get(repository, "blobs/"+b.Digest); status != http.StatusOK || !strings.Contains(string(text), b.Image) {
			t.Errorf("the bill of %s: %d, or it does not name %s", b.Platform, status, b.Image)
		}
	}
	for platform, digest := range named {
		status, text := w.get(repository, "referrers/"+digest)
		var list struct {
			Manifests []struct{ ArtifactType string }
		}
		if status != http.StatusOK || json.Unmarshal(text, &list) != nil {
			t.Fatalf("what refers to %q %s: %d %s", platform, digest, status, text)
		}
		want := 2 // the statement and a bill of materials; an index has no bill of its own
		if platform == "" {
			want = 1
		}
		if len(list.Manifests) != want {
			t.Errorf("%d documents hang on %q, want %d: %s", len(list.Manifests), platform, want, text)
		}
	}
}

// A platform that nobody builds for is refused before the source is read, by both roads. Who says so gets what needs no step.
func TestNobodyBuildsForTheFleetIsSaidBeforeTheUpload(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.releases.set(func(s *releases) { s.also = []api.BuildArch{{Arch: "armv5e", DeviceType: "old-arm"}} })
	endless := &counted{}
	res := w.push(t.Context(), nil, io.LimitReader(endless, 1<<40))
	text := must(io.ReadAll(res.Body))(t)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "no worker of this server builds for linux/armv5e; they build for linux/") {
		t.Errorf("push: %d %s", res.StatusCode, text)
	}
	if n := endless.n.Load(); n > 80<<20 {
		t.Errorf("%d bytes of the source were taken", n)
	}
	if r := w.releases.get(1); r.Status != api.StatusFailed || !strings.Contains(r.result.Error, "armv5e") {
		t.Errorf("the release: %s %+v", r.Status, r.result)
	}
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, w.edge.URL+"/build/v1/builds?slug="+url.QueryEscape(testFleet), strings.NewReader("")))(t)
	req.Header.Set("Authorization", "Bearer "+testToken)
	res = must(w.edge.HTTP.Do(req))(t)
	text = must(io.ReadAll(res.Body))(t)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "linux/armv5e") {
		t.Errorf("a manifest: %d %s", res.StatusCode, text)
	}

	for arch, want := range map[string]int{"amd64": http.StatusOK, "armv5e": http.StatusBadRequest} {
		body := must(json.Marshal(api.BuildFleet{ID: 1, Arch: "amd64", Also: []api.BuildArch{{Arch: arch}}}))(t)
		for role, want := range map[string]int{api.RoleGit: want, api.RoleEdge: http.StatusForbidden} {
			peer := must(pki.LoadIdentity(filepath.Join(w.dir, role)))(t).Client(api.RoleBuilder, strings.TrimPrefix(w.edge.URL, "https://"))
			res := must(peer.HTTP.Post(peer.URL+"/internal/v1/platforms/check", "application/json", bytes.NewReader(body)))(t)
			text := must(io.ReadAll(res.Body))(t)
			_ = res.Body.Close()
			if res.StatusCode != want || want == http.StatusBadRequest && !strings.Contains(string(text), "builds for linux/armv5e") {
				t.Errorf("%s asks before a push to a fleet of %s: %d %s", role, arch, res.StatusCode, text)
			}
		}
	}

	out := w.build(url.Values{"foreign": {"true"}}, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	if out.failed || !strings.Contains(out.text, "[main linux/armv5e] Note: this builder does not run armv5e programs; RUN steps will fail") {
		t.Errorf("foreign, without steps:\n%s", out.text)
	}
	out = w.build(url.Values{"foreign": {"true"}}, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /x\nRUN [\"/x\"]\n"})
	if !out.failed {
		t.Errorf("foreign, with a step:\n%s", out.text)
	}
}

// counted is a source without an end that counts what is taken of it.
type counted struct{ n atomic.Int64 }

func (c *counted) Read(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// A service may be for some of the fleet's platforms only when every device of the fleet runs one of them.
func TestAServiceNamesItsPlatforms(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.releases.set(func(s *releases) {
		s.arch, s.also = "aarch64", []api.BuildArch{{Arch: "armv7hf", DeviceType: "generic-armv7ahf"}}
	})
	project := func(platform string) map[string]string {
		return map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n",
			"docker-compose.yml": "services:\n  all: {build: .}\n  some: {build: ., " + platform + "}\n"}
	}
	query := url.Values{"foreign": {"true"}} // there is no step
	out := w.build(query, project("platform: linux/arm/v7"))
	if out.failed {
		t.Fatalf("stream:\n%s", out.text)
	}
	img := w.pull(repositoryFor(t, out.release, "some"), digestOf(out.release, "some"))
	if cfg := must(img.ConfigFile())(t); cfg.Architecture != "arm" || cfg.Variant != "v7" {
		t.Errorf("the image is for %s %s", cfg.Architecture, cfg.Variant)
	}
	if all := w.index(repositoryFor(t, out.release, "all"), digestOf(out.release, "all")); len(all) != 2 {
		t.Errorf("images for %v", all)
	}
	for platform, says := range map[string]string{
		"platform: linux/amd64":                           `platform "linux/amd64": the fleet is built for linux/arm64, linux/arm/v7`,
		"platform: linux/arm64":                           "devices of the fleet are linux/arm/v7 too, and do not run it",
		"platform: windows/amd64":                         "windows",
		"build: {context: ., platforms: [linux/riscv64]}": "riscv64",
	} {
		p := project(platform)
		if strings.HasPrefix(platform, "build") {
			p["docker-compose.yml"] = "services:\n  some: {" + platform + "}\n"
		}
		if out := w.build(query, p); !out.failed || !strings.Contains(out.text, says) {
			t.Errorf("%s:\n%s", platform, out.text)
		}
	}
}
