// Package remote is the agent's side of the talk with the server: registration, target state, reports and logs. Every call
// goes out from the device over TLS; nothing listens. With a root certificate of its own a device trusts that and nothing else.
package remote

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
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/clock"
)

// Config says which server, and how to know it.
type Config struct {
	Endpoint  string // https://host[:port]; a path is dropped
	LogsURL   string // the same for logs; empty means Endpoint
	RootCA    []byte // PEM; empty means the roots of the system
	UserAgent string
	Proxy     func(*http.Request) (*url.URL, error) // nil: what the environment says
	Timeout   time.Duration                         // of a whole request except a log stream; 0 means 59 s
	Clock     *clock.Clock                          // what certificates are judged by; nil: the machine's own
}

// Client talks with one server.
type Client struct {
	cfg  Config
	http *http.Client
}

// maxAnswer bounds what a server may send at once.
const maxAnswer = 8 << 20

// New checks the endpoint and the certificate. Nothing is sent.
func New(cfg Config) (*Client, error) {
	for _, u := range []*string{&cfg.Endpoint, &cfg.LogsURL} {
		if *u == "" && u == &cfg.LogsURL {
			continue
		}
		parsed, err := url.Parse(*u)
		if err != nil || parsed.Scheme != "https" || parsed.Host == "" {
			return nil, fmt.Errorf("%q is not an https address", *u)
		}
		*u = "https://" + parsed.Host
	}
	if cfg.LogsURL == "" {
		cfg.LogsURL = cfg.Endpoint
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 59 * time.Second
	}
	if cfg.Proxy == nil {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(cfg.RootCA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(cfg.RootCA) {
			return nil, errors.New("the root certificate is not PEM")
		}
	}
	if cfg.Clock != nil {
		conf.Time = cfg.Clock.Time
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 60 * time.Second}
	var transport http.RoundTripper = &http.Transport{
		Proxy: cfg.Proxy, DialContext: dialer.DialContext, TLSClientConfig: conf,
		TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: 0, // a log stream is answered at its end
		MaxIdleConns: 2, IdleConnTimeout: 90 * time.Second, WriteBufferSize: 4 << 10, ReadBufferSize: 4 << 10,
	}
	if cfg.Clock != nil {
		transport = cfg.Clock.Watch(transport, conf.RootCAs)
	}
	return &Client{cfg: cfg, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Reached tries whether the server can be reached through other proxies than now. Any answer of it will do.
func (c *Client) Reached(ctx context.Context, proxy func(*http.Request) (*url.URL, error)) error {
	conf := c.cfg
	conf.Proxy = proxy
	other, err := New(conf)
	if err != nil {
		return err
	}
	defer other.Close()
	if err := other.do(ctx, http.MethodGet, "/ping", "", nil, http.StatusOK, nil); err != nil && StatusOf(err) == 0 {
		return err
	}
	return nil
}

// Tags fetches the device's tags.
func (c *Client) Tags(ctx context.Context, uuid api.DeviceUUID, key string) ([]api.Tag, error) {
	var rows struct {
		D []api.Tag `json:"d"`
	}
	path := "/v7/device_tag?$select=id,tag_key,value&$orderby=tag_key&$filter=" + url.PathEscape("device/uuid eq '"+string(uuid)+"'")
	if err := c.do(ctx, http.MethodGet, path, key, nil, http.StatusOK, &rows); err != nil {
		return nil, fmt.Errorf("fetch this device's tags: %w", err)
	}
	return rows.D, nil
}

// SetTags makes tags of the device, and changes them.
func (c *Client) SetTags(ctx context.Context, uuid api.DeviceUUID, key string, tags map[string]string) error {
	if err := c.do(ctx, http.MethodPatch, "/device/v3/tags", key, map[api.DeviceUUID]map[string]string{uuid: tags}, http.StatusOK, nil); err != nil {
		return fmt.Errorf("send this device's tags: %w", err)
	}
	return nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// StatusError is an answer other than the expected one.
type StatusError struct {
	Status     int
	Text       string        // what the server says, shortened
	RetryAfter time.Duration // 0 when the server did not say
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("the server answers %d %s", e.Status, http.StatusText(e.Status))
	if e.Text != "" {
		text += ": " + e.Text
	}
	return text
}

// Unwrap makes errors.Is(err, api.ErrUnauthorized) and the like hold.
func (e *StatusError) Unwrap() error { return &api.Error{Code: api.CodeOf(e.Status), Text: e.Text} }

// StatusOf gives the status of the answer that an error is about, 0 when there was no answer.
func StatusOf(err error) int {
	var e *StatusError
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// RetryAfterOf gives how long the server asked to wait.
func RetryAfterOf(err error) time.Duration {
	var e *StatusError
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

func statusError(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	e := &StatusError{Status: resp.StatusCode, Text: strings.Trim(strings.TrimSpace(string(text)), `"`)}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(min(seconds, 86400)) * time.Second
	}
	return e
}

func (c *Client) request(ctx context.Context, method, path, key string, body any) (*http.Request, error) {
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.cfg.Endpoint+path, r)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// do sends a request and hands over the answer's body when the status is the expected one.
func (c *Client) do(ctx context.Context, method, path, key string, body any, want int, into any) error {
	return c.doWithin(ctx, maxAnswer, method, path, key, body, want, into)
}

// doWithin is do with a bound of its own for the answer.
func (c *Client) doWithin(ctx context.Context, bound int64, method, path, key string, body any, want int, into any) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req, err := c.request(ctx, method, path, key, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		return statusError(resp)
	}
	if into == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
		return err
	}
	limited := &io.LimitedReader{R: resp.Body, N: bound + 1}
	err = json.NewDecoder(limited).Decode(into)
	switch {
	case limited.N <= 0:
		return fmt.Errorf("the server's answer is larger than %d bytes", bound)
	case err != nil:
		return fmt.Errorf("the server's answer: %w", err)
	}
	return nil
}

// Register asks for a new device with the provisioning key.
func (c *Client) Register(ctx context.Context, provisioningKey string, device api.Register) (api.Registered, error) {
	var out api.Registered
	if err := c.do(ctx, http.MethodPost, "/device/register", provisioningKey, device, http.StatusCreated, &out); err != nil {
		return out, fmt.Errorf("register: %w", err)
	}
	if out.ID <= 0 {
		return out, errors.New("register: the server's answer has no id")
	}
	return out, nil
}

// FindSelf looks the device up with its own key. It answers 0 when the server knows no device of that uuid and key; an error
// says that the server did not decide.
func (c *Client) FindSelf(ctx context.Context, uuid api.DeviceUUID, key string) (int64, error) {
	var rows struct {
		D []struct {
			ID int64 `json:"id"`
		} `json:"d"`
	}
	path := "/v7/device?$select=id&$filter=" + url.PathEscape("uuid eq '"+string(uuid)+"'")
	err := c.do(ctx, http.MethodGet, path, key, nil, http.StatusOK, &rows)
	switch {
	case StatusOf(err) == http.StatusUnauthorized || StatusOf(err) == http.StatusNotFound:
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("look for this device: %w", err)
	case len(rows.D) == 0:
		return 0, nil
	}
	return rows.D[0].ID, nil
}

// Target fetches the target state. An unchanged one gives a nil text and the same tag.
func (c *Client) Target(ctx context.Context, uuid api.DeviceUUID, key, etag string) (text []byte, newTag string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req, err := c.request(ctx, http.MethodGet, "/device/v3/"+string(uuid)+"/state", key, nil)
	if err != nil {
		return nil, "", err
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, "", fmt.Errorf("fetch the target state: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return nil, etag, nil
	case resp.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("fetch the target state: %w", statusError(resp))
	}
	text, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = errors.New("it is larger than 8 MiB")
	}
	if err != nil {
		return nil, "", fmt.Errorf("fetch the target state: %w", err)
	}
	return text, resp.Header.Get("ETag"), nil
}

// Report sends what changed: fields of an [api.DeviceReport].
func (c *Client) Report(ctx context.Context, uuid api.DeviceUUID, key string, fields map[string]json.RawMessage) error {
	body := map[api.DeviceUUID]map[string]json.RawMessage{uuid: fields}
	if err := c.do(ctx, http.MethodPatch, "/device/v3/state", key, body, http.StatusOK, nil); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// Certify asks for a certificate of the device's key for the control channel.
func (c *Client) Certify(ctx context.Context, key string, ask api.ChannelCertify) (api.ChannelIdentity, error) {
	var out api.ChannelIdentity
	if err := c.do(ctx, http.MethodPost, "/device/v3/channel", key, ask, http.StatusOK, &out); err != nil {
		return out, fmt.Errorf("certify the channel's key: %w", err)
	}
	return out, nil
}

// Actions says what became of actions, and asks what there is to do. A server that knows none has none.
func (c *Client) Actions(ctx context.Context, key string, said api.ActionExchange) (out api.ActionsWaiting, err error) {
	err = c.do(ctx, http.MethodPost, "/device/v3/actions", key, said, http.StatusOK, &out)
	if StatusOf(err) == http.StatusNotFound {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("exchange actions: %w", err)
	}
	return out, nil
}

// LogStream sends gzip-compressed NDJSON from r until r ends, and then expects 201. An answer before the end is an error.
func (c *Client) LogStream(ctx context.Context, uuid api.DeviceUUID, key string, r io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.LogsURL+"/device/v2/"+string(uuid)+"/log-stream", r)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Content-Encoding", "gzip")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("send logs: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		return fmt.Errorf("send logs: %w", statusError(resp))
	}
	return nil
}
