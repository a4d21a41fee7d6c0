package worker_test

import (
	"bytes"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// filled puts 30 MiB into the cache of a domain, which was used last some time ago.
func filled(t *testing.T, dir, owner string, ago time.Duration) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "layer")
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 30<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if owner != "" {
		u, err := user.Lookup(owner)
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		for _, p := range []string{dir, file} {
			if err := os.Chown(p, uid, gid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chtimes(dir, time.Now(), time.Now().Add(-ago)); err != nil {
		t.Fatal(err)
	}
}

// All caches together keep their bound: those of organizations that do not build go, the one that was not used for longest first.
func TestCachesThatNobodyUsesMakePlace(t *testing.T) {
	cfg := config(t)
	cfg.CacheBytes, cfg.Idle = 75<<20, 1
	start(t, cfg)
	caches := filepath.Join(cfg.Dir, "caches")
	c := connect(t, cfg, "org-1")
	filled(t, filepath.Join(caches, "org-1"), cfg.User, 1000*time.Hour) // it builds
	filled(t, filepath.Join(caches, "org-2"), cfg.User, time.Hour)
	filled(t, filepath.Join(caches, "org-3"), cfg.User, 10*time.Hour)
	if err := connect(t, cfg, "org-4").Close(); err != nil { // its daemon ends soon, and then the caches are looked through
		t.Fatal(err)
	}
	there := func(domain string) bool {
		_, err := os.Stat(filepath.Join(caches, domain, "layer"))
		return err == nil
	}
	await(t, "the cache that was not used for longest is gone", func() bool { return !there("org-3") })
	if !there("org-1") || !there("org-2") {
		t.Errorf("of an organization that builds: %v; the next oldest: %v; one was enough", there("org-1"), there("org-2"))
	}
	if _, err := c.ListWorkers(t.Context()); err != nil {
		t.Errorf("the organization that builds: %v", err)
	}
	// It comes back empty.
	connect(t, cfg, "org-3")
	if there("org-3") || !there("org-1") {
		t.Error("a cache came back with what was in it")
	}
}
