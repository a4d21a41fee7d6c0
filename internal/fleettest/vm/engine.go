package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// programs of a Docker Engine, as Debian's packages bring them.
var programs = []string{"dockerd", "containerd", "containerd-shim-runc-v2", "runc", "xtables-nft-multi"}

// Engine makes a disk that holds the Docker Engine of this machine's packages and all that it needs. Machines only read it; it may serve several.
func Engine(t *testing.T) (file string) {
	t.Helper()
	dir := t.TempDir()
	put := func(from, to string) {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(dir, to)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), data, 0o755) //nolint:gosec // programs
		}
		if err != nil {
			t.Fatalf("the engine's programs: %v", err)
		}
	}
	inUsr := func(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, "/"), "usr/") }
	var from []string
	for _, name := range programs {
		path, err := find(name)
		if err != nil {
			t.Fatalf("%v; scripts/install.sh test installs it", err)
		}
		put(path, "sbin/"+name)
		from = append(from, path)
	}
	for _, name := range []string{"iptables", "ip6tables", "iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"} {
		if err := os.Symlink("xtables-nft-multi", filepath.Join(dir, "sbin", name)); err != nil {
			t.Fatal(err)
		}
	}
	libraries := librariesOf(t, from...)
	for _, library := range libraries {
		put(library, inUsr(library))
		extensions, err := filepath.Glob(filepath.Join(filepath.Dir(library), "xtables", "lib*.so"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(filepath.Base(library), "libxtables.") {
			for _, e := range extensions {
				put(e, inUsr(e))
			}
		}
	}
	file = filepath.Join(t.TempDir(), "programs")
	out, err := exec.CommandContext(t.Context(), "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", dir, file, "320M").CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return file
}

// find looks for a program also where users without rights do not.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return filepath.EvalSymlinks(path)
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, e := filepath.EvalSymlinks(filepath.Join(dir, name)); e == nil {
			return path, nil
		}
	}
	return "", err
}

// librariesOf are the files that the programs are linked with, the loader among them.
func librariesOf(t *testing.T, programs ...string) (files []string) {
	t.Helper()
	for _, program := range programs {
		out, err := exec.CommandContext(t.Context(), "ldd", program).CombinedOutput()
		if err != nil {
			if strings.Contains(string(out), "not a dynamic executable") {
				continue
			}
			t.Fatalf("ldd %s: %v\n%s", program, err, out)
		}
		for line := range strings.Lines(string(out)) {
			for _, word := range strings.Fields(line) {
				if strings.HasPrefix(word, "/") && !slices.Contains(files, word) {
					files = append(files, word)
				}
			}
		}
	}
	return files
}

// freePort is an address of this machine on which nothing listens now.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// Container is one that the machine's engine runs.
type Container struct {
	ID      string `json:"Id"`
	Command string
	Image   string
	ImageID string
	Created int64
}

// Containers are those that run now, as the engine itself says.
func (m *Machine) Containers() (list []Container, err error) {
	return list, m.engine("/containers/json", &list)
}

// Images are the ids of all images that the engine has.
func (m *Machine) Images() (ids []string, err error) {
	var list []struct{ ID string }
	err = m.engine("/images/json", &list)
	for _, image := range list {
		ids = append(ids, image.ID)
	}
	return ids, err
}

func (m *Machine) engine(path string, into any) error {
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.door+path, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine answers %s", res.Status)
	}
	return json.NewDecoder(res.Body).Decode(into)
}
