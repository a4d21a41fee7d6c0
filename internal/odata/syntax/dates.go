package syntax

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// dateLayouts are the forms in which clients write a point in time.
var dateLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02", "2006-01-02T15:04", "2006-01-02 15:04:05"}

// ParseDate reads what clients write for a point in time.
func ParseDate(s string) (time.Time, error) {
	for _, layout := range dateLayouts {
		if t, err := time.Parse(layout, s); err == nil && Storable(t) {
			return t, nil
		}
	}
	return time.Time{}, errors.New("not a date")
}

// DateOfMillis reads milliseconds since 1970.
func DateOfMillis(ms int64) (time.Time, bool) {
	t := time.UnixMilli(ms)
	return t, Storable(t)
}

// Storable reports whether a time has a year of four digits, as every form that we write expects.
func Storable(t time.Time) bool {
	y := t.UTC().Year()
	return y >= 0 && y <= 9999
}

// longestSpan bounds a duration: every date that can be stored, moved by it, stays within what both databases compute with.
const longestSpan = 100_000 * 24 * time.Hour

// ParseDuration reads what OData calls a duration: days, hours, minutes and seconds as in P1DT2H30M0.5S.
func ParseDuration(s string) (time.Duration, error) {
	wrong := errors.New("not a duration")
	sign := time.Duration(1)
	switch {
	case strings.HasPrefix(s, "-"):
		sign, s = -1, s[1:]
	case strings.HasPrefix(s, "+"):
		s = s[1:]
	}
	rest, ok := strings.CutPrefix(s, "P")
	if !ok || rest == "" || strings.HasSuffix(rest, "T") {
		return 0, wrong
	}
	units := []struct {
		letter byte
		unit   time.Duration
	}{{'D', 24 * time.Hour}, {'T', 0}, {'H', time.Hour}, {'M', time.Minute}, {'S', time.Second}}
	var total float64
	timeOfDay := false
	for _, u := range units {
		if u.letter == 'T' {
			if rest, timeOfDay = strings.CutPrefix(rest, "T"); !timeOfDay {
				break
			}
			continue
		}
		end := skip(rest, 0, func(c byte) bool { return isDigit(c) || c == '.' && u.letter == 'S' })
		if end == len(rest) || rest[end] != u.letter {
			continue
		}
		n, err := strconv.ParseFloat(rest[:end], 64)
		if err != nil {
			return 0, wrong
		}
		total += n * float64(u.unit)
		rest = rest[end+1:]
	}
	if rest != "" || total > float64(longestSpan) {
		return 0, wrong
	}
	return sign * time.Duration(total), nil
}
