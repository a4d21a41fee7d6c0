package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/agent"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/engine/enginetest"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// steps are the durable steps of a first boot, in order.
var steps = []string{"identity stored", "registered", "answer stored", "key overwritten", "config rewritten"}

// bootUntil runs the agent until it has made the given step, as if the power failed right after; "" runs it to the end.
func (d *device) bootUntil(t *testing.T, step string) {
	t.Helper()
	c := d.settings()
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
	err = a.Once(t.Context())
	if step == "" && err != nil {
		t.Fatalf("first boot: %v", err)
	}
	if step != "" && reached && !errors.Is(err, identity.ErrStopped) {
		t.Fatalf("stopped after %q, got %v", step, err)
	}
}

// checkBooted says what must hold after a first boot, however it went.
func (d *device) checkBooted(t *testing.T, w *world) {
	t.Helper()
	if w.count() != 1 {
		t.Errorf("%d devices", w.count())
	}
	conf, err := identity.LoadConfig(d.config)
	if err != nil {
		t.Fatal(err)
	}
	if conf.APIKey != "" || conf.DeviceID != 100 || !conf.UUID.Valid() || conf.DeviceAPIKey == "" || conf.RegisteredAt == 0 {
		t.Errorf("config.json: key %q, device %d, uuid %q", conf.APIKey, conf.DeviceID, conf.UUID)
	}
	text, err := os.ReadFile(d.config)
	if err != nil || !bytes.Contains(text, []byte(`"someoneElse"`)) {
		t.Errorf("a key of somebody else is gone: %s", text)
	}
	if found := grep(t, d.dir, d.key); found != "" {
		t.Errorf("the provisioning key is in %s", found)
	}
}

