//go:build linux

package vpn_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/vpn"
)

// harbour is a real api role, a signer and a vpn role in this process, where they can be looked at, and the process around openvpn beside it.
type harbour struct {
	*world
	server *vpn.Server
	port   string                 // where devices connect
	at     map[string]string      // roles
	asking map[string]http.Client // of another role
	admin  api.Admin
	db     string // file of the database
}

func newHarbour(t *testing.T) *harbour {
	t.Helper()
	h := &harbour{world: newWorld(t, 1, 0), at: map[string]string{}, asking: map[string]http.Client{}}
	h.start("openvpn")
	dir, log := t.TempDir(), &roletest.Log{}
	t.Cleanup(func() {
		if t.Failed() {
			text := log.String()
			t.Logf("the roles:\n%s", text[max(0, len(text)-5000):])
		}
	})
	roles := []string{api.RoleAPI, api.RoleSigner, api.RoleVPN, api.RoleEdge, api.RoleParent}
	must(t, pki.NewTestIdentities(dir, roles...))
	lns := map[string]net.Listener{}
	for _, role := range []string{api.RoleAPI, api.RoleSigner, api.RoleVPN} {
		lns[role] = roletest.Listen(t)
		h.at[role] = lns[role].Addr().String()
	}
	own := func(role string) string { return filepath.Join(dir, role) }
	must(t, os.WriteFile(filepath.Join(own(api.RoleAPI), "pepper"), bytes.Repeat([]byte("p"), 32), 0o600))
	for file, make := range map[string]func(string) error{
		signer.KeyFile: signer.NewKey, signer.AuditKeyFile: signer.NewAuditKey, signer.StatementKeyFile: signer.NewStatementKey,
		signer.ChannelCAFile: signer.NewChannelAuthority, signer.TrustKeyFile: signer.NewTrustKey,
	} {
		must(t, make(filepath.Join(own(api.RoleSigner), file)))
	}
	for _, file := range []string{"tls.pem", "tls.key"} {
		data, err := os.ReadFile(filepath.Join(h.dir, api.RoleVPN, file))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(own(api.RoleVPN), file), data, 0o600))
	}
	site := api.Site{Domain: domain, Port: 443}
	sign, err := signer.New(signer.Config{Dir: own(api.RoleSigner), Site: site, Peers: h.at}, log.Logger())
	must(t, err)
	roletest.Run(t, func(ctx context.Context) error { return sign.Run(ctx, lns[api.RoleSigner]) })
	of, err := apiserver.New(apiserver.Config{Dir: own(api.RoleAPI), Site: site, Peers: h.at, PollInterval: time.Minute, Channel: api.ChannelSite{Host: "cloudlink." + domain, Port: 443}}, log.Logger())
	must(t, err)
	h.db = filepath.Join(own(api.RoleAPI), "roadstead.db")
	roletest.Run(t, func(ctx context.Context) error { return of.Run(ctx, lns[api.RoleAPI]) })
	h.server, err = vpn.New(vpn.Config{Dir: own(api.RoleVPN), Site: site, Peers: h.at}, h.lines[1], log.Logger())
	must(t, err)
	public := roletest.Listen(t)
	_, h.port, _ = net.SplitHostPort(public.Addr().String())
	roletest.Run(t, func(ctx context.Context) error {
		return h.server.Run(ctx, lns[api.RoleVPN], map[string]net.Listener{vpn.LabelOpenVPN: public})
	})
	for _, role := range []string{api.RoleEdge, api.RoleParent} {
		id, err := pki.LoadIdentity(own(role))
		must(t, err)
		h.asking[role] = *id.Client(api.RoleAPI, h.at[api.RoleAPI]).HTTP
	}
	h.ask(api.RoleParent, "POST", "/internal/v1/bootstrap", "", nil, &h.admin)
	return h
}

// ask asks the api role as another one.
func (h *harbour) ask(role, method, path, token string, body, into any) {
	h.t.Helper()
	data, err := json.Marshal(body)
	must(h.t, err)
	req, err := http.NewRequestWithContext(h.t.Context(), method, "https://"+h.at[api.RoleAPI]+path, bytes.NewReader(data))
	must(h.t, err)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	asking := h.asking[role]
	res, err := asking.Do(req)
	must(h.t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	must(h.t, err)
	if res.StatusCode/100 != 2 {
		h.t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, text)
	}
	if into != nil {
		must(h.t, json.Unmarshal(text, into))
	}
}

