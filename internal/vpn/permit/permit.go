// Package permit is how the vpn role asks the api role about connections to devices: before one is opened, and once a second
// whether it may go on. A connection ends within two seconds of the api role's word, and all of them end when it cannot be asked.
package permit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// Why a permit ended that its holder did not end.
var (
	ErrAway = errors.New("it could not be asked whether the connection may go on")
	ErrOver = errors.New("the right to the connection ended")
	ErrStop = errors.New("the server stops")
)

const (
	askTime   = 15 * time.Second
	maxAnswer = 1 << 20
	maxAsked  = 5000 // about in one question
	maxEnded  = 1000 // told in one question
)

// Config says whom to ask, and how often. Zero durations are those of the house.
type Config struct {
	API   *pki.Peer
	Log   *slog.Logger  // nil: slog's default
	Every time.Duration // how often it is asked whether what is open may go on; 1 s
	Away  time.Duration // for how long it may be that nobody can be asked, until everything ends; 10 s
}

// Permits is the connections that are open with the api role's leave.
type Permits struct {
	cfg  Config
	wake chan struct{} // there is something to tell or to ask

	mu    sync.Mutex // covers what follows
	open  map[string]*Permit
	ended []api.ReachEnded
	good  time.Time // when the api role answered last
}

// New makes it; [Permits.Run] asks.
func New(cfg Config) *Permits {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Every <= 0 {
		cfg.Every = time.Second
	}
	if cfg.Away <= 0 {
		cfg.Away = 10 * time.Second
	}
	return &Permits{cfg: cfg, wake: make(chan struct{}, 1), open: map[string]*Permit{}}
}

// Permit is leave for one connection. Its holder calls [Permit.End] once the connection is closed, and closes it when the context ends.
type Permit struct {
	api.ReachPermit

	all     *Permits
	ctx     context.Context
	cancel  context.CancelCauseFunc
	in, out atomic.Int64
	once    sync.Once
	mu      sync.Mutex // covers detail
	detail  map[string]string
}

// Ask asks for leave to open a connection. A refusal is an error of package api: Unauthorized (who is it?), NotFound (no such device
// for them), Forbidden (not this), RateLimited; Unavailable when nobody can be asked.
func (p *Permits) Ask(ctx context.Context, ask api.ReachRequest) (*Permit, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var answer api.ReachPermit
	if err := Call(ctx, p.cfg.API, "/internal/reach/permit", ask, &answer); err != nil {
		return nil, err
	}
	if answer.Permit == "" {
		return nil, errors.New("permit: the api role gave none")
	}
	one := &Permit{ReachPermit: answer, all: p}
	one.ctx, one.cancel = context.WithCancelCause(context.Background())
	p.mu.Lock()
	p.open[answer.Permit] = one
	p.good = time.Now()
	p.mu.Unlock()
	p.kick()
	return one, nil
}

// Context ends with the permit; its cause is then [ErrOver], [ErrAway] or [ErrStop], and context.Canceled when the holder ended it.
func (o *Permit) Context() context.Context { return o.ctx }

// Count adds bytes that went to the device (in) and came from it (out).
func (o *Permit) Count(in, out int64) {
	o.in.Add(in)
	o.out.Add(out)
}

// Carried is how many bytes went to the device and came from it so far.
func (o *Permit) Carried() (in, out int64) { return o.in.Load(), o.out.Load() }

// Tell has the audit log know more of the connection when it ends.
func (o *Permit) Tell(name, value string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.detail == nil {
		o.detail = map[string]string{}
	}
	o.detail[name] = value
}

