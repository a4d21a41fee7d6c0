package vpn

import (
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
)

// What the edge hands over to this role, by label: OpenVPN, which it tells by the first bytes, and the names that people use.
const (
	LabelOpenVPN = "openvpn"
	LabelTunnel  = "tunnel"
	LabelDevices = "devices"
)

// LabelSSH is the port of the SSH gateway, which is the role's own.
const LabelSSH = "ssh"

// Labels is all that is handed over.
var Labels = []string{LabelOpenVPN, LabelTunnel, LabelDevices}

// Config is the vpn role's configuration.
type Config struct {
	// Dir is the role's own directory: its identity, and the certificate of its public names (tls.pem, tls.key).
	Dir string `json:"dir"`
	// Site is the public name and port.
	Site api.Site `json:"site"`
	// Peers says where the api role listens.
	Peers map[string]string `json:"peers"`
	// HalfOpen is how many connections may be on their way in at once; 0 means 2000. When there are more, those give way that have
	// waited longest, of the address that has most of them.
	HalfOpen int `json:"half_open,omitempty"`
	// Limits bounds tunnels, sessions and visitors of public addresses.
	Limits permit.Limits `json:"limits"`
}

// Validate names the first field that is wrong.
func (c Config) Validate() error {
	if err := c.Limits.Validate(); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	return pki.CheckConfig(c.Dir, c.Site, c.Peers, api.RoleAPI)
}
