package supervise

import "path/filepath"

// Layout is a data directory. Only the parent, as root, sees all of it; every role sees its own directory, ca.pem and bases.
type Layout string

// Path is a name in the data directory.
func (l Layout) Path(parts ...string) string {
	return filepath.Join(append([]string{string(l)}, parts...)...)
}

// PublicCA is the certificate that clients and devices are given to trust.
func (l Layout) PublicCA() string { return l.Path("ca.pem") }

// AdminFile holds the first administrator's credentials.
func (l Layout) AdminFile() string { return l.Path("admin.json") }

// SiteFile records which domain the directory belongs to.
func (l Layout) SiteFile() string { return l.Path("site.json") }

// Bases holds the base images that builds start from, as OCI layouts.
func (l Layout) Bases() string { return l.Path("bases") }

// Role is a role's own directory.
func (l Layout) Role(role string) string { return l.Path("roles", role) }

// Run holds what is true only while the server runs.
func (l Layout) Run() string { return l.Path("run") }

// Lock takes the directory of a server that does not run, until free is called.
func (l Layout) Lock() (free func(), err error) {
	f, err := lock(l.lockFile())
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

func (l Layout) lockFile() string     { return l.Path("run", "lock") }
func (l Layout) childrenFile() string { return l.Path("run", "roles.json") }
func (l Layout) authorityFile(name string) string {
	return l.Path("pki", name)
}
