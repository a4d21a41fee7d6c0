package base_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the network hands over is not what the lock file names: nothing is made of it.
func TestBusyboxRefusesAPackageThatIsNotTheLockedOne(t *testing.T) {
	for _, tool := range []string{"bash", "sha256sum", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing; base images are made on Debian", tool)
		}
	}
	bin := t.TempDir()
	// In apt's place: it delivers something, as a mirror that was broken into would, and apt's own checks were fooled.
	fake := "#!/bin/sh\ncase \"$*\" in *download*) echo tampered >busybox-static_1_amd64.deb ;; esac\n"
	if err := os.WriteFile(filepath.Join(bin, "apt-get"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "busybox.tar")
	cmd := exec.CommandContext(t.Context(), "../../../base/busybox/make.sh", "-o", out)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	text, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(text), "busybox-static_1_amd64.deb has SHA-256") {
		t.Errorf("make.sh: %v: %s, want a refusal that names the file", err, text)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("something was made all the same: %v", err)
	}
}
