package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

const sqlPassword = "fair-winds-and-following-seas"

// sqlFile is a file for --sql-file that names a database of a role with a password.
func sqlFile(t *testing.T, pg *dbtest.Postgres, database string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sql")
	dsn := strings.Replace(pg.DSN(database), "postgres@", "rs:"+sqlPassword+"@", 1)
	if err := os.WriteFile(file, []byte(dsn+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func newPostgres(t *testing.T, databases ...string) *dbtest.Postgres {
	t.Helper()
	pg := dbtest.NewPostgres(t)
	pg.Exec("postgres", `CREATE ROLE rs LOGIN PASSWORD '`+sqlPassword+`'`)
	for _, name := range databases {
		pg.Exec("postgres", `CREATE DATABASE `+name+` OWNER rs`)
	}
	return pg
}

// call sends one request with a JSON body through the edge.
func (s *server) call(client *http.Client, method, path, token string, body any) (int, http.Header, string) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err.Error()
	}
	req, err := http.NewRequest(method, "https://api."+domain+path, bytes.NewReader(data))
	if err != nil {
		return 0, nil, err.Error()
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, nil, err.Error()
	}
	return res.StatusCode, res.Header, string(text)
}

// rows is the answer of a list.
type rows struct {
	D []struct {
		ID     int64  `json:"id"`
		TagKey string `json:"tag_key"`
	} `json:"d"`
}

func (s *server) list(path, token string) rows {
	s.t.Helper()
	code, _, text := s.call(s.client(), "GET", path, token, nil)
	var r rows
	if err := json.Unmarshal([]byte(text), &r); code != 200 || err != nil {
		s.t.Fatalf("GET %s: %d %s", path, code, text)
	}
	return r
}

// tagger writes tags of a fleet, several at a time, until it is stopped, and remembers those that the server acknowledged.
type tagger struct {
	s     *server
	token string
	fleet int64
	stop  chan struct{}
	all   sync.WaitGroup

	mu   sync.Mutex // covers what follows
	done map[string]bool
	away int // answers 503 with Retry-After
	odd  []string
}

func (s *server) tagging(token string) *tagger {
	s.t.Helper()
	code, _, text := s.call(s.client(), "POST", "/v7/application", token, map[string]any{
		"app_name": "harbour", "organization": s.list("/v7/organization?$select=id", token).D[0].ID,
		"is_for__device_type": s.list("/v7/device_type?$select=id&$filter=slug%20eq%20%27generic-amd64%27", token).D[0].ID,
	})
	var made struct{ ID int64 }
	if err := json.Unmarshal([]byte(text), &made); code != 201 || err != nil {
		s.t.Fatalf("a fleet: %d %s", code, text)
	}
	g := &tagger{s: s, token: token, fleet: made.ID, stop: make(chan struct{}), done: map[string]bool{}}
	for n := range 3 {
		client := s.client()
		g.all.Go(func() { g.run(client, n) })
	}
	return g
}

func (g *tagger) run(client *http.Client, n int) {
	for i := 0; ; i++ {
		select {
		case <-g.stop:
			return
		default:
		}
		key := fmt.Sprintf("t%d-%d", n, i)
		code, header, text := g.s.call(client, "POST", "/v7/application_tag", g.token,
			map[string]any{"application": g.fleet, "tag_key": key, "value": "x"})
		g.mu.Lock()
		switch {
		case code == 201:
			g.done[key] = true
		case code == 503 && header.Get("Retry-After") != "":
			g.away++
		case code == 0: // the connection died with the role
		default:
			g.odd = append(g.odd, fmt.Sprintf("%s: %d %s", key, code, text))
		}
		g.mu.Unlock()
	}
}

func (g *tagger) counts() (done, away int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.done), g.away
}

// more waits for further acknowledged writes.
func (g *tagger) more(what string) {
	g.s.t.Helper()
	before, _ := g.counts()
	eventually(g.s.t, what, time.Minute, func() bool { done, _ := g.counts(); return done > before+20 })
}

