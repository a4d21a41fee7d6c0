// Package cage is the process around openvpn and the network namespace that both live in. The namespace has no way out: what comes in
// are connections that somebody else accepted, what goes out are connections to tunnel addresses of devices, handed to the vpn role. Its
// firewall is one file, rules.nft; a watcher sends packets down every closed way and ends the process when one of them is open.
package cage
