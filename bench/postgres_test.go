package bench_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// postgres is a PostgreSQL server of the benchmark's own, with Debian's settings: what it says is committed is on the disk.
type postgres struct {
	pid  int
	base string // address without a database
	made int
}

func startPostgres(b *testing.B) *postgres {
	b.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		b.Fatal("ROADSTEAD_BENCH_SQL: PostgreSQL is not installed: scripts/install.sh test installs it")
	}
	slices.Sort(found)
	bin, dir := filepath.Dir(found[len(found)-1]), publicDir(b)
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // it refuses to run as root
		owner, err := user.Lookup("postgres")
		if err != nil {
			b.Fatal(err)
		}
		uid, _ := strconv.Atoi(owner.Uid)
		gid, _ := strconv.Atoi(owner.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			b.Fatal(err)
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
	initdb.Dir, initdb.SysProcAttr = dir, attr
	if out, err := initdb.CombinedOutput(); err != nil {
		b.Fatalf("initdb: %v %s", err, out)
	}
	srv := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "max_connections=60",
		"-c", "dynamic_shared_memory_type=mmap")
	srv.Dir, srv.SysProcAttr = dir, attr
	log, err := os.Create(filepath.Join(dir, "postgres.log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	srv.Stdout, srv.Stderr = log, log
	if err := srv.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = srv.Process.Signal(syscall.SIGINT)
		_ = srv.Wait()
	})
	ready := exec.Command(filepath.Join(bin, "psql"), "-h", dir, "-U", "postgres", "-c", "SELECT 1")
	for ; ; ready = exec.Command(ready.Path, ready.Args[1:]...) {
		ready.Dir = dir
		if ready.Run() == nil {
			break
		}
		if srv.ProcessState != nil {
			text, _ := os.ReadFile(log.Name())
			b.Fatalf("postgres ended: %s", text)
		}
	}
	return &postgres{pid: srv.Process.Pid, base: dir}
}

// database makes an empty database and gives its address.
func (p *postgres) database(b *testing.B) string {
	b.Helper()
	p.made++
	name := fmt.Sprintf("bench%d", p.made)
	out, err := exec.Command("psql", "-h", p.base, "-U", "postgres", "-c",
		`CREATE DATABASE `+name+` ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`).CombinedOutput()
	if err != nil {
		b.Fatalf("create database: %v %s", err, strings.TrimSpace(string(out)))
	}
	return "postgres://postgres@/" + name + "?host=" + p.base
}
