package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/queue"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
)

// openQueue makes ready to do what waits at the server.
func (a *Agent) openQueue() error {
	boot, err := a.boot()
	if err != nil {
		return err
	}
	a.queue, err = queue.Open(queue.Config{
		File: filepath.Join(a.cfg.StateDir, "actions.json"), Boot: boot, Acts: a, Log: a.log, Commanded: a.commanded(), Write: a.room.WriteFile,
		Retry: remote.Backoff{Min: a.cfg.Timing.ReportRetry, Max: time.Hour},
		Exchange: func(ctx context.Context, said api.ActionExchange) (api.ActionsWaiting, error) {
			return a.server.Actions(ctx, a.who.Key, said)
		},
	})
	return err
}

// boot tells this start of the device from others: by the kernel's word, and by a file that a start leaves none of.
func (a *Agent) boot() (string, error) {
	kernel, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // the file is enough
	path := filepath.Join(a.cfg.RunDir, "boot")
	mark, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		mark = []byte(rand.Text())
		err = os.WriteFile(path, mark, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("mark of this start: %w", err)
	}
	return strings.TrimSpace(string(kernel)) + " " + strings.TrimSpace(string(mark)), nil
}
