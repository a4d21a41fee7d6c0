package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The machine of somebody who builds images with a Docker of their own: an engine in a network namespace, with the images that the
// projects begin with.
type workshop struct{ name, dir, socket string }

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{name: "e2e-workshop", dir: filepath.Join(p.dir, "workshop")}
	w.socket = filepath.Join(w.dir, "run/docker.sock")
	image, config := w.dir+".img", w.dir+".json"
	must(t, "mkdir", "-p", w.dir)
	must(t, "truncate", "-s", "2G", image)
	must(t, "mkfs.ext4", "-q", "-F", image)
	must(t, "mount", "-o", "loop", image, w.dir)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the engine's log:\n%s", tail(filepath.Join(w.dir, "log/dockerd.log"), 20))
		}
		_ = exec.Command("umount", w.dir).Run()
		_ = os.Remove(image)
	})
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(p.top, "scripts/device.sh")
	must(t, script, "up", w.name, w.dir, config, "--hosts", p.hostsLine, "--agent", "none")
	t.Cleanup(func() { must(t, script, "down", w.name) })
	trust := filepath.Join(w.dir, "etc/docker/certs.d/registry2."+p.domain)
	must(t, "mkdir", "-p", trust)
	must(t, "cp", filepath.Join(p.data, "ca.pem"), filepath.Join(trust, "ca.crt"))
	w.docker(t, "import", os.Getenv("ROADSTEAD_BASE_BUSYBOX"), "base/busybox:latest")
	return w
}

// docker runs the client against the workshop's engine.
func (w *workshop) docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", append([]string{"--host", "unix://" + w.socket}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// project lays out files to deploy.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// where says where the images of a fleet's newest release are, as the API tells its owner.
func where(t *testing.T, fleet string) (status string, locations, hashes []string) {
	t.Helper()
	got := p.call(t, http.MethodGet, "api", "/v7/release?$top=1&$orderby=id%20desc&$select=id,status&$filter="+
		"belongs_to__application/any(a:a/app_name%20eq%20%27"+fleet+"%27)"+
		"&$expand=release_image($select=id;$expand=image($select=is_stored_at__image_location,content_hash,status))", p.admin.APIKey, nil)
	var list struct {
		D []struct {
			Status string
			Images []struct {
				Image []struct {
					Location string `json:"is_stored_at__image_location"`
					Hash     string `json:"content_hash"`
				}
			} `json:"release_image"`
		}
	}
	if err := json.Unmarshal([]byte(got.body), &list); err != nil || len(list.D) != 1 {
		t.Fatalf("the newest release of %s: %d %s", fleet, got.status, got.body)
	}
	for _, i := range list.D[0].Images {
		locations, hashes = append(locations, i.Image[0].Location), append(hashes, i.Image[0].Hash)
	}
	return list.D[0].Status, locations, hashes
}

// The real balena CLI, unmodified, builds with a real Docker and deploys: what it pushes goes through quarantine, and a device runs it
// from the repository that the builder put it into.
func TestBalenaDeploy(t *testing.T) {
	cli := os.Getenv("ROADSTEAD_BALENA_CLI")
	if cli == "" {
		t.Skip("ROADSTEAD_BALENA_CLI names no balena CLI; make test installs it")
	}
	w := newWorkshop(t)
	balena := func(t *testing.T, wantCode int, args ...string) string {
		t.Helper()
		out, stderr, code := p.try(t, cli, args...)
		if code != wantCode {
			t.Fatalf("balena %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, wantCode, out, stderr)
		}
		return out + stderr
	}
	balena(t, 0, "login", "--credentials", "--email", p.admin.Email, "--password", p.admin.Password)
	balena(t, 0, "fleet", "create", "deployed", "--type", "generic-amd64")
	deploy := func(t *testing.T, wantCode int, dir string, more ...string) string {
		t.Helper()
		return balena(t, wantCode, append([]string{"deploy", "deployed", "--source", dir, "--docker", w.socket, "--build"}, more...)...)
	}
	loop := `CMD ["sh", "-c", "while true; do echo %s; sleep 1; done"]` + "\n"
	single := map[string]string{"Dockerfile": "FROM base/busybox\nCOPY word /word\n" + fmt.Sprintf(loop, "single"), "word": "one\n"}

	out := deploy(t, 0, project(t, single), "--release-tag", "made", "elsewhere", "--note", "built on a laptop")
	if !strings.Contains(out, "Deploy succeeded!") {
		t.Errorf("the CLI does not say that it succeeded:\n%s", out)
	}
	status, locations, hashes := where(t, "deployed")
	if status != "success" || len(locations) != 1 {
		t.Fatalf("the release is %s and has images at %v", status, locations)
	}
	if tagged := w.docker(t, "images", "--digests"); strings.Contains(tagged, locations[0]) {
		t.Errorf("the image is where the client pushed it, and was not promoted:\n%s", tagged)
	}
	d := newDevice(t, "deployed", "e2e-deployed")
	d.registered(t)
	// A service that is the whole project is privileged, as balena has it, which not every machine that runs tests can do.
	eventually(t, time.Minute, "the device has what the release says, from where it says", func() bool {
		images, err := d.exec(t, "docker", "images", "--digests", "--no-trunc")
		return err == nil && strings.Contains(images, hashes[0]) && strings.Contains(images, locations[0])
	})

	t.Run("a compose project", func(t *testing.T) {
		compose := map[string]string{
			"docker-compose.yml": "version: '2.1'\nservices:\n  front:\n    build: ./front\n    restart: always\n    environment:\n      PRICE: 5$$\n" +
				"  back:\n    build: ./back\n    labels:\n      io.balena.features.dbus: '1'\n",
			"front/Dockerfile": "FROM base/busybox\n" + fmt.Sprintf(loop, "front"), "back/Dockerfile": "FROM base/busybox\n" + fmt.Sprintf(loop, "back"),
		}
		deploy(t, 0, project(t, compose))
		if status, locations, _ := where(t, "deployed"); status != "success" || len(locations) != 2 {
			t.Fatalf("the release is %s and has images at %v", status, locations)
		}
		d.running(t, "front", "back")
	})
	t.Run("a draft", func(t *testing.T) {
		deploy(t, 0, project(t, single), "--draft")
		if out := balena(t, 0, "release", "list", "deployed"); !strings.Contains(out, "success") {
			t.Errorf("release list: %s", out)
		}
	})
	t.Run("an image for other machines", func(t *testing.T) {
		w.docker(t, "build", "--platform", "linux/arm64", "-t", "foreign", project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\n", "a": "a"}))
		out := balena(t, 1, "deploy", "deployed", "foreign", "--docker", w.socket)
		if !strings.Contains(out, "for linux/arm64") {
			t.Errorf("the CLI does not say why it failed:\n%s", out)
		}
		if status, _, _ := where(t, "deployed"); status != "failed" {
			t.Errorf("the release is %s", status)
		}
	})
}
