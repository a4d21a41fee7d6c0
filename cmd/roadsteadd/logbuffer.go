package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// How long and how much of a role's log waits to be written together. A line that somebody should see at once does not wait.
const (
	logDelay = 100 * time.Millisecond
	logBytes = 16 << 10 // a pipe takes it in one piece or waits
)

// buffered gathers lines of a log: one write, and one of the parent that passes it on, for many requests. What comes is whole
// lines. Should the process be killed, the lines of its last moment are gone.
type buffered struct {
	to io.Writer

	mu    sync.Mutex // covers what follows
	lines bytes.Buffer
	timer *time.Timer // runs while lines wait
}

func newBuffered(to io.Writer) *buffered {
	b := &buffered{to: to}
	b.timer = time.AfterFunc(time.Hour, b.flush)
	b.timer.Stop()
	return b
}

// Write implements io.Writer.
func (b *buffered) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lines.Len() == 0 {
		b.timer.Reset(logDelay)
	}
	b.lines.Write(line)
	if b.lines.Len() >= logBytes {
		b.write()
	}
	return len(line), nil
}

func (b *buffered) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.write()
}

// write needs the lock.
func (b *buffered) write() {
	_, _ = b.to.Write(b.lines.Bytes()) // a log that cannot be written is no reason to stop a role
	b.lines.Reset()
}

// urgent writes out what waits as soon as something worse than usual was logged.
type urgent struct {
	slog.Handler
	buffer *buffered
}

// Handle implements slog.Handler.
func (u urgent) Handle(ctx context.Context, r slog.Record) error {
	err := u.Handler.Handle(ctx, r)
	if r.Level > slog.LevelInfo {
		u.buffer.flush()
	}
	return err
}

// WithAttrs implements slog.Handler.
func (u urgent) WithAttrs(attrs []slog.Attr) slog.Handler {
	return urgent{u.Handler.WithAttrs(attrs), u.buffer}
}

// WithGroup implements slog.Handler.
func (u urgent) WithGroup(name string) slog.Handler {
	return urgent{u.Handler.WithGroup(name), u.buffer}
}
