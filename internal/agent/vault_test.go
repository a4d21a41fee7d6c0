package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/agent"
	"github.com/roadstead-io/roadstead/internal/agent/appkey"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/agent/seal/sealtest"
	"github.com/roadstead-io/roadstead/internal/engine/enginetest"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// protect sets deviceKeyProtection in a config.json; everything else stays.
func (d *device) protect(t *testing.T, how string) {
	t.Helper()
	text, err := os.ReadFile(d.config)
	if err != nil {
		t.Fatal(err)
	}
	var conf map[string]json.RawMessage
	if err := json.Unmarshal(text, &conf); err != nil {
		t.Fatal(err)
	}
	conf["deviceKeyProtection"] = json.RawMessage(`"` + how + `"`)
	if text, err = json.Marshal(conf); err != nil {
		t.Fatal(err)
	}
	// In place, as an editor on the device's disk would leave no copy of what the test then looks for.
	f, err := os.OpenFile(d.config, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.WriteAt(text, 0); err == nil {
		err = f.Truncate(int64(len(text)))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// key is the device key that the server knows.
func (w *world) key(t *testing.T) string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.devices {
		return k.key
	}
	t.Fatal("the server knows no device")
	return ""
}

// bootedUntil is [device.bootUntil] with a TPM.
func (d *device) bootedUntil(t *testing.T, tpm, step string) {
	t.Helper()
	c := d.settings()
	c.TPM = tpm
	reached := false
	c.Step = func(now string) error {
		if now == step {
			reached = true
			return identity.ErrStopped
		}
		return nil
	}
	a, err := agent.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Once(t.Context()); err != nil && (!reached || !errors.Is(err, identity.ErrStopped)) {
		t.Fatalf("start until %q: %v", step, err)
	}
}

// disk is an ext4 file system in a file, mounted; what it answers unmounts it and gives every byte, in use or free.
func disk(t *testing.T) (mount string, raw func() []byte) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system")
	}
	dir := t.TempDir()
	image, mount := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"truncate", "-s", "16M", image}, {"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, mount}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	mounted := true
	t.Cleanup(func() {
		if mounted {
			_ = exec.Command("umount", "-l", mount).Run() // the test has failed
		}
	})
	return mount, func() []byte {
		if mounted {
			mounted = false
			if out, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
				t.Fatalf("umount: %v\n%s", err, out)
			}
		}
		all, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
}

// What a thief of the disk finds of a device that seals its key: nothing, in no block, whenever its power failed; be it sealed from its
// first start on or later.
func TestSealedKeyIsNotOnTheRawDisk(t *testing.T) {
	tpm := sealtest.New(t)
	fromStart := append([]string{"", "data key sealed", "data key proven"}, steps...)
	later := []string{"", "data key sealed", "data key proven", "identity.json converted", "key overwritten", "config rewritten"}
	for how, cuts := range map[string][]string{"from the first start": fromStart, "later": later} {
		for _, cut := range cuts {
			t.Run(how+", cut after "+cut, func(t *testing.T) {
				w := newWorld(t)
				mount, raw := disk(t)
				d := &device{dir: mount, engine: enginetest.New()}
				d.config, d.key = w.config(mount, w.URL, nil)
				if how == "later" {
					d.bootedUntil(t, tpm.Path, "")
					if err := identity.SetHostname(d.config, "renamed"); err != nil { // which wrote it once more
						t.Fatal(err)
					}
					if grep(t, mount, w.key(t)) == "" {
						t.Fatal("the test cannot see the key that is there")
					}
				}
				d.protect(t, "tpm")
				if cut != "" {
					d.bootedUntil(t, tpm.Path, cut)
				}
				d.bootedUntil(t, tpm.Path, "")
				d.checkBooted(t, w)
				conf, err := identity.LoadConfig(d.config)
				if err != nil || !seal.IsSealed(conf.DeviceAPIKey) {
					t.Errorf("deviceApiKey in config.json: %q, %v", conf.DeviceAPIKey, err)
				}
				if at := bytes.Index(raw(), []byte(w.key(t))); at >= 0 {
					t.Errorf("the key is on the disk at byte %d", at)
				}
			})
		}
	}
}

