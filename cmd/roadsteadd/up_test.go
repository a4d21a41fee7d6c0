package main_test

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/supervise"
)

var allRoles = []string{"signer", "api", "registry", "builder", "git", "dashboard", "edge"}

func TestUpOnAnEmptyDirectory(t *testing.T) {
	dir := openDir(t)
	binary(t) // is not part of the time
	began := time.Now()
	s := up(t, dir, "127.0.0.1:0")
	t.Logf("ready after %s", time.Since(began).Round(time.Millisecond))
	a := s.admin()
	if code := s.whoami(a.APIKey); code != 200 {
		t.Errorf("whoami with admin.json's key: %d", code)
	}
	if code := s.login(a.Email, a.Password); code != 200 {
		t.Errorf("login with admin.json's password: %d", code)
	}
	st := s.status()
	if st.Domain != domain || st.Listen != s.addr || !st.Ready || st.PID != s.cmd.Process.Pid {
		t.Errorf("status: %+v", st)
	}
	for _, name := range allRoles {
		r := s.role(name)
		if r.State != supervise.Healthy || r.PID == 0 || r.Address == "" || r.User == "" || r.Restarts != 0 {
			t.Errorf("role %s: %+v", name, r)
		}
	}
	table, _, _ := run(t, nil, "status", "--data", dir)
	for _, want := range append([]string{"ROLE", "PID", "USER", "ADDRESS", "STATE"}, allRoles...) {
		if !strings.Contains(table, want) {
			t.Errorf("the status table lacks %s:\n%s", want, table)
		}
	}

	// A second server on the same directory, and one on the same port, are refused.
	_, text, code := run(t, nil, "up", "--data", dir, "--domain", domain, "--listen", "127.0.0.1:0")
	if code != 1 || !strings.Contains(text, "another roadsteadd is running") {
		t.Errorf("a second server: exit %d: %s", code, text)
	}
	_, text, code = run(t, nil, "up", "--data", openDir(t), "--domain", domain, "--listen", s.addr)
	if code != 1 || !strings.Contains(text, "in use") {
		t.Errorf("the same port: exit %d: %s", code, text)
	}

	if took := s.stop(); took > 10*time.Second {
		t.Errorf("SIGTERM took %s", took)
	}
	for _, r := range st.Roles {
		if alive(r.PID) {
			t.Errorf("%s (%d) is left", r.Role, r.PID)
		}
	}
	if _, text, code := run(t, nil, "status", "--data", dir); code != 1 || !strings.Contains(text, "no server is running") {
		t.Errorf("status of a stopped server: exit %d: %s", code, text)
	}
	if _, text, code := run(t, nil, "up", "--data", dir, "--domain", "other.test", "--listen", "127.0.0.1:0"); code != 1 ||
		!strings.Contains(text, domain) {
		t.Errorf("another domain: exit %d: %s", code, text)
	}

	// It goes on where it was.
	again := up(t, dir, s.addr)
	if again.admin() != a {
		t.Error("admin.json changed")
	}
	if code := again.whoami(a.APIKey); code != 200 {
		t.Errorf("whoami after a restart: %d", code)
	}
}

// The roles can run where nobody but root may go: each gets a view of its own.
func TestUpInAPrivateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data") // below a directory of mode 0700
	s := up(t, dir, "127.0.0.1:0")
	if code := s.whoami(s.admin().APIKey); code != 200 {
		t.Errorf("whoami: %d", code)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Error("the roles' view is mounted for everybody")
	}
}

func TestKilledRolesComeBack(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	key := s.admin().APIKey
	for _, name := range allRoles {
		before := s.role(name)
		if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var after supervise.RoleStatus
		eventually(t, name+" comes back", 10*time.Second, func() bool {
			after = s.role(name)
			return after.State == supervise.Healthy && after.PID != 0 && after.PID != before.PID
		})
		if after.Address != before.Address || after.Restarts != 1 {
			t.Errorf("%s: %+v, want the old address and one restart", name, after)
		}
		if code := s.whoami(key); code != 200 {
			t.Errorf("after the kill of %s: whoami %d", name, code)
		}
	}
	if !strings.Contains(s.log.String(), "a role died") {
		t.Error("the log does not say that a role died")
	}
}

