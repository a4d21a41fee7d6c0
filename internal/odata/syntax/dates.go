package syntax

import (
	"errors"
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
