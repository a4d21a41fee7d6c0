package sandbox_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/sandbox"
)

// The test binary plays the child: what Harden does cannot be undone.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.ConfineCommand {
		runtime.LockOSThread()
		go func() { // on another thread than the first, where the runtime may put it any time
			fmt.Println(sandbox.Confined(os.Args[2:]))
			os.Exit(126)
		}()
		select {}
	}
	switch os.Getenv("SANDBOX_TEST_CHILD") {
	case "harden":
		hardened()
	case "enter":
		entered()
	case "keep":
		keep()
	default:
		os.Exit(m.Run())
	}
}

func child(t *testing.T, what string, env ...string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), append(env, "SANDBOX_TEST_CHILD="+what)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func hardened() {
	if err := sandbox.Harden(sandbox.NoPrograms); err != nil {
		fmt.Println("Harden:", err)
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "sandbox-")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "f")
	_ = os.WriteFile(file, nil, 0o666) //nolint:gosec // the umask is what is tested
	if info, err := os.Stat(file); err == nil {
		fmt.Printf("mode=%04o\n", info.Mode().Perm())
	}
	fmt.Println("exec:", exec.Command("/bin/true").Run())
	status, _ := os.ReadFile("/proc/self/status")
	fmt.Print(string(status))
	limits, _ := os.ReadFile("/proc/self/limits")
	fmt.Print(string(limits))
}

func TestHardenedProcess(t *testing.T) {
	out := child(t, "harden")
	for _, want := range []string{"mode=0600", "exec: fork/exec /bin/true: operation not permitted", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(out, want) {
			t.Errorf("a hardened process does not show %q:\n%s", want, out)
		}
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "Max core file size") && strings.Fields(line)[4] != "0" {
			t.Errorf("core dumps: %s", line)
		}
	}
}

func entered() {
	plan, err := sandbox.FromEnv()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if plan != nil {
		fmt.Println(plan.Enter())
		os.Exit(1)
	}
	status, _ := os.ReadFile("/proc/self/status")
	fmt.Print(string(status))
}

func TestEnterBecomesTheUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	out := child(t, "enter", sandbox.Plan{UID: 65534, GID: 65534, Groups: []int{12345}}.Env())
	for _, want := range []string{
		"Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "Groups:\t12345", "CapEff:\t0000000000000000",
		"CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("after Enter there is no %q:\n%s", want, out)
		}
	}
	out = child(t, "enter", sandbox.Plan{UID: 65534, GID: 65534, Setuid: true}.Env())
	if !strings.Contains(out, "NoNewPrivs:\t0") || !strings.Contains(out, "CapEff:\t0000000000000000") {
		t.Errorf("with Setuid: %s", out)
	}
}

func TestPlansOfRootAreRefused(t *testing.T) {
	for _, text := range []string{`{"uid":0,"gid":5}`, `{"uid":5,"gid":0}`, `{"uid":-1,"gid":5}`, `rubbish`, ``} {
		t.Setenv("ROADSTEAD_SANDBOX", text)
		if p, err := sandbox.FromEnv(); err == nil {
			t.Errorf("FromEnv(%q) = %+v, want an error", text, p)
		}
	}
}

func TestClosedFindsTheTopmostDirectory(t *testing.T) {
	top := t.TempDir()
	path := filepath.Join(top, "a", "b", "c")
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	uid := os.Geteuid() + 4321
	stranger := sandbox.Plan{UID: uid, GID: uid}
	above := stranger.Closed(top) // t.TempDir's own parent may be closed
	if err := os.Chmod(filepath.Join(top, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(top, "a")
	if above != "" {
		want = above
	}
	if got := stranger.Closed(path); got != want {
		t.Errorf("Closed(%s) = %q, want %q", path, got, want)
	}
	if got := stranger.Closed("/"); got != "" {
		t.Errorf("Closed(/) = %q", got)
	}
}

// A program that is started behind walls reaches what it was given, and nothing else of the one that started it.
func TestConfinedProgram(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	given, kept := filepath.Join(dir, "given"), filepath.Join(dir, "kept")
	for _, d := range []string{given, kept} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "file"), []byte("content of "+filepath.Base(d)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := func(c sandbox.Confine, script string) string {
		cmd := exec.Command(exe, c.Args("/bin/sh", "-c", script)...)
		cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent"}
		out, _ := cmd.CombinedOutput() // what fails says so
		return string(out)
	}
	walls := sandbox.Confine{Write: []string{given}, FileBytes: 1 << 20, Files: 64, Memory: 256 << 20, CPUSeconds: 60}
	if got := in(walls, "cat "+given+"/file && echo x > "+given+"/new && cat "+given+"/new"); got != "content of givenx\n" {
		t.Errorf("what is given: %q", got)
	}
	for what, script := range map[string]string{
		"reads what is kept":        "cat " + kept + "/file",
		"lists what is kept":        "ls " + kept,
		"writes beside it":          "echo x > " + dir + "/new",
		"reads the machine's":       "cat /etc/shadow /etc/hostname",
		"writes the system":         "echo x > /usr/bin/roadstead-test",
		"reads other processes":     "cat /proc/1/environ /proc/self/environ",
		"writes without end":        "head -c 2000000 /dev/zero > " + given + "/large; test $(wc -c < " + given + "/large) -gt 1048576 && echo content of",
		"links out and reads there": "ln -s " + kept + "/file " + given + "/link; cat " + given + "/link",
	} {
		if got := in(walls, script); strings.Contains(got, "content of") || strings.Contains(got, "root:") || got == "" {
			t.Errorf("it %s: %q", what, got)
		}
	}
	read := sandbox.Confine{Read: []string{given}}
	if got := in(read, "cat "+given+"/file; echo x > "+given+"/other"); !strings.HasPrefix(got, "content of given") || !strings.Contains(got, "ermission denied") {
		t.Errorf("what may be read only: %q", got)
	}
	if got := in(walls, "git ls-remote git://127.0.0.1:1/x"); !strings.Contains(got, "Operation not permitted") && !strings.Contains(got, "not found") {
		t.Errorf("it reaches the network: %q", got)
	}
}

// keep starts a confined program, says which, and does nothing more.
func keep() {
	runtime.LockOSThread()
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(exe, sandbox.Confine{Memory: 64 << 20}.Args("/bin/sh", "-c", "echo $$; exec sleep 60")...)
	cmd.Stdout = os.Stdout
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	<-time.After(time.Minute)
}

// Killed by force, whoever started a confined program leaves none behind.
func TestAConfinedProgramEndsWithItsParent(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(exe)
	parent.Env = append(os.Environ(), "SANDBOX_TEST_CHILD=keep")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if killErr := parent.Process.Kill(); err != nil || killErr != nil {
		t.Fatal(err, killErr)
	}
	_ = parent.Wait()
	pid := strings.TrimSpace(line)
	deadline := time.After(10 * time.Second)
	for {
		text, err := os.ReadFile("/proc/" + pid + "/cmdline")
		if err != nil || len(text) == 0 { // nobody, or one that only waits to be forgotten
			return
		}
		select {
		case <-deadline:
			n, _ := strconv.Atoi(pid)
			_ = syscall.Kill(n, syscall.SIGKILL)
			t.Fatalf("%s outlived its parent", strings.ReplaceAll(string(text), "\x00", " "))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
