package channel

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

// accepted is what the server may set on the device: its address, and how the two ends keep the connection. No route, no name server, no
// script, no compression, no second address.
var accepted = []string{"ifconfig ", "ping ", "ping-exit ", "ping-restart ", "peer-id ", "cipher ", "auth-token", "tun-mtu ", "key-derivation ", "protocol-flags "}

var (
	hostRule  = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9.-]{0,252}$`)
	proxyRule = pattern.New(`^[\x21\x23-\x5b\x5d-\x7e]{1,200}$`) // no space, quote or backslash
)

// options is the whole configuration of openvpn, which reads it from its standard input: nothing in it comes to a file or a command line.
// Every failure ends the process, so that it is always started anew, with what is right then.
func (c *Channel) options(id *known) (string, error) {
	host, port := c.cfg.Host, c.cfg.Port
	if host == "" {
		host = id.Answer.Host
	}
	if port == 0 {
		port = id.Answer.Port
	}
	if port == 0 {
		port = 443
	}
	if !hostRule.MatchString(host) || !hostRule.MatchString(id.Answer.Host) || port < 1 || port > 65535 {
		return "", fmt.Errorf("the server's address %q, port %d, is none", host, port)
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("client")
	line("dev %s", Interface)
	line("dev-type tun")
	line("topology p2p")
	line("proto tcp-client")
	line("remote %s %d", host, port)
	line("nobind")
	line("resolv-retry 0")
	line("connect-retry-max 1")
	line("connect-timeout 30")
	line("hand-window 30")
	line("ping 10")
	line("ping-exit 60")
	line("remap-usr1 SIGTERM")
	line("remote-cert-tls server")
	line("verify-x509-name %s name", id.Answer.Host)
	line("tls-version-min 1.2")
	line("data-ciphers AES-256-GCM:CHACHA20-POLY1305:AES-128-GCM")
	line("allow-compression no")
	line("auth-user-pass")
	line("auth-nocache")
	line("auth-retry none")
	line("route-nopull")
	line("script-security 1")
	for _, what := range accepted {
		line("pull-filter accept %q", what)
	}
	line("pull-filter ignore \"\"")
	line("suppress-timestamps")
	line("verb 1")
	line("mute 20")
	if err := c.proxy(host, port, line); err != nil {
		return "", err
	}
	for name, text := range map[string]string{"ca": id.Answer.CA, "cert": id.Answer.Certificate, "key": id.Key} {
		if strings.Contains(text, "</") {
			return "", errors.New("the certificate is not one")
		}
		line("<%s>\n%s\n</%s>", name, strings.TrimSpace(text), name)
	}
	return b.String(), nil
}

// proxy adds the HTTP proxy that the rest of the agent goes through.
func (c *Channel) proxy(host string, port int, line func(string, ...any)) error {
	to := url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(port))}
	through, err := c.cfg.Proxy(&http.Request{URL: &to, Host: to.Host})
	if err != nil || through == nil {
		return err
	}
	at := through.Port()
	if at == "" {
		at = map[string]string{"http": "80", "socks5": "1080"}[through.Scheme]
	}
	if _, err := netip.ParseAddr(through.Hostname()); err != nil && !hostRule.MatchString(through.Hostname()) {
		return fmt.Errorf("the proxy %s is none", through.Redacted())
	}
	switch {
	case through.Scheme == "socks5" && through.User == nil:
		line("socks-proxy %s %s", through.Hostname(), at)
		return nil
	case through.Scheme == "socks5":
		return errors.New("openvpn cannot use a SOCKS proxy with a user and password") // it would want them in a file
	case through.Scheme != "http":
		return fmt.Errorf("openvpn cannot use the proxy %s: only http:// and socks5:// ones", through.Redacted())
	}
	if through.User == nil {
		line("http-proxy %s %s", through.Hostname(), at)
		return nil
	}
	password, _ := through.User.Password()
	if !proxyRule.MatchString(through.User.Username()) || !proxyRule.MatchString(password) {
		return errors.New("openvpn cannot use the proxy's user and password")
	}
	line("http-proxy %s %s auto", through.Hostname(), at)
	line("<http-proxy-user-pass>\n%s\n%s\n</http-proxy-user-pass>", through.User.Username(), password)
	return nil
}

func (c *Channel) program() (string, error) {
	for _, name := range []string{c.cfg.Program, "openvpn", "/usr/sbin/openvpn", "/sbin/openvpn"} {
		if name == "" {
			continue
		}
		if path, err := exec.LookPath(name); err == nil {
			if _, err := os.Stat("/dev/net/tun"); err != nil {
				return "", errors.New("the device has no /dev/net/tun")
			}
			return path, nil
		}
		if name == c.cfg.Program {
			break
		}
	}
	return "", errors.New("openvpn is not installed")
}

// onlyFrom binds a socket to an interface: what comes by another does not find it, whatever address it asks for.
func onlyFrom(nic string) func(network, address string, conn syscall.RawConn) error {
	return func(_, _ string, conn syscall.RawConn) error {
		var err error
		if ctlErr := conn.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), nic) }); ctlErr != nil { //nolint:gosec // a descriptor is small
			return ctlErr
		}
		return err
	}
}
