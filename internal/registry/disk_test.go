package registry_test

import (
	"crypto/rand"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/registry"
)

func TestFullDiskIsSaid(t *testing.T) {
	s := prepare(t).run(registry.Config{MinFree: 1 << 60}) // no disk has that much
	token := s.token(grant(mine, "pull", "push"), nil)
	res, body := s.do("builder", token, "POST", "/v2/"+mine+"/blobs/uploads/", nil)
	if res.StatusCode != http.StatusInsufficientStorage || !strings.Contains(body, "disk is full") {
		t.Errorf("an upload: %d %s, want 507 and why", res.StatusCode, body)
	}
	res, body = s.do("parent", "", "GET", "/healthz", nil)
	if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "disk is full") {
		t.Errorf("healthz: %d %s, want 503 and why", res.StatusCode, body)
	}
}

// A disk that really runs full in the middle of an upload: a small file system of its own.
func TestADiskThatRunsFullLeavesNothingHalfDone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	s := prepare(t)
	storage := filepath.Join(s.dir, "registry", registry.StorageDir)
	if err := os.MkdirAll(storage, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", storage, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(storage, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.run(registry.Config{MinFree: 16 << 10})
	token := s.token(grant(mine, "pull", "push"), nil)
	res, _ := s.do("builder", token, "POST", "/v2/"+mine+"/blobs/uploads/", nil)
	upload := strings.TrimPrefix(res.Header.Get("Location"), "https://"+s.addr)
	big := io.LimitReader(rand.Reader, 4<<20) // of unknown length: the registry cannot know before
	res, body := s.do("builder", token, "PATCH", upload, big, "Content-Type", "application/octet-stream")
	if res.StatusCode != http.StatusInsufficientStorage || !strings.Contains(body, "disk is full") {
		t.Errorf("the upload: %d %s, want 507 and why", res.StatusCode, body)
	}
	// The answer goes out before the bytes are gone.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(5 * time.Second); ; {
		res, body = s.do("parent", "", "GET", "/healthz", nil)
		if res.StatusCode == http.StatusOK && len(files(t, storage)) == 1 { // the mark of whose it is
			break
		}
		select {
		case <-deadline:
			t.Fatalf("afterwards: %d %s, left %v", res.StatusCode, body, files(t, storage))
		case <-tick.C:
		}
	}
	s.push(mine, image(t)) // what fits goes on
}

func files(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, path)
		}
		return nil //nolint:nilerr // what goes away meanwhile is not there
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
