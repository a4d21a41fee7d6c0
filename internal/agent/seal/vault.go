// Package seal keeps the secrets of a device from whoever reads its disk elsewhere. A random data key is sealed by the device's TPM 2.0, and
// each secret stands in the file where it always stands, encrypted under that key and bound to its place. What is no secret stays readable.
// A device without a vault keeps its secrets as they are, in files that only root reads.
package seal

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/durable"
	rest "github.com/roadstead-io/roadstead/internal/seal"
	"github.com/roadstead-io/roadstead/internal/sshhost"
)

// How the keys of a device are kept: the values of deviceKeyProtection in config.json. Without it they are kept as they are; those of a
// new device in files.
const (
	File         = "file"
	TPM          = "tpm"
	TPMIfPresent = "tpm-if-present"
)

// ErrLost says that secrets are sealed, and that what opens them is gone.
var ErrLost = errors.New("the sealed data key is lost")

// errForged says that a sealed text was not sealed for its place, or was changed since.
var errForged = errors.New("was changed, or belongs elsewhere")

// Place is where a secret stands. A sealed one opens in no other.
type Place struct{ file, field string }

// The places of all secrets with which somebody could be this device.
var (
	DeviceKey   = Place{"identity.json", "device_api_key"}
	LocalKey    = Place{"keys.json", "device"}
	FleetSecret = Place{"keys.json", "secret"}
	ChannelKey  = Place{"channel/identity.json", "key"}
	SSHHostKey  = Place{"ssh_host_ed25519_key", ""} // the whole file
	ConfigKey   = Place{"config.json", "deviceApiKey"}
)

// places are those in the state directory. config.json is its writer's to convert: it may lie on another disk, which cannot be written.
var places = []Place{DeviceKey, LocalKey, FleetSecret, ChannelKey, SSHHostKey}

func (p Place) String() string { return strings.TrimSuffix(p.file+" "+p.field, " ") }

// prefix begins a sealed text.
const prefix = "roadstead-sealed:1:"

// IsSealed reports whether a text is a sealed secret.
func IsSealed(text string) bool { return strings.HasPrefix(text, prefix) }

// Vault seals and opens secrets. A nil one leaves them as they are.
type Vault struct {
	rest rest.Key
	key  []byte
}

func newVault(key []byte) (*Vault, error) {
	k, err := rest.New(key)
	if err != nil {
		return nil, err
	}
	return &Vault{rest: k, key: key}, nil
}

// Sealed reports whether this device's secrets are sealed.
func (v *Vault) Sealed() bool { return v != nil }

// Protect is how a secret is to be written in its place.
func (v *Vault) Protect(p Place, secret string) string {
	if v == nil || secret == "" {
		return secret
	}
	return prefix + base64.RawStdEncoding.EncodeToString(v.rest.Seal([]byte(secret), p.String()))
}

// Reveal is the secret that is written in its place. One that is not sealed is taken as it is.
func (v *Vault) Reveal(p Place, text string) (string, error) {
	coded, ok := strings.CutPrefix(strings.TrimSpace(text), prefix)
	if !ok {
		return text, nil
	}
	if v == nil {
		return "", fmt.Errorf("%s: %w", p, ErrLost)
	}
	data, err := base64.RawStdEncoding.Strict().DecodeString(coded)
	if err == nil {
		data, err = v.rest.Open(data, p.String())
	}
	if err != nil {
		return "", fmt.Errorf("%s %w", p, errForged)
	}
	return string(data), nil
}

// Keep is the vault for the SSH host key.
func (v *Vault) Keep(p Place) sshhost.Keep {
	return sshhost.Keep{
		Protect: func(text string) string { return v.Protect(p, text) },
		Reveal:  func(text string) (string, error) { return v.Reveal(p, text) },
	}
}

// Config says which secrets are kept how.
type Config struct {
	StateDir   string
	ConfigPath string
	ConfigKey  string // deviceApiKey as it stands in config.json
	Wanted     string // File, TPM, TPMIfPresent, or empty: as it is
	PCRs       []uint // registers to bind the keys to
	Device     string // of the TPM; empty means the system's own
	Step       func(string) error
	Log        *slog.Logger
}