// fleet registers devices.
func (h *harbour) fleet(n int) (devices []api.Registered) {
	h.t.Helper()
	first := func(path string) (id int64) {
		var list struct{ D []struct{ ID int64 } }
		h.ask(api.RoleEdge, "GET", path, h.admin.APIKey, nil, &list)
		return list.D[0].ID
	}
	var fleet struct{ ID int64 }
	h.ask(api.RoleEdge, "POST", "/v7/application", h.admin.APIKey, map[string]any{"app_name": "harbour", "organization": first("/v7/organization?$select=id"),
		"is_for__device_type": first("/v7/device_type?$select=id&$filter=slug%20eq%20'generic-amd64'")}, &fleet)
	var key string
	h.ask(api.RoleEdge, "POST", "/api-key/application/"+strconv.FormatInt(fleet.ID, 10)+"/provisioning", h.admin.APIKey, api.NewKey{}, &key)
	for i := range n {
		var made api.Registered
		h.ask(api.RoleEdge, "POST", "/device/register", key, api.Register{Application: fleet.ID, UUID: api.DeviceUUID(uuid(i)), DeviceType: "generic-amd64"}, &made)
		devices = append(devices, made)
	}
	return devices
}

// guest is one run of a real openvpn.
type guest struct {
	cmd  *exec.Cmd
	log  *roletest.Log
	done chan struct{}
}

// knock starts the openvpn of a device. It ends when it is cut.
func (h *harbour) knock(auth string) (*guest, error) {
	g := &guest{log: &roletest.Log{}, done: make(chan struct{})}
	g.cmd = exec.Command("openvpn", "--client", "--dev", "null", "--proto", "tcp", "--remote", "127.0.0.1", h.port, "--nobind", "--ca", h.ca, "--remote-cert-tls", "server",
		"--auth-user-pass", auth, "--auth-retry", "none", "--connect-retry", "1", "1", "--remap-usr1", "SIGTERM", "--ifconfig-noexec", "--route-noexec", "--verb", "3", "--reneg-sec", "0")
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { defer close(g.done); _ = g.cmd.Wait() }()
	return g, nil
}

// says waits until openvpn has said something.
func (g *guest) says(text string) error {
	late := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if strings.Contains(g.log.String(), text) {
			return nil
		}
		select {
		case <-g.done:
			if strings.Contains(g.log.String(), text) {
				return nil
			}
			return fmt.Errorf("openvpn has ended without %q:\n%s", text, g.log)
		case <-late:
			return fmt.Errorf("openvpn does not say %q:\n%s", text, g.log)
		case <-tick.C:
		}
	}
}

func (g *guest) end(sig syscall.Signal) {
	_ = g.cmd.Process.Signal(sig)
	<-g.done
}

// come connects a device once in one of the ways in which devices come and go; it gives how many connections that were.
func (h *harbour) come(auth string, n int) (int, error) {
	g, err := h.knock(auth)
	if err != nil {
		return 0, err
	}
	defer g.end(syscall.SIGKILL)
	const in = "Initialization Sequence Completed"
	switch n % 16 {
	case 0: // it loses its power on its way in
		return 1, g.says("TLS: Initial packet")
	case 1, 2, 3, 4, 5, 6: // it loses it later
		return 1, g.says(in)
	case 7, 8, 9, 10: // it comes again while the server still has the session of before
		if err := g.says(in); err != nil {
			return 1, err
		}
		again, err := h.knock(auth)
		if err != nil {
			return 1, err
		}
		defer again.end(syscall.SIGKILL)
		if err := again.says(in); err != nil {
			return 2, err
		}
		select {
		case <-g.done:
			return 2, nil
		case <-time.After(patience):
			return 2, errors.New("the session of before goes on")
		}
	default: // it says good-bye
		err := g.says(in)
		g.end(syscall.SIGTERM)
		return 1, err
	}
}

