package compose

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"

	"go.yaml.in/yaml/v4"

	"github.com/roadstead-io/roadstead/api"
)

// contractFiles are where a project says what it is: its name, its version, what it needs.
var contractFiles = []string{"balena.yml", "balena.yaml"}

const maxContract = 64 << 10 // bytes of the file

// Contract reads a project's contract as JSON; nil when it has none. A version that is a number in YAML is taken as it stands.
func Contract(root *os.Root) (json.RawMessage, error) {
	for _, file := range contractFiles {
		f, err := root.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, api.Errorf(api.Invalid, "%s cannot be read: %v", file, err)
		}
		text, err := io.ReadAll(io.LimitReader(f, maxContract+1))
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, api.Errorf(api.Invalid, "%s cannot be read: %v", file, err)
		}
		if len(text) > maxContract {
			return nil, api.Errorf(api.TooLarge, "%s is larger than %d bytes", file, maxContract)
		}
		return parseContract(file, text)
	}
	return nil, nil
}

func parseContract(file string, text []byte) (json.RawMessage, error) {
	var doc map[string]any
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, api.Errorf(api.Invalid, "%s: %v", file, err)
	}
	if doc == nil {
		return nil, nil // an empty file says nothing
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "%s: %v", file, err) // a key that is no text, a number that is none
	}
	if len(data) > 4*maxContract {
		return nil, api.Errorf(api.TooLarge, "%s is larger than %d bytes when its references are unfolded", file, 4*maxContract)
	}
	return data, nil
}
