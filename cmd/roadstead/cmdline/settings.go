package cmdline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/adrg/xdg"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// Settings is what a login leaves behind, in the user's configuration directory, readable only by its owner.
type Settings struct {
	URL   string `json:"url"`
	Token string `json:"token,omitempty"`
	CA    string `json:"ca,omitempty"` // PEM; the only roots to trust for this server
}

func SettingsFile() string { return filepath.Join(xdg.ConfigHome, "roadstead", "config.json") }

func LoadSettings() (*Settings, error) {
	data, err := os.ReadFile(SettingsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return &Settings{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the saved login: %w", err)
	}
	var s Settings
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read the saved login: %s: %w; remove the file and log in again", SettingsFile(), err)
	}
	return &s, nil
}

// Save writes it down.
func (s *Settings) Save() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(SettingsFile()), 0o700); err != nil {
		return fmt.Errorf("save the login: %w", err)
	}
	if err := durable.WriteFile(SettingsFile(), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("save the login: %w", err)
	}
	return nil
}
