package agent_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// A service has filled the disk. What would make room is done, although it must be remembered before.
func TestCommandsOnAFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small disk")
	}
	v, stop := begun(t, nil)
	stop()
	dir, kept := filepath.Join(v.dir, "state"), filepath.Join(v.dir, "kept")
	if err := os.Rename(dir, kept); err != nil {
		t.Fatal(err)
	}
	folder(t, dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", kept+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	stop = v.start()
	defer stop()
	v.runs("a")
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for chunk := bytes.Repeat([]byte("x"), 64<<10); len(chunk) > 0; {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for id, nonce := range map[int64]string{1: "0123456789abcdef", 2: "fedcba9876543210"} {
		v.w.queue(api.QueuedAction{ID: id, Verb: api.ActPurge, Fleet: 7, Expires: 600, Command: v.fleet.Command(api.TrustCommand{Device: v.uuid(), Verb: api.ActPurge, Nonce: nonce})})
		told := target(commitA, 1)
		told.Name = "another " + nonce
		v.w.setTarget(told) // a new tag: the device asks
		roletest.Eventually(t, "a result", func() bool { return v.w.became(id).State != "" })
		if got := v.w.became(id); got.State != api.ActionDone {
			t.Errorf("action %d: %s %q", id, got.State, got.Message)
		}
	}
	v.runs("a")
}
