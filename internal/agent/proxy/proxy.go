// Package proxy is the proxy that was set through the device API: what it is, where the device remembers it, and which of the agent's
// own connections go through it. While none is set, the environment says (HTTPS_PROXY, NO_PROXY).
package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// The kinds of proxies that can be set. The agent speaks nothing but TLS with its server, so one that only passes on plain HTTP carries
// none of it.
const (
	HTTPConnect = "http-connect"
	SOCKS5      = "socks5"
)

// Setting is a proxy, in the words of balena's host configuration.
type Setting struct {
	Type     string   `json:"type"`
	IP       string   `json:"ip"` // or a name
	Port     int      `json:"port"`
	Login    string   `json:"login,omitempty"`
	Password string   `json:"password,omitempty"`
	NoProxy  []string `json:"noProxy,omitempty"` // addresses, networks and names that are reached without it
}

// Change is what of a setting is to be changed; nil leaves a field alone.
type Change struct {
	Type     *string
	IP       *string
	Port     *int
	Login    *string
	Password *string
	NoProxy  *[]string
}

// ParseChange reads one. No fields at all, or null, mean that there shall be no proxy: remove.
func ParseChange(text []byte) (change Change, remove bool, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return change, false, errors.New("network.proxy must be an object")
	}
	if len(fields) == 0 {
		return change, true, nil
	}
	texts := map[string]**string{"type": &change.Type, "ip": &change.IP, "login": &change.Login, "password": &change.Password}
	for name, raw := range fields {
		into, isText := texts[name]
		switch {
		case isText:
			if json.Unmarshal(raw, into) != nil || *into == nil {
				return change, false, fmt.Errorf("network.proxy.%s must be a text", name)
			}
		case name == "port":
			n, err := strconv.Atoi(strings.Trim(string(raw), `"`))
			if err != nil {
				return change, false, errors.New("network.proxy.port must be a number from 1 to 65535")
			}
			change.Port = &n
		case name == "noProxy":
			list := []string{}
			if json.Unmarshal(raw, &list) != nil {
				return change, false, errors.New("network.proxy.noProxy must be a list of texts")
			}
			change.NoProxy = &list
		case name == "dns":
			if string(raw) != "false" && string(raw) != "null" {
				return change, false, errors.New("network.proxy.dns is not supported: the proxy looks up the server's name itself")
			}
		default:
			return change, false, fmt.Errorf("network.proxy.%.40s is not known", name)
		}
	}
	return change, false, nil
}

// With is the setting after a change. A login and password go to the proxy that they were given for, and to no other.
func (s Setting) With(c Change) Setting {
	before := s
	set(&s.Type, c.Type)
	set(&s.IP, c.IP)
	set(&s.Port, c.Port)
	if s.Type != before.Type || s.IP != before.IP || s.Port != before.Port || c.Login != nil && *c.Login != before.Login {
		s.Password = ""
		if c.Login == nil {
			s.Login = ""
		}
	}
	set(&s.Login, c.Login)
	set(&s.Password, c.Password)
	set(&s.NoProxy, c.NoProxy)
	return s
}

func set[T any](into *T, given *T) {
	if given != nil {
		*into = *given
	}
}

// maxNoProxy bounds the list.
const maxNoProxy = 100

