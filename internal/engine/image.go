package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// Auth is what the engine shows the registry's token service. The engine does the exchange itself.
type Auth struct {
	Username string
	Password string
}

// Images lists the references by digest ("host/name@sha256:…") of every image on the engine, also those that others pulled. What was pulled through
// the agent stands there by its real name.
func (c *Client) Images(ctx context.Context) ([]string, error) {
	list, err := c.docker.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []string
	for _, image := range list.Items {
		for _, ref := range image.RepoDigests {
			out = append(out, CanonicalRef(c.gate, ref))
		}
	}
	return out, nil
}

// Pull downloads an image by digest; the engine checks that what arrives has that digest. Progress is called with per cent
// that only grow. A pull that was interrupted goes on with the layers that are not there yet.
func (c *Client) Pull(ctx context.Context, ref string, auth Auth, progress func(percent int)) error {
	encoded, err := authconfig.Encode(registry.AuthConfig{Username: auth.Username, Password: auth.Password})
	if err != nil {
		return fmt.Errorf("pull %s: %w", ref, err)
	}
	stream, err := c.docker.ImagePull(ctx, ref, client.ImagePullOptions{RegistryAuth: encoded})
	if err != nil {
		return fmt.Errorf("pull %s: %w", ref, err)
	}
	var meter Meter
	for m, err := range stream.JSONMessages(ctx) {
		if err == nil && m.Error != nil {
			err = m.Error
		}
		if err != nil {
			return fmt.Errorf("pull %s: %w", ref, err)
		}
		if percent, grew := meter.Add(m); grew && progress != nil {
			progress(percent)
		}
	}
	return nil
}

// RemoveImage gives up one reference by digest; the engine keeps the image as long as others name it. A reference that does
// not exist is fine, one that a container uses is an error.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	names, err := c.names(ctx, ref)
	if err != nil {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	for _, name := range names {
		_, err := c.docker.ImageRemove(ctx, name, client.ImageRemoveOptions{PruneChildren: true})
		if err != nil && !cerrdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %s: %w", ref, err)
		}
	}
	return nil
}

// Meter makes one figure out of the many messages of a pull: each layer counts the same, its download for the first half and
// its unpacking for the second.
type Meter struct {
	layers map[string]float64
	shown  int
}

// Add takes one message. It answers the per cent so far and whether they grew.
func (m *Meter) Add(msg jsonstream.Message) (percent int, grew bool) {
	if m.layers == nil {
		m.layers = map[string]float64{}
	}
	part := func() float64 {
		if msg.Progress == nil || msg.Progress.Total <= 0 {
			return 0
		}
		return min(1, float64(msg.Progress.Current)/float64(msg.Progress.Total))
	}
	switch msg.Status {
	case "Pulling fs layer", "Waiting":
		m.set(msg.ID, 0)
	case "Downloading":
		m.set(msg.ID, part()/2)
	case "Verifying Checksum", "Download complete":
		m.set(msg.ID, 0.5)
	case "Extracting":
		m.set(msg.ID, 0.5+part()/2)
	case "Pull complete", "Already exists":
		m.set(msg.ID, 1)
	default:
		return m.shown, false
	}
	sum := 0.0
	for _, done := range m.layers {
		sum += done
	}
	if now := int(100 * sum / float64(len(m.layers))); now > m.shown {
		m.shown = now
		return now, true
	}
	return m.shown, false
}

func (m *Meter) set(layer string, done float64) {
	m.layers[layer] = max(m.layers[layer], done)
}

// DefaultCertsDir is where Docker looks for the certificates of registries; balenaEngine looks in /etc/balena-engine/certs.d.
const DefaultCertsDir = "/etc/docker/certs.d"

// Trust makes the engine accept certificates of the given root for one registry ("host" or "host:port") and its token service.
// The engine reads the file at every pull. An unchanged file is not written again.
func Trust(certsDir, registryHost string, root []byte) error {
	if registryHost == "" || strings.ContainsAny(registryHost, "/\\\x00") || strings.HasPrefix(registryHost, ".") {
		return fmt.Errorf("%q is not the name of a registry", registryHost)
	}
	path := filepath.Join(certsDir, registryHost, "ca.crt")
	if old, err := os.ReadFile(path); err == nil && string(old) == string(root) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("trust %s: %w", registryHost, err)
	}
	return durable.WriteFile(path, root, 0o644)
}