// A server on PostgreSQL: its password is nowhere but in the api role's own file; the role and the database may be killed in
// the middle of writes without any loss; its backup makes another server.
func TestOnPostgres(t *testing.T) {
	pg := newPostgres(t, "rs", "rs_again")
	s := up(t, openDir(t), "127.0.0.1:0", "--sql-file", sqlFile(t, pg, "rs"))
	a := s.admin()
	if st := s.status(); st.Database.Kind != "PostgreSQL" || !strings.Contains(st.Database.At, `"rs"`) || st.Database.State != supervise.Healthy {
		t.Errorf("status: database %+v", st.Database)
	}
	passwordIsHidden(t, s)

	g := s.tagging(a.APIKey)
	g.more("writes")
	for range 3 {
		pid := s.role("api").PID
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the api role is back", time.Minute, func() bool { r := s.role("api"); return r.PID != pid && r.State == supervise.Healthy })
		g.more("writes after the api role was killed")
	}
	pid := s.role("api").PID
	pg.Kill()
	eventually(t, "refusals that say when to come again", time.Minute, func() bool { _, away := g.counts(); return away > 20 })
	eventually(t, "the status says it", time.Minute, func() bool {
		return s.status().Database.State == supervise.Unhealthy && strings.Contains(s.status().Database.Why, "database")
	})
	pg.Start()
	g.more("writes after PostgreSQL was killed")
	eventually(t, "all is well again", time.Minute, func() bool { return s.status().Database.State == supervise.Healthy })
	if now := s.role("api").PID; now != pid {
		t.Errorf("the api role was started again (%d, then %d); the database's end is no reason", pid, now)
	}
	close(g.stop)
	g.all.Wait()
	for _, odd := range g.odd {
		t.Error(odd)
	}
	kept := map[string]bool{}
	for _, row := range s.list("/v7/application_tag?$select=id,tag_key", a.APIKey).D {
		kept[row.TagKey] = true
	}
	for key := range g.done {
		if !kept[key] {
			t.Errorf("the tag %s was acknowledged and is lost", key)
		}
	}
	t.Logf("%d acknowledged, %d kept, %d told to come again", len(g.done), len(kept), g.away)
	restoreElsewhere(t, s, pg, len(kept))
}

// restoreElsewhere backs a server up and makes another from it, on another database.
func restoreElsewhere(t *testing.T, s *server, pg *dbtest.Postgres, tags int) {
	t.Helper()
	a := s.admin()
	online, offline := filepath.Join(t.TempDir(), "online.tar"), filepath.Join(t.TempDir(), "offline.tar")
	if _, text, code := run(t, nil, "admin", "backup", online, "--data", s.dir); code != 0 {
		t.Fatalf("backup of a running server: exit %d: %s", code, text)
	}
	if out, text, code := run(t, nil, "admin", "verify", "--data", s.dir); code != 0 || !strings.Contains(out, "database: whole") {
		t.Errorf("verify: exit %d: %s %s", code, out, text)
	}
	s.stop()
	if _, text, code := run(t, nil, "admin", "backup", offline, "--data", s.dir); code != 0 {
		t.Fatalf("backup of a stopped server: exit %d: %s", code, text)
	}
	dir := openDir(t)
	for _, bad := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "--sql"},
		{[]string{"--sql-file", sqlFile(t, pg, "rs")}, 1, "is not empty"},
		{[]string{"--sql-file", sqlFile(t, pg, "nowhere")}, 78, "does not exist"},
	} {
		_, text, code := run(t, nil, append([]string{"admin", "restore", online, "--data", dir}, bad.args...)...)
		if code != bad.code || !strings.Contains(text, bad.says) || strings.Contains(text, sqlPassword) {
			t.Errorf("restore %v: exit %d: %s; want %d, %q", bad.args, code, text, bad.code, bad.says)
		}
	}
	again := sqlFile(t, pg, "rs_again")
	for name, file := range map[string]string{"online": online, "offline": offline} {
		if _, text, code := run(t, nil, "admin", "restore", file, "--data", dir, "--sql-file", again); code != 0 {
			t.Fatalf("%s: restore: exit %d: %s", name, code, text)
		}
		if out, text, code := run(t, nil, "admin", "verify", "--data", dir); code != 0 {
			t.Errorf("%s: verify: exit %d: %s %s", name, code, out, text)
		}
		other := up(t, dir, s.addr, "--sql-file", again)
		if got := len(other.list("/v7/application_tag?$select=id,tag_key", a.APIKey).D); got != tags {
			t.Errorf("%s: the restored server has %d tags, want %d", name, got, tags)
		}
		other.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		pg.Exec("postgres", `DROP DATABASE rs_again WITH (FORCE)`)
		pg.Exec("postgres", `CREATE DATABASE rs_again OWNER rs`)
	}
}

