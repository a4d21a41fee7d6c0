package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/engine"
)

const (
	maxBuffered = 256 << 10
	maxMessage  = 10000
)

// forwarder sends what containers write, and what the agent has to say about them, to the server. When it cannot, a bounded
// buffer fills, and then lines are counted and dropped.
type forwarder struct {
	a    *Agent
	more chan struct{}

	mu        sync.Mutex // covers what follows
	buffer    []byte     // whole lines of NDJSON
	dropped   int
	following map[string]bool      // container → somebody reads its log
	positions map[string]time.Time // container → time of the last line read
	moved     bool                 // positions have changed since they were saved
	start     func(c engine.Container)
}

func newForwarder(a *Agent) *forwarder {
	return &forwarder{
		a: a, more: make(chan struct{}, 1), following: map[string]bool{}, positions: map[string]time.Time{},
	}
}

// system adds a line of the agent's own.
func (f *forwarder) system(message string) {
	f.add(api.LogLine{Message: message, Timestamp: time.Now().UnixMilli(), IsSystem: true})
}

func (f *forwarder) add(line api.LogLine) {
	if len(line.Message) > maxMessage {
		line.Message = line.Message[:maxMessage-5] + "[...]"
	}
	text, err := json.Marshal(line)
	if err != nil {
		return // a line always marshals
	}
	f.mu.Lock()
	if len(f.buffer)+len(text) > maxBuffered {
		f.dropped++
	} else {
		f.buffer = append(append(f.buffer, text...), '\n')
	}
	f.mu.Unlock()
	poke(f.more)
}

// take empties the buffer.
func (f *forwarder) take() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.buffer
	f.buffer = nil
	if f.dropped > 0 {
		text, _ := json.Marshal(api.LogLine{ // it always marshals
			Message:   fmt.Sprintf("Warning: Suppressed %d message(s) due to high load", f.dropped),
			Timestamp: time.Now().UnixMilli(), IsSystem: true,
		})
		out = append(append(out, text...), '\n')
		f.dropped = 0
	}
	return out
}

// putBack returns what could not be sent, before what came meanwhile. Without room for it, its lines count as dropped.
func (f *forwarder) putBack(batch []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(batch)+len(f.buffer) > maxBuffered+maxMessage {
		f.dropped += bytes.Count(batch, []byte("\n"))
		return
	}
	f.buffer = append(batch, f.buffer...)
}

// Run sends until the context ends; then the server has a moment to take what is on its way.
func (f *forwarder) Run(ctx context.Context) error {
	f.load()
	var readers sync.WaitGroup
	defer readers.Wait()
	f.mu.Lock()
	f.start = func(c engine.Container) { readers.Go(func() { f.read(ctx, c) }) }
	f.mu.Unlock()
	poke(f.a.seen) // what runs already
	defer func() {
		f.mu.Lock()
		f.start = nil
		f.mu.Unlock()
	}()
	retry := remote.Backoff{Min: f.a.cfg.Timing.LogRetry}
	for {
		select {
		case <-ctx.Done():
			f.save()
			return nil
		case <-f.more:
		}
		if setting(f.a.wanted(), "SUPERVISOR_LOG_CONTROL") == "false" {
			f.take()
			continue
		}
		err := f.stream(ctx)
		if ctx.Err() != nil {
			f.save()
			return nil
		}
		if err == nil {
			retry.Reset()
			continue
		}
		retry.Max = min(max(f.a.interval(), 10*time.Second), 5*time.Minute)
		wait := remote.Wait(retry.Next(), err)
		f.a.log.Warn("could not send logs", "error", err, "again_in", wait.Round(time.Millisecond))
		if remote.Sleep(ctx, wait) != nil {
			f.save()
			return nil
		}
		poke(f.more)
	}
}

