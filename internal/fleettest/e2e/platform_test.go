package e2e_test

import (
	"bufio"
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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// platform is one real server on an address of its own, with everything that a user's machine has: names that resolve, the
// public root certificate, the command lines.
type platform struct {
	top, bin, dir, data string
	domain, address     string
	hostsLine           string
	cmd                 *exec.Cmd
	log                 *os.File
	admin               adminFile
	http                *http.Client
	secrets             []string // every secret that the platform has issued so far
	sqlFile             string   // names the PostgreSQL database; empty: SQLite
	dropSQL             func() error
}

type adminFile struct {
	Email    string `json:"email"`
	Username string `json:"username"`
	Password string `json:"password"`
	APIKey   string `json:"api_key"`
}

// p is shared by the tests of this package: starting a platform for each would take longer than the tests.
var p *platform

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	bin := os.Getenv("ROADSTEAD_BIN")
	if bin == "" || os.Getuid() != 0 {
		fmt.Println("e2e: skipped: needs root and ROADSTEAD_BIN; run make test")
		return 0
	}
	var err error
	p, err = newPlatform(bin)
	if err != nil {
		fmt.Println("e2e:", err)
		if p != nil {
			p.remove()
		}
		return 1
	}
	defer p.remove()
	code := m.Run()
	if code != 0 {
		fmt.Printf("e2e: the end of the server's log:\n%s\n", tail(filepath.Join(p.dir, "server.log"), 60))
	}
	return code
}

func newPlatform(bin string) (*platform, error) {
	top, err := filepath.Abs("../../..")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "roadstead-e2e-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	id := os.Getpid() % 250
	pl := &platform{
		top: top, bin: bin, dir: dir, data: filepath.Join(dir, "data"),
		domain: "e2e.roadstead.test", address: fmt.Sprintf("10.213.255.%d", 1+id),
	}
	if err := pl.network(); err != nil {
		return pl, err
	}
	if server := dbtest.Server(); server != "" {
		var dsn string
		if dsn, pl.dropSQL, err = dbtest.Create(server); err != nil {
			return pl, err
		}
		pl.sqlFile = filepath.Join(dir, "sql")
		if err := os.WriteFile(pl.sqlFile, []byte(dsn+"\n"), 0o600); err != nil {
			return pl, err
		}
	}
	if err := os.MkdirAll(pl.data, 0o755); err != nil {
		return pl, err
	}
	if err := pl.start(); err != nil {
		return pl, err
	}
	data, err := os.ReadFile(filepath.Join(pl.data, "admin.json"))
	if err != nil {
		return pl, err
	}
	if err := json.Unmarshal(data, &pl.admin); err != nil {
		return pl, err
	}
	pl.secrets = append(pl.secrets, pl.admin.Password, pl.admin.APIKey)
	pem, err := os.ReadFile(filepath.Join(pl.data, "ca.pem"))
	if err != nil {
		return pl, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	pl.http = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}
	if out, err := pl.command("roadsteadd", "admin", "base", "import", "base/busybox", os.Getenv("ROADSTEAD_BASE_BUSYBOX"), "--data", pl.data).CombinedOutput(); err != nil {
		return pl, fmt.Errorf("base import: %w: %s", err, out)
	}
	return pl, nil
}

// network adds the server's address to the loopback interface and lets its names resolve.
func (pl *platform) network() error {
	names := []string{pl.domain}
	for _, s := range []string{"api", "dashboard", "registry2", "builder", "git", "cloudlink", "vpn", "tunnel", "devices", "ssh.devices"} {
		names = append(names, s+"."+pl.domain)
	}
	pl.hostsLine = pl.address + " " + strings.Join(names, " ")
	if out, err := exec.Command("ip", "address", "replace", pl.address+"/32", "dev", "lo").CombinedOutput(); err != nil {
		return fmt.Errorf("ip address: %w: %s", err, out)
	}
	pl.hostsLine += " " + fleettest.HostsMark + strconv.Itoa(os.Getpid())
	return fleettest.ChangeHosts(func(lines []string) []string { return append(lines, pl.hostsLine) })
}

