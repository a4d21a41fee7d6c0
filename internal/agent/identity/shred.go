package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// The names of keys that may have to be destroyed.
const (
	provisioningKey = "apiKey"
	deviceKey       = "deviceApiKey"
)

// DestroyProvisioningKey takes the provisioning key out of config.json and off the disk. First the key's own bytes are
// overwritten in place and synced: the file stays valid, and no block of the disk, not even one that a rewrite is about to
// free, holds the key any more. Only then the file is replaced by one without it, which carries the device's identity
// instead. If that has a sealed device key, one in plain is destroyed in the same way. The step function is called after each of the two; see [Provisioner].
func DestroyProvisioningKey(path string, who Identity, step func(string) error) error {
	names := []string{provisioningKey}
	if seal.IsSealed(who.Key) {
		names = append(names, deviceKey)
	}
	if err := overwriteKeys(path, names); err != nil {
		return fmt.Errorf("destroy the provisioning key: %w", err)
	}
	if err := step("key overwritten"); err != nil {
		return err
	}
	c, err := LoadConfig(path)
	if err != nil {
		return fmt.Errorf("destroy the provisioning key: %w", err)
	}
	delete(c.all, provisioningKey)
	for name, val := range map[string]any{
		"uuid": who.UUID, "deviceApiKey": who.Key, "deviceId": who.ID, "registered_at": who.RegisteredAt,
	} {
		if c.all[name], err = json.Marshal(val); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(c.all, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteSecret(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("destroy the provisioning key: %w", err)
	}
	return step("config rewritten")
}

// overwriteKeys puts zeros over keys wherever the file has them, in place. What is sealed already stays.
func overwriteKeys(path string, names []string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return err
	}
	spans, err := keySpans(content, names)
	if err != nil {
		return err
	}
	for _, s := range spans {
		if _, err := f.WriteAt(bytes.Repeat([]byte("0"), s[1]-s[0]), int64(s[0])); err != nil {
			return err
		}
	}
	return f.Sync()
}

// keySpans finds where the texts of keys stand, between their quotes. A key may be there twice.
func keySpans(content []byte, names []string) ([][2]int, error) {
	d := json.NewDecoder(bytes.NewReader(content))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errors.New("is not a JSON object"), err)
	}
	var spans [][2]int
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var val json.RawMessage
		if err := d.Decode(&val); err != nil {
			return nil, err
		}
		word, _ := name.(string)
		if end := int(d.InputOffset()); slices.Contains(names, word) && len(val) > 2 && val[0] == '"' && !seal.IsSealed(string(val[1:])) {
			spans = append(spans, [2]int{end - len(val) + 1, end - 1})
		}
	}
	return spans, nil
}