// A request that meets the api role's death waits for the next one instead of failing.
func TestRequestsWaitForARestart(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	key := s.admin().APIKey
	for range 3 {
		if err := syscall.Kill(s.role("api").PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if code := s.whoami(key); code != 200 {
			t.Errorf("whoami during the restart: %d", code)
		}
		eventually(t, "the api role is back", 10*time.Second, func() bool { return s.role("api").State == supervise.Healthy })
	}
}

func TestKilledParentLeavesNothing(t *testing.T) {
	dir := openDir(t)
	s := up(t, dir, "127.0.0.1:0")
	st, key := s.status(), s.admin().APIKey
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Its successor does not wait for anybody to clean up: same directory, same port.
	again := up(t, dir, s.addr)
	for _, r := range st.Roles {
		if alive(r.PID) {
			t.Errorf("%s (%d) of the killed server is left", r.Role, r.PID)
		}
	}
	if code := again.whoami(key); code != 200 {
		t.Errorf("whoami: %d", code)
	}
	// Without a successor they end by themselves.
	st = again.status()
	if err := again.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the children end", 5*time.Second, func() bool {
		for _, r := range st.Roles {
			if alive(r.PID) {
				return false
			}
		}
		return true
	})
}

func TestEachRoleHasOnlyItsOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give roles users of their own")
	}
	s := up(t, openDir(t), "127.0.0.1:0")
	users := map[string]string{}
	for _, r := range s.status().Roles {
		// The server is ready before the roles that it can do without are: they may still be on their way out of root.
		eventually(t, r.Role+" has a user", 10*time.Second, func() bool {
			uid := procStatus(t, r.PID)["Uid"]
			return uid != "" && !strings.HasPrefix(uid, "0\t")
		})
		st := procStatus(t, r.PID)
		if st["Uid"] == "" || strings.HasPrefix(st["Uid"], "0\t") || users[st["Uid"]] != "" {
			t.Errorf("%s runs as uid %q, as %q does; want a user of its own", r.Role, st["Uid"], users[st["Uid"]])
		}
		users[st["Uid"]] = r.Role
		if st["CapEff"] != "0000000000000000" || st["CapPrm"] != "0000000000000000" {
			t.Errorf("%s has capabilities: %s %s", r.Role, st["CapEff"], st["CapPrm"])
		}
		if r.Role == "buildkit" {
			continue // needs newuidmap, see internal/builder/worker
		}
		if st["NoNewPrivs"] != "1" || st["Seccomp"] != "2" || st["CapBnd"] != "0000000000000000" {
			t.Errorf("%s: NoNewPrivs %s, Seccomp %s, CapBnd %s", r.Role, st["NoNewPrivs"], st["Seccomp"], st["CapBnd"])
		}
	}

	secrets := map[string][]string{
		"api": {"pepper", "roadstead.db", "key.pem"}, "signer": {"token.key", "statement.key", "key.pem"}, "edge": {"tls.key", "key.pem"},
		"registry": {"key.pem", "storage"}, "builder": {"key.pem"}, "dashboard": {"key.pem", "cookie.key", "tls.key"}, "parent": {"key.pem"}, "admin": {"key.pem"},
	}
	files := []string{"admin.json", "pki/internal.key", "pki/public.key", "run/lock"}
	for role, names := range secrets {
		for _, n := range names {
			files = append(files, filepath.Join("roles", role, n))
		}
	}
	for _, reader := range allRoles {
		for _, f := range files {
			path := filepath.Join(s.dir, f)
			err := readAs(t, "roadstead-"+reader, path)
			own := strings.HasPrefix(f, "roles/"+reader+"/")
			if own != (err == nil) {
				t.Errorf("%s reads %s: %v", reader, f, err)
			}
		}
	}
	if out, text, code := run(t, nil, "admin", "verify", "--data", s.dir); code != 0 {
		t.Errorf("verify: exit %d: %s %s", code, out, text)
	}
}

// Without root everything runs as one user, and one warning says what that costs.
func TestUpWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("every other test is this one when not run as root")
	}
	dir := openDir(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	s := upAs(t, &syscall.Credential{Uid: nobody, Gid: nobody}, dir, "127.0.0.1:0")
	if code := s.whoami(s.admin().APIKey); code != 200 {
		t.Errorf("whoami: %d", code)
	}
	if n := strings.Count(s.log.String(), "not started as root"); n != 1 {
		t.Errorf("%d warnings, want one", n)
	}
	for _, r := range s.status().Roles {
		if r.Role == "buildkit" || r.State == supervise.NotHere {
			continue
		}
		if st := procStatus(t, r.PID); r.User != "nobody" || st["NoNewPrivs"] != "1" || st["Seccomp"] != "2" {
			t.Errorf("%s runs as %s, NoNewPrivs %s, Seccomp %s", r.Role, r.User, st["NoNewPrivs"], st["Seccomp"])
		}
	}
}

