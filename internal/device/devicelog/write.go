package devicelog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	maxLine     = 64 << 10 // bytes of one line of a log stream; longer ones are skipped
	maxMessage  = 10_000   // bytes of a message; the rest is cut off
	maxBatch    = 256      // lines stored at once
	warnEvery   = time.Second
	maxPosted   = 10 // lines of one request that is no stream
	keepLimiter = 10_000
)

// Writer is an open log: what a device sends, for as long as it may.
type Writer struct {
	key  string
	ctx  context.Context // ends with the right to write, which the handler must hear of
	done func()
	w    writer
}

// Open opens a device's log for writing by the device itself. It must be closed.
func (l *Logs) Open(ctx context.Context, by access.Caller, uuid api.DeviceUUID) (*Writer, error) {
	dev, err := l.own(ctx, by, uuid)
	if err != nil {
		return nil, err
	}
	w := &Writer{key: string(uuid), w: writer{ring: l.ring, key: string(uuid), limit: l.limits.of(dev.id, l.cfg)}}
	if w.ctx, w.done, err = l.streams.begin(ctx, by, dev.id, l.cfg); err != nil {
		return nil, err
	}
	return w, nil
}

// Context ends when the right to write does. Whoever reads the body for Copy must then end that read.
func (w *Writer) Context() context.Context { return w.ctx }

// Close ends it.
func (w *Writer) Close() { w.done() }

// Copy takes lines as they come, one JSON object each, until the body ends; however it ends is fine, for devices hang up
// without a word. Lines that cannot be read are skipped. When the right to write ends, it fails with api.ErrUnauthorized.
func (w *Writer) Copy(body io.Reader) error {
	in := bufio.NewReaderSize(body, maxLine)
	for {
		line, readErr := in.ReadSlice('\n')
		if errors.Is(readErr, bufio.ErrBufferFull) {
			readErr = skipLine(in)
			line = nil
		}
		if w.ctx.Err() == nil {
			w.w.add(line)
		}
		if readErr != nil || w.ctx.Err() != nil || len(w.w.batch) >= maxBatch || !hasLine(in) {
			if err := w.w.flush(context.WithoutCancel(w.ctx), readErr != nil); err != nil {
				return fmt.Errorf("log of %s: %w", w.key, err)
			}
		}
		switch {
		case errors.Is(context.Cause(w.ctx), ErrRevoked):
			return api.ErrUnauthorized
		case readErr != nil || w.ctx.Err() != nil:
			return nil
		}
	}
}

// own finds the caller's own device; any other does not exist for it.
func (l *Logs) own(ctx context.Context, by access.Caller, uuid api.DeviceUUID) (dev located, err error) {
	if by.Kind != access.Device {
		return dev, api.Errorf(api.Forbidden, "only a device writes its log")
	}
	err = l.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		dev, err = locate(ctx, tx, by, uuid)
		return err
	})
	return dev, err
}

// skipLine reads on to the end of a line that is too long.
func skipLine(in *bufio.Reader) error {
	for {
		if _, err := in.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// hasLine reports whether a whole line is there without waiting.
func hasLine(in *bufio.Reader) bool {
	waiting, err := in.Peek(in.Buffered())
	return err == nil && bytes.IndexByte(waiting, '\n') >= 0
}

// writer collects lines of one device and stores them together.
type writer struct {
	ring       *bus.Ring
	key        string
	limit      *rate.Limiter
	batch      [][]byte
	suppressed int
	warned     time.Time
}

// sentLine is a line as a device sends it. Lines with a uuid are of devices behind the device, which there are none of.
type sentLine struct {
	Message   *string         `json:"message"`
	Timestamp float64         `json:"timestamp"`
	IsSystem  bool            `json:"isSystem"`
	IsStdErr  bool            `json:"isStdErr"`
	ServiceID *int64          `json:"serviceId"`
	UUID      json.RawMessage `json:"uuid"`
}

func (w *writer) add(raw []byte) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return
	}
	var s sentLine
	if json.Unmarshal(raw, &s) != nil {
		return
	}
	w.addLine(s)
}

func (w *writer) addLine(s sentLine) {
	if s.Message == nil || s.UUID != nil {
		return
	}
	if !w.limit.Allow() {
		w.suppressed++
		return
	}
	line := api.LogLine{Message: cut(*s.Message, maxMessage), IsSystem: s.IsSystem, IsStdErr: s.IsStdErr, ServiceID: s.ServiceID}
	line.Timestamp = time.Now().UnixMilli()
	if s.Timestamp > 0 && s.Timestamp < math.MaxInt64/2 {
		line.Timestamp = int64(s.Timestamp)
	}
	w.put(line)
}

func (w *writer) put(line api.LogLine) {
	if data, err := json.Marshal(line); err == nil {
		w.batch = append(w.batch, data)
	}
}

// flush stores what was collected. That lines were left out is said in the log itself, once a second and at the end.
func (w *writer) flush(ctx context.Context, end bool) error {
	if now := time.Now(); w.suppressed > 0 && (end || now.Sub(w.warned) >= warnEvery) {
		w.put(warning(w.suppressed, "rate limiting"))
		w.suppressed, w.warned = 0, now
	}
	if len(w.batch) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := w.ring.Append(ctx, w.key, w.batch...)
	w.batch = w.batch[:0]
	return err
}

// warning is the line that stands for lines left out. Clients know the text.
func warning(n int, why string) api.LogLine {
	return api.LogLine{
		Message:   fmt.Sprintf("Warning: Suppressed %d message(s) due to %s", n, why),
		Timestamp: time.Now().UnixMilli(), IsSystem: true, IsStdErr: true,
	}
}

// Post takes a few lines at once, as a JSON array.
func (l *Logs) Post(ctx context.Context, by access.Caller, uuid api.DeviceUUID, body []byte) error {
	dev, err := l.own(ctx, by, uuid)
	if err != nil {
		return err
	}
	var lines []sentLine
	if err := json.Unmarshal(body, &lines); err != nil {
		return api.Errorf(api.Invalid, "the body is not a list of log lines: %v", err)
	}
	if len(lines) > maxPosted {
		return api.Errorf(api.Invalid, "Batches cannot include more than %d logs", maxPosted)
	}
	w := &writer{ring: l.ring, key: string(uuid), limit: l.limits.of(dev.id, l.cfg)}
	if len(lines) > 0 && w.limit.Tokens() < 1 {
		return api.Errorf(api.RateLimited, "this device logs too much")
	}
	for _, line := range lines {
		w.addLine(line)
	}
	if err := w.flush(ctx, true); err != nil {
		return fmt.Errorf("log of %s: %w", uuid, err)
	}
	return nil
}

// limits are the rates of devices that log.
type limits struct {
	mu sync.Mutex // covers by
	by map[int64]*rate.Limiter
}

func newLimits() *limits { return &limits{by: map[int64]*rate.Limiter{}} }

// of gives the limiter of a device, shared by all of its streams. Those of quiet devices are forgotten when there are many.
func (l *limits) of(device int64, cfg Config) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lim := l.by[device]; lim != nil {
		return lim
	}
	if len(l.by) >= keepLimiter {
		for id, lim := range l.by {
			if lim.Tokens() >= float64(lim.Burst()) {
				delete(l.by, id)
			}
		}
	}
	lim := rate.NewLimiter(rate.Limit(cfg.Rate), cfg.Burst)
	l.by[device] = lim
	return lim
}
