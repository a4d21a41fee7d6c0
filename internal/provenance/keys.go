package provenance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/roadstead-io/roadstead/api"
)

// KeysFile holds, in the api role's directory, the public keys that statements are signed with.
const KeysFile = "statement.pub.json"

// LoadKeys reads the public keys of a directory; without the file there are none.
func LoadKeys(dir string) ([]api.StatementKey, error) {
	data, err := os.ReadFile(filepath.Join(dir, KeysFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("statement keys: %w", err)
	}
	return ParseKeys(data)
}

// ParseKeys reads a list of public keys, as the server tells it to everybody.
func ParseKeys(data []byte) ([]api.StatementKey, error) {
	var keys []api.StatementKey
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, fmt.Errorf("statement keys: %w", err)
	}
	for _, k := range keys {
		if _, err := ParseKey(k); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// With adds a key to a list, unless it is in it.
func With(keys []api.StatementKey, key api.StatementKey) []api.StatementKey {
	if slices.Contains(keys, key) {
		return keys
	}
	return append(keys, key)
}
