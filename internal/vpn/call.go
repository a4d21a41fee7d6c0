package vpn

import (
	"bytes"
	"context"
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
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
	"github.com/roadstead-io/roadstead/internal/web"
)

// call asks the api role.
func call(ctx context.Context, peer *pki.Peer, path string, in, out any) error {
	return permit.Call(ctx, peer, path, in, out)
}

// Bounds of a request to a device, whatever the device does.
const (
	callTime    = 60 * time.Second
	callHeader  = 32 << 10
	callBody    = 4 << 20
	callsAtOnce = 256
)

// deviceCall is POST /device/call: one request of the api role to the HTTP server of a device. A device is not trusted: its answer is as long
// and takes as long as it may, and leads nowhere else.
func (s *Server) deviceCall(w http.ResponseWriter, r *http.Request) error {
	var c api.DeviceCall
	if err := json.NewDecoder(io.LimitReader(r.Body, 8<<20)).Decode(&c); err != nil {
		return api.Errorf(api.Invalid, "the body is no call: %v", err)
	}
	at, err := url.ParseRequestURI(c.Path)
	if err != nil || !strings.HasPrefix(c.Path, "/") || strings.HasPrefix(c.Path, "//") || at.Host != "" {
		return api.Errorf(api.Invalid, "path: %.100q is none", c.Path)
	}
	if !c.UUID.Valid() || c.Port < 1 || c.Port > 65535 || c.Timeout < 0 {
		return api.Errorf(api.Invalid, "uuid, port or timeout: is none")
	}
	limit := callTime
	if c.Timeout > 0 {
		limit = min(limit, time.Duration(c.Timeout)*time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	case <-ctx.Done():
		return web.WriteText(w, http.StatusGatewayTimeout, "too many requests to devices are under way\n")
	}
	called, err := s.callDevice(ctx, c, at)
	switch {
	case errors.Is(err, road.ErrOffline):
		return api.Errorf(api.NotFound, "%s", road.ErrOffline)
	case ctx.Err() != nil && r.Context().Err() == nil:
		return web.WriteText(w, http.StatusGatewayTimeout, "the device did not answer in time\n")
	case err != nil:
		return web.WriteText(w, http.StatusBadGateway, err.Error()+"\n")
	}
	return web.WriteJSON(w, http.StatusOK, called)
}

func (s *Server) callDevice(ctx context.Context, c api.DeviceCall, at *url.URL) (*api.DeviceCalled, error) {
	at.Scheme, at.Host = "http", fmt.Sprintf("%s.device:%d", c.UUID, c.Port)
	req, err := http.NewRequestWithContext(ctx, c.Method, at.String(), bytes.NewReader(c.Body))
	if err != nil {
		return nil, err
	}
	for name, value := range c.Headers {
		req.Header.Set(name, value)
	}
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx, string(c.UUID), c.Port) },
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: callHeader, Protocols: new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(true)
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req) // which follows nothing
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, callBody+1))
	if err != nil {
		return nil, fmt.Errorf("the device's answer was cut off: %w", err)
	}
	if len(body) > callBody {
		return nil, fmt.Errorf("the device's answer is longer than %d bytes", callBody)
	}
	called := &api.DeviceCalled{Status: res.StatusCode, Headers: map[string]string{}, Body: body}
	for name, values := range res.Header {
		called.Headers[name] = values[0]
	}
	return called, nil
}
