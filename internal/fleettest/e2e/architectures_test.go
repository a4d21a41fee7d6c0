package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A fleet of two architectures: the release is an index, of which a device runs the image that is for it, and has it by the digest
// that the release names. A second push changes what both hold, and the difference says so for each.
func TestADeviceRunsItsImageOfAnIndex(t *testing.T) {
	p.roadstead(t, "fleet", "create", "mixed", "--type", "generic-amd64")
	p.roadstead(t, "fleet", "set", "mixed", "--also-for", "aarch64")
	project := t.TempDir()
	if err := os.Mkdir(filepath.Join(project, "web"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(project, "docker-compose.yml"), "services: {web: {build: ./web}}\n")
	writeFile(t, filepath.Join(project, "web", "Dockerfile.amd64"), "FROM base/busybox\nCOPY word /word\nCMD [\"sh\", \"-c\", \"echo for amd64: $(cat /word); sleep 1000\"]\nSTOPSIGNAL KILL\n")
	writeFile(t, filepath.Join(project, "web", "Dockerfile.aarch64"), "FROM scratch\nCOPY word /word\nCMD [\"/there-is-none\"]\n")
	writeFile(t, filepath.Join(project, "web", "word"), "first")
	// Nothing runs in this build, so it does not matter whether the machine emulates.
	if out := p.roadstead(t, "push", "mixed", project, "--foreign"); !strings.Contains(out, "[web linux/arm64]") || !strings.Contains(out, "with images for 2 platforms") {
		t.Errorf("push: %s", out)
	}
	d := newDevice(t, "mixed", "e2e-mixed")
	d.registered(t)
	d.running(t, "web")

	digest, before := contentHash(t), newestOf(t)
	if out, err := d.exec(t, "docker", "images", "--digests", "--no-trunc"); err != nil || !strings.Contains(out, digest) {
		t.Errorf("the device does not have the index by its digest %s: %v\n%s", digest, err, out)
	}
	if out := p.roadstead(t, "release", "show", before, "--sbom", "-o", "json"); !strings.Contains(out, `"linux/arm64"`) || !strings.Contains(out, `"linux/amd64"`) {
		t.Errorf("bills of materials: %s", out)
	}
	if out := p.roadstead(t, "release", "show", before, "--provenance"); !strings.Contains(out, "web linux/arm64") || !strings.Contains(out, "web/Dockerfile.aarch64") {
		t.Errorf("provenance: %s", out)
	}
	writeFile(t, filepath.Join(project, "web", "word"), "second")
	p.roadstead(t, "push", "mixed", project, "--foreign")
	d.running(t, "web")
	if now := contentHash(t); now == digest {
		t.Errorf("another source became the same index %s", now)
	} else if out := p.roadstead(t, "release", "diff", before, newestOf(t), "-o", "json"); !strings.Contains(out, now) || !strings.Contains(out, digest) {
		t.Errorf("the difference: %s", out)
	}
}

// newest asks for something of the newest release of the fleet.
func newest(t *testing.T, into any) {
	t.Helper()
	a := p.call(t, "GET", "api", "/v7/release?$filter=belongs_to__application/any(a:a/app_name%20eq%20'mixed')&$orderby=id%20desc&$top=1&$select=id,commit"+
		"&$expand=release_image($select=id;$expand=image($select=content_hash))", p.admin.APIKey, nil)
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
}

func newestOf(t *testing.T) string {
	t.Helper()
	var got struct {
		D []struct{ Commit string }
	}
	if newest(t, &got); len(got.D) != 1 {
		t.Fatalf("no release: %+v", got)
	}
	return got.D[0].Commit
}

// contentHash is the digest that the newest release has for its only service.
func contentHash(t *testing.T) string {
	t.Helper()
	var got struct {
		D []struct {
			Images []struct {
				Image []struct {
					Hash string `json:"content_hash"`
				}
			} `json:"release_image"`
		}
	}
	newest(t, &got)
	if len(got.D) != 1 || len(got.D[0].Images) != 1 || len(got.D[0].Images[0].Image) != 1 {
		t.Fatalf("no image: %+v", got)
	}
	return got.D[0].Images[0].Image[0].Hash
}
