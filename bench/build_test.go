package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"

	"github.com/roadstead-io/roadstead/internal/builder/worker"
	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// startBuilding starts a server that builds.
func startBuilding(b *testing.B, args ...string) (*server, *cliUser) {
	b.Helper()
	buildkitd := os.Getenv("ROADSTEAD_BUILDKITD")
	if buildkitd == "" || os.Geteuid() != 0 {
		b.Skip("ROADSTEAD_BUILDKITD does not name a buildkitd, or this is not root")
	}
	s, _ := start(b, publicDir(b), append(args, "--buildkitd", buildkitd)...)
	return s, newUser(b, s, newMeter(b, s.address))
}

// selfContained is a project whose root file system comes along, so that nothing is fetched from anywhere, and that has steps of some seconds.
func selfContained(b *testing.B, steps ...string) string {
	b.Helper()
	dir := b.TempDir()
	files, err := os.ReadFile(os.Getenv("ROADSTEAD_BASE_BUSYBOX"))
	if err != nil {
		b.Fatal(err)
	}
	text := "FROM scratch\nADD root.tar /\n"
	for _, s := range steps {
		text += "RUN " + s + "\n"
	}
	text += "COPY page /page\nCMD [\"sleep\", \"1000\"]\n"
	for name, content := range map[string]string{"root.tar": string(files), "Dockerfile": text, "page": "first\n", ".dockerignore": "Dockerfile\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// work is steps of a build that take the processor, the longer the more rounds, and the disk.
func work(rounds int) []string {
	return []string{
		"dd if=/dev/urandom of=/noise bs=1M count=16 && sha256sum /noise",
		fmt.Sprintf("i=0; while [ $i -lt %d ]; do sha256sum /noise >/dev/null; i=$((i+1)); done; gzip -c /noise >/dev/null", rounds),
		"mkdir /many && i=0; while [ $i -lt 2000 ]; do echo $i >/many/$i; i=$((i+1)); done",
	}
}

// BenchmarkBuildBesidesPlainBuildKit builds a project whose steps take two seconds, and one whose steps take ten, with `roadstead push` and with BuildKit's own client library as buildctl does, on the
// same buildkitd, in turns, medians: without its cache (cold), and again after a change of one file that only the last step sees (warm). Budget:
// 10 % more cold, 1 s more warm. Ours has the upload, the queue, the bill of materials, the statement and the push to the registry on top.
func BenchmarkBuildBesidesPlainBuildKit(b *testing.B) {
	for name, rounds := range map[string]int{"two seconds": 40, "ten seconds": 420} {
		b.Run(name, func(b *testing.B) { besidesPlainBuildKit(b, rounds) })
	}
}

func besidesPlainBuildKit(b *testing.B, rounds int) {
	s, u := startBuilding(b)
	dir := selfContained(b, work(rounds)...)
	socket := "unix://" + filepath.Join(s.dir, "roles", "buildkit", "worker.sock")
	u.run("fleet", "create", "bench", "--type", "generic-amd64")
	c, err := client.New(b.Context(), "", client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return worker.Dial(ctx, socket, "plain")
	}))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	plain := func(cold bool) time.Duration {
		began := time.Now()
		tree, err := fsutil.NewFS(dir)
		if err != nil {
			b.Fatal(err)
		}
		attrs := map[string]string{"filename": "Dockerfile"}
		if cold {
			attrs["no-cache"] = ""
		}
		status := make(chan *client.SolveStatus)
		go func() {
			for range status { //nolint:revive // nobody reads it
			}
		}()
		_, err = c.Solve(b.Context(), nil, client.SolveOpt{
			Frontend: "dockerfile.v0", FrontendAttrs: attrs, SharedKey: "plain",
			LocalMounts: map[string]fsutil.FS{"context": tree, "dockerfile": tree},
			Exports: []client.ExportEntry{{Type: client.ExporterOCI, Output: func(map[string]string) (io.WriteCloser, error) {
				return os.Create(filepath.Join(b.TempDir(), "image.tar"))
			}}},
		}, status)
		if err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	ours := func(cold bool) time.Duration {
		began := time.Now()
		args := []string{"push", "bench", dir}
		if cold {
			args = append(args, "--nocache")
		}
		u.run(args...)
		return time.Since(began)
	}
	change := func(n int, who string) {
		if err := os.WriteFile(filepath.Join(dir, "page"), fmt.Appendf(nil, "%s %d\n", who, n), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	ours(true)
	plain(true) // both daemons run now
	var cold, warm [2][]time.Duration
	n := 0
	for b.Loop() {
		n++
		var a, o time.Duration
		if n%2 == 0 { // what one leaves for the disk to write is not always the other's
			a, o = plain(true), ours(true)
		} else {
			o, a = ours(true), plain(true)
		}
		cold[0], cold[1] = append(cold[0], a), append(cold[1], o)
		change(n, "plain")
		x := plain(false)
		change(n, "ours")
		y := ours(false)
		warm[0], warm[1] = append(warm[0], x), append(warm[1], y)
		b.Logf("cold: plain %.2f s, ours %.2f s; warm: plain %.2f s, ours %.2f s", a.Seconds(), o.Seconds(), x.Seconds(), y.Seconds())
	}
	plainCold, oursCold, plainWarm := median(cold[0]).Seconds(), median(cold[1]).Seconds(), median(warm[0]).Seconds()
	b.ReportMetric(plainCold, "s/cold-plain")
	b.ReportMetric(oursCold, "s/cold-ours")
	b.ReportMetric(100*(oursCold/plainCold-1), "%-more-cold")
	b.ReportMetric(plainWarm, "s/warm-plain")
	b.ReportMetric(median(warm[1]).Seconds()-plainWarm, "s-more-warm")
	b.ReportMetric(0, "ns/op")
}

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}

// BenchmarkEightBuildsAtOnce pushes eight projects at once: five of one organization, and of three others one each, which come last. It prints
// what each waited for its turn and when it was finished. Fair is that the three do not wait for the five.
func BenchmarkEightBuildsAtOnce(b *testing.B) {
	_, u := startBuilding(b)
	u.env = append(u.env, "ROADSTEAD_TOKEN=")
	u.run("login", "--email", u.admin.Email, "--password-stdin")
	type one struct {
		fleet        string
		turn, finish time.Duration
		err          error
	}
	var builds []*one
	for _, org := range []string{"big", "small-1", "small-2", "small-3"} {
		u.run("organization", "create", org, "--handle", org)
		count := 1
		if org == "big" {
			count = 5
		}
		for i := range count {
			builds = append(builds, &one{fleet: fmt.Sprintf("%s/fleet-%d", org, i)})
			u.run("fleet", "create", builds[len(builds)-1].fleet, "--type", "generic-amd64")
		}
	}
	for b.Loop() { // with -benchtime 1x
		began := time.Now()
		var all sync.WaitGroup
		for i, one := range builds {
			dir := selfContained(b, fmt.Sprintf("echo %d %d", i, began.UnixNano()), "sleep 5")
			all.Go(func() {
				cmd := exec.Command(fleettest.Program(b, "roadstead"), "push", one.fleet, dir, "--nocache")
				cmd.Env = u.env
				out, _ := cmd.StdoutPipe() // fails only when it was called before
				var errs bytes.Buffer
				cmd.Stderr = &errs
				if one.err = cmd.Start(); one.err != nil {
					return
				}
				for lines := bufio.NewScanner(out); lines.Scan(); {
					if one.turn == 0 && strings.Contains(lines.Text(), "[main]") {
						one.turn = time.Since(began)
					}
				}
				if err := cmd.Wait(); err != nil {
					one.err = fmt.Errorf("%w: %s", err, errs.String())
				}
				one.finish = time.Since(began)
			})
			<-time.After(50 * time.Millisecond) // so that they come in this order
		}
		all.Wait()
		for _, one := range builds {
			if one.err != nil {
				b.Fatal(one.err)
			}
			b.Logf("%-15s its turn after %5.1f s, finished after %5.1f s", one.fleet, one.turn.Seconds(), one.finish.Seconds())
			b.ReportMetric(one.finish.Seconds(), "s-"+strings.ReplaceAll(one.fleet, "/", "-"))
		}
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkStatementAndBillOfMaterials prints what knowing where a release comes from amounts to: how long a warm push takes of a project with
// many packages, the reading of them and the signature included, and how large both documents are.
func BenchmarkStatementAndBillOfMaterials(b *testing.B) {
	_, u := startBuilding(b)
	dir := selfContained(b, manyPackages)
	u.run("fleet", "create", "bench", "--type", "generic-amd64")
	u.run("push", "bench", dir)
	var total time.Duration
	n := 0
	for b.Loop() {
		n++
		if err := os.WriteFile(filepath.Join(dir, "page"), fmt.Append(nil, n), 0o644); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		u.run("push", "bench", dir)
		total += time.Since(began)
	}
	var list []struct {
		Commit string `json:"commit"`
	}
	if err := json.Unmarshal([]byte(u.run("release", "list", "bench", "-o", "json")), &list); err != nil || len(list) == 0 {
		b.Fatalf("releases: %v, %v", list, err)
	}
	sbom := u.run("release", "show", list[0].Commit, "--sbom", "-o", "json")
	proof := u.run("release", "show", list[0].Commit, "--provenance", "-o", "json")
	b.Logf("%d packages; the bill of materials has %d KiB, the statement %d", len(regexp.MustCompile(`"purl"`).FindAllString(sbom, -1)), len(sbom)>>10, len(proof)>>10)
	b.ReportMetric(total.Seconds()/float64(n), "s/push")
	b.ReportMetric(float64(len(sbom))/1024, "KiB-sbom")
	b.ReportMetric(float64(len(proof))/1024, "KiB-statement")
	b.ReportMetric(0, "ns/op")
}

// manyPackages installs what looks like 400 Debian packages.
const manyPackages = `mkdir -p /var/lib/dpkg && i=0; while [ $i -lt 400 ]; do printf 'Package: p%d\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.%d-1\nMaintainer: x\nDescription: y\n\n' $i $i; i=$((i+1)); done >/var/lib/dpkg/status`
