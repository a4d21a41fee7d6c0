package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// pollInterval is how often the device asks while nothing tells it to: with it a push waits one second on average.
const pollInterval = 2 * time.Second

// device is a virtual device (scripts/device.sh) of a running server with a builder, made from examples/hello.
type device struct {
	b       *testing.B
	srv     *fleettest.Server
	name    string
	dir     string // what the device has as its disk
	project string // a copy of the example, to be edited
	address string
}

func newDevice(b *testing.B) *device {
	b.Helper()
	d := newBerth(b, fleettest.Options{Builds: true})
	if err := os.CopyFS(d.project, os.DirFS(filepath.Join(fleettest.Root(), "examples", "hello"))); err != nil {
		b.Fatal(err)
	}
	d.roadstead("push", "bench", d.project)
	d.boot()
	d.shows("<h1>", 2*time.Minute)
	return d
}

// newBerth is a server with a fleet, and the device that will be in it.
func newBerth(b *testing.B, opt fleettest.Options) *device {
	b.Helper()
	if os.Getuid() != 0 {
		b.Skip("a virtual device needs root")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		b.Skip("a virtual device needs a Docker Engine: scripts/install.sh demo installs it")
	}
	address := fmt.Sprintf("10.213.254.%d", 1+os.Getpid()%250)
	run(b, "ip", "address", "replace", address+"/32", "dev", "lo")
	b.Cleanup(func() { run(b, "ip", "address", "delete", address+"/32", "dev", "lo") })
	d := &device{b: b, name: "bench" + strconv.Itoa(os.Getpid()), dir: publicDir(b), project: filepath.Join(b.TempDir(), "hello")}
	opt.Listen, opt.PollInterval = address, pollInterval
	d.srv = fleettest.NewServerWith(b, opt)
	d.roadstead("fleet", "create", "bench", "--type", "generic-amd64")
	return d
}

// boot switches the device on for the first time.
func (d *device) boot() {
	d.b.Helper()
	config := filepath.Join(d.dir, "config.json")
	d.roadstead("device", "init", "bench", "--name", d.name, "--uses", "1", "--expires", "1h", "-o", config)
	host, _, _ := net.SplitHostPort(d.srv.Addr)
	hosts := host
	for _, s := range []string{"api.", "registry2.", "dashboard.", "cloudlink."} {
		hosts += " " + s + d.srv.Domain
	}
	d.script("up", d.name, d.dir, config, "--hosts", hosts, "--agent", fleettest.Program(d.b, "roadstead-agent"))
	d.b.Cleanup(func() { d.script("down", d.name) })
	d.address = strings.TrimSpace(d.script("ip", d.name))
}

// run runs a command to its end and gives what it printed.
func run(b *testing.B, name string, args ...string) string {
	b.Helper()
	return finish(b, exec.Command(name, args...))
}

func finish(b *testing.B, cmd *exec.Cmd) string {
	b.Helper()
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		b.Fatalf("%s: %v\n%s%s", cmd, err, out.String(), words.String())
	}
	return out.String()
}

func (d *device) script(args ...string) string {
	d.b.Helper()
	return run(d.b, filepath.Join(fleettest.Root(), "scripts", "device.sh"), args...)
}

func (d *device) roadstead(args ...string) string {
	d.b.Helper()
	return finish(d.b, d.roadsteadCommand(args...))
}

func (d *device) roadsteadCommand(args ...string) *exec.Cmd {
	d.b.Helper()
	cmd := exec.Command(fleettest.Program(d.b, "roadstead"), args...)
	cmd.Env = append(os.Environ(), "ROADSTEAD_TOKEN="+d.srv.Admin.APIKey, "HOME="+d.dir, "XDG_CONFIG_HOME="+d.dir)
	for name, value := range d.srv.Env() {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// shows waits until the device's page holds a text.
func (d *device) shows(text string, within time.Duration) {
	d.b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if page, err := read(client, "http://"+d.address+"/"); err == nil && bytes.Contains(page, []byte(text)) {
			return
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(d.dir, "log", "agent.log"))
			d.b.Fatalf("after %v the page of the device does not hold %q; its agent's log:\n%s", within, text, log[max(0, len(log)-4000):])
		case <-tick.C:
		}
	}
}

