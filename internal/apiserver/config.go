package apiserver

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/mail"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/release/stored"
	"github.com/roadstead-io/roadstead/internal/web/securitytxt"
)

// Config is the api role's role.json.
type Config struct {
	// Dir is the role's directory: cert.pem, key.pem and ca.pem, the pepper, the database and the message bus.
	Dir string `json:"dir"`
	// Site is where the public side of the server is reached.
	Site api.Site `json:"site"`
	// Peers gives the loopback address of every role that this one calls: the signer, and the bus. Without a bus the message
	// bus is inside this process, which is then the only one of its role.
	Peers map[string]string `json:"peers"`
	// Process tells the processes of the role apart, 0 to 15.
	Process int `json:"process"`
	// SQL is the address of the PostgreSQL database, postgres://…, with its password. Without one the database is a SQLite file
	// in Dir.
	SQL string `json:"sql,omitempty"`
	// PublicCA is the file of the root certificate that devices and people are given to trust.
	PublicCA string `json:"public_ca"`
	// Bases is the directory of base images, of which people are told; "" means there are none.
	Bases string `json:"bases,omitempty"`
	// PollInterval is how often devices ask for their target state unless a variable says otherwise. 0 means ten minutes.
	PollInterval time.Duration `json:"poll_interval"`
	// Admission bounds how much is worked on at once.
	Admission Admission `json:"admission"`
	// Blobs is the folder of uploaded files, one for all processes of the role. Empty: "blobs" in Dir.
	Blobs string `json:"blobs"`
	// MaxBlob bounds one uploaded file, in bytes. 0 means 2 GiB.
	MaxBlob int64 `json:"max_blob"`
	// MaxFiles bounds the bytes of all release assets of one organization. 0 means 20 GiB.
	MaxFiles int64 `json:"max_files"`
	// Contracts is a folder with the operator's own device types, one hw.device-type contract <slug>.json each. They are read at
	// the start. Empty: "contracts" in Dir, if it is there.
	Contracts string `json:"contracts"`
	// Logs bounds who follows the logs of devices.
	Logs Logs `json:"logs"`
	// AuditDays is how many days entries of the audit log are kept, see docs/audit.md. 0: for ever.
	AuditDays int `json:"audit_days"`
	// BuildDays is how many days logs of builds, and images of builds that made no release, are kept. 0: for ever.
	BuildDays int `json:"build_days"`
	// SessionIdle is how long a session of a person holds that nobody uses. 0 means 30 days.
	SessionIdle time.Duration `json:"session_idle"`
	// SessionLife is how long one holds since its user proved who they are, however often it is refreshed. 0 means 90 days.
	SessionLife time.Duration `json:"session_life"`
	// Checked says that the statements of all rules were tried on such a database before: a test's second server need not do it again.
	Checked bool `json:"-"`
	// PasswordCost is how much work the hash of a password is. The zero value has it found out, as it should be but in a test.
	PasswordCost password.Cost `json:"-"`
	// Now is the clock that the database's rows go by; nil is the real one, as it should be but in a test.
	Now func() time.Time `json:"-"`
	// Mail says how letters go to people. Without a server none do.
	Mail mail.Server `json:"mail"`
	// SecurityContact is whom to tell of a vulnerability: mailto:…, https://… or tel:…. Empty: mailto:security@ the domain.
	SecurityContact string `json:"security_contact,omitempty"`
	// SignIn is the file of the sign-in providers, with their secrets. Empty, or no such file: there are none.
	SignIn string `json:"sign_in,omitempty"`
	// Channel says how devices reach the control channel. Without a host the server has none.
	Channel api.ChannelSite `json:"channel,omitzero"`
	// Git says how git over SSH is reached.
	Git api.GitSite `json:"git,omitzero"`
	// SSH says how the gateway for SSH into devices is reached.
	SSH api.SSHSite `json:"ssh,omitzero"`
	// Trust says that new devices get a root of trust with their config.json: they check what they are told to run.
	Trust bool `json:"trust,omitempty"`
	// OData bounds what one request to the resources may ask.
	OData odata.Limits `json:"odata"`
	// Registry bounds what organizations keep in the registry.
	Registry stored.Config `json:"registry"`
}

const (
	defaultPollInterval = 10 * time.Minute
	maxAuditDays        = 36500
)

// auditRetention is how long entries of the audit log are kept; 0: for ever.
func (c *Config) auditRetention() time.Duration { return time.Duration(c.AuditDays) * 24 * time.Hour }

// Validate names the field that is wrong.
func (c *Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("dir: not given")
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("dir: %q is not absolute", c.Dir)
	case c.Site.Domain == "":
		return errors.New("site.domain: not given")
	case c.Site.Port < 0 || c.Site.Port > 65535:
		return fmt.Errorf("site.port: %d is not a port", c.Site.Port)
	case c.Process < 0 || c.Process > 15:
		return fmt.Errorf("process: %d is not 0 to 15", c.Process)
	case c.Process > 0 && c.Peers[api.RoleBus] == "":
		return errors.New("peers.bus: not given, and several processes need one bus")
	case c.AuditDays < 0 || c.AuditDays > maxAuditDays:
		return fmt.Errorf("audit_days: %d is not 0 to %d", c.AuditDays, maxAuditDays)
	case c.BuildDays < 0 || c.BuildDays > maxAuditDays:
		return fmt.Errorf("build_days: %d is not 0 to %d", c.BuildDays, maxAuditDays)
	case c.MaxFiles < 0:
		return fmt.Errorf("max_files: %d is negative", c.MaxFiles)
	case c.MaxBlob < 0:
		return fmt.Errorf("max_blob: %d is negative", c.MaxBlob)
	case c.SessionIdle != 0 && c.SessionIdle < time.Hour:
		return fmt.Errorf("session_idle: %s is shorter than an hour", c.SessionIdle)
	case c.SessionLife != 0 && c.SessionLife < time.Hour:
		return fmt.Errorf("session_life: %s is shorter than an hour", c.SessionLife)
	case c.PollInterval < 0:
		return fmt.Errorf("poll_interval: %s is negative", c.PollInterval)
	case c.PollInterval > 0 && c.PollInterval < time.Second:
		return fmt.Errorf("poll_interval: %s is shorter than a second", c.PollInterval)
	}
	return errors.Join(c.Admission.Validate(), c.OData.Validate(), c.registry(), c.Logs.Validate(), c.Mail.Validate(), securitytxt.Check(c.SecurityContact))
}

// registry names the field of the registry that is wrong.
func (c *Config) registry() error {
	if err := c.Registry.Validate(); err != nil {
		return fmt.Errorf("registry.%w", err)
	}
	return nil
}

// pollInterval is the configured interval or the default.
func (c *Config) pollInterval() time.Duration {
	if c.PollInterval == 0 {
		return defaultPollInterval
	}
	return c.PollInterval
}
