package bench_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// line is what is open through the control channel: take takes the right to it away, gone waits until it is cut.
type line struct{ take, gone func() }

// BenchmarkRevocationOnTheChannel prints how long what goes through the control channel lasts after the answer to the request that took the right to
// it away: devices' own sessions, with a real openvpn, and people's SSH sessions and tunnels, with a real agent. Budget: 2 s, p99.
func BenchmarkRevocationOnTheChannel(b *testing.B) {
	tries, err := strconv.Atoi(setting("ROADSTEAD_BENCH_TRIES", "50"))
	if err != nil {
		b.Fatal(err)
	}
	c, worst := newCutter(b), 0.0
	fmt.Printf("\n%s\n| cut | p50 ms | p99 ms | slowest ms |\n|---|---|---|---|\n", machine())
	for _, way := range []struct {
		name string
		open func() line
	}{
		{"a device, when its key is removed", func() line {
			return c.device(func(d api.Registered) {
				c.must(c.session.Delete(b.Context(), "api_key", client.Query{Filter: fmt.Sprintf("is_of__actor/any(a:a/is_of__device/any(d:d/id eq %d))", d.ID)}))
			})
		}},
		{"a device, when it is deleted", func() line {
			return c.device(func(d api.Registered) {
				c.must(c.session.Do(b.Context(), "DELETE", fmt.Sprintf("/v7/device(%d)", d.ID), nil, nil))
			})
		}},
		{"a device, when its channel is switched off", func() line {
			return c.device(func(d api.Registered) {
				c.must(c.session.Do(b.Context(), "PUT", "/channel/v1/device/"+string(d.UUID), api.ChannelSwitch{Mode: "off"}, nil))
			})
		}},
		{"an SSH session, when its key is removed", func() line { return c.sshOf(c.session) }},
		{"an SSH session of support, when the grant ends", c.sshOfSupport},
		{"a tunnel, when the API key is removed", c.tunnelOfAKey},
	} {
		if !strings.Contains(way.name, only) {
			continue
		}
		var took []time.Duration
		for range tries {
			c.n++
			open := way.open()
			<-time.After(time.Duration(mathrand.Int64N(int64(time.Second)))) // what is asked once a second is asked at another moment each time
			open.take()
			began := time.Now()
			open.gone()
			took = append(took, time.Since(began))
		}
		fmt.Printf("| %s | %.0f | %.0f | %.0f |\n", way.name, percentile(took, 50), percentile(took, 99), percentile(took, 100))
		worst = max(worst, percentile(took, 99))
	}
	b.ReportMetric(worst, "ms-p99-worst")
	b.ReportMetric(0, "ns/op")
}

// cutter opens things and takes the right to them away.
type cutter struct {
	*reached
	session *client.Client // of the administrator, who logged in just now
	fleet   int64
	fleeted string // provisioning key
	n       int
	gateway string
	port    int            // of the device, where something listens
	staff   *client.Client // gives support
}

func newCutter(b *testing.B) *cutter {
	b.Helper()
	c := &cutter{reached: newReached(b)}
	ctx := b.Context()
	token, err := c.srv.ClientAs("").Login(ctx, c.srv.Admin.Username, c.srv.Admin.Password)
	c.must(err)
	c.session = c.srv.ClientAs(token)
	fleets, err := client.Get[struct{ ID int64 }](ctx, c.c, "application", client.Query{Select: "id", Filter: "app_name eq 'bench'"})
	c.must(err)
	c.fleet = fleets[0].ID
	c.fleeted, err = c.c.CreateProvisioningKey(ctx, c.fleet, api.NewKey{})
	c.must(err)
	var known struct {
		Gateway api.SSHSite `json:"gateway"`
	}
	c.must(c.c.Do(ctx, "GET", "/ssh/v1/authorities", nil, &known))
	_, port, err := net.SplitHostPort(known.Gateway.Address)
	c.must(err)
	c.gateway = "127.0.0.1:" + port
	c.port, _ = c.sink()

	data, err := os.ReadFile(filepath.Join(c.srv.Dir, "roles", api.RoleBuilder, "role.json"))
	c.must(err)
	var config struct {
		Peers map[string]string `json:"peers"`
	}
	c.must(json.Unmarshal(data, &config))
	id, err := pki.LoadIdentity(filepath.Join(c.srv.Dir, "roles", api.RoleAdmin))
	c.must(err)
	w := &world{tb: b, send: (&server{peers: map[string]*pki.Peer{api.RoleAdmin: id.Client(api.RoleAPI, config.Peers[api.RoleAPI])}}).send}
	var made api.NewUser
	w.into(w.do(api.RoleAdmin, "POST", "/internal/v1/users", "", api.NewUser{Email: "helper@example.com"}, 201), &made)
	w.do(api.RoleAdmin, "POST", "/internal/v1/users/support", "", api.SupportStaff{User: made.Username, Support: true}, 200)
	token, err = c.srv.ClientAs("").Login(ctx, made.Email, made.Password)
	c.must(err)
	c.staff = c.srv.ClientAs(token)
	return c
}

