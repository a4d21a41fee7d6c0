// Package appkey has the keys of the device's own API: one that the server knows, and one for each fleet on the device, which reaches
// that fleet only. Those of the fleets are made from one secret, so that a fleet has the same key for as long as nobody renews it.
package appkey

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// Keys are the keys of one device.
type Keys struct {
	path  string
	vault *seal.Vault
	mu    sync.Mutex // covers what follows, and the order of writes
	kept  kept
}

// kept is the file.
type kept struct {
	Device  string         `json:"device"` // what the server knows
	Secret  string         `json:"secret"` // what the keys of the fleets are made from
	Renewed map[string]int `json:"renewed,omitempty"`
}

// Open reads the keys, or makes and stores them. The vault keeps them.
func Open(dir string, vault *seal.Vault) (*Keys, error) {
	k := &Keys{path: filepath.Join(dir, "keys.json"), vault: vault}
	text, err := os.ReadFile(k.path)
	if err == nil {
		err = json.Unmarshal(text, &k.kept)
	}
	if err == nil {
		if err := k.reveal(); err != nil {
			return nil, err
		}
	}
	if err == nil && len(k.kept.Device) >= 32 && len(k.kept.Secret) >= 32 {
		return k, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		var syntax *json.SyntaxError
		if !errors.As(err, &syntax) {
			return nil, fmt.Errorf("%s: %w", k.path, err)
		}
	}
	k.kept = kept{Device: random(), Secret: random()}
	return k, k.store(k.kept)
}

func (k *Keys) reveal() (err error) {
	if k.kept.Device, err = k.vault.Reveal(seal.LocalKey, k.kept.Device); err == nil {
		k.kept.Secret, err = k.vault.Reveal(seal.FleetSecret, k.kept.Secret)
	}
	return err
}

func random() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

func (k *Keys) store(next kept) error {
	next.Device, next.Secret = k.vault.Protect(seal.LocalKey, next.Device), k.vault.Protect(seal.FleetSecret, next.Secret)
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	return durable.WriteSecret(k.path, text, 0o600)
}

// Device is the key that reaches everything on the device; the server is told it.
func (k *Keys) Device() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept.Device
}

// Fleet is the key that reaches one fleet, by its uuid.
func (k *Keys) Fleet(uuid string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept.fleet(uuid)
}

func (k kept) fleet(uuid string) string {
	mac := hmac.New(sha256.New, []byte(k.Secret))
	fmt.Fprintf(mac, "%s/%d", uuid, k.Renewed[uuid])
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// Renew replaces the key of a fleet, or the device's own when the uuid is empty.
func (k *Keys) Renew(uuid string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.kept
	if uuid == "" {
		next.Device = random()
	} else {
		if next.Renewed = maps.Clone(next.Renewed); next.Renewed == nil {
			next.Renewed = map[string]int{}
		}
		next.Renewed[uuid]++
	}
	if err := k.store(next); err != nil {
		return "", err
	}
	k.kept = next
	if uuid == "" {
		return next.Device, nil
	}
	return next.fleet(uuid), nil
}

// Scope is what a key reaches.
type Scope struct {
	Device bool
	Fleet  string // uuid
}

// Check answers what a key reaches among the fleets that are on the device, and whether it is a key at all.
func (k *Keys) Check(key string, fleets []string) (Scope, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if equal(key, k.kept.Device) {
		return Scope{Device: true}, true
	}
	for _, uuid := range fleets {
		if equal(key, k.kept.fleet(uuid)) {
			return Scope{Fleet: uuid}, true
		}
	}
	return Scope{}, false
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
