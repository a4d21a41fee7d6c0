package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/device/devicelog"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	maxLogLines    = 1000
	maxLogServices = 100 // in one question
)

// Logs bounds who follows the logs of devices, in one process. What is 0 means the default.
type Logs struct {
	KeepAlive time.Duration `json:"keep_alive"` // how long a stream may be quiet before an empty line is sent; 58 s
	OfUser    int           `json:"of_user"`    // logs that one person follows at a time; 20
	OfDevice  int           `json:"of_device"`  // people who follow the log of one device at a time; 50
}

// Validate names the field that is wrong.
func (l Logs) Validate() error {
	switch {
	case l.KeepAlive != 0 && (l.KeepAlive < time.Second || l.KeepAlive > 5*time.Minute):
		return fmt.Errorf("logs.keep_alive: %s is not between 1s and 5m", l.KeepAlive)
	case l.OfUser < 0:
		return fmt.Errorf("logs.of_user: %d is negative", l.OfUser)
	case l.OfDevice < 0:
		return fmt.Errorf("logs.of_device: %d is negative", l.OfDevice)
	}
	return nil
}

// readLog gives a device's log as a JSON array or, with stream=1, one object a line and then live.
func (s *Server) readLog(w http.ResponseWriter, r *http.Request) error {
	q, stream, err := logQuery(r.URL.RawQuery, time.Now())
	if err != nil {
		return err
	}
	by := access.From(r.Context())
	if stream {
		return s.followLog(w, r, by, q)
	}
	lines, err := s.devices.Logs.Read(r.Context(), by, deviceUUID(r), q)
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, lines)
}

// logQuery reads count (a number or "all"), start (milliseconds or a date) and stream.
func logQuery(raw string, now time.Time) (q devicelog.Query, stream bool, err error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return q, false, api.Errorf(api.Invalid, "the query is not valid: %v", err)
	}
	stream = query.Get("stream") == "1" || query.Get("stream") == "true"
	q = devicelog.Query{Count: maxLogLines, Since: now.AddDate(0, 0, -30)}
	if stream {
		q = devicelog.Query{Since: now.AddDate(0, 0, -1)}
	}
	switch count := query.Get("count"); count {
	case "":
	case "all":
		q.Count = maxLogLines
	default:
		n, err := strconv.Atoi(count)
		if err != nil || n < 0 {
			return q, false, api.Errorf(api.Invalid, "\"count\" is a number or \"all\"")
		}
		q.Count = min(n, maxLogLines)
	}
	if start := query.Get("start"); start != "" {
		if q.Since, err = readTime(start); err != nil {
			return q, false, err
		}
	}
	return q, stream, logFilters(&q, query)
}

// logFilters reads service (names or ids, joined with commas or given several times) and system.
func logFilters(q *devicelog.Query, query url.Values) error {
	for _, given := range query["service"] {
		for name := range strings.SplitSeq(given, ",") {
			if name = strings.TrimSpace(name); name != "" {
				q.Services = append(q.Services, name)
			}
		}
	}
	if len(q.Services) > maxLogServices {
		return api.Errorf(api.Invalid, "\"service\" names at most %d services", maxLogServices)
	}
	switch system := query.Get("system"); system {
	case "":
	case "1", "true", "0", "false":
		yes := system == "1" || system == "true"
		q.System = &yes
	default:
		return api.Errorf(api.Invalid, "\"system\" is true or false")
	}
	return nil
}

func readTime(text string) (time.Time, error) {
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.UnixMilli(ms), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, api.Errorf(api.Invalid, "\"start\" is a date or a number of milliseconds")
}

func (s *Server) followLog(w http.ResponseWriter, r *http.Request, by access.Caller, q devicelog.Query) error {
	f, err := s.devices.Logs.Follow(r.Context(), by, deviceUUID(r), q)
	if err != nil {
		if errors.Is(err, api.ErrRateLimited) || errors.Is(err, api.ErrUnavailable) {
			w.Header().Set("Retry-After", "10")
		}
		return err
	}
	defer f.Close()
	rc := http.NewResponseController(w)
	cut := make(chan struct{})
	stop := context.AfterFunc(f.Context(), func() { // ends a write that waits
		defer close(cut)
		_ = rc.SetWriteDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() { // the end of the answer goes out all the same: without it TLS breaks off, and its reader takes that for an attack
			<-cut
			_ = rc.SetWriteDeadline(time.Now().Add(time.Second))
		}
	}()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		return nil // the reader is gone
	}
	for {
		line, err := f.Next()
		if err != nil {
			return nil // the reader is gone, or has no right any more
		}
		text := []byte("\n")
		if line != nil {
			if text, err = json.Marshal(line); err != nil {
				return err
			}
			text = append(text, '\n')
		}
		if _, err := w.Write(text); err != nil {
			return nil // the reader is gone
		}
		if err := rc.Flush(); err != nil {
			return nil // the reader is gone
		}
	}
}
