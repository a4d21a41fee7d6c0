package dashboard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
)

const maxAnswer = 4 << 20

// call asks the api role something as the person who visits. A *string into takes a text answer as it is.
func (v *visit) call(method, path string, body, into any) error {
	return v.callAs(v.token, v.r.UserAgent(), method, path, body, into)
}

// callAs asks with a token, and as a client, of one's own choosing.
func (v *visit) callAs(token, agent, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(v.r.Context(), apiTime)
	defer cancel()
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, v.s.api.URL+path, payload)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("X-Forwarded-For", v.from())
	req.Header.Set("User-Agent", agent)
	res, err := v.s.api.HTTP.Do(req)
	if err != nil {
		return api.Errorf(api.Unavailable, "The server is busy or starting. Try again in a moment.")
	}
	defer func() { _ = res.Body.Close() }() // read to its end, or of no use
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	if res.StatusCode >= 300 {
		return answered(res, data)
	}
	switch to := into.(type) {
	case nil:
		return nil
	case *string:
		*to = string(data)
		return nil
	default:
		if err := json.Unmarshal(data, into); err != nil {
			return fmt.Errorf("api: %s %s: %w", method, path, err)
		}
		return nil
	}
}

// from is where whoever visits is; the edge says it, as the last one.
func (v *visit) from() string {
	forwarded := strings.Split(v.r.Header.Get("X-Forwarded-For"), ",")
	return strings.TrimSpace(forwarded[len(forwarded)-1])
}

// tunnel opens a connection to a port of a device as the person who visits.
func (v *visit) tunnel(ctx context.Context, uuid api.DeviceUUID, port int) (net.Conn, error) {
	conn, err := v.s.id.Dial(ctx, api.RoleVPN, v.s.cfg.Peers[api.RoleVPN], api.TunnelProtocol)
	if err != nil {
		return nil, errors.Join(api.Errorf(api.Unavailable, "The server's tunnel service does not answer. Try again in a moment."), err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	ask := client.TunnelAsk{UUID: uuid, Port: port, Token: v.token, UserAgent: "roadstead-dashboard", From: v.from()}
	if err := ask.Over(conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// answered makes an error of the api role's.
func answered(res *http.Response, data []byte) error {
	var text string
	if json.Unmarshal(data, &text) != nil {
		text = ""
	}
	e := api.Errorf(api.CodeOf(res.StatusCode), "%s", text)
	if wait := res.Header.Get("Retry-After"); wait != "" && res.StatusCode == http.StatusTooManyRequests {
		e = api.Errorf(api.RateLimited, "%s (in %s seconds)", text, wait)
	}
	return e
}
