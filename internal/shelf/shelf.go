// Package shelf reads and writes what is known of the server's base images, beside each image. It is one file, readable for every
// role: base images are no secret.
package shelf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// file is the name of what is known, in the directory of one base image.
const file = "about.json"

const maxFile = 1 << 20

// Read gives what is known of all base images in a directory, by name. A directory that does not exist holds none.
func Read(dir string) ([]api.BaseImage, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the base images: %w", err)
	}
	var list []api.BaseImage
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		b, err := One(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // imported before there was such a file
		}
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	return list, nil
}

// One gives what is known of the base image in a directory of its own.
func One(dir string) (api.BaseImage, error) {
	var b api.BaseImage
	f, err := os.Open(filepath.Join(dir, file))
	if err != nil {
		return b, err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxFile)).Decode(&b); err != nil {
		return b, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return b, nil
}

// Write replaces it.
func Write(dir string, b api.BaseImage) error {
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, file), append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write down what is known of %s: %w", b.Name, err)
	}
	return os.Chmod(filepath.Join(dir, file), 0o644) // whatever the umask
}