func TestSealedDeviceGoesBackToFiles(t *testing.T) {
	tpm := sealtest.New(t)
	back := []string{"identity.json converted", "data key destroyed", "key overwritten", "config rewritten"}
	for _, cut := range append([]string{""}, back...) {
		w := newWorld(t)
		d := newDevice(t, w)
		d.protect(t, "tpm")
		d.bootedUntil(t, tpm.Path, "")
		d.protect(t, "file")
		if cut != "" {
			d.bootedUntil(t, tpm.Path, cut)
		}
		d.bootedUntil(t, tpm.Path, "")
		d.bootedUntil(t, filepath.Join(d.dir, "none"), "") // it needs no TPM any more
		d.checkBooted(t, w)
		conf, err := identity.LoadConfig(d.config)
		who, readErr := identity.Read(filepath.Join(d.dir, "state"))
		if err != nil || readErr != nil || conf.DeviceAPIKey != w.key(t) || who.Key != w.key(t) {
			t.Errorf("cut after %q: %q, %q, %v, %v", cut, conf.DeviceAPIKey, who.Key, err, readErr)
		}
	}
}

// journal keeps what the agent logs.
type journal struct {
	mu  sync.Mutex // covers buf
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) has(what string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.buf.String(), what)
}

// A device whose TPM is absent, another one or cleared is nobody until its own is back: it says so, the server hears nothing from it, no new
// identity is made, nothing is written in plain, and its containers are left alone.
func TestDeviceWithoutItsTPMIsNobody(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.protect(t, "tpm")
	own := sealtest.New(t)
	d.bootedUntil(t, own.Path, "")
	own.Stop()

	for name, tt := range map[string]struct{ tpm, says string }{
		"absent":  {filepath.Join(d.dir, "none"), "this device has no TPM 2.0"},
		"another": {sealtest.New(t).Path, "sealed by another TPM"},
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan string, 1)
			w.setAnswer(func(r *http.Request) int {
				select {
				case heard <- r.URL.Path:
				default:
				}
				return 0
			})
			before := len(d.engine.Calls())
			var said journal
			c := d.settings()
			c.TPM, c.Log, c.Timing.Unseal = tt.tpm, slog.New(slog.NewTextHandler(&said, nil)), remote.Backoff{Min: time.Millisecond, Max: time.Millisecond}
			a, err := agent.New(c)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- a.Run(ctx) }()
			roletest.Eventually(t, "it says why, twice", func() bool {
				said.mu.Lock()
				defer said.mu.Unlock()
				return strings.Count(said.buf.String(), tt.says) > 1
			})
			if !said.has("THE KEYS OF THIS DEVICE CANNOT BE OPENED") || !said.has("advice=") {
				t.Errorf("it said: %s", said.buf.String())
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
			select {
			case path := <-heard:
				t.Errorf("the server was asked for %s", path)
			default:
			}
			if after := len(d.engine.Calls()); after != before {
				t.Errorf("the engine was called %d times", after-before)
			}
			if found := grep(t, d.dir, w.key(t)); found != "" {
				t.Errorf("the key is in %s", found)
			}
		})
	}
	w.setAnswer(nil)
	t.Log("its own is back")
	own.Start(t)
	d.bootedUntil(t, own.Path, "")
	d.checkBooted(t, w)
}

// A new device that is to seal its key, and cannot, does not register, and has written no key.
func TestNewDeviceWithoutATPMDoesNotRegister(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.protect(t, "tpm")
	c := d.settings()
	c.TPM = filepath.Join(d.dir, "none")
	a, err := agent.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Once(t.Context()); !errors.Is(err, seal.ErrAbsent) || w.count() != 0 {
		t.Errorf("Once: %v, %d devices", err, w.count())
	}
	if _, err := os.Stat(filepath.Join(d.dir, "state", "identity.json")); err == nil {
		t.Error("it made itself an identity")
	}
	d.protect(t, "tpm-if-present")
	d.bootedUntil(t, c.TPM, "")
	d.checkBooted(t, w)
}

// The keys of the device's own API are sealed too, and stay so when they are renewed.
func TestRenewedKeysStaySealed(t *testing.T) {
	dir := t.TempDir()
	cfg := seal.Config{StateDir: dir, ConfigPath: filepath.Join(dir, "config.json"), Wanted: seal.TPM, Device: sealtest.New(t).Path, Log: slog.New(slog.DiscardHandler)}
	vault, err := seal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := appkey.Open(dir, vault)
	if err != nil {
		t.Fatal(err)
	}
	first := keys.Device()
	second, err := keys.Renew("")
	if err != nil || second == first {
		t.Fatalf("Renew: %q, %v", second, err)
	}
	for _, key := range []string{first, second} {
		if found := grep(t, dir, key); found != "" {
			t.Errorf("the key is in %s", found)
		}
	}
	again, err := appkey.Open(dir, vault)
	if err != nil || again.Device() != second || again.Fleet("f") != keys.Fleet("f") {
		t.Errorf("opened again: %v", err)
	}
	if _, err := appkey.Open(dir, nil); !errors.Is(err, seal.ErrLost) {
		t.Errorf("without the vault: %v", err)
	}
}