var (
	nameRule       = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9.-]{0,252}$`)
	credentialRule = pattern.New(`^[\x21\x23-\x5b\x5d-\x7e]{1,200}$`) // what openvpn can be told, too: no space, quote or backslash
)

// Check names the field that is wrong.
func (s Setting) Check() error {
	switch s.Type {
	case HTTPConnect, SOCKS5:
	case "socks4", "http-relay":
		return fmt.Errorf("network.proxy.type: this agent cannot use %s, only %s and %s", s.Type, HTTPConnect, SOCKS5)
	default:
		return fmt.Errorf("network.proxy.type must be %s or %s, not %.40q", HTTPConnect, SOCKS5, s.Type)
	}
	if _, err := netip.ParseAddr(s.IP); err != nil && !nameRule.MatchString(s.IP) {
		return fmt.Errorf("network.proxy.ip: %.80q is neither an address nor a name", s.IP)
	}
	if s.Port < 1 || s.Port > 65535 {
		return errors.New("network.proxy.port must be a number from 1 to 65535")
	}
	for name, val := range map[string]string{"login": s.Login, "password": s.Password} {
		if val != "" && !credentialRule.MatchString(val) {
			return fmt.Errorf("network.proxy.%s has a space, a quote, a backslash or a letter beyond ASCII, or is longer than 200", name)
		}
	}
	if s.Password != "" && s.Login == "" {
		return errors.New("network.proxy.login is missing: there is a password without it")
	}
	if len(s.NoProxy) > maxNoProxy {
		return fmt.Errorf("network.proxy.noProxy has more than %d entries", maxNoProxy)
	}
	for _, entry := range s.NoProxy {
		if _, err := netip.ParsePrefix(entry); err == nil {
			continue
		}
		if _, err := netip.ParseAddr(entry); err != nil && !nameRule.MatchString(strings.TrimPrefix(entry, ".")) {
			return fmt.Errorf("network.proxy.noProxy: %.80q is no address, network or name", entry)
		}
	}
	return nil
}

// URL is the proxy's.
func (s Setting) URL() *url.URL {
	out := &url.URL{Scheme: map[string]string{HTTPConnect: "http", SOCKS5: "socks5"}[s.Type], Host: net.JoinHostPort(s.IP, strconv.Itoa(s.Port))}
	if s.Login != "" {
		out.User = url.UserPassword(s.Login, s.Password)
	}
	return out
}

// For answers the proxy for a request, nil for none.
func (s Setting) For(r *http.Request) (*url.URL, error) {
	if s.spares(r.URL.Hostname()) {
		return nil, nil //nolint:nilnil // as http.Transport wants it
	}
	return s.URL(), nil
}

// spares reports whether a host is reached without the proxy. The device itself always is.
func (s Setting) spares(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	ip, err := netip.ParseAddr(host)
	if host == "localhost" || err == nil && ip.IsLoopback() {
		return true
	}
	return slices.ContainsFunc(s.NoProxy, func(entry string) bool {
		if network, bad := netip.ParsePrefix(entry); bad == nil {
			return err == nil && network.Contains(ip.Unmap())
		}
		if one, bad := netip.ParseAddr(entry); bad == nil {
			return err == nil && one.Unmap() == ip.Unmap()
		}
		name := strings.ToLower(strings.Trim(entry, "."))
		return host == name || strings.HasSuffix(host, "."+name)
	})
}

// Store remembers the setting in a file that only root may read.
type Store struct {
	path string

	mu  sync.Mutex // covers now, and the order of writes
	now *Setting
}

// Open reads the file. One that cannot be used is an error beside a store without a proxy.
func Open(path string) (*Store, error) {
	s := &Store{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	var have Setting
	if err = json.Unmarshal(text, &have); err == nil {
		err = have.Check()
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	s.now = &have
	return s, nil
}

// Get answers what is set, nil for nothing.
func (s *Store) Get() *Setting {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		return nil
	}
	out := *s.now
	out.NoProxy = slices.Clone(out.NoProxy)
	return &out
}

// Set replaces it; nil removes it. When it returns, the file is written.
func (s *Store) Set(to *Setting) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to == nil {
		if err := durable.Remove(s.path); err != nil {
			return err
		}
		s.now = nil
		return nil
	}
	text, err := json.Marshal(to)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(s.path, append(text, '\n'), 0o600); err != nil {
		return err
	}
	s.now = to
	return nil
}

// For answers the proxy for a request: the one that is set, or else the environment's.
func (s *Store) For(r *http.Request) (*url.URL, error) {
	if now := s.Get(); now != nil {
		return now.For(r)
	}
	return http.ProxyFromEnvironment(r)
}