// End says that the connection is closed. why is for the audit log; when the permit itself ended, that is said instead.
func (o *Permit) End(why string) {
	o.once.Do(func() {
		if cause := context.Cause(o.ctx); cause != nil {
			why = cause.Error()
		}
		o.cancel(nil)
		o.mu.Lock()
		detail := maps.Clone(o.detail)
		o.mu.Unlock()
		p := o.all
		p.mu.Lock()
		delete(p.open, o.Permit)
		p.ended = append(p.ended, api.ReachEnded{Permit: o.Permit, BytesIn: o.in.Load(), BytesOut: o.out.Load(), Why: why, Detail: detail})
		p.mu.Unlock()
		p.kick()
	})
}

// Open is how many connections are open.
func (p *Permits) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

func (p *Permits) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run asks about what is open, and tells what ended, until the context ends; then nothing is open any more.
func (p *Permits) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if !p.busy() {
			select {
			case <-ctx.Done():
			case <-p.wake:
			}
			continue
		}
		timer := time.NewTimer(p.cfg.Every)
		select {
		case <-ctx.Done():
		case <-timer.C:
			p.RunOnce(ctx)
		}
		timer.Stop()
	}
	p.cut(ErrStop)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.Every)
	defer cancel()
	p.RunOnce(last) // what ended with us, as far as it goes: the api role finds out by itself too
	return nil
}

func (p *Permits) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open) > 0 || len(p.ended) > 0
}

// RunOnce asks about everything that is open, and tells all that ended, in questions of a bounded size.
func (p *Permits) RunOnce(ctx context.Context) {
	p.mu.Lock()
	open := slices.Sorted(maps.Keys(p.open))
	p.mu.Unlock()
	for first := true; first || len(open) > 0 || p.toTell() >= maxEnded; first = false {
		n := min(len(open), maxAsked)
		if err := p.ask(ctx, open[:n]); err != nil {
			p.cfg.Log.WarnContext(ctx, "ask whether connections to devices may go on", "open", p.Open(), "error", err)
			p.mu.Lock()
			away := len(p.open) > 0 && time.Since(p.good) >= p.cfg.Away
			p.mu.Unlock()
			if away {
				p.cut(ErrAway)
			}
			return
		}
		open = open[n:]
	}
	p.mu.Lock()
	p.good = time.Now()
	p.mu.Unlock()
}

func (p *Permits) toTell() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ended)
}

// ask asks about some permits, and tells some of what ended.
func (p *Permits) ask(ctx context.Context, open []string) error {
	p.mu.Lock()
	ask := api.ReachStill{Permits: open, Ended: slices.Clone(p.ended[:min(len(p.ended), maxEnded)])}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, max(p.cfg.Away/3, p.cfg.Every))
	defer cancel()
	var answer api.ReachEnd
	if err := Call(ctx, p.cfg.API, "/internal/reach/still", ask, &answer); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = slices.Clone(p.ended[len(ask.Ended):])
	over := 0
	for _, end := range answer.End {
		if one := p.open[end.Permit]; one != nil {
			over++
			one.cancel(fmt.Errorf("%w: %s", ErrOver, end.Why))
		}
	}
	if over > 0 {
		p.cfg.Log.InfoContext(ctx, "connections to devices are ended", "count", over)
	}
	return nil
}

// cut ends everything.
func (p *Permits) cut(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.open {
		one.cancel(cause)
	}
}

// Call asks the api role. Its own words come back as a coded error; when it does not answer that is Unavailable.
func Call(ctx context.Context, peer *pki.Peer, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("ask the api role: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, peer.URL+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the api role: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := peer.HTTP.Do(req)
	if err != nil {
		return errors.Join(api.Errorf(api.Unavailable, "the api role does not answer"), err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return errors.Join(api.Errorf(api.Unavailable, "the api role's answer was cut off"), err)
	}
	if res.StatusCode >= 300 {
		var words string
		if json.Unmarshal(text, &words) != nil {
			words = strings.TrimSpace(string(text))
		}
		return &api.Error{Code: api.CodeOf(res.StatusCode), Text: words}
	}
	if out == nil { // that it was done is all
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the api role's answer: %w", err)
	}
	return nil
}
