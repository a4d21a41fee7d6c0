package agent

import (
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// API is the device API, for tests to listen with.
func (a *Agent) API() *deviceapi.Server { return a.api }

// Checks is what the device believes, for tests to ask.
func (a *Agent) Checks() *trust.Trust { return a.checks }

// Remember stores that images were pulled, for tests of the file that this is kept in.
func Remember(dir string) (change func(image string) error) {
	s := openStore(dir, durable.NewReserve(filepath.Join(dir, "reserve"), 1), slog.New(slog.DiscardHandler))
	return func(image string) error {
		return s.change(func(m *memory) {
			if !slices.Contains(m.Pulled, image) {
				m.Pulled = append(m.Pulled, image)
			}
		})
	}
}
