package tunnel_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
)

// between is a proxy with a password that alone knows where the service is.
type between struct {
	ln net.Listener
	to string

	mu    sync.Mutex // covers what follows
	asked []string
}

func (p *between) serve() {
	for {
		conn, err := p.ln.Accept()
		if err != nil {
			return
		}
		go p.one(conn)
	}
}

func (p *between) one(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, req.Method+" "+req.Host)
	p.mu.Unlock()
	if user, password, ok := (&http.Request{Header: http.Header{"Authorization": req.Header["Proxy-Authorization"]}}).BasicAuth(); !ok || user != "porter" || password != "p@ss" {
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return
	}
	far, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { _, _ = io.Copy(far, in); _ = far.Close() }()
	_, _ = io.Copy(conn, far)
}

// A client behind a proxy reaches a device through it, and says of the proxy what it answers.
func TestATunnelThroughAProxy(t *testing.T) {
	w := newWorld(t, permit.Limits{})
	p := &between{ln: w.listen(), to: w.addr}
	go p.serve()
	reach := func(proxy string) (string, error) {
		t.Helper()
		c, err := client.New(client.Config{
			URL: "https://api.roadstead.test", Token: token, CA: w.roots,
			Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(proxy) },
		})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := c.Tunnel(t.Context(), mine, 80)
		if err != nil {
			return "", err
		}
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, "hello"); err != nil {
			return "", err
		}
		buf := make([]byte, len("SSH-2.0-device\r\nhello"))
		_, err = io.ReadFull(conn, buf)
		return string(buf), err
	}
	at := p.ln.Addr().String()
	if got, err := reach("http://porter:p%40ss@" + at); err != nil || got != "SSH-2.0-device\r\nhello" {
		t.Errorf("the device said %q, %v", got, err)
	}
	p.mu.Lock()
	if want := "CONNECT tunnel.roadstead.test:443"; fmt.Sprint(p.asked) != "["+want+"]" {
		t.Errorf("the proxy was asked %q, want %q", p.asked, want)
	}
	p.mu.Unlock()
	for proxy, says := range map[string]string{
		"http://porter:wrong@" + at: "through the proxy http://porter:xxxxx@" + at + ": it answers 407",
		"socks5://" + at:            "http:// and https:// proxies only",
		"http://127.0.0.1:1":        "through the proxy http://127.0.0.1:1: ",
	} {
		if _, err := reach(proxy); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: got %v, want %q", proxy, err, says)
		}
	}
}
