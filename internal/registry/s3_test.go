package registry_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/release/stored"
)

const bucket = "images"

// bucketServer runs a real S3 server, versitygw, over a directory, and gives its address and where the bucket's objects are as files. It
// is built from a module of its own, `make bin/versitygw`.
func bucketServer(t *testing.T) (url, dir string) {
	t.Helper()
	program := os.Getenv("ROADSTEAD_VERSITYGW")
	if program == "" {
		t.Skip("ROADSTEAD_VERSITYGW does not say where the S3 server is")
	}
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	cmd := exec.Command(program, "--access", "AKIDEXAMPLE", "--secret", "secret-of-the-bucket", "--port", addr, "--region", "eu-1", "posix", "--sidecar", t.TempDir(), dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(30 * time.Second); ; {
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close()
			return "http://" + addr, filepath.Join(dir, bucket)
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the S3 server: %v: %s", err, out)
		case <-deadline:
			t.Fatal("the S3 server does not answer")
		case <-tick.C:
		}
	}
}

// The same registry on a bucket: push, pull, ranges, resumed uploads, collection, damage and the check.
func TestS3(t *testing.T) {
	url, dir := bucketServer(t)
	w := newWorld(t, stored.Config{}, func(c *registry.Config) {
		c.Storage = "s3://" + bucket + "/some/prefix?endpoint=" + url + "&region=eu-1"
	})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	shared := layer(t, 6<<20) // more than one part
	first, second := withLayer(t, shared), withLayer(t, shared)
	old, oldRepo := w.release(w.rows.Alice, "alice/harbour", first)
	_, repo := w.release(w.rows.Alice, "alice/harbour", second)
	if err := w.pull(repo, hash(t, second)); err != nil {
		t.Fatal(err)
	}
	pull := w.token(grant(repo, "pull"), nil)
	res, body := w.do("edge", pull, "GET", "/v2/"+repo+"/blobs/"+hash(t, shared).String(), nil, "Range", "bytes=-4")
	if res.StatusCode != http.StatusPartialContent || len(body) != 4 {
		t.Errorf("the end of a blob: %d, %d bytes", res.StatusCode, len(body))
	}
	w.chunks(repo)
	if status, body := w.status(); status != 200 {
		t.Errorf("health: %d %s", status, body)
	}
	w.remove(w.rows.Alice, old)
	if done := w.collect(0, true); done.Repositories != 1 || done.Blobs != 3 || !done.Scanned {
		t.Errorf("collected %+v", done)
	}
	if err := w.pull(oldRepo, hash(t, first)); err == nil {
		t.Error("a collected image can be pulled")
	}
	if err := w.pull(repo, hash(t, second)); err != nil {
		t.Errorf("what is needed: %v", err)
	}
	// Bytes that are changed in the bucket.
	file := filepath.Join(dir, "some", "prefix", "docker", "registry", "v2", "blobs", "sha256", hash(t, shared).Hex[:2], hash(t, shared).Hex, "data")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.pull(repo, hash(t, second)); err == nil {
		t.Error("damaged bytes were served")
	}
	var got api.RegistryChecked
	if status, text := w.ask("/internal/v1/check", nil, &got); status != 200 || len(got.Damaged) != 1 {
		t.Errorf("check: %d %s", status, text)
	}
	if _, err := registry.VerifyBlobs(t.Context(), w.cfg); err == nil || !strings.Contains(err.Error(), hash(t, shared).Hex) {
		t.Errorf("VerifyBlobs: %v", err)
	}
}

// status is the role's health.
func (s *store) status() (int, string) {
	s.t.Helper()
	res, body := s.do("parent", "", "GET", "/healthz", nil)
	return res.StatusCode, body
}

// chunks pushes a blob in parts into a repository whose build has ended, which must be refused, and into one that runs.
func (w *world) chunks(ended string) {
	w.t.Helper()
	res, body := w.do("builder", w.token(grant(ended, "pull", "push"), nil), "POST", "/v2/"+ended+"/blobs/uploads/", nil)
	if res.StatusCode != http.StatusNotFound {
		w.t.Errorf("a push after the end of its build: %d %s", res.StatusCode, body)
	}
	b, repo := w.build(w.rows.Alice, "alice/harbour")
	token := w.token(grant(repo, "pull", "push"), nil)
	at := w.open(token, repo)
	all := ""
	for _, part := range []string{"one,", "two,", "three"} {
		res, body := w.do("builder", token, "PATCH", at, strings.NewReader(part), "Content-Type", octets,
			"Content-Range", fmt.Sprintf("%d-%d", len(all), len(all)+len(part)-1))
		if res.StatusCode != http.StatusAccepted {
			w.t.Fatalf("PATCH: %d %s", res.StatusCode, body)
		}
		all += part
		at = w.local(res)
	}
	if res, body := w.do("builder", token, "PUT", at+"&digest="+sum(all), nil); res.StatusCode != http.StatusCreated {
		w.t.Fatalf("PUT: %d %s", res.StatusCode, body)
	}
	if res, body := w.do("edge", token, "GET", "/v2/"+repo+"/blobs/"+sum(all), nil); res.StatusCode != 200 || body != all {
		w.t.Errorf("read back: %d %q", res.StatusCode, body)
	}
	w.finish(b, api.StatusSuccess)
}

func TestAddressesOfStorages(t *testing.T) {
	for _, good := range []string{"", "s3://images", "s3://images/a/b?endpoint=http://127.0.0.1:9000&region=x&path_style=false"} {
		if err := registry.CheckStorage(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, why := range map[string]string{
		"/var/lib": "s3://", "s3://key:secret@images": "in a file", "s3://": "bucket", "s3://Images": "bucket", "s3://a_b": "bucket",
		"s3://images?endpoint=nowhere": "endpoint", "s3://images?regoin=x": "regoin", "http://images": "s3://", "s3://%zz": "address",
	} {
		if err := registry.CheckStorage(bad); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want a word of %q", bad, err, why)
		}
	}
	file := filepath.Join(t.TempDir(), "keys")
	if _, _, err := registry.ReadCredentials(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = a\naws_secret_access_key=b=c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key, secret, err := registry.ReadCredentials(file); err != nil || key != "a" || secret != "b=c" {
		t.Errorf("%q %q %v", key, secret, err)
	}
}
