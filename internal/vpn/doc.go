// Package vpn is the vpn role: the server's end of the control channel. It hands the public's OpenVPN connections on to the openvpn
// processes, which run in a network namespace without a way out (package cage), asks the api role who may come in, keeps who is there,
// and opens connections to devices for those who may: the tunnel service, devices' public addresses, the SSH gateway. It has no database,
// and not the key of OpenVPN's certificate.
package vpn
