package agent_test

import (
	"archive/tar"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/api/types/container"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/engine/enginetest"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// virtual is a virtual device with a real engine and the real program on it.
type virtual struct {
	t    *testing.T
	name string
	dir  string
	ip   string
}

func script(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../scripts/device.sh")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// needsDocker skips unless the tests on real engines are wanted; `make test` wants them.
func needsDocker(t *testing.T) {
	t.Helper()
	if os.Getenv("ROADSTEAD_DOCKER_TESTS") != "1" {
		t.Skip("ROADSTEAD_DOCKER_TESTS=1 runs this on a real engine; it needs root")
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
}

func buildAgent(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "roadstead-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "../../cmd/roadstead-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	return out
}

func newVirtual(t *testing.T, w *world, agentPath string) *virtual {
	t.Helper()
	return newVirtualWith(t, w, agentPath, nil)
}

// newVirtualWith has more in its config.json.
func newVirtualWith(t *testing.T, w *world, agentPath string, more map[string]any) *virtual {
	t.Helper()
	v := &virtual{t: t, name: fmt.Sprintf("test-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6), dir: t.TempDir()}
	config, _ := w.config(t.TempDir(), "https://api.device.test:"+w.Port, more)
	v.up(config, agentPath)
	t.Cleanup(func() {
		if t.Failed() {
			for _, log := range []string{"init.log", "agent.log", "dockerd.log"} {
				text, _ := os.ReadFile(filepath.Join(v.dir, "log", log))
				t.Logf("%s:\n%s", log, text[max(0, len(text)-6000):])
			}
		}
		if text, err := exec.Command(script(t), "down", v.name).CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, text)
		}
	})
	return v
}

func (v *virtual) up(config, agentPath string) {
	v.t.Helper()
	cmd := exec.Command(script(v.t), "up", v.name, v.dir, config, "--agent", agentPath, "--drop-input",
		"--hosts", "HOST api.device.test registry2.device.test")
	text, err := cmd.CombinedOutput()
	if err != nil {
		v.t.Fatalf("up: %v\n%s", err, text)
	}
	fields := strings.Fields(string(text))
	v.ip = fields[len(fields)-1]
}

func (v *virtual) exec(args ...string) string {
	v.t.Helper()
	text, err := exec.Command(script(v.t), append([]string{"exec", v.name}, args...)...).CombinedOutput()
	if err != nil {
		v.t.Fatalf("exec %v: %v\n%s", args, err, text)
	}
	return string(text)
}

// agentPID is the agent's process as the host sees it.
func (v *virtual) agentPID() int {
	v.t.Helper()
	inner := strings.TrimSpace(v.exec("cat", "/run/agent.pid"))
	dirs, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range dirs {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "Name:\troadstead-agent") {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) == 3 && f[0] == "NSpid:" && f[2] == inner && v.owns(f[1]) {
				pid, _ := strconv.Atoi(f[1])
				return pid
			}
		}
	}
	return 0
}

// owns says whether a process runs on this device, not on another one with the same inner number.
func (v *virtual) owns(pid string) bool {
	args, err := os.ReadFile("/proc/" + pid + "/cmdline")
	return err == nil && strings.Contains(string(args), v.dir+"/")
}

// busybox gives the program of our own base image: the host may have none, or one that needs the host's libraries.
func (w *world) busybox() []byte {
	w.t.Helper()
	file, err := os.Open(os.Getenv("ROADSTEAD_BASE_BUSYBOX"))
	if err != nil {
		w.t.Skip("ROADSTEAD_BASE_BUSYBOX does not name the base image; `make test` makes it and sets it")
	}
	defer file.Close()
	for tr := tar.NewReader(file); ; {
		h, err := tr.Next()
		if err != nil {
			w.t.Fatalf("no bin/busybox in %s: %v", file.Name(), err)
		}
		if h.Typeflag == tar.TypeReg && path.Base(h.Name) == "busybox" {
			return must(io.ReadAll(tr))
		}
	}
}

// push puts a busybox image with some files into the world's registry and answers its reference by digest.
func (w *world) push(repo string, files map[string]string) string {
	w.t.Helper()
	busybox := w.busybox()
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	add := func(name string, mode int64, body []byte) {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
			w.t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			w.t.Fatal(err)
		}
	}
	add("bin/busybox", 0o755, busybox)
	for _, applet := range []string{"sh", "httpd", "sleep", "echo", "date", "cat", "env"} {
		if err := tw.WriteHeader(&tar.Header{Name: "bin/" + applet, Linkname: "busybox", Typeflag: tar.TypeSymlink, Mode: 0o777}); err != nil {
			w.t.Fatal(err)
		}
	}
	for name, body := range files {
		add(name, 0o755, []byte(body))
	}
	if err := tw.Close(); err != nil {
		w.t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		w.t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err == nil {
		img, err = mutate.ConfigFile(img, &v1.ConfigFile{
			Architecture: "amd64", OS: "linux", RootFS: must(img.ConfigFile()).RootFS,
			Config: v1.Config{Cmd: []string{"/bin/sh", "/run.sh"}, Env: []string{"PATH=/bin"}},
		})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.Root)
	to, err := name.ParseReference("127.0.0.1:" + w.Port + "/v2/" + repo + ":latest")
	if err != nil {
		w.t.Fatal(err)
	}
	transport := &bearerTransport{&http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	if err := remote.Write(to, img, remote.WithTransport(transport)); err != nil {
		w.t.Fatal(err)
	}
	return "registry2.device.test:" + w.Port + "/v2/" + repo + "@" + must(img.Digest()).String()
}

type bearerTransport struct{ http.RoundTripper }

func (b *bearerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer pull")
	return b.RoundTripper.RoundTrip(r)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const pageRun = `#!/bin/sh
echo "serving for $BALENA_SERVICE_NAME"
exec httpd -f -p 80 -h /www
`

const writerRun = `#!/bin/sh
i=0
while true; do i=$((i+1)); echo "line $i"; echo "$i" >/data/count; sleep 1; done
`

func page(ip string) string {
	client := http.Client{Timeout: 20 * time.Second}
	resp, err := client.Get("http://" + ip + "/")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(text))
}

// The whole of it on a real engine: first boot, two services that share a volume, an update, the agent killed at any moment,
// the provisioning key nowhere on the device, nothing of anybody else's touched.
func TestVirtualDevice(t *testing.T) {
	needsDocker(t)
	w := newWorld(t)
	agentPath := buildAgent(t)
	v := newVirtual(t, w, agentPath)
	roletest.Eventually(t, "registered", registered(w))
	v.exec("docker", "volume", "create", "not-ours")

	repoWeb, repoWriter := strings.Repeat("1", 32), strings.Repeat("2", 32)
	web1 := w.push(repoWeb, map[string]string{"run.sh": pageRun, "www/index.html": "page one"})
	writer := w.push(repoWriter, map[string]string{"run.sh": writerRun})
	compositions := map[string]string{
		"web":    `{"depends_on":["writer"],"ports":["80:80"],"volumes":["data:/www/data:ro"],"stop_signal":"SIGKILL"}`,
		"writer": `{"volumes":["data:/data"],"stop_grace_period":"1s"}`,
	}
	start := time.Now()
	w.setTarget(release(commitA, map[string]string{"web": web1, "writer": writer}, compositions))
	roletest.Eventually(t, "the page", func() bool { return page(v.ip) == "page one" })
	t.Logf("target to page: %s", time.Since(start).Round(time.Millisecond))
	roletest.Eventually(t, "reported", func() bool {
		app := w.reported().Apps[fleetUUID]
		return app != nil && app.ReleaseUUID == commitA && w.serviceStatus(fleetUUID, commitA, "web") == "Running"
	})
	roletest.Eventually(t, "logs", func() bool { return w.logged("serving for web") && w.logged("line 3") })

	t.Log("the provisioning key is nowhere on the device")
	for key := range w.provKeys {
		out, err := exec.Command("grep", "-r", "-l", "-a", key, v.dir).CombinedOutput()
		if err == nil {
			t.Errorf("found the key in:\n%s", out)
		}
	}

	t.Log("an update that changes one service leaves the other alone")
	before := v.exec("docker", "ps", "-q", "--no-trunc", "--filter", "label=io.balena.service-name=writer")
	web2 := w.push(repoWeb, map[string]string{"run.sh": pageRun, "www/index.html": "page two"})
	start = time.Now()
	w.setTarget(release(commitB, map[string]string{"web": web2, "writer": writer}, compositions))
	roletest.Eventually(t, "the new page", func() bool { return page(v.ip) == "page two" })
	t.Logf("update to page: %s", time.Since(start).Round(time.Millisecond))
	roletest.Eventually(t, "done", func() bool {
		app := w.reported().Apps[fleetUUID]
		return app.ReleaseUUID == commitB && app.Releases[commitB].UpdateStatus == "done" && len(app.Releases) == 1
	})
	if after := v.exec("docker", "ps", "-q", "--no-trunc", "--filter", "label=io.balena.service-name=writer"); after != before {
		t.Error("the writer was made anew without a reason")
	}
	roletest.Eventually(t, "the agent's process", func() bool { return residentMiB(v.agentPID()) > 0 })
	if rss := residentMiB(v.agentPID()); rss > 25 || rss == 0 {
		t.Errorf("the agent uses %d MiB", rss)
	} else {
		t.Logf("the agent uses %d MiB", rss)
	}

	t.Log("killed again and again during updates, it ends on the last release")
	last := ""
	for i := range 6 {
		last = fmt.Sprintf("page %d", i)
		web := w.push(repoWeb, map[string]string{"run.sh": pageRun, "www/index.html": last})
		commit := strings.Repeat(strconv.Itoa(i), 32)
		w.setTarget(release(commit, map[string]string{"web": web, "writer": writer}, compositions))
		wait := time.Now().Add(time.Duration(300*i) * time.Millisecond)
		roletest.Eventually(t, "a while", func() bool { return time.Now().After(wait) })
		if pid := v.agentPID(); pid != 0 {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		roletest.Eventually(t, "an answer on the page's port", func() bool { return strings.HasPrefix(page(v.ip), "page ") })
	}
	roletest.Eventually(t, "the last page", func() bool { return page(v.ip) == last })
	roletest.Eventually(t, "one container a service", func() bool {
		return len(strings.Fields(v.exec("docker", "ps", "-aq"))) == 2
	})
	roletest.Eventually(t, "no old image", func() bool { return len(strings.Fields(v.exec("docker", "images", "-q"))) == 2 })
	if w.count() != 1 {
		t.Errorf("%d devices", w.count())
	}
	if !strings.Contains(v.exec("docker", "volume", "ls", "-q"), "not-ours") {
		t.Error("it removed a volume that is not its own")
	}

	appsAPI(t, w, v)

	t.Log("an unmanaged device keeps running; a fleet that leaves takes its volumes along")
	w.setTarget(apiEmpty())
	roletest.Eventually(t, "nothing runs", func() bool { return len(strings.Fields(v.exec("docker", "ps", "-aq"))) == 0 })
	roletest.Eventually(t, "the volume is gone, the other is not", func() bool {
		return strings.TrimSpace(v.exec("docker", "volume", "ls", "-q")) == "not-ours"
	})
	if sockets := listening(v.agentPID(), v); sockets != "" {
		t.Errorf("the agent listens: %s", sockets)
	}
}

// askRun asks the device's own API, with its own key for its own fleet and for another.
const askRun = `#!/bin/sh
api="$BALENA_SUPERVISOR_ADDRESS"
key="apikey=$BALENA_SUPERVISOR_API_KEY"
while true; do
	echo "fleet $BALENA_APP_ID finds $(busybox wget -T 5 -q -O - "$api/v2/containerId?$key")"
	for app in 7 8; do
		echo "fleet $BALENA_APP_ID restarts nobody of $app: $(busybox wget -T 5 -q -O - --post-data 'serviceName=none' "$api/v2/applications/$app/restart-service?$key" 2>&1)"
	done
	sleep 1
done
`

// appsAPI: a container reaches the device's API by a bridge that nobody else is on, and with its key its own fleet only.
func appsAPI(t *testing.T, w *world, v *virtual) {
	t.Helper()
	image := w.push(strings.Repeat("3", 32), map[string]string{"run.sh": askRun})
	target := release(commitA, map[string]string{"ask": image}, map[string]string{"ask": `{"stop_signal":"SIGKILL"}`})
	other := release(commitB, map[string]string{"peer": image}, map[string]string{"peer": `{"stop_signal":"SIGKILL"}`}).Apps[fleetUUID]
	other.ID = 8
	label := map[string]string{"io.balena.features.supervisor-api": "true"}
	target.Apps[fleetUUID].Releases[commitA].Services["ask"].Labels = label
	other.Releases[commitB].Services["peer"].Labels = label
	target.Apps[otherUUID] = other
	w.setTarget(target)
	for own, foreign := range map[string]string{"7": "8", "8": "7"} {
		roletest.Eventually(t, "its own fleet", func() bool { return w.logged("fleet " + own + ` finds {"services":{"`) })
		roletest.Eventually(t, "its own fleet's services", func() bool {
			return w.logged("fleet " + own + " restarts nobody of " + own + ": wget: server returned error: HTTP/1.1 404")
		})
		roletest.Eventually(t, "another fleet is refused", func() bool {
			return w.logged("fleet " + own + " restarts nobody of " + foreign + ": wget: server returned error: HTTP/1.1 401")
		})
	}
	t.Log("from around the device the bridge's address does not answer, even where nothing is filtered")
	v.exec("iptables", "-P", "INPUT", "ACCEPT")
	if out, err := exec.Command("ip", "route", "add", "10.114.104.1/32", "via", v.ip).CombinedOutput(); err != nil {
		t.Fatalf("ip route: %v: %s", err, out)
	}
	defer exec.Command("ip", "route", "delete", "10.114.104.1/32", "via", v.ip).Run()
	for _, address := range []string{"10.114.104.1:48484", v.ip + ":48484"} {
		if conn, err := net.DialTimeout("tcp", address, 3*time.Second); err == nil {
			_ = conn.Close()
			t.Errorf("%s answers", address)
		}
	}
	v.exec("iptables", "-P", "INPUT", "DROP")
	if strings.Contains(v.exec("docker", "network", "inspect", "supervisor0"), `"Internal": false`) {
		t.Error("the bridge leads out")
	}
}

// listening gives the listening TCP sockets of the device; Docker's are only for published ports, of which there are none now.
func listening(_ int, v *virtual) string {
	var out []string
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for line := range strings.Lines(v.exec("cat", file)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "0A" {
				out = append(out, f[1])
			}
		}
	}
	return strings.Join(out, " ")
}

func residentMiB(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kb, _ := strconv.Atoi(f[1])
			return kb / 1024
		}
	}
	return 0
}

