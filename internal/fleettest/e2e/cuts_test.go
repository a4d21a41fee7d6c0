package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// twoServices builds a release of two services that say a word, each with some MiB in one layer that nothing compresses.
func twoServices(t *testing.T, fleet, word string, mib int) string {
	t.Helper()
	project := t.TempDir()
	writeFile(t, filepath.Join(project, "docker-compose.yml"), "services: {web: {build: ./web}, worker: {build: ./worker}}\n")
	for _, service := range []string{"web", "worker"} {
		if err := os.Mkdir(filepath.Join(project, service), 0o755); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, mib<<20)
		_, _ = rand.NewChaCha8(sha256.Sum256([]byte(word + service))).Read(data)
		writeFile(t, filepath.Join(project, service, "data"), string(data))
		writeFile(t, filepath.Join(project, service, "Dockerfile"), "FROM base/busybox\nCOPY data /data\nRUN echo "+word+" > /word\n"+
			"CMD [\"sleep\", \"100000\"]\nSTOPSIGNAL KILL\n")
	}
	var made struct {
		Commit string `json:"commit"`
	}
	if err := json.Unmarshal([]byte(p.roadstead(t, "push", fleet, project, "-o", "json")), &made); err != nil || made.Commit == "" {
		t.Fatalf("push says no commit: %v", err)
	}
	return made.Commit
}

// words gives what the running containers of a device say, by their names.
func (d *device) words(t *testing.T) map[string]string {
	t.Helper()
	said := map[string]string{}
	for _, name := range d.containers(t) {
		word, err := d.exec(t, "docker", "exec", name, "cat", "/word")
		if err != nil {
			return nil
		}
		said[name] = strings.TrimSpace(word)
	}
	return said
}

// whole waits until a device runs all of one release and nothing else, and the server says which.
func (d *device) whole(t *testing.T, commit, word, after string) {
	t.Helper()
	eventually(t, 3*time.Minute, "after "+after+", both services say "+word+" and the server names that release", func() bool {
		said := d.words(t)
		for _, w := range said {
			if w != word {
				return false
			}
		}
		return len(said) == 2 && releaseOf(t, d) == commit
	})
}

// signal sends a signal to the process of the device that a file in its /run names.
func (d *device) signal(t *testing.T, name, file string) {
	t.Helper()
	if out, err := d.exec(t, "sh", "-c", "kill -"+name+" $(cat /run/"+file+")"); err != nil {
		t.Fatalf("kill %s: %v %s", file, err, out)
	}
}

// power takes the power from a device: all of its processes die in one moment, in whatever they were doing.
func (d *device) power(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("/run/roadstead-devices/" + d.name + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	must(t, "kill", "-KILL", strings.Fields(string(text))[0])
}

// cable is the host's end of the only network that a device has.
func (d *device) cable() string {
	sum := sha256.Sum256([]byte(d.name))
	return "rsd" + hex.EncodeToString(sum[:])[:10]
}

// received gives how many bytes came to a device since its cable was made.
func (d *device) received(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/sys/class/net/" + d.cable() + "/statistics/tx_bytes")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (d *device) pin(t *testing.T, commit string) {
	t.Helper()
	p.roadstead(t, "device", "pin", d.uuid, commit)
}

// Twenty times in the middle of an update, at a time that nobody chose, the power, the agent, the engine or the network is gone.
// Each time the device comes to run all of one release, the one that it is to run, and the server knows it.
func TestUpdatesSurviveCutsAtAnyTime(t *testing.T) {
	p.roadstead(t, "fleet", "create", "cuts", "--type", "generic-amd64")
	commits := [2]string{twoServices(t, "cuts", "first", 6), twoServices(t, "cuts", "second", 6)}
	words := [2]string{"first", "second"}
	d := newDevice(t, "cuts", "e2e-cuts")
	d.registered(t)
	d.whole(t, commits[1], words[1], "the first boot")
	began := time.Now()
	d.pin(t, commits[0])
	d.whole(t, commits[0], words[0], "a quiet update")
	quiet := time.Since(began)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d; a quiet update takes %s", seed, quiet.Round(time.Millisecond))
	random := rand.New(rand.NewPCG(seed, 0))
	cuts := []struct {
		name string
		cut  func()
	}{
		{"power", func() {
			d.power(t)
			d.up(t)
		}},
		{"the agent", func() { d.signal(t, "KILL", "agent.pid") }},
		{"the engine", func() { d.signal(t, "KILL", "docker.pid") }},
		{"the network", func() {
			must(t, "ip", "link", "set", d.cable(), "down")
			d.exec(t, "sleep", "2")
			must(t, "ip", "link", "set", d.cable(), "up")
		}},
	}
	for i := range 20 {
		target := (i + 1) % 2
		d.pin(t, commits[target])
		wait := time.Duration(random.Int64N(int64(quiet)))
		after := time.NewTimer(wait)
		<-after.C
		c := cuts[i%len(cuts)]
		c.cut()
		d.whole(t, commits[target], words[target], fmt.Sprintf("cut %d, of %s %s into the update", i, c.name, wait.Round(time.Millisecond)))
	}
}

// A device that loses its power in the middle of a large download fetches the rest, and little of what it had once more.
func TestADownloadGoesOnAfterALossOfPower(t *testing.T) {
	p.roadstead(t, "fleet", "create", "large", "--type", "generic-amd64")
	small := twoServices(t, "large", "small", 0)
	d := newDevice(t, "large", "e2e-large")
	d.registered(t)
	d.whole(t, small, "small", "the first boot")
	const mib = 48
	d.pin(t, small)
	large := twoServices(t, "large", "large", mib)
	const total = 2 * mib << 20

	slow := exec.Command("tc", "qdisc", "add", "dev", d.cable(), "root", "tbf", "rate", "160mbit", "burst", "256k", "latency", "50ms") // else much is on its way at any time
	if out, err := slow.CombinedOutput(); err != nil {
		t.Fatalf("tc: %v %s", err, out)
	}
	before := d.received(t)
	d.pin(t, large)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(2 * time.Minute); d.received(t) < before+total/2; <-tick.C {
		if time.Now().After(late) {
			t.Fatalf("only %d bytes came", d.received(t)-before)
		}
	}
	d.power(t)
	came := d.received(t) - before
	if came > total*9/10 {
		t.Fatalf("the power went too late: %d of %d bytes had come", came, total)
	}
	if err := exec.Command(filepath.Join(p.top, "scripts/device.sh"), "down", d.name).Run(); err != nil { // with its cable, and what that counted
		t.Fatal(err)
	}
	d.up(t)
	d.whole(t, large, "large", "the loss of power")
	again := d.received(t)
	t.Logf("%d MiB of %d had come; %d MiB came then", came>>20, total>>20, again>>20)
	if again > total*6/10 {
		t.Errorf("%d bytes came after a cut at %d of %d, more than 60 %%", again, came, total)
	}
	if entries, err := os.ReadDir(filepath.Join(d.dir, "state/downloads")); err == nil && len(entries) > 0 {
		t.Errorf("%d layers are still kept", len(entries))
	}
}
