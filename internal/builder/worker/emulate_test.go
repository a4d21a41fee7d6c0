package worker_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"

	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

// foreignProgram says which machine it was made for, under which name it runs, and starts itself.
const foreignProgram = `package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

func main() {
	fmt.Println(os.Args[0], "on", runtime.GOARCH)
	if len(os.Args) == 1 {
		child := exec.Command("/foreign", "child")
		child.Args[0] = "applet"
		child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := child.Run(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}
`

// Programs of other machines run in builds where the worker says so, and the programs that these start; where it does not say so, it
// says why, and such a step fails.
func TestForeignProgramsRunWhereTheWorkerSaysSo(t *testing.T) {
	cfg := config(t)
	m, _ := start(t, cfg)
	c := connect(t, cfg, "org-1")
	for _, tc := range []struct {
		name, goarch, goarm string
		platform            ocispec.Platform
	}{
		{"linux/arm64", "arm64", "", ocispec.Platform{OS: "linux", Architecture: "arm64"}},
		{"linux/arm/v7", "arm", "7", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := m.Status()
			can := slices.ContainsFunc(s.Platforms, func(p worker.Platform) bool { return p.Platform == tc.name })
			t.Logf("the worker says: %+v", s)
			if !can && !slices.ContainsFunc(s.Missing, func(n worker.Missing) bool { return n.Platform == tc.name && n.Why != "" }) {
				t.Errorf("it does not build for %s, and does not say why: %+v", tc.name, s)
			}
			for _, p := range s.Platforms {
				if p.Platform == tc.name && p.Native {
					t.Errorf("%s is called native on this machine", tc.name)
				}
			}
			out, err := runForeign(t, c, tc.goarch, tc.goarm, tc.platform)
			want := "/foreign on " + tc.goarch + "\napplet on " + tc.goarch + "\n"
			if ran := err == nil && out == want; ran != can {
				t.Errorf("a step ran: %v, the worker says that it does: %v (%v)\n%s", ran, can, err, out)
			}
		})
	}
}

func runForeign(t *testing.T, c *client.Client, goarch, goarm string, platform ocispec.Platform) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"main.go": foreignProgram, "go.mod": "module foreign\n\ngo 1.22\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", "image/foreign", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+goarch, "GOARM="+goarm, "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	fs, err := fsutil.NewFS(filepath.Join(dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	state := llb.Local("image", llb.SharedKeyHint(goarch)).Platform(platform).Run(llb.Args([]string{"/foreign"}), llb.IgnoreCache).Root()
	out, err := solve(t.Context(), t, c, state, func(o *client.SolveOpt) { o.LocalMounts = map[string]fsutil.FS{"image": fs} })
	return strings.ReplaceAll(out, "\r", ""), err
}
