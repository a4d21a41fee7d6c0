package vpndoor

import (
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// ClientConfig is the configuration of OpenVPN on a device with balenaOS, whose programs and paths it names. The server's certificate is held
// against its name: another one of the same authority is no server to it. Nothing is compressed, as on the
// server, so that no length tells of what is sent.
func ClientConfig(site api.ChannelSite) string {
	return strings.Join([]string{
		"client",
		fmt.Sprintf("remote %s %d", site.Host, site.Port),
		"resolv-retry infinite",
		"remote-cert-tls server",
		"verify-x509-name " + site.Host + " name",
		"tls-version-min 1.2",
		"ca /etc/openvpn/ca.crt",
		"auth-user-pass /var/volatile/vpn-auth",
		"auth-retry none",
		"script-security 2",
		"up /etc/openvpn-misc/upscript.sh",
		"up-restart",
		"down /etc/openvpn-misc/downscript.sh",
		"dev resin-vpn",
		"dev-type tun",
		"proto tcp",
		"nobind",
		"persist-key",
		"persist-tun",
		"verb 3",
		"user openvpn",
		"group openvpn",
		"reneg-bytes 0",
		"reneg-pkts 0",
		"reneg-sec 0",
		"",
	}, "\n")
}
