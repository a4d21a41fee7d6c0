package agent

import (
	"context"
	"errors"
	"time"

	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/agent/seal"
)

// openVault waits until the device's keys can be opened, in the form that config.json wants. Until then the device is nobody: it asks the
// server nothing, makes no new keys, and leaves alone what runs, which the engine keeps running.
func (a *Agent) openVault(ctx context.Context, patient bool) (err error) {
	retry := a.cfg.Timing.Unseal
	if retry.Max == 0 {
		retry = remote.Backoff{Min: 5 * time.Second, Max: 5 * time.Minute}
	}
	for {
		a.vault, err = seal.Open(seal.Config{
			StateDir: a.cfg.StateDir, ConfigPath: a.cfg.ConfigPath, ConfigKey: a.conf.DeviceAPIKey,
			Wanted: a.conf.DeviceKeyProtection, PCRs: a.conf.DeviceKeyPCRs, Device: a.cfg.TPM, Step: a.cfg.Step, Log: a.log,
		})
		if err == nil || !patient || ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		wait := retry.Next()
		a.log.Error("THE KEYS OF THIS DEVICE CANNOT BE OPENED: it does not talk to the server; what runs keeps running",
			"error", err, "advice", seal.Advice(err), "again_in", wait.Round(time.Second))
		if err := remote.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// told is the key that services may be told. A sealed one stays in this program: the engine keeps a container's environment on the disk.
func (a *Agent) told() string {
	if a.vault.Sealed() {
		return ""
	}
	return a.who.Key
}
