package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
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
)

// tunnelTime bounds how long a tunnel may take to open.
const tunnelTime = 20 * time.Second

// ErrOffline is that a device has no control channel just now.
var ErrOffline = errors.New("the device is offline")

// Tunnel opens a connection to a port of a device, through the server. It is ErrOffline when the device is not connected.
func (c *Client) Tunnel(ctx context.Context, uuid api.DeviceUUID, port int) (net.Conn, error) {
	conn, err := c.tunnel(ctx, uuid, port)
	if err != nil {
		return nil, fmt.Errorf("tunnel to port %d: %w", port, err)
	}
	return conn, nil
}

func (c *Client) tunnel(ctx context.Context, uuid api.DeviceUUID, port int) (_ net.Conn, err error) {
	u, err := url.Parse(c.ServiceURL("tunnel"))
	if err != nil {
		return nil, err
	}
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), "443")
	}
	ctx, cancel := context.WithTimeout(ctx, tunnelTime)
	defer cancel()
	raw, err := c.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{RootCAs: c.cfg.CA, MinVersion: tls.VersionTLS12, ServerName: u.Hostname()})
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			_ = conn.Close()
		}
	}()
	return conn, TunnelAsk{UUID: uuid, Port: port, Token: c.cfg.Token, UserAgent: c.cfg.UserAgent}.Over(conn)
}

// TunnelAsk asks the tunnel service for a port of a device.
type TunnelAsk struct {
	UUID      api.DeviceUUID
	Port      int
	Token     string
	UserAgent string
	// From is the address for which a role of the server asks; the service believes nobody else.
	From string
}

// Over asks over a connection to the service. Without an error what follows on the connection are the port's own bytes.
func (a TunnelAsk) Over(conn net.Conn) error {
	from := ""
	if a.From != "" {
		from = "X-Forwarded-For: " + a.From + "\r\n"
	}
	_, err := fmt.Fprintf(conn, "CONNECT %s.roadstead:%d HTTP/1.1\r\nUser-Agent: %s\r\n%sProxy-Authorization: Basic %s\r\n\r\n",
		a.UUID, a.Port, a.UserAgent, from, base64.StdEncoding.EncodeToString([]byte("token:"+a.Token)))
	if err != nil {
		return err
	}
	head, err := readHead(conn)
	if err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(io.MultiReader(bytes.NewReader(head), conn)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if res.StatusCode == http.StatusOK {
		return nil
	}
	defer func() { _ = res.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4096)) // without its words the status has to do
	return tunnelError(res, strings.TrimSpace(string(text)))
}

// readHead reads the answer's head and not a byte more: what follows is the device's.
func readHead(conn net.Conn) ([]byte, error) {
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, one[0]) {
		if len(head) > 8<<10 {
			return nil, errors.New("the server's answer is not one of a tunnel")
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			return nil, err
		}
	}
	return head, nil
}

func tunnelError(res *http.Response, text string) error {
	reason := strings.TrimSpace(strings.TrimPrefix(res.Status, strconv.Itoa(res.StatusCode)))
	switch {
	case res.StatusCode == http.StatusServiceUnavailable:
		return ErrOffline
	case res.StatusCode == http.StatusProxyAuthRequired && text == "":
		return api.Errorf(api.NotFound, "no such device, or the session has ended")
	case res.StatusCode == http.StatusProxyAuthRequired:
		return api.Errorf(api.Forbidden, "%s", text)
	case res.StatusCode == http.StatusTooManyRequests:
		return api.Errorf(api.RateLimited, "%s", text)
	}
	return api.Errorf(api.Unavailable, "%s", reason)
}