// stream keeps one request open as long as there are lines.
func (f *forwarder) stream(ctx context.Context) error {
	body, pipe := io.Pipe()
	zip, err := gzip.NewWriterLevel(pipe, gzip.BestSpeed)
	if err != nil {
		return err
	}
	requestCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	answer := make(chan error, 1)
	go func() {
		err := f.a.server.LogStream(requestCtx, f.a.who.UUID, f.a.who.Key, body)
		_ = body.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // whoever still writes must not hang
		answer <- err
		close(answer) // so that waiting for its end works also after the answer was read
	}()
	if early := f.write(ctx, zip, answer); early != nil {
		cancel()
		_ = pipe.CloseWithError(early)
		<-answer //nolint:errcheck // the early one is what went wrong
		return early
	}
	err = zip.Close()
	_ = pipe.CloseWithError(err) // nil means a clean end
	patience := time.NewTimer(5 * time.Second)
	defer patience.Stop()
	select {
	case err = <-answer:
		return err
	case <-patience.C:
		cancel()
		return errors.Join(errors.New("send logs: the server does not answer"), <-answer)
	}
}

// write sends lines until there are none for a while or the context ends. An answer of the server meanwhile is an error.
func (f *forwarder) write(ctx context.Context, zip *gzip.Writer, answer <-chan error) error {
	idle := time.NewTimer(f.a.cfg.Timing.LogIdle)
	defer idle.Stop()
	for {
		if batch := f.take(); len(batch) > 0 {
			_, err := zip.Write(batch)
			if err == nil {
				err = zip.Flush()
			}
			if err != nil {
				f.putBack(batch)
				return err
			}
			f.save()
			idle.Reset(f.a.cfg.Timing.LogIdle)
		}
		if remote.Sleep(ctx, f.a.cfg.Timing.LogFlush) != nil {
			return nil
		}
		select {
		case <-f.more:
		case <-idle.C:
			return nil
		case err := <-answer:
			if err == nil {
				err = errors.New("send logs: the server ended the stream")
			}
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// follow reads the logs of those containers that nobody reads yet.
func (f *forwarder) follow(list []engine.Container) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := map[string]bool{}
	for _, c := range list {
		known[c.ID] = true
		if c.State == "running" && f.start != nil && !f.following[c.ID] {
			f.following[c.ID] = true
			f.start(c)
		}
	}
	maps.DeleteFunc(f.positions, func(id string, _ time.Time) bool { return !known[id] && !f.following[id] })
}

// read follows one container's log until it ends.
func (f *forwarder) read(ctx context.Context, c engine.Container) {
	var service *int64
	if id, err := strconv.ParseInt(c.Labels[composition.LabelServiceID], 10, 64); err == nil {
		service = &id
	}
	f.mu.Lock()
	since := f.positions[c.ID]
	f.mu.Unlock()
	err := f.a.cfg.Engine.Logs(ctx, c.ID, since, func(l engine.Line) {
		at := l.Time
		if at.IsZero() {
			at = time.Now()
		} else {
			f.mu.Lock()
			f.positions[c.ID], f.moved = at, true
			f.mu.Unlock()
		}
		f.add(api.LogLine{Message: l.Text, Timestamp: at.UnixMilli(), IsStdErr: l.Stderr, ServiceID: service})
	})
	wait := 200 * time.Millisecond
	if err != nil && ctx.Err() == nil {
		f.a.log.Warn("could not read a log", "container", c.Name, "error", err)
		wait = 2 * time.Second
	}
	_ = remote.Sleep(ctx, wait) // the container may end and start all the time; this must not go as fast
	f.mu.Lock()
	delete(f.following, c.ID)
	f.mu.Unlock()
	poke(f.a.seen) // it may have started again meanwhile
}

func (f *forwarder) path() string { return filepath.Join(f.a.cfg.RunDir, "log-positions.json") }

// load reads the positions. Their file is in memory on a real device, so it may be written often; after a reboot the
// containers have started anew, and a log is read from there.
func (f *forwarder) load() {
	text, err := os.ReadFile(f.path())
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if json.Unmarshal(text, &f.positions) != nil || f.positions == nil {
		f.positions = map[string]time.Time{}
	}
}

func (f *forwarder) save() {
	f.mu.Lock()
	text, err := json.Marshal(f.positions)
	moved := f.moved
	f.moved = false
	f.mu.Unlock()
	if err != nil || !moved {
		return
	}
	if os.WriteFile(f.path()+".new", text, 0o600) == nil {
		_ = os.Rename(f.path()+".new", f.path()) // a lost position costs a few lines twice
	}
}
