package worker

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Config says where and how builds run. The zero value of every field but Dir works.
type Config struct {
	Dir        string `json:"dir"`                   // caches and sockets; owned by the user it runs as
	Buildkitd  string `json:"buildkitd,omitempty"`   // program; "" means beside our own program, else on PATH
	User       string `json:"user,omitempty"`        // started as root: the user to become, which must not be root
	CacheBytes int64  `json:"cache_bytes,omitempty"` // build caches of all domains on disk; 0 means 20 GiB. One domain may use half
	Parallel   int    `json:"parallel,omitempty"`    // build steps at once in one domain; 0 means 4
	Daemons    int    `json:"daemons,omitempty"`     // domains that can build at once; 0 means 4
	// Idle is how many seconds a daemon that nobody uses is kept; 0 means 300.
	Idle int `json:"idle_seconds,omitempty"`
	// Limits bound what builds take of this machine.
	Limits Limits `json:"limits,omitzero"`
	// Allow lists private networks and addresses that builds may reach all the same, such as a registry on the LAN.
	Allow []string `json:"allow,omitempty"`
}

const (
	defaultCache    = 20 << 30
	defaultParallel = 4
	defaultDaemons  = 4
	defaultIdle     = 300
	maxDaemons      = 64
)

func (c Config) withDefaults() Config {
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCache
	}
	for v, def := range map[*int]int{&c.Parallel: defaultParallel, &c.Daemons: defaultDaemons, &c.Idle: defaultIdle} {
		if *v == 0 {
			*v = def
		}
	}
	c.Limits = c.Limits.withDefaults()
	return c
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	if !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("dir: must be an absolute path, not %q", c.Dir)
	}
	// A Unix socket's path has room for 107 bytes; RootlessKit's own is the longest of ours.
	if s := c.place(maxDaemons).kitSocket(); len(s) > 107 {
		return fmt.Errorf("dir: %s is too long for a Unix socket (%d bytes, at most 107)", s, len(s))
	}
	if c.CacheBytes < 0 {
		return errors.New("cache_bytes: must not be negative")
	}
	for name, v := range map[string]int{"parallel": c.Parallel, "daemons": c.Daemons, "idle_seconds": c.Idle} {
		if v < 0 {
			return fmt.Errorf("%s: must not be negative", name)
		}
	}
	if min(c.Limits.Memory, c.Limits.Disk, int64(c.Limits.Processes)) < 0 {
		return errors.New("limits: must not be negative")
	}
	if c.Daemons > maxDaemons {
		return fmt.Errorf("daemons: at most %d, not %d", maxDaemons, c.Daemons)
	}
	_, err := c.allowed()
	return err
}

// Parse sets what operators may choose, given as NAME=N,NAME=N.
func (c *Config) Parse(list string) error {
	const mib = 1 << 20
	for item := range strings.SplitSeq(list, ",") {
		name, number, _ := strings.Cut(strings.TrimSpace(item), "=")
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 32)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not NAME=NUMBER", item)
		}
		switch name {
		case "memory":
			c.Limits.Memory = n * mib
		case "processes":
			c.Limits.Processes = int(n)
		case "disk":
			c.Limits.Disk = n * mib
		case "cache":
			c.CacheBytes = n * mib
		case "organizations":
			c.Daemons = int(n)
		case "steps":
			c.Parallel = int(n)
		case "idle":
			c.Idle = int(n)
		default:
			return fmt.Errorf("there is no bound %q; there are memory, disk and cache (in MiB), processes, organizations, steps and idle (in seconds)", name)
		}
	}
	return nil
}

// Socket is where the manager answers the builder role.
func (c Config) Socket() string { return filepath.Join(c.Dir, "worker.sock") }

// Address is the same with its kind.
func (c Config) Address() string { return "unix://" + c.Socket() }

func (c Config) idle() time.Duration { return time.Duration(c.Idle) * time.Second }

// caches holds a directory for each domain.
func (c Config) caches() string { return filepath.Join(c.Dir, "caches") }

func (c Config) cache(domain string) string { return filepath.Join(c.caches(), domain) }

// place is the directory of one of the daemons that run at the same time: everything of it but its cache. The names in it are
// short because a Unix socket's path must be.
type place string

func (c Config) place(n int) place { return place(filepath.Join(c.Dir, fmt.Sprintf("d%d", n))) }

func (p place) socket() string    { return filepath.Join(string(p), "s") }
func (p place) kit() string       { return filepath.Join(string(p), "k") }
func (p place) kitSocket() string { return filepath.Join(p.kit(), "api.sock") }
func (p place) tmp() string       { return filepath.Join(string(p), "tmp") }
func (p place) plugins() string   { return filepath.Join(string(p), "cni") }
func (p place) traces() string    { return filepath.Join(string(p), "traces") }
func (p place) network() string   { return filepath.Join(string(p), "cni.conf") }
func (p place) settings() string  { return filepath.Join(string(p), "buildkitd.toml") }

var domainForm = pattern.New(`^[a-z0-9][a-z0-9-]{0,62}$`)

// checkDomain refuses what could not be the name of a directory of ours.
func checkDomain(domain string) error {
	if !domainForm.MatchString(domain) {
		return fmt.Errorf("domain %.80q: lower-case letters, digits and hyphens, at most 63", domain)
	}
	return nil
}
