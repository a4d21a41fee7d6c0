// Package client is the Go client of the API: the only road to the data for every program but the api role itself. It speaks
// the wire that balena's clients speak, so what it finds out about a server holds for them as well.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// Defaults of [Config].
const (
	DefaultTimeout     = 60 * time.Second
	DefaultIdleTimeout = 150 * time.Second // two and a half of the heartbeats that servers send every 58 s
)

// maxAnswer bounds an answer that is read as a whole; streams have no bound.
const maxAnswer = 64 << 20

// attempts is how often an idempotent request is sent at most when the server says that it cannot answer just now.
const attempts = 6

// Config says which server to talk to, and as whom.
type Config struct {
	// URL is the address of the API ("https://api.example.com:8443"); the bare domain is understood as well.
	URL string
	// Token is a session token or an API key; empty means anonymous.
	Token string
	// CA are the only roots to trust; nil means those of the system (which SSL_CERT_FILE overrides on Linux).
	CA *x509.CertPool
	// UserAgent names the program, for the server's log.
	UserAgent string
	// Proxy answers the proxy for a request, and for a tunnel; nil means what the environment says (HTTPS_PROXY, NO_PROXY).
	Proxy func(*http.Request) (*url.URL, error)
	// Timeout bounds a request that is not a stream; 0 means DefaultTimeout.
	Timeout time.Duration
	// IdleTimeout is how long a stream may stay silent before it is taken for dead; 0 means DefaultIdleTimeout.
	IdleTimeout time.Duration
}

// Client talks to one server as one principal. It is safe for concurrent use.
type Client struct {
	cfg     Config
	base    string // https://api.example.com:8443, without a slash at the end
	builder string
	http    *http.Client
}

// New checks the configuration and makes a client; it does not connect.
func New(cfg Config) (*Client, error) {
	base, err := Endpoint(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = DefaultIdleTimeout
	}
	if cfg.Proxy == nil {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "roadstead-client"
	}
	if strings.ContainsFunc(cfg.Token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, api.Errorf(api.Invalid, "the token contains a space or a control character")
	}
	return &Client{
		cfg: cfg, base: base, builder: serviceURL(base, "builder"),
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                 cfg.Proxy,
				DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
				TLSClientConfig:       &tls.Config{RootCAs: cfg.CA, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout:   15 * time.Second,
				ForceAttemptHTTP2:     true,
				MaxIdleConnsPerHost:   8,
				IdleConnTimeout:       90 * time.Second,
				ExpectContinueTimeout: time.Second,
			},
			// A redirect could carry the token to another host; this API has none.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// As is a client of the same server with another token.
func (c *Client) As(token string) *Client {
	other := *c
	other.cfg.Token = token
	return &other
}

// WithIdleTimeout is the same client with another patience for silent streams.
func (c *Client) WithIdleTimeout(d time.Duration) *Client {
	other := *c
	other.cfg.IdleTimeout = d
	return &other
}

// URL is the address of the API.
func (c *Client) URL() string { return c.base }

// ServiceURL is the address of another public service of the same server ("dashboard", "builder").
func (c *Client) ServiceURL(service string) string { return serviceURL(c.base, service) }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Endpoint makes the address of an API from what a person types: the address itself, that of the dashboard, or the bare
// domain, with or without a port and scheme.
func Endpoint(text string) (string, error) {
	s := strings.TrimRight(strings.TrimSpace(text), "/")
	if s == "" {
		return "", api.Errorf(api.Invalid, "no server is given")
	}
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" {
		return "", api.Errorf(api.Invalid, "%q is not the address of a server, such as https://api.example.com", text)
	}
	if u.Scheme != "https" {
		return "", api.Errorf(api.Invalid, "%q: only https:// is spoken", text)
	}
	if u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", api.Errorf(api.Invalid, "%q: give only the host and port of the server", text)
	}
	host := strings.TrimPrefix(strings.ToLower(u.Host), "dashboard.")
	if _, err := netip.ParseAddr(strings.Trim(u.Hostname(), "[]")); err != nil && !strings.HasPrefix(host, "api.") {
		host = "api." + host
	}
	return "https://" + host, nil
}

// serviceURL goes from the API to a sister name. A server reached by its number has only one name.
func serviceURL(base, service string) string {
	if domain, ok := strings.CutPrefix(base, "https://api."); ok {
		return "https://" + service + "." + domain
	}
	return base
}

// Do sends one request and reads the whole answer. The path is already escaped and may have a query. A body that is not nil is
// sent as JSON. The answer goes into a *string (a JSON string or text), a *json.RawMessage (as it is) or anything that
// encoding/json can fill; nil drops it. Idempotent requests are repeated when the server says "not now" (429, 502, 503).
func (c *Client) Do(ctx context.Context, method, path string, body, into any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	for attempt := 1; ; attempt++ {
		err := c.once(ctx, method, path, data, into)
		wait, again := retry(method, attempt, err)
		if !again {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

func (c *Client) once(ctx context.Context, method, path string, data []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	var body io.Reader
	if data != nil {
		body = bytes.NewReader(data)
	}
	req, err := c.request(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	if data != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, stripQuery(path), unwrapURL(err))
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return responseError(req, res)
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("%s %s: the answer ended early: %w", method, stripQuery(path), err)
	}
	if len(answer) > maxAnswer {
		return api.Errorf(api.TooLarge, "%s %s: the answer is larger than %d bytes", method, stripQuery(path), maxAnswer)
	}
	if err := decode(answer, into); err != nil {
		return fmt.Errorf("%s %s: the server's answer is not what it should be: %w", method, stripQuery(path), err)
	}
	return nil
}

func decode(answer []byte, into any) error {
	switch into := into.(type) {
	case nil:
		return nil
	case *json.RawMessage:
		*into = answer
		return nil
	case *string:
		if err := json.Unmarshal(answer, into); err != nil {
			*into = strings.TrimSpace(string(answer)) // plain text, as login answers
		}
		return nil
	default:
		return json.Unmarshal(answer, into)
	}
}

// request makes a request with the headers that every one has. The URL may hold quotes and parentheses in its path; they go
// out as they are.
func (c *Client) request(ctx context.Context, method, address string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "%q is not a valid address: %v", address, err)
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	req.Header.Set("Accept", "application/json, text/plain, */*")
	if c.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	}
	return req, nil
}

// retry says whether and after what pause a request is sent again.
func retry(method string, attempt int, err error) (time.Duration, bool) {
	var re *ResponseError
	if err == nil || attempt >= attempts || method == http.MethodPost || !errors.As(err, &re) {
		return 0, false
	}
	switch re.Status {
	case http.StatusTooManyRequests:
		if re.retryAfter < 0 || re.retryAfter >= time.Minute {
			return 0, false
		}
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		if re.retryAfter > 30*time.Second {
			return 0, false
		}
	default:
		return 0, false
	}
	if re.retryAfter >= 0 {
		return re.retryAfter, true
	}
	return 100 * time.Millisecond << (attempt - 1), true
}

func stripQuery(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path
}

// unwrapURL drops the method and address that net/http puts before its errors: the query may be long and the caller names both.
func unwrapURL(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

func parseRetryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return -1
	}
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return -1
}