// Open gives the vault of a device, nil for one whose secrets are in plain files, having brought every secret in the state directory into
// the form that is wanted. Each step is on the disk before the next one, and nothing plain is overwritten before it was proven that what is
// sealed opens. On an error nothing of the device's is lost: it may be called again.
func Open(cfg Config) (*Vault, error) {
	if cfg.Step == nil {
		cfg.Step = func(string) error { return nil }
	}
	for _, path := range append([]string{cfg.ConfigPath, cfg.path(KeyFile)}, cfg.files()...) {
		if err := durable.SweepSecret(path); err != nil {
			cfg.Log.Warn("what a loss of power left could not be destroyed yet", "error", err)
		}
	}
	kept, err := readKeyFile(cfg.path(KeyFile))
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return nil, err
	}
	used := cfg.firstSealed()
	if missing {
		switch {
		case used != "":
			return nil, fmt.Errorf("%w: %s is sealed, but there is no %s to open it with", ErrLost, used, cfg.path(KeyFile))
		case cfg.Wanted == "" || cfg.Wanted == File:
			return nil, nil //nolint:nilnil // a nil vault is one
		case cfg.Wanted == TPMIfPresent && !Present(cfg.Device):
			cfg.Log.Info("this device has no TPM 2.0: its keys are kept in files that only root reads")
			return nil, nil //nolint:nilnil // a nil vault is one
		}
		return cfg.begin()
	}
	v, err := cfg.unseal(kept)
	if err != nil {
		if used == "" && cfg.Wanted != "" && cfg.Wanted != File { // made by a start that was cut off, and never used
			cfg.Log.Warn("the data key of an earlier start cannot be opened; nothing is sealed with it, so another is made", "error", err)
			return cfg.begin()
		}
		return nil, err
	}
	if cfg.Wanted == File {
		return nil, cfg.end(v)
	}
	if cfg.Wanted != "" && !slices.Equal(kept.PCRs, slices.Sorted(slices.Values(cfg.PCRs))) {
		if err := cfg.keep(v); err != nil {
			return nil, err
		}
		cfg.Log.Info("the device's keys are bound to other registers now", "before", kept.PCRs, "now", cfg.PCRs)
	}
	return v, cfg.finish(v)
}

// finish seals what is not yet, and looks whether the device can be itself with it.
func (c Config) finish(v *Vault) error {
	if err := c.convert(v.seal); err != nil {
		return err
	}
	h, err := c.read(DeviceKey)
	switch {
	case err != nil: // whoever reads it says what is wrong with it
		return nil
	case h == nil:
		_, err = v.Reveal(ConfigKey, c.ConfigKey)
	default:
		_, err = v.Reveal(DeviceKey, h.get(DeviceKey))
	}
	return err
}

func (c Config) path(file string) string { return filepath.Join(c.StateDir, filepath.FromSlash(file)) }

// begin makes a data key and seals everything with it.
func (c Config) begin() (*Vault, error) {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails, see crypto/rand
	v, err := newVault(key)
	if err != nil {
		return nil, err
	}
	if err := c.keep(v); err != nil {
		return nil, err
	}
	if err := c.finish(v); err != nil {
		return nil, err
	}
	c.Log.Info("the device's keys are sealed in its TPM")
	return v, nil
}

// keep has the TPM seal the data key, and proves that what is on the disk opens.
func (c Config) keep(v *Vault) error {
	s, err := c.withTPM(func(t *chipped) (sealed, error) { return t.seal(v.key, c.PCRs) })
	if err != nil {
		return err
	}
	if err := writeKeyFile(c.path(KeyFile), s); err != nil {
		return err
	}
	if err := c.Step("data key sealed"); err != nil {
		return err
	}
	if s, err = readKeyFile(c.path(KeyFile)); err != nil {
		return err
	}
	again, err := c.unseal(s)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(again.key, v.key) != 1 {
		return errors.New("TPM: it opens another key than it sealed")
	}
	return c.Step("data key proven")
}

func (c Config) withTPM(f func(*chipped) (sealed, error)) (s sealed, err error) {
	t, err := open(c.Device)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	return f(t)
}

func (c Config) unseal(s sealed) (*Vault, error) {
	var key []byte
	_, err := c.withTPM(func(t *chipped) (_ sealed, err error) {
		key, err = t.unseal(s)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.path(KeyFile), err)
	}
	return newVault(key)
}

// end writes every secret in plain again and destroys the data key.
func (c Config) end(v *Vault) error {
	if err := c.convert(v.Reveal); err != nil {
		return err
	}
	if err := durable.Shred(c.path(KeyFile)); err != nil {
		return err
	}
	if err := durable.Remove(c.path(KeyFile)); err != nil {
		return err
	}
	c.Log.Warn("the device's keys are in plain files again, as config.json says")
	return c.Step("data key destroyed")
}

// seal is [Vault.Protect] of what is not sealed yet.
func (v *Vault) seal(p Place, text string) (string, error) {
	if IsSealed(text) {
		return text, nil
	}
	sealed := v.Protect(p, text)
	if again, err := v.Reveal(p, sealed); err != nil || again != text {
		return "", fmt.Errorf("%s: it does not open after being sealed: %w", p, err)
	}
	return sealed, nil
}

// Advice says what somebody can do about an error of [Open].
func Advice(err error) string {
	switch {
	case errors.Is(err, ErrAbsent):
		return "switch the TPM on in the firmware's settings, or load its driver"
	case errors.Is(err, ErrOther):
		return "put the disk back into its own device; if the TPM was cleared, the keys are gone: provision the device anew"
	case errors.Is(err, ErrChanged):
		return "start with the firmware and settings of before; if that cannot be, provision the device anew"
	case errors.Is(err, ErrLost):
		return "bring the file back from a backup; without it the keys are gone: provision the device anew"
	}
	return "see whether other programs use the TPM; it will be tried again"
}