// held is what the processes hold, by what it is.
func (h *harbour) held() map[string]int {
	t := h.t
	runtime.GC()
	n := map[string]int{"goroutines": runtime.NumGoroutine(), "files": files(t, os.Getpid())}
	around := h.role["openvpn"].cmd.Process.Pid
	n["files of the process around openvpn"] = files(t, around)
	n["files of openvpn"] = files(t, h.openvpnPID(0))
	n["lines of the firewall"] = strings.Count(sh(t, "nsenter", "-t", strconv.Itoa(around), "-n", "nft", "list", "ruleset"), "\n")
	flows, err := h.server.Flows(t.Context())
	must(t, err)
	n["flows"] = len(flows)
	for name, size := range h.server.Sizes() {
		n["vpn: "+name] = size
	}
	base := dbtest.Beside(t, h.db)
	defer func() { _ = base.Close() }()
	var tables []string
	rows, err := base.Query(`SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`)
	must(t, err)
	for rows.Next() {
		var name string
		must(t, rows.Scan(&name))
		tables = append(tables, name)
	}
	must(t, errors.Join(rows.Err(), rows.Close()))
	for _, table := range tables {
		var size int
		must(t, base.QueryRow(`SELECT count(*) FROM "`+table+`"`).Scan(&size))
		n["rows of "+table] = size
	}
	return n
}

func files(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	must(t, err)
	return len(list)
}

// TestAThousandReconnectsLeakNothing: devices come and go a thousand times, with a good-bye, without one, halfway, and while their last session
// is still there. Afterwards all processes hold what they held before: goroutines (each subscription of the bus has one), open files, what the
// vpn role remembers, the firewall's lines, the database's rows.
func TestAThousandReconnectsLeakNothing(t *testing.T) {
	const devices, reconnects = 8, 1000
	h := newHarbour(t)
	made := h.fleet(devices)
	auths := make([]string, devices)
	for i, d := range made {
		auths[i] = filepath.Join(t.TempDir(), "auth")
		must(t, os.WriteFile(auths[i], []byte(string(d.UUID)+"\n"+d.APIKey+"\n"), 0o600))
	}
	round := func(each int) (all int) {
		var mu sync.Mutex
		var workers sync.WaitGroup
		for i, auth := range auths {
			workers.Go(func() {
				for done, n := 0, i; done < each; n++ {
					more, err := h.come(auth, n)
					if err != nil {
						t.Error(err)
						return
					}
					done += more
					mu.Lock()
					all += more
					mu.Unlock()
				}
			})
		}
		workers.Wait()
		return all
	}
	quiet := func() map[string]int {
		var n map[string]int
		roletest.Eventually(t, "somebody is still there", func() bool {
			n = h.held()
			return n["vpn: devices"]+n["vpn: clients"]+n["vpn: up"]+n["vpn: down"]+n["rows of channel_session"]+n["flows"] == 0
		})
		return n
	}

	round(10) // connections between the roles are open, statements prepared, addresses given
	before := quiet()
	began := time.Now()
	came := round(reconnects / devices)
	t.Logf("%d connections in %s", came, time.Since(began).Round(time.Millisecond))
	if t.Failed() {
		return
	}
	if came < reconnects {
		t.Fatalf("only %d connections were made", came)
	}
	// What is a tenth of the reconnects more than before is none for each of them. Those that ended halfway are remembered for a while.
	const some = reconnects / 10
	var after map[string]int
	grown := func() (list []string) {
		after = quiet()
		for name, n := range after {
			if n > before[name]+some {
				list = append(list, fmt.Sprintf("%s: %d, before %d", name, n, before[name]))
			}
		}
		return list
	}
	fleettest.Eventually(t, patience, func() error { // what is being closed is not a leak
		if list := grown(); list != nil {
			return errors.New(strings.Join(list, "; "))
		}
		return nil
	})
	for _, name := range []string{"goroutines", "files", "files of the process around openvpn", "files of openvpn", "vpn: knocks", "vpn: addresses", "lines of the firewall"} {
		t.Logf("%s: %d, before %d", name, after[name], before[name])
	}
	for name, n := range after {
		if strings.HasPrefix(name, "rows") && n != before[name] {
			t.Logf("%s: %d, before %d", name, n, before[name])
		}
	}
	if log := h.role["openvpn"].dump(); strings.Count(log, "\ngoroutine ") > some {
		t.Errorf("the process around openvpn has %d goroutines:\n%s", strings.Count(log, "\ngoroutine "), log)
	}
}

// dump ends a process of Go's by having it say what it is doing.
func (p *process) dump() string {
	_ = syscall.Kill(p.cmd.Process.Pid, syscall.SIGQUIT)
	<-p.done
	return p.log.String()
}
