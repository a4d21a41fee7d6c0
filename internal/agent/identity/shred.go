package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// provisioningKey is the name of the key to destroy.
const provisioningKey = "apiKey"

// DestroyProvisioningKey takes the provisioning key out of config.json and off the disk. First the key's own bytes are
// overwritten in place and synced: the file stays valid, and no block of the disk, not even one that a rewrite is about to
// free, holds the key any more. Only then the file is replaced by one without it, which carries the device's identity
// instead. The step function is called after each of the two; see [Provisioner].
func DestroyProvisioningKey(path string, who Identity, step func(string) error) error {
	if err := overwriteKey(path); err != nil {
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
	if err := durable.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("destroy the provisioning key: %w", err)
	}
	return step("config rewritten")
}

// overwriteKey puts zeros over the key wherever the file has it, in place.
func overwriteKey(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return err
	}
	spans, err := keySpans(content)
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

// keySpans finds where the text of the provisioning key stands, between its quotes. A key may be there twice.
func keySpans(content []byte) ([][2]int, error) {
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
		if end := int(d.InputOffset()); name == provisioningKey && len(val) > 2 && val[0] == '"' {
			spans = append(spans, [2]int{end - len(val) + 1, end - 1})
		}
	}
	return spans, nil
}