func grep(t *testing.T, dir, what string) (found string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			text, readErr := os.ReadFile(path)
			if err = readErr; bytes.Contains(text, []byte(what)) {
				found = path
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestFirstBootSurvivesPowerCutsAnywhere(t *testing.T) {
	for _, first := range steps {
		for _, second := range append([]string{""}, steps...) {
			t.Run(first+" then "+second, func(t *testing.T) {
				w := newWorld(t)
				d := newDevice(t, w)
				d.bootUntil(t, first)
				if second != "" {
					d.bootUntil(t, second)
				}
				d.bootUntil(t, "")
				d.checkBooted(t, w)
			})
		}
	}
}

// The answer to the registration is lost, and the key is good for one use only.
func TestLostAnswerMakesNoSecondDevice(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	lost := 0
	w.setAnswer(func(r *http.Request) int {
		if r.URL.Path == "/device/register" {
			if lost++; lost == 1 {
				return -1
			}
			w.mu.Lock()
			clear(w.provKeys)
			w.mu.Unlock()
		}
		return 0
	})
	d.bootUntil(t, "")
	d.checkBooted(t, w)
	if lost != 2 {
		t.Errorf("%d registrations", lost)
	}
}

// After a refusal the server does not decide whether it knows the device; the identity must be kept.
func TestUndecidedServerLosesNoIdentity(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.bootUntil(t, "registered") // the server knows it, the device has not stored that
	undecided := 0
	w.setAnswer(func(r *http.Request) int {
		if r.URL.Path == "/v7/device" && undecided < 3 {
			undecided++
			return http.StatusInternalServerError
		}
		return 0
	})
	d.bootUntil(t, "")
	d.checkBooted(t, w)
}

func TestTakenUUID(t *testing.T) {
	w := newWorld(t)
	first := newDevice(t, w)
	first.bootUntil(t, "")
	conf, err := identity.LoadConfig(first.config)
	if err != nil {
		t.Fatal(err)
	}

	t.Log("a given uuid is kept, and the device waits for somebody to decide")
	second := &device{dir: t.TempDir(), engine: enginetest.New()}
	second.config, second.key = w.config(second.dir, w.URL, map[string]any{"uuid": conf.UUID})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	a, err := agent.New(second.settings())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(ctx); err == nil || w.count() != 1 {
		t.Errorf("Run: %v, %d devices", err, w.count())
	}

	t.Log("the first device's key still works")
	first.bootUntil(t, "")

	t.Log("given another uuid it registers")
	text, err := os.ReadFile(second.config)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("e", 32)
	if err := os.WriteFile(second.config, bytes.ReplaceAll(text, []byte(conf.UUID), []byte(other)), 0o600); err != nil {
		t.Fatal(err)
	}
	second.bootUntil(t, "")
	if w.count() != 2 || !w.knows("eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee") {
		t.Errorf("%d devices", w.count())
	}
}

// A uuid that the device made itself and that is taken is thrown away, as long as the device was never registered.
func TestTakenUUIDOfOurOwnIsReplaced(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	var refused atomic.Bool
	w.setAnswer(func(r *http.Request) int {
		if r.URL.Path == "/device/register" && !refused.Swap(true) {
			return http.StatusConflict
		}
		return 0
	})
	d.bootUntil(t, "")
	d.checkBooted(t, w)
}

func TestRefusedKeyIsAskedAgain(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	w.mu.Lock()
	clear(w.provKeys)
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	a, err := agent.New(d.settings())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(ctx); err == nil {
		t.Error("registered without a valid key")
	}
	w.mu.Lock()
	w.provKeys[d.key] = true
	w.mu.Unlock()
	d.bootUntil(t, "")
	d.checkBooted(t, w)
}

func TestConfigForAnotherFleetIsRefused(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.bootUntil(t, "")
	d.config, d.key = w.config(d.dir, w.URL, map[string]any{"applicationId": 8})
	a, err := agent.New(d.settings())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Once(t.Context()); err == nil || !strings.Contains(err.Error(), "this device belongs to fleet 7") {
		t.Errorf("got %v", err)
	}
}

func TestUnfinishedConfigSaysWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	for _, missing := range []string{"apiKey", "applicationId", "deviceType"} {
		d := &device{dir: t.TempDir(), engine: enginetest.New()}
		d.config, _ = w.config(d.dir, w.URL, map[string]any{missing: nil})
		a, err := agent.New(d.settings())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Once(t.Context()); err == nil || !strings.Contains(err.Error(), missing+" is missing") {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

// What a thief of the disk finds: not a byte of the key in any block, in use or free, journal included.
func TestProvisioningKeyIsNotOnTheRawDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system")
	}
	for _, cut := range append([]string{""}, steps...) {
		t.Run("cut after "+cut, func(t *testing.T) {
			dir := t.TempDir()
			image, mount := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
			run := func(args ...string) {
				t.Helper()
				if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
					if args[0] == "mount" {
						t.Skipf("no loop devices here: %s", out)
					}
					t.Fatalf("%v: %v\n%s", args, err, out)
				}
			}
			run("truncate", "-s", "16M", image)
			run("mkfs.ext4", "-q", image)
			if err := os.Mkdir(mount, 0o700); err != nil {
				t.Fatal(err)
			}
			run("mount", "-o", "loop", image, mount)
			mounted := true
			t.Cleanup(func() {
				if mounted {
					_ = exec.Command("umount", "-l", mount).Run()
				}
			})
			w := newWorld(t)
			d := &device{dir: mount, engine: enginetest.New()}
			d.config, d.key = w.config(mount, w.URL, nil)
			run("sync", "-f", mount)
			if raw, err := os.ReadFile(image); err != nil || !bytes.Contains(raw, []byte(d.key)) {
				t.Fatalf("the test cannot see the key that is there: %v", err)
			}
			if cut != "" {
				d.bootUntil(t, cut)
			}
			d.bootUntil(t, "")
			d.checkBooted(t, w)
			run("umount", mount)
			mounted = false
			raw, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			if at := bytes.Index(raw, []byte(d.key)); at >= 0 {
				t.Errorf("the key is on the disk at byte %d", at)
			}
		})
	}
}

func TestTornStateFilesAreNoObstacle(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.bootUntil(t, "")
	state := filepath.Join(d.dir, "state")
	litter := filepath.Join(state, ".state.json.123.tmp")
	for name, text := range map[string]string{
		"empty": "", "half": `{"etag":"W/1","target":{"na`, "zeros": strings.Repeat("\x00", 512), "other": `[1,2]`, "no target": `{"target":null}`,
	} {
		if err := os.WriteFile(filepath.Join(state, "state.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(litter, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		d.bootUntil(t, "")
		var got struct{ ETag string }
		text, err := os.ReadFile(filepath.Join(state, "state.json"))
		if err != nil || json.Unmarshal(text, &got) != nil || got.ETag == "" {
			t.Errorf("%s: the state file is now %s, %v", name, text, err)
		}
		if _, err := os.Stat(litter); err == nil {
			t.Errorf("%s: the litter of an interrupted write is still there", name)
		}
	}
}

// A config.json that cannot be written keeps no device from working, and the key goes as soon as it can.
func TestKeyIsDestroyedWhenTheConfigBecomesWritable(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	var broken atomic.Bool
	broken.Store(true)
	c := d.settings()
	c.Step = func(step string) error {
		if step == "key overwritten" && broken.Load() {
			return errors.New("read-only file system")
		}
		return nil
	}
	a, err := agent.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() { cancel(); <-done }()
	roletest.Eventually(t, "it polls", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.states > 0
	})
	broken.Store(false)
	roletest.Eventually(t, "the key is gone", func() bool {
		conf, err := identity.LoadConfig(d.config)
		return err == nil && conf.APIKey == ""
	})
}