// device is another device of the fleet, with an openvpn that ends when it is cut.
func (c *cutter) device(take func(api.Registered)) line {
	c.b.Helper()
	made, err := c.srv.ClientAs(c.fleeted).Register(c.b.Context(), api.Register{Application: c.fleet, UUID: api.DeviceUUID(fmt.Sprintf("%032x", 1<<40+c.n)), DeviceType: "generic-amd64"})
	c.must(err)
	auth := filepath.Join(c.b.TempDir(), "auth")
	c.must(os.WriteFile(auth, []byte(string(made.UUID)+"\n"+made.APIKey+"\n"), 0o600))
	host, port, err := net.SplitHostPort(c.srv.Addr)
	c.must(err)
	cmd := exec.Command("openvpn", "--client", "--dev", "null", "--proto", "tcp", "--remote", host, port, "--nobind", "--ca", c.srv.CA, "--remote-cert-tls", "server",
		"--auth-user-pass", auth, "--auth-retry", "none", "--connect-retry", "1", "1", "--remap-usr1", "SIGTERM", "--ifconfig-noexec", "--route-noexec", "--verb", "1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.must(cmd.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	c.b.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	c.wait("another device is online", func() bool {
		var s api.ChannelStatus
		_ = c.c.Do(c.b.Context(), "GET", "/channel/v1/device/"+string(made.UUID), nil, &s)
		return s.Connected
	})
	return line{func() { take(*made) }, func() { <-ended }}
}

// sshOf is a session through the gateway by a key that somebody has just uploaded.
func (c *cutter) sshOf(who *client.Client) (open line) {
	c.b.Helper()
	var me struct {
		ID       int64  `json:"id"`
		Username string `json:"username"`
	}
	c.must(who.Do(c.b.Context(), "GET", "/user/v1/whoami", nil, &me))
	public, private, err := ed25519.GenerateKey(rand.Reader)
	c.must(err)
	key, err := ssh.NewPublicKey(public)
	c.must(err)
	signer, err := ssh.NewSignerFromKey(private)
	c.must(err)
	var row struct{ ID int64 }
	c.must(who.Do(c.b.Context(), "POST", "/v7/user__has__public_key", map[string]any{"user": me.ID, "title": "bench " + strconv.Itoa(c.n), "public_key": string(ssh.MarshalAuthorizedKey(key))}, &row))
	conn, err := ssh.Dial("tcp", c.gateway, &ssh.ClientConfig{User: me.Username, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // it is the server that this benchmark started
	c.must(err)
	session, err := conn.NewSession()
	c.must(err)
	out, err := session.StdoutPipe()
	c.must(err)
	c.must(session.Start("host " + string(c.uuid) + " echo here; sleep 4000"))
	_, err = io.ReadFull(out, make([]byte, 5))
	c.must(err)
	return line{func() {
		c.must(who.Do(c.b.Context(), "DELETE", fmt.Sprintf("/v7/user__has__public_key(%d)", row.ID), nil, nil))
	}, func() { _, _ = io.Copy(io.Discard, out); _ = conn.Close() }}
}

// sshOfSupport is one of somebody who gives support.
func (c *cutter) sshOfSupport() line {
	until := func(at any) {
		c.must(c.session.Patch(c.b.Context(), "device", client.Query{Filter: client.Where("uuid eq ?", string(c.uuid))}, map[string]any{"is_accessible_by_support_until__date": at}))
	}
	until(time.Now().Add(time.Hour).UnixMilli())
	open := c.sshOf(c.staff)
	return line{func() { until(nil) }, open.gone}
}

// tunnel opens one to the device, and says when it is cut.
func (c *cutter) tunnel(as *client.Client) (gone func()) {
	c.b.Helper()
	conn, err := as.Tunnel(c.b.Context(), c.uuid, c.port)
	c.must(err)
	return func() { _, _ = conn.Read(make([]byte, 1)); _ = conn.Close() }
}

func (c *cutter) tunnelOfAKey() line {
	name := "tunnel " + strconv.Itoa(c.n)
	key, err := c.session.CreateUserKey(c.b.Context(), api.NewKey{Name: name})
	c.must(err)
	return line{func() {
		c.must(c.session.Delete(c.b.Context(), "api_key", client.Query{Filter: client.Where("name eq ?", name)}))
	}, c.tunnel(c.srv.ClientAs(key))}
}
