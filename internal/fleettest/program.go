package fleettest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// programs remembers, for the life of the test process, what was built.
var programs struct {
	sync.Mutex
	built map[string]string
}

// Program gives the path of one of our programs. ROADSTEAD_BIN names a directory where `make build` has put them; otherwise it
// is built, once a test process.
func Program(t testing.TB, name string) string {
	t.Helper()
	if dir := os.Getenv("ROADSTEAD_BIN"); dir != "" {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("ROADSTEAD_BIN: %v", err)
		}
		return file
	}
	programs.Lock()
	defer programs.Unlock()
	if file, ok := programs.built[name]; ok {
		return file
	}
	file := filepath.Join(Root(), "bin", "test", name)
	unlock, err := lock("build")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	// Built under another name and renamed: the old file may be running for another package's tests.
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", file+".new", "./cmd/"+name)
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/%s: %v\n%s", name, err, out)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	if programs.built == nil {
		programs.built = map[string]string{}
	}
	programs.built[name] = file
	return file
}

// Root is the top of the checkout.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// CanBuild reports whether there is what the builder needs: buildkitd, and the base image of the examples.
func CanBuild() bool {
	return made("ROADSTEAD_BUILDKITD", "bin/buildkitd") != "" && made("ROADSTEAD_BASE_BUSYBOX", ".cache/base/busybox.tar") != ""
}

// Buildkitd is the build daemon; "" when it was not made.
func Buildkitd() string { return made("ROADSTEAD_BUILDKITD", "bin/buildkitd") }

// made finds a file that `make` makes, by an environment variable or in its usual place; "" when it is not there.
func made(variable, file string) string {
	path := os.Getenv(variable)
	if path == "" {
		path = filepath.Join(Root(), file)
	}
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}
