// Package devicecall carries requests to the HTTP servers of devices' agents. The vpn role, which has the devices' control channels, makes
// the connection; this package says with which key. What a device answers is the word of a stranger: it is bounded here, and judged by whoever
// asked.
package devicecall

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// Why a device was not called; both are [action.ErrNotSent]. Any other error leaves open whether it was.
var (
	ErrOffline = fmt.Errorf("%w: it has no control channel", action.ErrNotSent)
	ErrRefused = fmt.Errorf("%w: nothing on it listens", action.ErrNotSent)
)

const (
	callTime    = 50 * time.Second // of a call whose context says nothing shorter
	defaultPort = 48484
	maxBody     = 1<<20 + 1         // bytes of a device's answer: one more than anybody takes
	maxAnswer   = 8 << 20           // bytes of the vpn role's, which has that in it
	textRefused = "nothing listens" // in what the vpn role says of a device that refused the connection
)

// Caller calls devices.
type Caller struct {
	db      *db.DB
	vpn     *pki.Peer
	command func(ctx context.Context, device int64, method, path string, body []byte) (string, error)
}

// New makes one that calls through the vpn role. command signs what a device is told to do; nil: no device asks for that.
func New(d *db.DB, vpn *pki.Peer, command func(ctx context.Context, device int64, method, path string, body []byte) (string, error)) *Caller {
	return &Caller{db: d, vpn: vpn, command: command}
}

// CallDevice sends a request to a device's agent, with the key that the agent said. path begins with a slash and is not escaped. The answer
// has a body of bounded size, and of the headers the type of its content.
func (c *Caller) CallDevice(ctx context.Context, dev device.Reachable, method, path string, body []byte) (*http.Response, error) {
	port, secret, err := c.server(ctx, dev.ID)
	if err != nil {
		return nil, err
	}
	wait := callTime
	if until, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(until))
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	call := api.DeviceCall{UUID: dev.UUID, Port: port, Method: method, Path: (&url.URL{Path: path}).EscapedPath(), Headers: map[string]string{},
		Body: body, Timeout: max(wait.Milliseconds(), 1)}
	if secret != "" {
		call.Headers["Authorization"] = "Bearer " + secret
	}
	if len(body) > 0 {
		call.Headers["Content-Type"] = "application/json"
	}
	if c.command != nil {
		signed, err := c.command(ctx, dev.ID, method, path, body)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", action.ErrNotSent, err)
		}
		if signed != "" {
			call.Headers[api.TrustCommandHeader] = signed
		}
	}
	answer, err := c.send(ctx, call)
	if err != nil {
		return nil, fmt.Errorf("call device %s: %w", dev.UUID, err)
	}
	header := http.Header{}
	if kind := answer.Headers["Content-Type"]; kind != "" {
		header.Set("Content-Type", kind)
	}
	return &http.Response{StatusCode: answer.Status, Header: header, Body: io.NopCloser(bytes.NewReader(answer.Body[:min(len(answer.Body), maxBody)]))}, nil
}

// server says where the agent of a device listens, and with which key it is called.
func (c *Caller) server(ctx context.Context, id int64) (port int, secret string, err error) {
	var p sql.NullInt64
	var s sql.NullString
	err = c.db.ReadOne(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT api_port, api_secret FROM device WHERE id = ?`, id).Scan(&p, &s)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, "", ErrOffline // it was deleted
	}
	if err != nil {
		return 0, "", fmt.Errorf("call device %d: %w", id, err)
	}
	if port = int(p.Int64); !p.Valid {
		port = defaultPort
	}
	return port, s.String, nil
}

// send asks the vpn role.
func (c *Caller) send(ctx context.Context, call api.DeviceCall) (answer api.DeviceCalled, err error) {
	text, err := json.Marshal(call)
	if err != nil {
		return answer, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.vpn.URL+"/device/call", bytes.NewReader(text))
	if err != nil {
		return answer, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.vpn.HTTP.Do(req)
	if op := new(net.OpError); errors.As(err, &op) && op.Op == "dial" {
		return answer, fmt.Errorf("%w: the vpn role is away: %w", action.ErrNotSent, err)
	}
	if err != nil {
		return answer, err
	}
	defer func() { _ = res.Body.Close() }()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return answer, ErrOffline
	case http.StatusBadGateway:
		text, err := io.ReadAll(io.LimitReader(res.Body, 1000))
		if err == nil && strings.Contains(string(text), textRefused) {
			return answer, ErrRefused
		}
		return answer, errors.New("the device's answer broke off")
	case http.StatusGatewayTimeout:
		return answer, context.DeadlineExceeded
	default:
		return answer, fmt.Errorf("the vpn role answers %d", res.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(data) > maxAnswer {
		err = errors.New("the answer is too large")
	}
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(data, &answer)
}
