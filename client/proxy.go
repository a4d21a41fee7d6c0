package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// dial connects to an address of the server, as requests do: through the proxy that there is for it.
func (c *Client) dial(ctx context.Context, addr string) (net.Conn, error) {
	direct := &net.Dialer{KeepAlive: 30 * time.Second}
	through, err := c.cfg.Proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: addr}, Host: addr})
	if err != nil {
		return nil, err
	}
	if through == nil {
		return direct.DialContext(ctx, "tcp", addr)
	}
	conn, err := connect(ctx, direct, through, addr)
	if err != nil {
		return nil, fmt.Errorf("through the proxy %s: %w", through.Redacted(), err)
	}
	return conn, nil
}

// connect has an HTTP proxy connect to an address.
func connect(ctx context.Context, direct *net.Dialer, through *url.URL, addr string) (_ net.Conn, err error) {
	ports := map[string]string{"http": "80", "https": "443"}
	port := ports[through.Scheme]
	if port == "" {
		return nil, fmt.Errorf("a tunnel goes through http:// and https:// proxies only")
	}
	if through.Port() != "" {
		port = through.Port()
	}
	at := net.JoinHostPort(through.Hostname(), port)
	var conn net.Conn
	if through.Scheme == "https" {
		d := tls.Dialer{NetDialer: direct, Config: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: through.Hostname()}}
		conn, err = d.DialContext(ctx, "tcp", at)
	} else {
		conn, err = direct.DialContext(ctx, "tcp", at)
	}
	if err != nil {
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
	ask := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n"
	if through.User != nil {
		password, _ := through.User.Password()
		ask += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(through.User.Username()+":"+password)) + "\r\n"
	}
	if _, err = io.WriteString(conn, ask+"\r\n"); err != nil {
		return nil, err
	}
	head, err := readHead(conn)
	if err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err
	}
	_ = res.Body.Close() // what follows the head is none of it
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", res.Status)
	}
	return conn, nil
}
