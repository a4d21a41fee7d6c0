package gitserver

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// Config is the git role's role.json.
type Config struct {
	// Dir is the role's own directory: its identity, the SSH host key, and the repositories.
	Dir string `json:"dir"`
	// Site is the public name of the server.
	Site api.Site `json:"site"`
	// Peers says where the api and builder roles listen.
	Peers map[string]string `json:"peers"`
	// Git is the path of the git program; "" means /usr/bin/git.
	Git string `json:"git,omitempty"`
	// Limits bounds what people can ask for.
	Limits Limits `json:"limits,omitzero"`
	// Exe is this program, which starts git behind walls; "" means the one that runs.
	Exe string `json:"-"`
}

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
	RenewMilli int   `json:"renew_milli,omitempty"` // between questions whether who pushes still may: 1000
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	if err := pki.CheckConfig(c.Dir, c.Site, c.Peers, api.RoleAPI, api.RoleBuilder); err != nil {
		return err
	}
	if c.Git != "" && !filepath.IsAbs(c.Git) {
		return fmt.Errorf("git: %q is not absolute", c.Git)
	}
	l := c.Limits
	if min(l.PushBytes, l.RepoBytes, l.TreeBytes, l.Memory) < 0 ||
		min(l.Objects, l.Commits, l.TreeFiles, l.Minutes, l.Sessions, l.OfUser, l.Undecided, l.GraceSecs, l.IdleSecs, l.SweepSecs, l.KeepAlive, l.RenewMilli) < 0 {
		return errors.New("limits: must not be negative")
	}
	return nil
}

func (l Limits) withDefaults() Limits {
	for v, d := range map[*int]int{
		&l.Objects: 1_000_000, &l.Commits: 1000, &l.TreeFiles: 100_000, &l.Minutes: 30, &l.Sessions: 64, &l.OfUser: 8, &l.Undecided: 128,
		&l.GraceSecs: 20, &l.IdleSecs: 30, &l.SweepSecs: 60, &l.KeepAlive: 15, &l.RenewMilli: 1000,
	} {
		if *v == 0 {
			*v = d
		}
	}
	for v, d := range map[*int64]int64{&l.PushBytes: 2 << 30, &l.RepoBytes: 4 << 30, &l.TreeBytes: 4 << 30, &l.Memory: 1 << 30} {
		if *v == 0 {
			*v = d
		}
	}
	return l
}
