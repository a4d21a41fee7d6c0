package main

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

// settings is what a login leaves behind, in the user's configuration directory, readable only by its owner.
type settings struct {
	URL   string `json:"url"`
	Token string `json:"token,omitempty"`
	CA    string `json:"ca,omitempty"` // PEM; the only roots to trust for this server
}

func settingsFile() string { return filepath.Join(xdg.ConfigHome, "roadstead", "config.json") }

func loadSettings() (*settings, error) {
	data, err := os.ReadFile(settingsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return &settings{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the saved login: %w", err)
	}
	var s settings
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read the saved login: %s: %w; remove the file and log in again", settingsFile(), err)
	}
	return &s, nil
}

func (s *settings) save() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(settingsFile()), 0o700); err != nil {
		return fmt.Errorf("save the login: %w", err)
	}
	if err := durable.WriteFile(settingsFile(), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("save the login: %w", err)
	}
	return nil
}
