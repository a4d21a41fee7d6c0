// Package devicelog is the logs of devices: what they send, bounded in every way, and who may read and follow it. The lines are in a
// ring of the bus; the package reads the tables of devices, and writes none.
package devicelog

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/db"
)

// What a device's log is bounded to.
const (
	Lines = 1000
	Age   = 30 * 24 * time.Hour
)

// Config says what the logs work with.
type Config struct {
	DB  *db.DB
	Bus *bus.Bus
	// Again says who somebody is now who was let in before, or api.ErrUnauthorized.
	Again func(ctx context.Context, tx *db.Tx, by access.Caller) (access.Caller, error)
	// Rate is how many lines a second a device may log for long, Burst how many at once; 0 means 500 and 5,000.
	Rate, Burst int
	// Quiet is how long somebody who follows a log hears nothing before an empty line says that the stream still lives; 0 means
	// 58 seconds.
	Quiet time.Duration
	// OfUser and OfDevice bound the logs that one person follows at a time and the people who follow that of one device, in this
	// process; 0 means 20 and 50.
	OfUser, OfDevice int
}

// Logs are the logs of all devices, and the streams of them that are open.
type Logs struct {
	cfg     Config
	ring    *bus.Ring
	streams *streams
	limits  *limits
}

// New opens the ring. It starts nothing; whoever has it calls CheckOnce every second.
func New(ctx context.Context, cfg Config) (*Logs, error) {
	for _, d := range []struct {
		of       *int
		normally int
	}{{&cfg.Rate, 500}, {&cfg.Burst, 5000}, {&cfg.OfUser, 20}, {&cfg.OfDevice, 50}} {
		if *d.of <= 0 {
			*d.of = d.normally
		}
	}
	if cfg.Quiet <= 0 {
		cfg.Quiet = 58 * time.Second
	}
	ring, err := cfg.Bus.Ring(ctx, bus.RingConfig{Name: "logs", PerKey: Lines, MaxAge: Age})
	if err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	return &Logs{cfg: cfg, ring: ring, streams: newStreams(), limits: newLimits()}, nil
}

// Drop removes the log of a device.
func (l *Logs) Drop(ctx context.Context, uuid api.DeviceUUID) error {
	if err := l.ring.Drop(ctx, string(uuid)); err != nil {
		return fmt.Errorf("log of %s: %w", uuid, err)
	}
	return nil
}

// cut shortens a text to at most n bytes without breaking a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
