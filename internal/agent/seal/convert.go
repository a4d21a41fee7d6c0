package seal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// files are the files with secrets in the state directory, each once.
func (c Config) files() []string {
	var out []string
	for _, p := range places {
		out = append(out, c.path(p.file))
	}
	return slices.Compact(out)
}

// holder is a file with secrets.
type holder struct {
	path   string
	whole  string
	fields map[string]json.RawMessage // nil: the file is one secret
}

// read gives nil for a file that is not there.
func (c Config) read(p Place) (*holder, error) {
	h := &holder{path: c.path(p.file)}
	text, err := os.ReadFile(h.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing is there
	}
	if err != nil {
		return nil, err
	}
	h.whole = string(text)
	if p.field != "" {
		if err := json.Unmarshal(text, &h.fields); err != nil {
			return nil, fmt.Errorf("%s: %w", h.path, err)
		}
	}
	return h, nil
}

func (h *holder) get(p Place) string {
	if p.field == "" {
		return h.whole
	}
	var text string
	_ = json.Unmarshal(h.fields[p.field], &text) // whoever reads the file says what is wrong with it
	return text
}

func (h *holder) set(p Place, text string) error {
	if p.field == "" {
		h.whole = text
		return nil
	}
	value, err := json.Marshal(text)
	if err != nil {
		return err
	}
	h.fields[p.field] = value
	all, err := json.MarshalIndent(h.fields, "", "  ")
	h.whole = string(all)
	return err
}

// convert brings every secret in the state directory into another form, file by file. A file that cannot be read as what it should be
// keeps nobody from the others: whoever uses it says so.
func (c Config) convert(to func(Place, string) (string, error)) error {
	var failed []error
	for i := 0; i < len(places); {
		next := i + 1
		for next < len(places) && places[next].file == places[i].file {
			next++
		}
		step := ""
		h, err := c.read(places[i])
		if err == nil && h != nil {
			step, err = h.convert(places[i:next], to)
		}
		if err != nil {
			c.Log.Error("a file with keys could not be converted", "error", err)
			failed = append(failed, err)
		}
		if step != "" {
			if err := c.Step(step); err != nil {
				return err
			}
		}
		i = next
	}
	if c.Wanted == File { // what opens the others must not go
		return errors.Join(failed...)
	}
	return nil
}

// convert writes the file once, with all of its secrets.
func (h *holder) convert(places []Place, to func(Place, string) (string, error)) (step string, err error) {
	changed := false
	for _, p := range places {
		before := h.get(p)
		after, err := to(p, before)
		if err != nil {
			return "", err
		}
		if after == before {
			continue
		}
		changed = true
		if err := h.set(p, after); err != nil {
			return "", err
		}
	}
	if !changed {
		return "", nil
	}
	if err := durable.WriteSecret(h.path, []byte(h.whole), 0o600); err != nil {
		return "", err
	}
	return places[0].file + " converted", nil
}

// firstSealed names a secret that is sealed, empty when none is.
func (c Config) firstSealed() string {
	for _, p := range places {
		if h, err := c.read(p); err == nil && h != nil && IsSealed(h.get(p)) {
			return c.path(p.file)
		}
	}
	if _, err := os.Stat(c.path(DeviceKey.file)); errors.Is(err, fs.ErrNotExist) && IsSealed(c.ConfigKey) {
		return c.ConfigPath // it counts only as long as the device has nothing else
	}
	return ""
}

// State says how the secrets in a state directory are kept, without opening any: for people.
func State(stateDir string) (text string, err error) {
	kept, err := readKeyFile(Config{StateDir: stateDir}.path(KeyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if used := (Config{StateDir: stateDir}).firstSealed(); used != "" {
			return "", fmt.Errorf("%w: %s is sealed", ErrLost, used)
		}
		return "in files that only root reads, not encrypted", nil
	case err != nil:
		return "", err
	}
	text = "sealed in the TPM"
	if len(kept.PCRs) > 0 {
		text = fmt.Sprintf("sealed in the TPM, bound to PCR %d", kept.PCRs)
	}
	for _, p := range places {
		if h, err := (Config{StateDir: stateDir}).read(p); err == nil && h != nil && h.get(p) != "" && !IsSealed(h.get(p)) {
			return "", fmt.Errorf("%s, but %s is not yet: start the agent, and see its log", text, h.path)
		}
	}
	return text, nil
}