// passwordIsHidden looks for the database's password where others of the machine, or other roles, could read it.
func passwordIsHidden(t *testing.T, s *server) {
	t.Helper()
	if strings.Contains(s.log.String(), sqlPassword) {
		t.Error("the password stands in the log")
	}
	for _, r := range s.status().Roles {
		for _, name := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", r.PID, name))
			if err != nil {
				t.Error(err)
			}
			if bytes.Contains(data, []byte(sqlPassword)) {
				t.Errorf("the password stands in %s of the role %s", name, r.Role)
			}
		}
	}
	found := 0
	err := filepath.WalkDir(s.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.Contains(data, []byte(sqlPassword)) {
			found++
			info, err := d.Info()
			if err != nil {
				return err
			}
			if path != filepath.Join(s.dir, "roles", "api", "role.json") || info.Mode().Perm() != 0o600 {
				t.Errorf("the password stands in %s, mode %04o", path, info.Mode().Perm())
			}
		}
		return nil
	})
	if err != nil || found != 1 {
		t.Errorf("the password was found in %d files, %v; want one", found, err)
	}
}

// A database that does not answer is waited for; one that belongs to another server, or is not the server's alone, ends the
// start with the reason.
func TestDatabasesThatAreNotThereOrNotOurs(t *testing.T) {
	pg := newPostgres(t, "rs", "other")
	pg.Exec("other", `CREATE TABLE customers (id INT)`)
	pg.Kill()
	dir := openDir(t)
	s := begin(t, nil, dir, "127.0.0.1:0", "--sql-file", sqlFile(t, pg, "rs"))
	eventually(t, "it says what it waits for", 30*time.Second, func() bool { return strings.Contains(s.log.String(), "the database does not answer") })
	pg.Start()
	select {
	case line := <-s.out:
		if !strings.HasPrefix(line, "ready ") {
			t.Errorf("standard output: %q", line)
		}
	case <-time.After(time.Minute):
		t.Fatalf("not ready: %s", s.log)
	}
	s.stop()
	if strings.Contains(s.log.String(), sqlPassword) {
		t.Error("the password stands in the log")
	}

	for name, test := range map[string]struct {
		domain, database, says string
	}{
		"another domain":      {"other.roadstead.test", "rs", "belongs to the domain " + domain},
		"another server":      {domain, "rs", "another pepper"},
		"another application": {domain, "other", "tables that are not ours (customers"},
		"no database":         {domain, "nowhere", "does not exist"},
	} {
		_, text, code := run(t, nil, "up", "--data", openDir(t), "--domain", test.domain, "--listen", "127.0.0.1:0",
			"--sql-file", sqlFile(t, pg, test.database))
		if code != 1 || !strings.Contains(text, test.says) || strings.Contains(text, sqlPassword) {
			t.Errorf("%s: exit %d: %s; want %q", name, code, text, test.says)
		}
	}
}
