package gitserver

import (
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
	// Sources says where repositories elsewhere may be fetched from.
	Sources Sources `json:"sources,omitzero"`
	// Limits bounds what people can ask for.
	Limits Limits `json:"limits,omitzero"`
	// Exe is this program, which starts git behind walls; "" means the one that runs.
	Exe string `json:"-"`
}

// Sources says how far out the role reaches for repositories that fleets are built from.
type Sources struct {
	// Allow names what may be reached although it is not public: prefixes, addresses, host names.
	Allow []string `json:"allow,omitempty"`
	// CA are the authorities (PEM) that are trusted besides the system's.
	CA string `json:"ca,omitempty"`
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	if err := pki.CheckConfig(c.Dir, c.Site, c.Peers, api.RoleAPI, api.RoleBuilder); err != nil {
		return err
	}
	if c.Git != "" && !filepath.IsAbs(c.Git) {
		return fmt.Errorf("git: %q is not absolute", c.Git)
	}
	return c.Limits.Validate()
}