// readAs opens a file the way a process of another user would.
func readAs(t *testing.T, user, path string) error {
	t.Helper()
	cmd := exec.Command("setpriv", "--reuid", user, "--regid", user, "--init-groups", "test", "-r", path)
	return cmd.Run()
}

func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			m[k] = strings.TrimSpace(v)
		}
	}
	return m
}

// From outside there is one port. Everything else listens on the loopback address, and demands a role's certificate there.
func TestOnePortToTheOutside(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	for _, r := range append(s.status().Roles, supervise.RoleStatus{PID: s.cmd.Process.Pid}) {
		for _, a := range listeners(t, r.PID) {
			if !strings.HasPrefix(a, "127.0.0.1:") {
				t.Errorf("%s listens at %s", r.Role, a)
			}
		}
	}
	for _, r := range s.status().Roles {
		if r.Address == "" || r.Role == "edge" {
			continue
		}
		conn, err := net.Dial("tcp", r.Address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		answer := make([]byte, 100)
		n, _ := conn.Read(answer)
		if text := string(answer[:n]); strings.Contains(text, "200 OK") {
			t.Errorf("%s answers without TLS: %q", r.Role, text)
		}
		_ = conn.Close()
	}
}

// listeners are the addresses where a process listens, TCP and UDP.
func listeners(t *testing.T, pid int) []string {
	t.Helper()
	mine := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				mine[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	var found []string
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		data, err := os.ReadFile("/proc/net/" + table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 10 || !mine[f[9]] || (strings.HasPrefix(table, "tcp") && f[3] != "0A") {
				continue
			}
			host, port, _ := strings.Cut(f[1], ":")
			n, err := strconv.ParseUint(port, 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			if host == "0100007F" {
				host = "127.0.0.1"
			}
			found = append(found, host+":"+strconv.FormatUint(n, 10))
		}
	}
	return found
}

func TestModesOfEveryFile(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	public := map[string]fs.FileMode{ // what others may see, and no more
		".": 0o711, "ca.pem": 0o644, "site.json": 0o644, "roles": 0o711, "bases": 0o755, "roles/buildkit": 0o710,
	}
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it came and went
		}
		allowed := fs.FileMode(0o700)
		if m, ok := public[rel]; ok {
			allowed = m
		} else if strings.HasPrefix(rel, "roles/buildkit/") || strings.HasPrefix(rel, "pki/") {
			return nil // behind a closed door; buildkit's is the builder's to pass
		}
		if extra := info.Mode().Perm() &^ allowed; extra != 0 {
			t.Errorf("%s has mode %04o", rel, info.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A server that could not say how it is does not start: the operator would look for it in vain.
func TestUpWithoutAStatusSocket(t *testing.T) {
	dir := openDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "run", "status.sock", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, text, code := run(t, nil, "up", "--data", dir, "--domain", domain, "--listen", "127.0.0.1:0")
	if code != 1 || !strings.Contains(text, "status socket") {
		t.Errorf("exit %d: %s", code, text)
	}
}

func TestBadFlagsAreNamed(t *testing.T) {
	dir := openDir(t)
	junk := openDir(t)
	if err := os.MkdirAll(junk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(junk, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(config, []byte("domian: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := []string{"--data", dir, "--domain", domain, "--listen", "127.0.0.1:0"}
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--domain", domain, "--listen", "127.0.0.1:0"}, 2, "--data"},
		{[]string{"--data", dir, "--listen", "127.0.0.1:0"}, 2, "--domain"},
		{[]string{"--data", dir, "--domain", domain}, 2, "--listen"},
		{[]string{"--data", dir, "--domain", "Bad_Name", "--listen", "127.0.0.1:0"}, 2, "--domain"},
		{[]string{"--data", dir, "--domain", domain, "--listen", "443"}, 2, "--listen"},
		{[]string{"--data", dir, "--domain", domain, "--listen", "localhost:x"}, 2, "--listen"},
		{append(good, "--sql", "mysql://db/x"), 2, "want postgres://"},
		{append(good, "--api-processes", "2"), 2, "PostgreSQL"},
		{append(good, "--api-processes", "0"), 2, "--api-processes"},
		{append(good, "--api-processes", "17"), 2, "--api-processes"},
		{append(good, "--max-upload", "-1"), 2, "--max-upload"},
		{append(good, "--max-assets", "2000000000"), 2, "--max-assets"},
		{append(good, "--smtp", "smtps://u:p@mail.example.com", "--mail-from", "a@example.com"), 2, "a file of its own"},
		{append(good, "--smtp", "smtp://mail.example.com", "--smtp-insecure", "--mail-from", "a@example.com"), 2, "on this machine"},
		{append(good, "--smtp", "smtps://mail.example.com"), 2, "mail from"},
		{append(good, "--smtp", "smtps://u@mail.example.com", "--mail-from", "a@example.com", "--smtp-password-file", config+".none"), 2, "--smtp-password-file"},
		{append(good, "--security-contact", "nobody"), 2, "security contact"},
		{append(good, "--caller-requests", "-1"), 2, "caller_requests"},
		{append(good, "--poll-interval", "1"), 2, "poll-interval"},
		{append(good, "--poll-interval", "10ms"), 2, "--poll-interval"},
		{append(good, "--base-rebuild", "1m"), 2, "--base-rebuild"},
		{append(good, "--base-mirror", "http://mirror.example.com"), 2, "--base-mirror"},
		{append(good, "--log-format", "xml"), 2, "--log-format"},
		{append(good, "--config", config), 2, `"domian"`},
		{append(good, "--config", config+".none"), 2, "--config"},
		{append(good, "--nonsense"), 2, "nonsense"},
		{[]string{"--data", junk, "--domain", domain, "--listen", "127.0.0.1:0"}, 1, "thesis.tex"},
		{[]string{"--data", "/proc/nope", "--domain", domain, "--listen", "127.0.0.1:0"}, 1, "data directory"},
		{[]string{"--data", dir, "--domain", domain, "--listen", "203.0.113.7:8443"}, 1, "no such address"},
	} {
		out, text, code := run(t, nil, append([]string{"up"}, tt.args...)...)
		if code != tt.code || !strings.Contains(text, tt.says) || out != "" {
			t.Errorf("up %v: exit %d, %q %q; want %d and %q", tt.args, code, out, text, tt.code, tt.says)
		}
	}
}

func TestSettingsFromFlagsEnvironmentAndFile(t *testing.T) {
	config := filepath.Join(t.TempDir(), "c.json")
	if err := os.WriteFile(config, []byte(`{"domain": "file.test", "listen": "not an address", "poll_interval": "2m"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	// The environment wins over the file: the complaint is about its value.
	_, text, code := run(t, []string{"ROADSTEAD_LISTEN=from-environment", "ROADSTEAD_DATA=" + openDir(t)}, "up", "--config", config)
	if code != 2 || !strings.Contains(text, "from-environment") {
		t.Errorf("environment over file: exit %d: %s", code, text)
	}
	// A flag wins over the environment.
	_, text, code = run(t, []string{"ROADSTEAD_LISTEN=from-environment", "ROADSTEAD_CONFIG=" + config},
		"up", "--data", openDir(t), "--listen", "from-flag")
	if code != 2 || !strings.Contains(text, "from-flag") {
		t.Errorf("flag over environment: exit %d: %s", code, text)
	}
	_, text, code = run(t, []string{"ROADSTEAD_POLL_INTERVAL=soon"}, "up", "--data", openDir(t))
	if code != 2 || !strings.Contains(text, "ROADSTEAD_POLL_INTERVAL") {
		t.Errorf("a bad value: exit %d: %s", code, text)
	}
}

func TestHelpHasExamples(t *testing.T) {
	for _, args := range [][]string{
		{"up"}, {"role"}, {"status"}, {"admin", "user", "add"}, {"admin", "user", "password"}, {"admin", "backup"}, {"admin", "restore"},
		{"admin", "verify"}, {"admin", "base", "import"}, {"admin", "base", "list"},
	} {
		out, _, code := run(t, nil, append(args, "--help")...)
		if code != 0 || !strings.Contains(out, "Examples:") || !strings.Contains(out, "roadsteadd "+args[0]) {
			t.Errorf("%v --help: exit %d:\n%s", args, code, out)
		}
	}
	if out, _, code := run(t, nil, "version"); code != 0 || !strings.HasPrefix(out, "roadsteadd ") || !strings.Contains(out, ", SQLite in ") {
		t.Errorf("version: exit %d: %s", code, out)
	}
	if out, _, code := run(t, nil, "completion", "bash"); code != 0 || !strings.Contains(out, "roadsteadd") {
		t.Errorf("completion: exit %d: %.100s", code, out)
	}
}