func TestDeviceIsUsableAfterPowerCut(t *testing.T) {
	needsDocker(t)
	w := newWorld(t)
	agentPath := buildAgent(t)
	v := newVirtual(t, w, agentPath)
	roletest.Eventually(t, "registered", registered(w))
	web := w.push(strings.Repeat("1", 32), map[string]string{"run.sh": pageRun, "www/index.html": "page one"})
	w.setTarget(release(commitA, map[string]string{"web": web}, map[string]string{"web": `{"ports":["80:80"],"stop_signal":"SIGKILL"}`}))
	roletest.Eventually(t, "the page", func() bool { return page(v.ip) == "page one" })

	pid := strings.Fields(string(must(os.ReadFile("/run/roadstead-devices/" + v.name + "/pid"))))[0]
	if p, err := os.FindProcess(must(strconv.Atoi(pid))); err != nil || p.Kill() != nil {
		t.Fatal("could not cut the power")
	}
	w.setAnswer(func(*http.Request) int { return http.StatusBadGateway }) // and the server is gone
	roletest.Eventually(t, "dark", func() bool { return page(v.ip) != "page one" })
	v.up(filepath.Join(v.dir, "boot", "config.json"), agentPath)
	roletest.Eventually(t, "the page again, without a server", func() bool { return page(v.ip) == "page one" })
	var conf map[string]json.RawMessage
	if err := json.Unmarshal(must(os.ReadFile(filepath.Join(v.dir, "boot", "config.json"))), &conf); err != nil || conf["apiKey"] != nil || string(conf["someoneElse"]) == "" {
		t.Errorf("config.json is %s, %v", conf, err)
	}
}

