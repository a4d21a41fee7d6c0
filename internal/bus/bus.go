// Package bus carries what happens now from one part of the server to others, and keeps the last of it in rings: bounded
// streams with one ring a key. It is NATS with JetStream inside the process; a cluster of servers can take its place later.
// What must never be lost is not here but in the database.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says where the bus keeps its rings.
type Config struct {
	Dir      string // created when missing; holds nothing but the bus
	MaxBytes int64  // all rings together; 0 means 8 GiB
	Log      *slog.Logger
}

// Bus is a running bus.
type Bus struct {
	srv  *server.Server
	conn *nats.Conn
	js   jetstream.JetStream
}

// Open starts a bus. It listens on no socket: the only way in is this process.
func Open(cfg Config) (*Bus, error) {
	if cfg.Dir == "" {
		return nil, errors.New("bus: no directory")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 8 << 30
	}
	srv, err := server.NewServer(&server.Options{
		ServerName:         "roadstead",
		DontListen:         true,
		NoSigs:             true,
		NoSystemAccount:    true,
		JetStream:          true,
		StoreDir:           dir,
		JetStreamMaxMemory: 16 << 20,
		JetStreamMaxStore:  cfg.MaxBytes,
		SyncInterval:       10 * time.Second, // a line is on the disk that long after it came; a killed process loses none
		MaxPayload:         1 << 20,
		MaxPending:         64 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	if cfg.Log != nil {
		srv.SetLoggerV2(logger{cfg.Log}, false, false, false)
	}
	b := &Bus{srv: srv}
	srv.Start()
	if !srv.ReadyForConnections(20 * time.Second) {
		return nil, errors.Join(errors.New("bus: did not start within 20 s"), b.Close())
	}
	b.conn, err = nats.Connect("", nats.InProcessServer(srv), nats.Name("roadstead"), nats.MaxReconnects(-1))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bus: %w", err), b.Close())
	}
	b.js, err = jetstream.New(b.conn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bus: %w", err), b.Close())
	}
	return b, nil
}

// Close stops the bus once what was handed to it is written.
func (b *Bus) Close() error {
	if b.conn != nil {
		_ = b.conn.FlushTimeout(2 * time.Second)
		b.conn.Close()
	}
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
	return nil
}

// Publish tells whoever listens now. A subject is a list of words joined by dots.
func (b *Bus) Publish(subject string, data []byte) error {
	if err := b.conn.Publish(subject, data); err != nil {
		return fmt.Errorf("bus: publish %s: %w", subject, err)
	}
	return nil
}

// Subscribe calls f, one message after the other, until stop is called. A subject may end in ">" for all that start so.
func (b *Bus) Subscribe(subject string, f func(subject string, data []byte)) (stop func(), err error) {
	sub, err := b.conn.Subscribe(subject, func(m *nats.Msg) { f(m.Subject, m.Data) })
	if err != nil {
		return nil, fmt.Errorf("bus: subscribe %s: %w", subject, err)
	}
	if err := b.conn.FlushTimeout(5 * time.Second); err != nil { // what is published from here on arrives
		return nil, errors.Join(fmt.Errorf("bus: subscribe %s: %w", subject, err), sub.Unsubscribe())
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

// Healthy says why the bus cannot be used, or nil.
func (b *Bus) Healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := b.conn.FlushWithContext(ctx); err != nil { // a round trip
		return fmt.Errorf("bus: %w", err)
	}
	return nil
}

// logger hands the embedded server's words to slog. Its notices are of no interest to an operator of ours.
type logger struct{ log *slog.Logger }

func (l logger) Noticef(string, ...any) {}
func (l logger) Debugf(string, ...any)  {}
func (l logger) Tracef(string, ...any)  {}
func (l logger) Warnf(format string, a ...any) {
	l.log.Warn("bus: " + fmt.Sprintf(format, a...))
}
func (l logger) Fatalf(format string, a ...any) {
	l.log.Error("bus: " + fmt.Sprintf(format, a...))
}
func (l logger) Errorf(format string, a ...any) {
	l.log.Error("bus: " + fmt.Sprintf(format, a...))
}
