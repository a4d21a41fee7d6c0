package dbtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a PostgreSQL server of a test's own, to be killed and started again. It listens on a socket alone.
type Postgres struct {
	t    testing.TB
	dir  string
	bin  string
	as   *syscall.SysProcAttr // the user that it runs as, which is never root
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// binaries finds the newest PostgreSQL of the machine.
func binaries() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is good
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(path)
	}
	return ""
}

func version(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

// NewPostgres starts a server that ends with the test.
func NewPostgres(t testing.TB) *Postgres {
	t.Helper()
	p := &Postgres{t: t, bin: binaries()}
	if p.bin == "" {
		t.Skip("PostgreSQL's server is not on this machine (Debian: postgresql)")
	}
	var err error
	if p.dir, err = os.MkdirTemp("", "rspg-"); err != nil { // short, for the path of the socket has 107 bytes
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if err := os.RemoveAll(p.dir); err != nil {
			t.Error(err)
		}
	})
	p.as = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		p.as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} //nolint:gosec // ids of the system
		if err := os.Chown(p.dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(p.dir, 0o755); err != nil { // the socket is for everybody
		t.Fatal(err)
	}
	initdb := exec.Command(filepath.Join(p.bin, "initdb"), "-D", filepath.Join(p.dir, "data"), "-U", "postgres", "-A", "trust",
		"-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = p.dir, p.as
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	p.Start()
	return p
}

// Start starts it and waits until it answers. The processes of one that was killed may still be dying.
func (p *Postgres) Start() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for !p.start(ctx) {
		<-time.After(50 * time.Millisecond)
	}
}

func (p *Postgres) start(ctx context.Context) bool {
	p.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(filepath.Join(p.bin, "postgres"), "-D", filepath.Join(p.dir, "data"), "-k", p.dir, "-c", "listen_addresses=",
		"-c", "max_connections=200", "-c", "shared_buffers=64MB", "-c", "fsync=off", "-c", "full_page_writes=off",
		"-c", "dynamic_shared_memory_type=mmap") // in its own files, which go away with it
	p.cmd.Dir, p.cmd.SysProcAttr, p.cmd.Stdout, p.cmd.Stderr = p.dir, p.as, log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(p.cmd, p.done)
	for {
		c, err := pgx.Connect(ctx, p.DSN("postgres"))
		if err == nil {
			_ = c.Close(ctx)
			return true
		}
		select {
		case <-p.done:
			text, _ := os.ReadFile(log.Name())
			if strings.Contains(string(text), "shared memory block") && ctx.Err() == nil {
				return false
			}
			p.t.Fatalf("PostgreSQL ended: %s", text)
		case <-ctx.Done():
			p.t.Fatalf("PostgreSQL does not answer: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill ends it as a crash would: every one of its processes dies at once or, as the kernel's order may have it, soon after.
func (p *Postgres) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	p.cmd = nil
}

// DSN is the address of one of its databases.
func (p *Postgres) DSN(database string) string {
	return fmt.Sprintf("postgres://postgres@/%s?host=%s", database, url.QueryEscape(p.dir))
}

// Exec runs a statement in a database.
func (p *Postgres) Exec(database, query string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, p.DSN(database))
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	if _, err := c.Exec(ctx, query); err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
}