// The real engine passes what the fake one passes, so that tests with the fake one mean something.
func TestRealEngineConforms(t *testing.T) {
	needsDocker(t)
	w := newWorld(t)
	v := &virtual{t: t, name: fmt.Sprintf("conform-%d", os.Getpid()), dir: t.TempDir()}
	config, _ := w.config(t.TempDir(), "https://api.device.test:"+w.Port, nil)
	v.up(config, "none")
	t.Cleanup(func() { _ = exec.Command(script(t), "down", v.name).Run() })
	e := must(engine.New("unix://" + filepath.Join(v.dir, "run", "docker.sock")))
	t.Cleanup(func() { _ = e.Close() })

	uuid := api.DeviceUUID(strings.Repeat("d", 32))
	w.mu.Lock()
	w.devices[uuid] = &known{id: 1, key: "key"}
	w.mu.Unlock()
	image := w.push(strings.Repeat("1", 32), map[string]string{"run.sh": "#!/bin/sh\necho hello\n"})
	auth := engine.Auth{Username: api.DeviceRegistryUser(uuid), Password: "key"}
	if err := e.Pull(t.Context(), image, auth, nil); err == nil {
		t.Error("it pulled from a registry that it does not trust")
	}
	registryHost, _, _ := strings.Cut(image, "/")
	if err := engine.Trust(filepath.Join(v.dir, "etc", "docker", "certs.d"), registryHost, w.Root); err != nil {
		t.Fatal(err)
	}
	if err := e.Pull(t.Context(), image, engine.Auth{Username: "d_x", Password: "wrong"}, nil); err == nil {
		t.Error("it pulled with a wrong key")
	}
	missing := image[:len(image)-64] + strings.Repeat("0", 64)
	enginetest.Conform(t, e, image, missing, auth, []string{"/bin/busybox", "sleep", "1000"})

	t.Log("logs of a container without a terminal")
	if err := e.Pull(t.Context(), image, auth, nil); err != nil {
		t.Fatal(err)
	}
	id := must(e.Create(t.Context(), engine.Spec{Name: "talk", Config: container.Config{
		Image: image, Cmd: []string{"/bin/sh", "-c", "echo out; echo err >&2"}, Labels: map[string]string{engine.LabelSupervised: "true"},
	}}))
	if err := e.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := e.Logs(t.Context(), id, time.Time{}, func(l engine.Line) { got = append(got, fmt.Sprint(l.Text, " ", l.Stderr)) }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"err true", "out false"}) {
		t.Errorf("logs: %q", got)
	}
}
