package odata

import (
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/internal/db"
)

// dateLayouts are the forms in which clients write a point in time.
var dateLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02", "2006-01-02T15:04", "2006-01-02 15:04:05"}

// timeParse is time.Parse within the years that the database's form can hold.
func timeParse(layout, s string) (time.Time, error) {
	t, err := time.Parse(layout, s)
	if err == nil && !storable(t) {
		return t, strconv.ErrRange
	}
	return t, err
}

func storable(t time.Time) bool {
	y := t.UTC().Year()
	return y >= 0 && y <= 9999
}

// dateOfMillis reads milliseconds since 1970.
func dateOfMillis(ms int64) (string, bool) {
	t := time.UnixMilli(ms)
	return db.FormatTime(t), storable(t)
}

func parseInt(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }
