package e2e_test

import (
	"archive/tar"
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// push sends a raw tar to the builder, as a hostile client would.
func rawPush(t *testing.T, slug string, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST",
		"https://builder."+p.domain+"/v3/build?slug="+slug+"&dockerfilePath=&emulated=false&nocache=false&headless=false&isdraft=false", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.admin.APIKey)
	client := *p.http
	client.Timeout = 2 * time.Minute
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, text.String()
}

func tarOf(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		content := []byte("FROM base/busybox\n")
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// A project that cannot be what it says is refused with words that name the fault, and leaves no release running.
func TestHostileProjects(t *testing.T) {
	p.roadstead(t, "fleet", "create", "hostile", "--type", "generic-amd64")
	for what, c := range map[string]struct {
		entries []tar.Header
		want    string
	}{
		"dot dot":       {[]tar.Header{{Name: "Dockerfile", Typeflag: tar.TypeReg}, {Name: "../outside", Typeflag: tar.TypeReg}}, "../outside"},
		"absolute":      {[]tar.Header{{Name: "/etc/passwd", Typeflag: tar.TypeReg}}, "/etc/passwd"},
		"link out":      {[]tar.Header{{Name: "Dockerfile", Typeflag: tar.TypeReg}, {Name: "link", Typeflag: tar.TypeSymlink, Linkname: "../../etc"}}, "link"},
		"hard link out": {[]tar.Header{{Name: "hard", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"}}, "hard"},
		"device":        {[]tar.Header{{Name: "null", Typeflag: tar.TypeChar}}, "null"},
		"nothing":       {nil, "Dockerfile"},
	} {
		t.Run(what, func(t *testing.T) {
			status, text := rawPush(t, "hostile", tarOf(t, c.entries...))
			if !strings.Contains(text, c.want) || status < 400 && !strings.Contains(text, `"isError":true`) {
				t.Errorf("got %d %s, want an error that names %q", status, text, c.want)
			}
		})
	}
	t.Run("a million entries", func(t *testing.T) {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for range 1_000_000 {
			if err := w.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		began := time.Now()
		if status, text := rawPush(t, "hostile", buf.Bytes()); status < 400 && !strings.Contains(text, `"isError":true`) {
			t.Errorf("got %d %.200s", status, text)
		}
		t.Logf("refused after %v", time.Since(began).Round(time.Millisecond))
	})
	t.Run("not a tar", func(t *testing.T) {
		if status, text := rawPush(t, "hostile", bytes.Repeat([]byte("garbage"), 1000)); status < 400 && !strings.Contains(text, `"isError":true`) {
			t.Errorf("got %d %s", status, text)
		}
	})
	t.Run("unknown fleet", func(t *testing.T) {
		if status, text := rawPush(t, "no-such-fleet", tarOf(t)); status != 404 || !strings.Contains(text, "no-such-fleet") {
			t.Errorf("got %d %s, want 404 and the name", status, text)
		}
	})
	if out := p.roadstead(t, "release", "list", "hostile", "-o", "json"); strings.Contains(out, `"running"`) {
		t.Errorf("a refused project left a running release: %s", out)
	}
}

// What a user mistypes comes back as words, with the right exit code.
func TestMistakesOnTheCommandLine(t *testing.T) {
	p.roadstead(t, "fleet", "create", "mistakes", "--type", "generic-amd64")
	compose := t.TempDir()
	writeFile(t, filepath.Join(compose, "docker-compose.yml"), "version: '2'\nservices:\n  web:\n    build: .\n    volumes:\n      - /etc:/host-etc\n")
	writeFile(t, filepath.Join(compose, "Dockerfile"), "FROM base/busybox\n")
	for what, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"unknown fleet":       {[]string{"push", "no-such-fleet", filepath.Join(p.top, "examples/single")}, 1, "no-such-fleet"},
		"empty directory":     {[]string{"push", "mistakes", t.TempDir()}, 1, "Dockerfile"},
		"failing build":       {[]string{"push", "mistakes", filepath.Join(p.top, "examples/broken")}, 1, brokenWords(t)},
		"unsupported field":   {[]string{"push", "mistakes", compose}, 1, "volumes"},
		"unknown device":      {[]string{"device", "show", "ffffffffffff"}, 1, "ffffffffffff"},
		"unknown option":      {[]string{"api", "GET", "/v7/device?$nonsense=1"}, 1, "$nonsense"},
		"unknown property":    {[]string{"api", "GET", "/v7/device?$select=nonsense"}, 1, "nonsense"},
		"unknown device type": {[]string{"fleet", "create", "mistakes2", "--type", "toaster"}, 1, "toaster"},
		"short fleet name":    {[]string{"fleet", "create", "ab", "--type", "generic-amd64"}, 1, "4"},
		"a flag that is none": {[]string{"fleet", "list", "--nonsense"}, 2, "nonsense"},
		"a command that none": {[]string{"flet"}, 2, "flet"},
	} {
		t.Run(what, func(t *testing.T) {
			out, stderr, code := p.try(t, "roadstead", c.args...)
			if code != c.code || !strings.Contains(out+stderr, c.want) {
				t.Errorf("roadstead %s: exit code %d, want %d, and words that name %q; got\n%s%s", strings.Join(c.args, " "), code, c.code, c.want, out, stderr)
			}
		})
	}
	if a := p.call(t, "POST", "api", "/v7/device_tag", p.admin.APIKey, map[string]string{"tag_key": strings.Repeat("x", 1<<20)}); a.status != 413 {
		t.Errorf("a body of 1 MiB: got %d, want 413", a.status)
	}
}

// Two pushes to one fleet at once both succeed, and the newer one becomes the target.
func TestTwoPushesAtOnce(t *testing.T) {
	p.roadstead(t, "fleet", "create", "two-pushes", "--type", "generic-amd64")
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if out, stderr, code := p.try(t, "roadstead", "push", "two-pushes", filepath.Join(p.top, "examples/single")); code != 0 {
				t.Errorf("push: exit code %d\n%s%s", code, out, stderr)
			}
		})
	}
	wg.Wait()
	out := p.roadstead(t, "release", "list", "two-pushes", "-o", "json")
	if n := strings.Count(strings.ReplaceAll(out, " ", ""), `"status":"success"`); n != 2 {
		t.Errorf("releases: got %d successful ones, want 2: %s", n, out)
	}
}

// An image that exits at once is reported as such, keeps the others running, and does not spin.
func TestImageThatExits(t *testing.T) {
	project := copyProject(t, "hello")
	p.roadstead(t, "fleet", "create", "exits", "--type", "generic-amd64")
	writeFile(t, filepath.Join(project, "writer", "Dockerfile"), "FROM base/busybox\nCMD [\"sh\", \"-c\", \"echo leaving; exit 3\"]\n")
	p.roadstead(t, "push", "exits", project)
	d := newDevice(t, "exits", "e2e-exits")
	d.registered(t)
	d.running(t, "web")
	eventually(t, time.Minute, "the writer is reported as not running", func() bool {
		a := p.call(t, "GET", "api", "/v7/image_install?$select=status&$filter=device/any(d:d/uuid%20eq%20%27"+d.uuid+"%27)", p.admin.APIKey, nil)
		return strings.Contains(a.body, "exited") || strings.Contains(a.body, "restarting")
	})

	t.Run("a second agent on the same state is refused", func(t *testing.T) {
		agent := filepath.Join(p.bin, "roadstead-agent")
		out, err := d.exec(t, agent, "--config", filepath.Join(d.dir, "boot/config.json"), "--state", filepath.Join(d.dir, "state"))
		if err == nil || !strings.Contains(out, "another") {
			t.Errorf("got %v: %s", err, out)
		}
	})
}

// A service that cannot even be started never counts as running, says why in the log, and is tried again.
func TestServiceThatCannotStart(t *testing.T) {
	project := copyProject(t, "hello")
	p.roadstead(t, "fleet", "create", "no-start", "--type", "generic-amd64")
	writeFile(t, filepath.Join(project, "writer", "Dockerfile"), "FROM base/busybox\nCMD [\"/no/such/program\"]\n")
	p.roadstead(t, "push", "no-start", project)
	d := newDevice(t, "no-start", "e2e-nostart")
	d.registered(t)
	tries := func() int {
		return strings.Count(p.roadstead(t, "device", "logs", d.uuid), "Failed to start service 'writer'")
	}
	eventually(t, time.Minute, "the log says three times why the writer does not start", func() bool { return tries() >= 3 })
	if release := releaseOf(t, d); release != "" {
		t.Errorf("the device claims to run release %s", release)
	}
	writeFile(t, filepath.Join(project, "writer", "Dockerfile"), "FROM base/busybox\nCMD [\"sleep\", \"1000\"]\nSTOPSIGNAL KILL\n")
	p.roadstead(t, "push", "no-start", project)
	d.running(t, "web", "writer")
	eventually(t, 30*time.Second, "the device reports the release that runs", func() bool { return releaseOf(t, d) != "" })
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