func read(client *http.Client, url string) ([]byte, error) {
	res, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

// buildTime is how long the newest release took on the server, from its row to its end: build, export, push to the registry.
func (d *device) buildTime() time.Duration {
	d.b.Helper()
	type release struct {
		Start time.Time `json:"start_timestamp"`
		End   time.Time `json:"end_timestamp"`
	}
	var list struct{ D []release }
	if err := json.Unmarshal([]byte(d.roadstead("api", "GET",
		"/v7/release?$select=start_timestamp,end_timestamp&$top=1&$orderby=id desc")), &list); err != nil || len(list.D) == 0 {
		d.b.Fatalf("no release: %v", err)
	}
	return list.D[0].End.Sub(list.D[0].Start)
}

// BenchmarkPush is the time from `roadstead push` of a one-line change until the new page comes from the device, and what is
// left of it without the build. Budget: 5 s beyond the build.
func BenchmarkPush(b *testing.B) {
	d := newDevice(b)
	index := filepath.Join(d.project, "web", "index.html")
	text, err := os.ReadFile(index)
	if err != nil {
		b.Fatal(err)
	}
	var total, build time.Duration
	pushes := max(b.N, 5)
	for n := range pushes {
		line := fmt.Sprintf("<p>push %d of %d</p>", n, time.Now().UnixNano())
		if err := os.WriteFile(index, append(text, line...), 0o644); err != nil { // #nosec G306 -- a web page
			b.Fatal(err)
		}
		began := time.Now()
		d.roadstead("push", "bench", d.project)
		d.shows(line, time.Minute)
		total += time.Since(began)
		build += d.buildTime()
	}
	b.ReportMetric(total.Seconds()/float64(pushes), "s/push")
	b.ReportMetric((total-build).Seconds()/float64(pushes), "s/push-beyond-build")
	b.ReportMetric(0, "ns/op")
	d.agent()
}

// agent reports what the agent holds and spends while nothing happens. Budget: 25 MiB.
func (d *device) agent() {
	d.b.Helper()
	const window = 20 * time.Second
	pid, err := strconv.Atoi(strings.TrimSpace(d.script("exec", d.name, "cat", "/run/agent.pid")))
	if err != nil {
		d.b.Fatal(err)
	}
	id := d.hostPID(pid)
	from := spent(d.b, id)
	<-time.After(window)
	to := spent(d.b, id)
	d.b.ReportMetric(rollup(id, "Rss:"), "MiB-agent-RSS")
	d.b.ReportMetric(rollup(id, "Private_Dirty:"), "MiB-agent-private")
	d.b.ReportMetric(100*(to.cpu-from.cpu).Seconds()/window.Seconds(), "%-of-a-core-agent")
}

// hostPID finds the agent's process as this machine numbers it: the one that its own namespace calls pid.
func (d *device) hostPID(pid int) int {
	d.b.Helper()
	statuses, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		d.b.Fatal(err)
	}
	for _, f := range statuses {
		data, err := os.ReadFile(f)
		if err != nil || !bytes.HasPrefix(data, []byte("Name:\troadstead-agent\n")) {
			continue // another program, or one that ended
		}
		host, _ := strconv.Atoi(strings.Split(f, "/")[2])
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", host))
		if err != nil || !bytes.Contains(args, []byte(d.dir)) {
			continue // of another device
		}
		if bytes.Contains(data, []byte(fmt.Sprintf("\t%d\n", pid))) {
			return host
		}
	}
	d.b.Fatalf("no agent with the id %d", pid)
	return 0
}
