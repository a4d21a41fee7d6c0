package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// maxLogLine bounds one line of a log stream; servers cut messages at 10,000 characters.
const maxLogLine = 1 << 20

// LogOptions says which lines of a device's log to read.
type LogOptions struct {
	Count  int       // at most so many past lines; 0: as many as the server keeps; negative: none
	Since  time.Time // none that is older; zero: no bound
	Follow bool      // stay and hand on new lines until the context ends
	// Only picks lines; Count then counts picked ones. May be nil.
	Only func(api.LogLine) bool
	// Reconnecting is told when a followed stream broke and will be opened again; may be nil.
	Reconnecting func(err error)
}

// Logs hands a device's log lines to a function, oldest first. A followed stream that breaks is opened again where it stopped,
// until the context ends or the server refuses.
func (c *Client) Logs(ctx context.Context, device api.DeviceUUID, opt LogOptions, line func(api.LogLine) error) error {
	f := &follower{c: c, path: "/device/v2/" + url.PathEscape(string(device)) + "/logs", only: opt.Only, line: line}
	picked := opt.Only != nil && opt.Count > 0 // the last lines of those that are picked are known only here
	switch {
	case !opt.Follow && opt.Count < 0:
		return nil
	case !opt.Follow && !picked:
		return unstop(f.history(ctx, opt, f.hand))
	case picked:
		if err := f.lastPicked(ctx, opt); err != nil || !opt.Follow {
			return unstop(err)
		}
		opt.Count = -1
	}
	for failures := 0; ; failures++ {
		got := f.lines
		err := f.follow(ctx, opt)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, new(*stopError)), final(err):
			return unstop(err)
		}
		if f.lines > got {
			failures = 0
		}
		if opt.Reconnecting != nil {
			opt.Reconnecting(err)
		}
		pause := min(500*time.Millisecond<<min(failures, 6), 30*time.Second)
		pause += rand.N(pause/4 + 1)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// stopError carries an error of the caller's function out of the loop that reconnects.
type stopError struct{ error }

func unstop(err error) error {
	var stop *stopError
	if errors.As(err, &stop) {
		return stop.error
	}
	return err
}

// final reports whether asking again cannot help.
func final(err error) bool {
	var re *ResponseError
	return errors.As(err, &re) && re.Status < 500 && re.Status != http.StatusTooManyRequests
}

type follower struct {
	c     *Client
	path  string
	only  func(api.LogLine) bool
	line  func(api.LogLine) error
	lines int                 // handed on so far
	last  int64               // newest time of arrival seen, in ms
	seen  map[api.LogLine]int // lines of that very millisecond
	got   map[api.LogLine]int // those of them that the present stream has brought
}

// lastPicked hands on the last lines of those that are picked. A stream that follows goes on right behind them.
func (f *follower) lastPicked(ctx context.Context, opt LogOptions) error {
	var last []api.LogLine
	past := opt
	past.Count = 0
	err := f.history(ctx, past, func(l api.LogLine) error {
		if f.fresh(l) && opt.Only(l) {
			last = append(last, l)
			last = last[max(0, len(last)-opt.Count):]
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, l := range last {
		if err := f.hand(l); err != nil {
			return err
		}
	}
	return nil
}

// hand gives a line to the caller, if it wants it.
func (f *follower) hand(l api.LogLine) error {
	f.lines++
	if f.only != nil && !f.only(l) {
		return nil
	}
	if err := f.line(l); err != nil {
		return &stopError{err}
	}
	return nil
}

// fresh reports whether a line is new, and remembers it: a stream that resumes brings the lines of the last millisecond again.
func (f *follower) fresh(l api.LogLine) bool {
	if l.CreatedAt > f.last {
		f.last, f.seen, f.got = l.CreatedAt, map[api.LogLine]int{}, map[api.LogLine]int{}
	}
	if l.CreatedAt < f.last || f.last == 0 {
		return true
	}
	key := withoutPointer(l)
	f.got[key]++
	if f.got[key] <= f.seen[key] {
		return false
	}
	f.seen[key]++
	return true
}

// withoutPointer drops the one field that is a pointer.
func withoutPointer(l api.LogLine) api.LogLine {
	l.ServiceID = nil
	return l
}

func (f *follower) history(ctx context.Context, opt LogOptions, each func(api.LogLine) error) error {
	ctx, cancel := context.WithTimeout(ctx, f.c.cfg.Timeout)
	defer cancel()
	res, err := f.open(ctx, query(opt, false))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return errors.New("read logs: the server's answer is not a list")
	}
	for dec.More() {
		var l api.LogLine
		if err := dec.Decode(&l); err != nil {
			return fmt.Errorf("read logs: the answer ended early: %w", err)
		}
		if err := each(l); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("read logs: the answer ended early: %w", err)
	}
	return nil
}

func query(opt LogOptions, stream bool) url.Values {
	q := url.Values{}
	if stream {
		q.Set("stream", "1")
	}
	switch {
	case opt.Count > 0:
		q.Set("count", strconv.Itoa(opt.Count))
	case opt.Count == 0 && stream:
		q.Set("count", "all")
	}
	if !opt.Since.IsZero() {
		q.Set("start", strconv.FormatInt(opt.Since.UnixMilli(), 10))
	}
	return q
}

// follow reads one stream until it ends, which is always an error: only the context ends a followed log.
func (f *follower) follow(ctx context.Context, opt LogOptions) error {
	q := query(opt, true)
	if f.last > 0 {
		q.Set("count", "all")
		q.Set("start", strconv.FormatInt(f.last, 10))
	}
	f.got = map[api.LogLine]int{}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := f.c.cfg.IdleTimeout
	watch := time.AfterFunc(idle, func() { cancel(errors.New("the stream went silent")) })
	defer watch.Stop()
	res, err := f.open(ctx, q)
	if err != nil {
		return cause(ctx, err)
	}
	defer res.Body.Close()
	scan := bufio.NewScanner(io.TeeReader(res.Body, resetter{watch, idle}))
	scan.Buffer(make([]byte, 0, 16<<10), maxLogLine)
	for scan.Scan() {
		if err := f.one(scan.Bytes()); err != nil {
			return err
		}
	}
	if err := scan.Err(); err != nil {
		return cause(ctx, err)
	}
	return io.EOF
}

func (f *follower) one(data []byte) error {
	var l api.LogLine
	if len(data) == 0 || json.Unmarshal(data, &l) != nil {
		return nil // a heartbeat, or a line that was cut when the stream broke: it comes again
	}
	if !f.fresh(l) {
		return nil
	}
	return f.hand(l)
}

func (f *follower) open(ctx context.Context, q url.Values) (*http.Response, error) {
	address := f.c.base + f.path
	if len(q) > 0 {
		address += "?" + q.Encode()
	}
	req, err := f.c.request(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // a compressed stream may hold lines back
	res, err := f.c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read logs: %w", unwrapURL(err))
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		return nil, fmt.Errorf("read logs: %w", responseError(req, res))
	}
	return res, nil
}

func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return fmt.Errorf("read logs: %w", c)
	}
	return err
}

// resetter puts off the end of a silent stream whenever bytes arrive.
type resetter struct {
	timer *time.Timer
	idle  time.Duration
}

func (r resetter) Write(p []byte) (int, error) {
	r.timer.Reset(r.idle)
	return len(p), nil
}
