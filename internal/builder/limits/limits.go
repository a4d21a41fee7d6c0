// Package limits is what an operator may bound of builds.
package limits

import (
	"fmt"
	"strconv"
	"strings"
)

// Limits bounds builds. A zero value means the default.
type Limits struct {
	SourceBytes        int64 `json:"source_bytes,omitempty"`          // of a project, unpacked: 4 GiB
	SourceEntries      int   `json:"source_entries,omitempty"`        // files, directories and links of a project: 100,000
	Builds             int   `json:"builds,omitempty"`                // at work at once: 2
	OrganizationBuilds int   `json:"organization_builds,omitempty"`   // at work at once, of one organization: as many as Builds
	Queue              int   `json:"queue,omitempty"`                 // waiting or at work: 200
	OrganizationQueue  int   `json:"organization_queue,omitempty"`    // the same of one organization: 60
	Minutes            int   `json:"minutes,omitempty"`               // that one build may take: 120
	UploadMinutes      int   `json:"upload_minutes,omitempty"`        // for the source to arrive: 30
	StoreBytes         int64 `json:"store_bytes,omitempty"`           // of finished images kept to spare copying them again: 4 GiB
	Services           int   `json:"services_at_once,omitempty"`      // of one project, built at once: 4
	UploadBytes        int64 `json:"upload_bytes,omitempty"`          // of files kept of one organization, so that only changes are sent: 4 GiB
	AllUploadBytes     int64 `json:"all_upload_bytes,omitempty"`      // the same of all organizations: 16 GiB
	Followers          int   `json:"followers_of_build,omitempty"`    // who follow one build at a time: 50
	EventBytes         int64 `json:"events_of_build_bytes,omitempty"` // of what a build said that are kept for those who follow: 4 MiB
}

// limit is one of them by its name.
type limit struct {
	name    string
	n       *int
	bytes   *int64
	usually int64
}

// fields are all of them. A limit that is here can be set by the operator.
func (l *Limits) fields() []limit {
	count := func(name string, n *int, usually int64) limit { return limit{name: name, n: n, usually: usually} }
	size := func(name string, n *int64, usually int64) limit { return limit{name: name, bytes: n, usually: usually} }
	return []limit{
		size("source_bytes", &l.SourceBytes, 4<<30),
		count("source_entries", &l.SourceEntries, 100_000),
		count("builds", &l.Builds, 2),
		count("organization_builds", &l.OrganizationBuilds, 0),
		count("queue", &l.Queue, 200),
		count("organization_queue", &l.OrganizationQueue, 60),
		count("minutes", &l.Minutes, 120),
		count("upload_minutes", &l.UploadMinutes, 30),
		size("store_bytes", &l.StoreBytes, 4<<30),
		count("services_at_once", &l.Services, 4),
		size("upload_bytes", &l.UploadBytes, 4<<30),
		size("all_upload_bytes", &l.AllUploadBytes, 16<<30),
		count("followers_of_build", &l.Followers, 50),
		size("events_of_build_bytes", &l.EventBytes, 4<<20),
	}
}

func (f limit) get() int64 {
	if f.n != nil {
		return int64(*f.n)
	}
	return *f.bytes
}

func (f limit) set(v int64) {
	if f.n != nil {
		*f.n = int(v)
		return
	}
	*f.bytes = v
}

const (
	maxCount = 10_000_000
	maxSize  = 1 << 50
)

// Validate names the limit that is wrong.
func (l Limits) Validate() error {
	for _, f := range l.fields() {
		most := int64(maxCount)
		if f.bytes != nil {
			most = maxSize
		}
		if v := f.get(); v < 0 || v > most {
			return fmt.Errorf("limits: %s=%d: 0 to %d; 0 means the default", f.name, v, most)
		}
	}
	return nil
}

// Parse reads limits as the command line has them, "minutes=60,source_bytes=2GiB".
func (l *Limits) Parse(text string) error {
	fields := l.fields()
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		i := 0
		for i < len(fields) && fields[i].name != name {
			i++
		}
		if i == len(fields) {
			var names []string
			for _, f := range fields {
				names = append(names, f.name)
			}
			return fmt.Errorf("there is no limit %q, only %s", name, strings.Join(names, ", "))
		}
		v, err := amount(value, fields[i].bytes != nil)
		if err != nil {
			return fmt.Errorf("%s=%q: %w", name, value, err)
		}
		fields[i].set(v)
	}
	return l.Validate()
}

// amount reads a number; of bytes also as "500MiB".
func amount(text string, bytes bool) (int64, error) {
	shift := 0
	if bytes {
		for unit, s := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40} {
			if rest, ok := strings.CutSuffix(text, unit); ok {
				text, shift = rest, s
			}
		}
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 || v > maxSize>>shift {
		if bytes {
			return 0, fmt.Errorf("expected a number of bytes, such as 500MiB")
		}
		return 0, fmt.Errorf("expected a whole number")
	}
	return v << shift, nil
}

// WithDefaults gives what is 0 its default.
func (l Limits) WithDefaults() Limits {
	for _, f := range l.fields() {
		if f.get() == 0 {
			f.set(f.usually)
		}
	}
	if l.OrganizationBuilds == 0 {
		l.OrganizationBuilds = l.Builds
	}
	return l
}
