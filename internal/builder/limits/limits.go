// Package limits is what an operator may bound of builds.
package limits

import "github.com/roadstead-io/roadstead/internal/limit"

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

// fields are all of them. A limit that is here can be set by the operator.
func (l *Limits) fields() []limit.Field {
	return []limit.Field{
		limit.Size("source_bytes", &l.SourceBytes, 4<<30),
		limit.Count("source_entries", &l.SourceEntries, 100_000),
		limit.Count("builds", &l.Builds, 2),
		limit.Count("organization_builds", &l.OrganizationBuilds, 0),
		limit.Count("queue", &l.Queue, 200),
		limit.Count("organization_queue", &l.OrganizationQueue, 60),
		limit.Count("minutes", &l.Minutes, 120),
		limit.Count("upload_minutes", &l.UploadMinutes, 30),
		limit.Size("store_bytes", &l.StoreBytes, 4<<30),
		limit.Count("services_at_once", &l.Services, 4),
		limit.Size("upload_bytes", &l.UploadBytes, 4<<30),
		limit.Size("all_upload_bytes", &l.AllUploadBytes, 16<<30),
		limit.Count("followers_of_build", &l.Followers, 50),
		limit.Size("events_of_build_bytes", &l.EventBytes, 4<<20),
	}
}

// Validate names the limit that is wrong.
func (l Limits) Validate() error { return limit.Validate(l.fields()) }

// Parse reads limits as the command line has them, "minutes=60,source_bytes=2GiB".
func (l *Limits) Parse(text string) error { return limit.Parse(l.fields(), text) }

// WithDefaults gives what is 0 its default.
func (l Limits) WithDefaults() Limits {
	limit.Defaults(l.fields())
	if l.OrganizationBuilds == 0 {
		l.OrganizationBuilds = l.Builds
	}
	return l
}
