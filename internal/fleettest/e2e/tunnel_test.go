package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTunnelsAndPublicAddress reaches ports of a real device through the server: with our command line, with balena's, and with a browser's
// request at its public address; and ends what is open with the right to it.
func TestTunnelsAndPublicAddress(t *testing.T) {
	p.roadstead(t, "fleet", "create", "harbour", "--type", "generic-amd64")
	d := newDevice(t, "harbour", "e2e-tunnel")
	d.registered(t)
	eventually(t, time.Minute, "the device is on the control channel", func() bool {
		got := p.call(t, "GET", "api", "/v7/device?$select=is_connected_to_vpn&$filter=uuid%20eq%20%27"+d.uuid+"%27", p.admin.APIKey, nil)
		return strings.Contains(got.body, `"is_connected_to_vpn":true`)
	})
	for _, args := range [][]string{
		{"docker", "import", os.Getenv("ROADSTEAD_BASE_BUSYBOX"), "page"},
		{"docker", "run", "-d", "--name", "page", "-p", "8080:80", "page", "sh", "-c", "mkdir /www && echo 'ahoy from inside' > /www/index.html && exec httpd -f -p 80 -h /www"},
	} {
		if out, err := d.exec(t, args...); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}

	t.Run("tunnel", func(t *testing.T) {
		local := startTunnel(t, p.command("roadstead", "device", "tunnel", d.name, "-p", "8080:0", "-p", "48484:0", "-o", "json"), 2)
		eventually(t, 30*time.Second, "the page comes through the tunnel", func() bool { return strings.Contains(fetch("http://"+local[8080]+"/"), "ahoy from inside") })
		if got := fetch("http://" + local[48484] + "/ping"); !strings.Contains(got, "OK") {
			t.Errorf("the device's own API said %q", got)
		}
	})
	t.Run("balena device tunnel", func(t *testing.T) {
		cli := os.Getenv("ROADSTEAD_BALENA_CLI")
		if cli == "" {
			t.Skip("ROADSTEAD_BALENA_CLI names no balena CLI; make test installs it")
		}
		if _, stderr, code := p.try(t, cli, "login", "--token", p.admin.APIKey); code != 0 {
			t.Fatalf("balena login: %s", stderr)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		local := ln.Addr().String()
		_ = ln.Close()
		start(t, p.command(cli, "device", "tunnel", d.uuid, "-p", "8080:"+local))
		eventually(t, time.Minute, "the page comes through balena's tunnel", func() bool { return strings.Contains(fetch("http://"+local+"/"), "ahoy from inside") })
	})
	t.Run("public address", func(t *testing.T) {
		if status, _ := p.visit(t, d.uuid); status != http.StatusNotFound {
			t.Errorf("before it is on: %d", status)
		}
		p.roadstead(t, "device", "url", "on", d.name, "--port", "8080")
		if status, body := p.visit(t, d.uuid); status != http.StatusOK || !strings.Contains(body, "ahoy from inside") {
			t.Errorf("on: %d %s", status, body)
		}
		// What nothing listens on is refused by the device, though it lets nothing in: nobody waits for an answer that does not come.
		p.roadstead(t, "device", "url", "on", d.name, "--port", "9998")
		eventually(t, 30*time.Second, "a closed port is told of as such", func() bool {
			status, body := p.visit(t, d.uuid)
			return status == http.StatusBadGateway && strings.Contains(body, "nothing listens on its port 9998")
		})
		p.roadstead(t, "device", "url", "off", d.name)
		eventually(t, 30*time.Second, "the address is closed", func() bool {
			status, _ := p.visit(t, d.uuid)
			return status == http.StatusNotFound
		})
	})
	t.Run("public address behind a login, in a browser", func(t *testing.T) { behindALogin(t, d) })
	t.Run("a session that ends", func(t *testing.T) {
		session := p.call(t, "POST", "api", "/login_", "", map[string]string{"username": p.admin.Email, "password": p.admin.Password})
		if session.status != http.StatusOK {
			t.Fatalf("login: %d %s", session.status, session.body)
		}
		cmd := p.command("roadstead", "device", "tunnel", d.name, "-p", "22222:0", "-o", "json")
		cmd.Env = append(cmd.Env, "ROADSTEAD_TOKEN="+session.body)
		conn, err := net.Dial("tcp", startTunnel(t, cmd, 1)[22222])
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		in := bufio.NewReader(conn)
		if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "SSH-2.0-") {
			t.Fatalf("the device's SSH server said %q, %v", line, err)
		}
		if got := p.call(t, "POST", "api", "/user/v1/logout", session.body, nil); got.status != http.StatusOK {
			t.Fatalf("logout: %d %s", got.status, got.body)
		}
		began := time.Now()
		_, _ = io.Copy(io.Discard, in)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it was cut after %s", took)
		}
	})
}

// start runs a command until the end of the test.
func start(t *testing.T, cmd *exec.Cmd) io.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	})
	return out
}

// startTunnel runs `device tunnel` until the end of the test, and gives where each remote port is found.
func startTunnel(t *testing.T, cmd *exec.Cmd, ports int) map[int]string {
	t.Helper()
	lines, local := json.NewDecoder(start(t, cmd)), map[int]string{}
	for range ports {
		var m struct {
			Remote int    `json:"remote"`
			Local  string `json:"local"`
		}
		if err := lines.Decode(&m); err != nil {
			t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
		}
		local[m.Remote] = m.Local
	}
	return local
}

// fetch gives what an address says; "" when it says nothing.
func fetch(address string) string {
	c := http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get(address)
	if err != nil {
		return ""
	}
	defer func() { _ = res.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20)) // what is cut is not what is waited for
	return string(body)
}

// visit opens the public address of a device.
func (pl *platform) visit(t *testing.T, uuid string) (status int, body string) {
	t.Helper()
	got := pl.knock(t, uuid+".devices", "/", "")
	return got.status, got.body
}

// knock asks for a page under a name that perhaps no resolver has, as a browser with one cookie does, and goes nowhere else.
func (pl *platform) knock(t *testing.T, service, path, cookie string) answer {
	t.Helper()
	tr := pl.http.Transport.(*http.Transport).Clone()
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", pl.address+":443")
	}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+service+"."+pl.domain+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := (&http.Client{Transport: tr, CheckRedirect: stay, Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(data)}
}
