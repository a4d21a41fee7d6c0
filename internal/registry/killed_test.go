package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/release/stored"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// process is a registry in a process of its own, which can be killed.
type process struct {
	w    *world
	kill func() // the one that runs now, as the kernel does when memory runs out; once, whoever says so
}

// TestMain lets this program also be the registry of the tests below.
func TestMain(m *testing.M) {
	text := os.Getenv("REGISTRY_PROCESS")
	if text == "" {
		os.Exit(m.Run())
	}
	if err := serveAlone([]byte(text)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serveAlone(text []byte) error {
	var cfg registry.Config
	if err := json.Unmarshal(text, &cfg); err != nil {
		return err
	}
	srv, err := registry.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", os.Getenv("REGISTRY_ADDRESS"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }() // its parent ends
	return srv.Run(ctx, ln)
}

// apart runs the world's registry in a process of its own.
func (w *world) apart(cfg registry.Config) *process {
	w.t.Helper()
	w.cfg.UploadLife = cfg.UploadLife
	free := roletest.Listen(w.t)
	w.addr = free.Addr().String()
	_ = free.Close()
	p := &process{w: w}
	p.start()
	w.t.Cleanup(func() { p.kill() })
	return p
}

func (p *process) start() {
	t := p.w.t
	t.Helper()
	text, err := json.Marshal(p.w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "REGISTRY_PROCESS="+string(text), "REGISTRY_ADDRESS="+p.w.addr)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := net.Dial("tcp", p.w.addr)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the registry does not come up: %v", err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// Killed in the middle of a collection, again and again: whatever is a release stays whole, and what nobody needs is gone in the end.
func TestAKilledCollectionLosesNothingAndLeavesNothing(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	p := w.apart(registry.Config{})
	shared := layer(t, 16<<10)
	live := withLayer(t, shared)
	_, repo := w.release(w.rows.Alice, "alice/harbour", live)
	needed := len(w.blobs())
	for range 20 { // of which each has the layer of the release too
		b, gone := w.build(w.rows.Alice, "alice/harbour")
		w.push(gone, withLayer(t, shared))
		w.finish(b, api.StatusFailed)
	}
	middle := 0
	for range 4 {
		before := len(w.blobs())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			grace := int64(0)
			body, _ := json.Marshal(api.RegistryAsk{Grace: &grace, Scan: true})
			req, err := http.NewRequest("POST", "https://"+w.addr+"/internal/v1/collect", strings.NewReader(string(body)))
			if err != nil {
				return
			}
			req.Header.Set("Content-Type", "application/json")
			if res, err := w.transport("admin", "").RoundTrip(req); err == nil {
				_ = res.Body.Close()
			}
		}()
		for over := false; !over && len(w.blobs()) == before; {
			select {
			case <-ended:
				over = true
			default:
			}
		}
		p.kill()
		if left := len(w.blobs()); left > needed && left < before {
			middle++
		}
		<-ended
		p.start()
		if err := w.pull(repo, hash(t, live)); err != nil {
			t.Fatalf("after the registry was killed in a collection: %v", err)
		}
	}
	if middle == 0 {
		t.Error("no collection was killed in its middle: this test shows nothing")
	}
	w.collect(0, true)
	if left := w.blobs(); len(left) != needed {
		t.Errorf("%d blobs are left, %d are needed", len(left), needed)
	}
	if n, err := registry.VerifyBlobs(t.Context(), w.cfg); err != nil || n != needed {
		t.Errorf("afterwards: %d blobs, %v", n, err)
	}
}

// killing kills the registry when the nth request of a push is on its way.
type killing struct {
	next http.RoundTripper
	kill func()
	n    *atomic.Int64
}

var errKilled = errors.New("the registry was killed")

func (k killing) RoundTrip(r *http.Request) (*http.Response, error) {
	if k.n.Add(-1) == 0 {
		if r.Body != nil && r.Body != http.NoBody { // half of it arrives
			r = r.Clone(r.Context())
			r.Body = &half{ReadCloser: r.Body, left: max(r.ContentLength/2, 1), then: k.kill}
		} else {
			go k.kill()
		}
	}
	if k.n.Load() < 0 {
		return nil, errKilled
	}
	return k.next.RoundTrip(r)
}

// half is a body that ends with the registry.
type half struct {
	io.ReadCloser
	left int64
	then func()
}

func (h *half) Read(b []byte) (int, error) {
	if h.left <= 0 {
		h.then()
		return 0, errKilled
	}
	n, err := h.ReadCloser.Read(b[:min(int64(len(b)), h.left)])
	h.left -= int64(n)
	return n, err
}

// Killed at every step of a push: nothing half is served, the same push again makes a whole image, and what was left lying goes.
func TestAKilledPushIsPushedAgain(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	p := w.apart(registry.Config{UploadLife: time.Millisecond})
	live := image(t)
	_, liveRepo := w.release(w.rows.Alice, "alice/harbour", live)
	steps := 0
	for done := false; !done; {
		steps++
		img := withLayer(t, layer(t, 200<<10))
		b, repo := w.build(w.rows.Alice, "alice/harbour")
		ref, err := name.NewDigest(w.addr + "/" + repo + "@" + hash(t, img).String())
		if err != nil {
			t.Fatal(err)
		}
		var n atomic.Int64
		n.Store(int64(steps))
		way := killing{w.transport("builder", w.token(grant(repo, "pull", "push"), nil)), p.kill, &n}

		err = remote.Write(ref, img, remote.WithTransport(way), remote.WithAuth(authn.Anonymous), remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithJobs(1))
		if done = n.Load() > 0; done { // it has fewer steps
			if err != nil {
				t.Fatalf("a push without a kill: %v", err)
			}
			break
		}
		p.kill()
		p.start()
		if err := w.pull(liveRepo, hash(t, live)); err != nil {
			t.Fatalf("killed at step %d of another push: %v", steps, err)
		}
		if m, err := img.Manifest(); err != nil {
			t.Fatal(err)
		} else {
			w.nothingHalf(repo, append(m.Layers, m.Config))
		}
		w.push(repo, img)
		if err := w.pull(repo, hash(t, img)); err != nil {
			t.Errorf("killed at step %d and pushed again: %v", steps, err)
		}
		if steps%2 == 0 {
			w.finish(b, api.StatusFailed)
		} else {
			w.finish(b, api.StatusSuccess)
		}
	}
	if steps < 8 {
		t.Errorf("a push has only %d steps", steps)
	}
	w.collect(0, true)
	for _, f := range files(t, filepath.Join(w.dir, "registry", registry.StorageDir)) {
		if strings.Contains(f, "/_uploads/") {
			t.Errorf("an upload of a push that was killed is left: %s", f)
		}
	}
	if _, err := registry.VerifyBlobs(t.Context(), w.cfg); err != nil {
		t.Error(err)
	}
	var use api.RegistryUsage
	if err := w.call("admin", "usage", struct{}{}, &use); err != nil || use.Blobs != int64(len(w.blobs())) || use.Sweeping != 0 {
		t.Errorf("the rows know %d blobs, the disk has %d (%v)", use.Blobs, len(w.blobs()), err)
	}
}

// nothingHalf checks that a repository serves whole blobs or none.
func (w *world) nothingHalf(repo string, blobs []v1.Descriptor) {
	w.t.Helper()
	token := w.token(grant(repo, "pull"), nil)
	for _, d := range blobs {
		res, body := w.do("edge", token, "GET", "/v2/"+repo+"/blobs/"+d.Digest.String(), nil)
		if res.StatusCode == http.StatusOK && sum(body) != d.Digest.String() {
			w.t.Errorf("%s is served with %d of %d bytes", d.Digest, len(body), d.Size)
		}
	}
}
