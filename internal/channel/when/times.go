package when

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bounds of a schedule.
const (
	maxText  = 500
	maxTimes = 20
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// Times are spans of the week.
type Times []span

// span begins at a time of the week, counted from Monday 00:00 UTC, and has a length.
type span struct{ from, length time.Duration }

var days = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

// ParseTimes reads a schedule: entries with a semicolon between, each of days, a span of hours and a time zone.
//
//	Mon-Fri 08:00-18:00 UTC; Sat,Sun 10:00-12:00 +01:00; daily 22:00-02:00
//
// Days are names, ranges of them, or "daily". A span that ends before it begins goes on into the next day; 24:00 is the day's end. Zones are
// UTC, which is what none means, and fixed offsets: a device has no list of the others.
func ParseTimes(text string) (Times, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("%s: a schedule has at most %d bytes", Schedule, maxText)
	}
	var out Times
	for entry := range strings.SplitSeq(text, ";") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		spans, err := parseEntry(entry)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", Schedule, entry, err)
		}
		if out = append(out, spans...); len(out) > maxTimes*len(days) {
			return nil, fmt.Errorf("%s: a schedule has at most %d entries", Schedule, maxTimes)
		}
	}
	return out, nil
}

func parseEntry(entry string) (Times, error) {
	fields := strings.Fields(entry)
	if len(fields) != 2 && len(fields) != 3 {
		return nil, fmt.Errorf("write days, hours and a time zone: Mon-Fri 08:00-18:00 UTC")
	}
	on, err := parseDays(fields[0])
	if err != nil {
		return nil, err
	}
	begin, end, ok := strings.Cut(fields[1], "-")
	if !ok {
		return nil, fmt.Errorf("%q is no span of hours: write 08:00-18:00", fields[1])
	}
	from, err := parseHour(begin)
	if err != nil {
		return nil, err
	}
	to, err := parseHour(end)
	if err != nil {
		return nil, err
	}
	if from == to || from == day {
		return nil, fmt.Errorf("%q is empty: write 00:00-24:00 for the whole day", fields[1])
	}
	if to < from {
		to += day
	}
	var offset time.Duration
	if len(fields) == 3 {
		if offset, err = parseZone(fields[2]); err != nil {
			return nil, err
		}
	}
	var out Times
	for i, is := range on {
		if is {
			out = append(out, span{from: wrap(time.Duration(i)*day + from - offset), length: to - from})
		}
	}
	return out, nil
}

func parseDays(text string) (on [7]bool, err error) {
	if strings.EqualFold(text, "daily") {
		return [7]bool{true, true, true, true, true, true, true}, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, b := dayOf(first), dayOf(last)
		if a < 0 || b < 0 {
			return on, fmt.Errorf("%q is no day of the week: write Mon, Mon-Fri, Sat,Sun or daily", part)
		}
		for i := a; ; i = (i + 1) % 7 {
			on[i] = true
			if i == b {
				break
			}
		}
	}
	return on, nil
}

func dayOf(name string) int {
	for i, d := range days {
		if strings.EqualFold(name, d) {
			return i
		}
	}
	return -1
}

func parseHour(text string) (time.Duration, error) {
	if len(text) == 5 && text[2] == ':' {
		h, err := strconv.ParseUint(text[:2], 10, 8)
		m, err2 := strconv.ParseUint(text[3:], 10, 8)
		if t := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute; err == nil && err2 == nil && m < 60 && t <= day { //nolint:gosec // at most 255
			return t, nil
		}
	}
	return 0, fmt.Errorf("%q is no time of day: write 08:00", text)
}

func parseZone(text string) (time.Duration, error) {
	if strings.EqualFold(text, "UTC") || text == "Z" {
		return 0, nil
	}
	if sign := strings.IndexByte("+-", text[0]); sign >= 0 {
		if offset, err := parseHour(text[1:]); err == nil && offset <= 14*time.Hour {
			return offset * time.Duration(1-2*sign), nil
		}
	}
	return 0, fmt.Errorf("%q is no time zone: write UTC or an offset from it, as +02:00", text)
}

// wrap brings a time of the week into the week.
func wrap(t time.Duration) time.Duration { return ((t % week) + week) % week }

// monday is one at midnight UTC, long ago.
var monday = time.Date(1970, 1, 5, 0, 0, 0, 0, time.UTC)

// ofWeek is the time of the week.
func ofWeek(t time.Time) time.Duration {
	seconds := (t.Unix() - monday.Unix()) % int64(week/time.Second)
	return wrap(time.Duration(seconds)*time.Second + time.Duration(t.Nanosecond()))
}

// At reports whether a time is in one of the spans.
func (ts Times) At(t time.Time) bool {
	now := ofWeek(t)
	for _, s := range ts {
		if wrap(now-s.from) < s.length {
			return true
		}
	}
	return false
}

// Next is the next time after t at which a span begins or ends; zero when there is none.
func (ts Times) Next(t time.Time) time.Time {
	if len(ts) == 0 {
		return time.Time{}
	}
	now, best := ofWeek(t), week
	for _, s := range ts {
		for _, edge := range []time.Duration{s.from, s.from + s.length} {
			if wait := wrap(edge - now); wait > 0 {
				best = min(best, wait)
			}
		}
	}
	return t.Add(best)
}
