// Package api holds the words that cross a wire: the shapes, identifiers, names and errors that the server, the agent
// and the command line share. It depends on the standard library only, and nothing in it does any work.
package api

import (
	"fmt"
	"net"
	"strconv"
)

// DeviceUUID names a device everywhere: 32 or 62 lower-case hexadecimal digits.
type DeviceUUID string

// Valid reports whether the identifier has the form that registration accepts.
func (u DeviceUUID) Valid() bool {
	if len(u) != 32 && len(u) != 62 {
		return false
	}
	for _, c := range []byte(u) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Names of the server's roles, as they stand in role certificates.
const (
	RoleEdge      = "edge"
	RoleAPI       = "api"
	RoleSigner    = "signer"
	RoleRegistry  = "registry"
	RoleBuilder   = "builder"
	RoleDashboard = "dashboard"
	RoleGit       = "git"
	RoleVPN       = "vpn"
	RoleBus       = "bus"    // the message bus, when there are several api processes
	RoleParent    = "parent" // the parent process: health checks only
	RoleAdmin     = "admin"  // `roadsteadd admin`, run by the operator on the server itself
)

// Site says under which names and port the public side of a server is reached.
type Site struct {
	Domain string `json:"domain"`
	Port   int    `json:"port"`
}

// Host is the public name of one service ("api", "registry2", "builder", …), with the port unless it is 443.
func (s Site) Host(service string) string {
	name := service + "." + s.Domain
	if s.Port == 443 || s.Port == 0 {
		return name
	}
	return net.JoinHostPort(name, strconv.Itoa(s.Port))
}

// URL is the https address of one service.
func (s Site) URL(service string) string { return "https://" + s.Host(service) }

// DeviceRegistryUser is the user name that a device's engine gives at the registry's token endpoint.
func DeviceRegistryUser(u DeviceUUID) string { return fmt.Sprintf("d_%s", u) }
