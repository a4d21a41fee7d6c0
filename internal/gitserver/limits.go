package gitserver

import (
	"fmt"

	"github.com/roadstead-io/roadstead/internal/limit"
)

// Limits bounds repositories and pushes. A zero value means the default.
type Limits struct {
	PushBytes  int64 `json:"push_bytes,omitempty"`  // of one push, packed: 2 GiB
	Objects    int   `json:"objects,omitempty"`     // of one push: 1,000,000
	RepoBytes  int64 `json:"repo_bytes,omitempty"`  // of one fleet's repository: 4 GiB
	Commits    int   `json:"commits,omitempty"`     // of history that are kept: 1,000
	TreeFiles  int   `json:"tree_files,omitempty"`  // of what is built: 100,000
	TreeBytes  int64 `json:"tree_bytes,omitempty"`  // of the same, unpacked: 4 GiB
	Minutes    int   `json:"minutes,omitempty"`     // that sending may take: 30; a build has a time of its own
	Sessions   int   `json:"sessions,omitempty"`    // at once: 64
	OfUser     int   `json:"of_user,omitempty"`     // at once, of one person: 8
	Undecided  int   `json:"undecided,omitempty"`   // SSH connections that have not said who they are: 128
	Memory     int64 `json:"memory,omitempty"`      // of one git process: 1 GiB
	Submodules bool  `json:"submodules,omitempty"`  // whether a project may have them; their directories are empty in a build
	GraceSecs  int   `json:"grace_secs,omitempty"`  // to say who one is: 20
	IdleSecs   int   `json:"idle_secs,omitempty"`   // a connection without a session: 30
	SweepSecs  int   `json:"sweep_secs,omitempty"`  // between looks for repositories of fleets that are gone: 60
	KeepAlive  int   `json:"alive_secs,omitempty"`  // between questions whether the client is there: 15
	Fetches    int   `json:"fetches,omitempty"`     // of sources, fetched and built at once, and half as many fetched: 8
	RenewMilli int   `json:"renew_milli,omitempty"` // between questions whether who pushes still may: 1000
}

// fields are those that an operator may set.
func (l *Limits) fields() []limit.Field {
	return []limit.Field{
		limit.Size("push_bytes", &l.PushBytes, 2<<30),
		limit.Count("push_objects", &l.Objects, 1_000_000),
		limit.Size("repository_bytes", &l.RepoBytes, 4<<30),
		limit.Count("commits", &l.Commits, 1000),
		limit.Count("source_entries", &l.TreeFiles, 100_000),
		limit.Size("source_bytes", &l.TreeBytes, 4<<30),
		limit.Count("minutes", &l.Minutes, 30),
		limit.Count("sessions", &l.Sessions, 64),
		limit.Count("user_sessions", &l.OfUser, 8),
		limit.Count("strangers", &l.Undecided, 128),
		limit.Count("source_builds", &l.Fetches, 8),
		limit.Count("stranger_seconds", &l.GraceSecs, 20),
		limit.Size("memory_bytes", &l.Memory, 1<<30),
	}
}

// rhythm is the others: how often the role looks, which bounds nothing that people ask for.
func (l *Limits) rhythm() []limit.Field {
	return []limit.Field{
		limit.Count("idle_secs", &l.IdleSecs, 30), limit.Count("sweep_secs", &l.SweepSecs, 60),
		limit.Count("alive_secs", &l.KeepAlive, 15), limit.Count("renew_milli", &l.RenewMilli, 1000),
	}
}

// Validate names the limit that is wrong.
func (l Limits) Validate() error { return limit.Validate(append(l.fields(), l.rhythm()...)) }

// Parse reads limits as the command line has them, "minutes=60,push_bytes=500MiB".
func (l *Limits) Parse(text string) error { return limit.Parse(l.fields(), text) }

func (l Limits) withDefaults() Limits {
	limit.Defaults(append(l.fields(), l.rhythm()...))
	return l
}

// amount is a number of bytes for people.
func amount(bytes int64) string {
	if bytes >= 1<<20 && bytes%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d bytes", bytes)
}