// start runs `roadsteadd up` until it says ready.
func (pl *platform) start() error {
	log, err := os.OpenFile(filepath.Join(pl.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	pl.log = log
	args := []string{"up", "--data", pl.data, "--domain", pl.domain, "--listen", pl.address + ":443", "--poll-interval", "2s",
		"--source-allow", "127.0.0.1"} // an address that the tests serve projects at
	if pl.sqlFile != "" { // then there may be two api processes, so there are: neither may know what the other does not
		args = append(args, "--sql-file", pl.sqlFile, "--api-processes", "2")
	}
	pl.cmd = pl.command("roadsteadd", args...)
	pl.cmd.Stderr = log
	out, err := pl.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := pl.cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "ready https://dashboard."+pl.domain+":443" {
		return fmt.Errorf("roadsteadd up said %q (%w): %s", line, err, tail(filepath.Join(pl.dir, "server.log"), 20))
	}
	return nil
}

// stop ends the server as an operator does.
func (pl *platform) stop() error {
	if err := pl.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return pl.cmd.Wait()
}

func (pl *platform) remove() {
	if pl.cmd != nil && pl.cmd.Process != nil {
		_ = pl.stop()
	}
	if pl.dropSQL != nil {
		_ = pl.dropSQL() // the server is a test's own and goes, too
	}
	_ = fleettest.ChangeHosts(func(lines []string) []string {
		return slices.DeleteFunc(lines, func(l string) bool { return l == pl.hostsLine })
	})
	_ = exec.Command("ip", "address", "delete", pl.address+"/32", "dev", "lo").Run()
	if os.Getenv("ROADSTEAD_E2E_KEEP") == "" {
		_ = os.RemoveAll(pl.dir)
	}
}

// environment is what a user's shell has: both command lines are logged in.
func (pl *platform) environment() []string {
	return append(os.Environ(),
		"HOME="+filepath.Join(pl.dir, "home"), "XDG_CONFIG_HOME="+filepath.Join(pl.dir, "home"), "NO_COLOR=1",
		"ROADSTEAD_URL=https://api."+pl.domain, "ROADSTEAD_TOKEN="+pl.admin.APIKey, "SSL_CERT_FILE="+filepath.Join(pl.data, "ca.pem"),
		"BALENARC_BALENA_URL="+pl.domain, "NODE_EXTRA_CA_CERTS="+filepath.Join(pl.data, "ca.pem"),
		"BALENARC_DATA_DIRECTORY="+filepath.Join(pl.dir, "balena"), "BALENARC_NO_ANALYTICS=1", "BALENARC_NO_SENTRY=1", "BALENARC_UNSUPPORTED=1",
		"PATH="+pl.bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
}

func (pl *platform) command(name string, args ...string) *exec.Cmd {
	path := name
	if !strings.Contains(name, "/") {
		path = filepath.Join(pl.bin, name)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = pl.environment()
	cmd.Dir = pl.top
	return cmd
}

// roadstead runs our command line and gives its standard output; a failure ends the test.
func (pl *platform) roadstead(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, code := pl.try(t, "roadstead", args...)
	if code != 0 {
		t.Fatalf("roadstead %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, stderr)
	}
	return out
}

// try runs a command line and gives what it said and its exit code.
func (pl *platform) try(t *testing.T, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	base := pl.command(name, args...)
	cmd := exec.CommandContext(ctx, base.Path, args...)
	cmd.Env, cmd.Dir = base.Env, base.Dir
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return o.String(), e.String(), code
}

// answer is what came back from a raw request.
type answer struct {
	status int
	header http.Header
	body   string
}

// rows counts the rows of an OData list, or -1 when the answer is none.
func (a answer) rows() int {
	var list struct {
		D []json.RawMessage `json:"d"`
	}
	if a.status != http.StatusOK || json.Unmarshal([]byte(a.body), &list) != nil {
		return -1
	}
	return len(list.D)
}

// call makes one raw request at a public name, with a bearer token unless it is empty.
func (pl *platform) call(t *testing.T, method, service, path, token string, body any) answer {
	t.Helper()
	got, err := pl.ask(t.Context(), method, service, path, token, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return got
}

// ask is call for those who cannot end the test.
func (pl *platform) ask(ctx context.Context, method, service, path, token string, body any) (answer, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+service+"."+pl.domain+path, r)
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := pl.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return answer{}, err
	}
	return answer{res.StatusCode, res.Header, string(data)}, nil
}

// eventually waits until a condition holds.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %v still not: %s", within, what)
		}
	}
}

func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// dialable reports whether something listens at an address.
func dialable(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
