// Package egress is the way out: the one HTTP client for requests that the server makes to places which people, files or answers
// name. It reaches public addresses over TLS and nothing else. What a name stands for is judged where the connection is made,
// after the name is resolved, so that no name, redirect or spelling of an address leads into the server's own network.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bounds where the configuration gives none.
const (
	defaultTimeout    = 15 * time.Second
	defaultMaxBody    = 1 << 20
	defaultConcurrent = 8
)

// Config says how far out a client may reach. Its zero value reaches public addresses over TLS.
type Config struct {
	// Allow names what may be reached although it is not public: prefixes ("10.1.0.0/16"), addresses, and host names, which may
	// then stand for any address. What is named here may also be asked in plain http.
	Allow []string
	// Never names addresses that are not reached whatever else is said, such as this machine's own; nil means none.
	Never func(netip.Addr) bool
	// Redirects is how many redirects are followed; each is judged like a request of its own. 0: none, and one is an error.
	Redirects int
	// Timeout bounds a request, its answer included. 0 means 15 s.
	Timeout time.Duration
	// MaxBody bounds the bytes of an answer. 0 means 1 MiB.
	MaxBody int64
	// Concurrent bounds the requests at a time; one more waits. 0 means 8.
	Concurrent int
	// Roots are the authorities to trust; nil means the system's.
	Roots *x509.CertPool
	// Resolver finds addresses; nil means the system's.
	Resolver *net.Resolver
}

// What is refused.
var (
	ErrAddress  = errors.New("the address is not a public one")
	ErrScheme   = errors.New("only https is used")
	ErrRedirect = errors.New("the answer leads elsewhere, which is not followed")
	ErrTooLarge = errors.New("the answer is too large")
)

// Client makes requests to the outside.
type Client struct {
	http  *http.Client
	cfg   Config
	allow allowed
	slots chan struct{}
	// One for each scheme: in plain http nothing but what is allowed by name is reached.
	secure, plain *http.Transport
}

// New makes a client. An entry of Allow that is neither prefix, address nor host name is an error.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultMaxBody
	}
	if cfg.Concurrent == 0 {
		cfg.Concurrent = defaultConcurrent
	}
	c := &Client{cfg: cfg, slots: make(chan struct{}, cfg.Concurrent)}
	var err error
	if c.allow, err = parseAllow(cfg.Allow); err != nil {
		return nil, err
	}
	c.secure, c.plain = c.transport(false), c.transport(true)
	c.http = &http.Client{Transport: c, Timeout: cfg.Timeout, CheckRedirect: c.redirect}
	return c, nil
}

// HTTP is the client as libraries take it.
func (c *Client) HTTP() *http.Client { return c.http }

// Close lets kept connections go.
func (c *Client) Close() {
	c.secure.CloseIdleConnections()
	c.plain.CloseIdleConnections()
}

func (c *Client) transport(plain bool) *http.Transport {
	return &http.Transport{
		Proxy: nil, // a proxy of the environment would resolve names where nobody judges the address
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.dial(ctx, network, address, plain)
		},
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.cfg.Roots},
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: c.cfg.Timeout,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConns:          c.cfg.Concurrent, MaxIdleConnsPerHost: 2, MaxConnsPerHost: c.cfg.Concurrent,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

func (c *Client) dial(ctx context.Context, network, address string, plain bool) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: 5 * time.Second, Resolver: c.cfg.Resolver, Control: func(_, address string, _ syscall.RawConn) error {
		return c.judge(host, address, plain)
	}}
	return d.DialContext(ctx, network, address)
}

// Dial makes a connection for a protocol that protects itself, SSH say, to where a request over TLS could go.
func (c *Client) Dial(ctx context.Context, address string) (net.Conn, error) {
	return c.dial(ctx, "tcp", address, false)
}

// judge decides about one address that a host name turned out to be, before anything is sent there.
func (c *Client) judge(host, address string, plain bool) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrAddress, address)
	}
	ip := at.Addr().Unmap().WithZone("")
	switch {
	case c.cfg.Never != nil && c.cfg.Never(ip):
		return fmt.Errorf("%w: %s is %s", ErrAddress, host, ip)
	case c.allow.holds(host, ip):
		return nil
	case plain:
		return fmt.Errorf("%w: %s", ErrScheme, host)
	case !Public(ip):
		return fmt.Errorf("%w: %s is %s", ErrAddress, host, ip)
	}
	return nil
}

func (c *Client) redirect(r *http.Request, via []*http.Request) error {
	if len(via) > c.cfg.Redirects {
		return fmt.Errorf("%w: %s", ErrRedirect, r.URL.Host)
	}
	if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return ErrScheme
	}
	return nil
}

// RoundTrip implements http.RoundTripper.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.User != nil {
		return nil, errors.New("an address with a user name is not asked")
	}
	var next *http.Transport
	switch {
	case r.URL.Scheme == "https":
		next = c.secure
	case r.URL.Scheme == "http" && !c.allow.empty():
		next = c.plain
	default:
		return nil, ErrScheme
	}
	select {
	case c.slots <- struct{}{}:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	leave := sync.OnceFunc(func() { <-c.slots })
	res, err := next.RoundTrip(r)
	if err != nil {
		leave()
		return nil, err
	}
	if res.ContentLength > c.cfg.MaxBody {
		leave()
		return nil, errors.Join(ErrTooLarge, res.Body.Close())
	}
	res.Body = &body{ReadCloser: res.Body, left: c.cfg.MaxBody, leave: leave}
	return res, nil
}

// body is an answer that may not go on for ever. Closing it gives the request's place to the next.
type body struct {
	io.ReadCloser
	left  int64
	leave func()
}

func (b *body) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, ErrTooLarge
	}
	return n, err
}

func (b *body) Close() error {
	defer b.leave()
	return b.ReadCloser.Close()
}

// allowed is what may be reached although it is not public.
type allowed struct {
	prefixes []netip.Prefix
	hosts    map[string]bool
}

func parseAllow(list []string) (allowed, error) {
	a := allowed{hosts: map[string]bool{}}
	for _, text := range list {
		if p, err := netip.ParsePrefix(text); err == nil {
			a.prefixes = append(a.prefixes, p.Masked())
			continue
		}
		if ip, err := netip.ParseAddr(text); err == nil {
			ip = ip.Unmap()
			a.prefixes = append(a.prefixes, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		if text == "" || strings.ContainsAny(text, "/:*@ ") {
			return a, fmt.Errorf("%q is neither a prefix, an address nor a host name", text)
		}
		a.hosts[strings.ToLower(strings.TrimSuffix(text, "."))] = true
	}
	return a, nil
}

func (a allowed) empty() bool { return len(a.prefixes) == 0 && len(a.hosts) == 0 }

func (a allowed) holds(host string, ip netip.Addr) bool {
	if a.hosts[strings.ToLower(strings.TrimSuffix(host, "."))] {
		return true
	}
	for _, p := range a.prefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// global is what of IPv6 is given out for the internet. All else belongs to some network, or to nobody yet.
var global = netip.MustParsePrefix("2000::/3")

// special are the networks that look public to [netip.Addr.IsGlobalUnicast] and are not: they lead to this network, or stand for
// addresses of IPv4 that would have to be judged in their place.
var special = func() (all []netip.Prefix) {
	for _, text := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	} {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}()

// Public reports whether an address belongs to the public internet.
func Public(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || ip.Is6() && !global.Contains(ip) {
		return false
	}
	for _, p := range special {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}
