package gitserver

import (
	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/sshhost"
)

// Prepare makes the host key, once, and what the role keeps its repositories in.
func Prepare(dir string) error { return sshhost.Prepare(dir, "roadstead git") }

// Public says how the role that keeps its files in dir is reached at an address, for people: "" is no SSH at all.
func Public(dir string, site api.Site, address string) (api.GitSite, error) {
	if address == "" {
		return api.GitSite{}, nil
	}
	known, err := sshhost.Known(dir, "git."+site.Domain, address)
	return api.GitSite{SSH: known.Address, Fingerprint: known.Fingerprint, KnownHosts: known.KnownHosts}, err
}
