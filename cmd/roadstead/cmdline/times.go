package cmdline

import (
	"fmt"
	"strings"
	"time"
)

// Expiry reads a time from what people write: 90d, 12h, 2027-01-31, a full RFC 3339 time, or "never".
func Expiry(text string, now time.Time) (*time.Time, error) {
	if text == "" || text == "never" {
		return nil, nil
	}
	at, err := Instant(text, now, 1)
	if err != nil {
		return nil, err
	}
	if !at.After(now) {
		return nil, Usagef("%q lies in the past", text)
	}
	return &at, nil
}

// Instant reads a time or a distance from now; sign says in which direction distances go.
func Instant(text string, now time.Time, sign time.Duration) (time.Time, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days+" ", "%d ", &n); err == nil && n >= 0 && fmt.Sprint(n) == days {
			return now.Add(sign * time.Duration(n) * 24 * time.Hour).UTC().Truncate(time.Millisecond), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(sign * d).UTC().Truncate(time.Millisecond), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if at, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return at.UTC(), nil
		}
	}
	return time.Time{}, Usagef("%q is not a time; write 90d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z", text)
}

// OrNil makes an empty text null in JSON.
func OrNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
