package supervise

import "path/filepath"

// Layout is a data directory. Only the parent, as root, sees all of it; every role sees its own directory, ca.pem and bases.
type Layout string

// The names in a data directory.
func (l Layout) path(parts ...string) string {
	return filepath.Join(append([]string{string(l)}, parts...)...)
}

// PublicCA is the certificate that clients and devices are given to trust.
func (l Layout) PublicCA() string { return l.path("ca.pem") }

// AdminFile holds the first administrator's credentials.
func (l Layout) AdminFile() string { return l.path("admin.json") }

// SiteFile records which domain the directory belongs to.
func (l Layout) SiteFile() string { return l.path("site.json") }

// Bases holds the base images that builds start from, as OCI layouts.
func (l Layout) Bases() string { return l.path("bases") }

// Role is a role's own directory.
func (l Layout) Role(role string) string { return l.path("roles", role) }

// Run holds what is true only while the server runs.
func (l Layout) Run() string { return l.path("run") }

func (l Layout) lockFile() string     { return l.path("run", "lock") }
func (l Layout) childrenFile() string { return l.path("run", "roles.json") }
func (l Layout) authorityFile(name string) string {
	return l.path("pki", name)
}
