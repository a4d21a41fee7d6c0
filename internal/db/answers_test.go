package db_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// memory is an Answers on a server of its own, with a connection of somebody else who changes things.
type memory struct {
	testing.TB
	*db.Answers[string]
	server *dbtest.Postgres
	other  *pgx.Conn
}

func newMemory(t *testing.T, bytes int) *memory {
	t.Helper()
	m := &memory{TB: t, server: dbtest.NewPostgres(t)}
	m.Answers = db.NewAnswers[string](openOn(t, m.server, "postgres"), "changes", slog.New(slog.DiscardHandler), bytes)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	var err error
	if m.other, err = pgx.Connect(t.Context(), m.server.DSN("postgres")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.other.Close(context.Background()) })
	m.eventually("it listens", m.Current)
	return m
}

func (m *memory) exec(query string) {
	m.Helper()
	if _, err := m.other.Exec(m.Context(), query); err != nil {
		m.Fatalf("%s: %v", query, err)
	}
}

// eventually polls a condition and says how long it took.
func (m *memory) eventually(what string, f func() bool) time.Duration {
	m.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		if f() {
			return time.Since(began)
		}
		if time.Since(began) > 20*time.Second {
			m.Fatalf("%s: not within 20 s", what)
		}
	}
}

// learn keeps what was read about some subjects.
func (m *memory) learn(key int64, about ...string) {
	m.Helper()
	m.eventually("it remembers", func() bool {
		_, _, round := m.Find(key)
		m.Keep(key, "value", 10, round, about...)
		return m.knows(key)
	})
}

func (m *memory) knows(key int64) bool {
	_, found, _ := m.Find(key)
	return found
}

// listener is the process of the server that tells us.
func (m *memory) listener() (pid int) {
	m.Helper()
	err := m.other.QueryRow(m.Context(), `SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_backend_pid()' AND pid <> pg_backend_pid()`).Scan(&pid)
	if err != nil {
		m.Fatal(err)
	}
	return pid
}

func TestAnAnswerHoldsUntilItIsChanged(t *testing.T) {
	m := newMemory(t, 1<<20)
	m.learn(1, "device 1", "fleet 7")
	m.learn(2, "device 2", "fleet 7")
	m.learn(3, "device 3", "fleet 8")
	m.exec(`BEGIN; SELECT pg_notify('changes', 'fleet 7'); SELECT pg_notify('changes', 'device 3')`)
	if !m.knows(1) || !m.knows(3) {
		t.Error("a change counts before it is committed")
	}
	m.exec(`ROLLBACK`)
	m.exec(`SELECT pg_notify('changes', 'device 1')`)
	m.eventually("a change of a device is heard", func() bool { return !m.knows(1) })
	if !m.knows(2) || !m.knows(3) {
		t.Error("the change of one device is that of all, or a change that was called off counts")
	}
	m.learn(1, "device 1", "fleet 7")
	m.exec(`SELECT pg_notify('changes', 'fleet 7')`)
	m.eventually("a change of a fleet is heard", func() bool { return !m.knows(1) && !m.knows(2) })
	if !m.knows(3) {
		t.Error("the change of one fleet is that of all")
	}
}

// Who has asked the database before a change was heard of must not have it remembered after that.
func TestAnAnswerThatWasOvertakenIsNotKept(t *testing.T) {
	m := newMemory(t, 1<<20)
	m.learn(9, "device 9")
	_, _, round := m.Find(1)
	m.exec(`SELECT pg_notify('changes', 'device 1'), pg_notify('changes', 'device 9')`)
	m.eventually("the change is heard", func() bool { return !m.knows(9) })
	m.Keep(1, "old", 10, round, "device 1")
	if m.knows(1) {
		t.Error("what was read before the change is given after it")
	}
	_, _, round = m.Find(2)
	m.exec(`SELECT pg_terminate_backend(` + strconv.Itoa(m.listener()) + `)`)
	m.eventually("the cut is noticed", func() bool { return !m.Current() })
	m.eventually("it listens again", m.Current)
	m.Keep(2, "old", 10, round, "device 2")
	if m.knows(2) {
		t.Error("what was read before the connection was cut is given after it")
	}
}

// A change that is told while nobody listens is seen all the same.
func TestChangesWhileTheListenerIsAway(t *testing.T) {
	m := newMemory(t, 1<<20)
	for range 3 {
		m.learn(1, "device 1")
		m.exec(`SELECT pg_terminate_backend(` + strconv.Itoa(m.listener()) + `)`)
		m.exec(`SELECT pg_notify('changes', 'device 1')`)
		if took := m.eventually("the change is seen", func() bool { return !m.knows(1) }); took > 2500*time.Millisecond {
			t.Errorf("the old answer was given %s after the change, want 2 s at most", took)
		}
		m.eventually("it listens again", m.Current)
		if m.knows(1) {
			t.Error("the old answer came back")
		}
	}
	m.learn(1, "device 1")
	m.server.Kill()
	m.eventually("the server's death is noticed", func() bool { return !m.Current() })
	m.server.Start()
	m.eventually("it listens again", m.Current)
	if m.knows(1) {
		t.Error("an answer survived the server that gave it")
	}
}

// A connection that hangs says nothing, and no error either.
func TestAListenerThatHangs(t *testing.T) {
	m := newMemory(t, 1<<20)
	m.learn(1, "device 1")
	pid := m.listener()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	m.exec(`SELECT pg_notify('changes', 'device 1')`)
	if took := m.eventually("the change is seen", func() bool { return !m.knows(1) }); took > 2500*time.Millisecond {
		t.Errorf("the old answer was given %s after the change, want 2 s at most", took)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	m.eventually("it listens again", m.Current)
	if m.knows(1) {
		t.Error("the old answer came back")
	}
}

// pooler stands between a client and the server of a test as one that gives each transaction another connection: its clients' sessions
// are not those of the server.
func pooler(t *testing.T, p *dbtest.Postgres) (dsn string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rspg-") // short, for the path of the socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	there, err := url.Parse(p.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(func() { _ = ln.Close() })
	all.Go(func() {
		for client, err := ln.Accept(); err == nil; client, err = ln.Accept() {
			server, err := net.Dial("unix", filepath.Join(there.Query().Get("host"), ".s.PGSQL.5432"))
			if err != nil {
				t.Error(err)
				_ = client.Close()
				continue
			}
			all.Go(func() {
				_, _ = io.Copy(server, client)
				_ = server.Close()
			})
			all.Go(func() {
				defer client.Close()
				buf := make([]byte, 64<<10)
				for n, err := server.Read(buf); err == nil; n, err = server.Read(buf) {
					if i := bytes.Index(buf[:n], []byte{'K', 0, 0, 0, 12}); i >= 0 && i+8 < n {
						buf[i+8] ^= 1 // BackendKeyData: the number of a process that is not the server's
					}
					if _, err := client.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return "postgres://postgres@/postgres?host=" + url.QueryEscape(dir)
}

// Behind a pooler nothing is heard, though everything answers: then nothing is remembered either, and the log says so.
func TestAPoolerPassesNothingOn(t *testing.T) {
	p := dbtest.NewPostgres(t)
	d, err := db.Open(db.Config{DSN: pooler(t, p)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	out, in := io.Pipe()
	a := db.NewAnswers[string](d, "changes", slog.New(slog.NewTextHandler(in, nil)), 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, "pooler") {
		t.Errorf("the log says %q, %v", line, err)
	}
	_, _, round := a.Find(1)
	a.Keep(1, "value", 10, round, "device 1")
	if _, found, _ := a.Find(1); found || a.Current() {
		t.Error("something is remembered")
	}
	cancel()
	_ = out.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	m := newMemory(t, 100_000)
	_, _, round := m.Find(0)
	for key := range int64(2000) {
		m.Keep(key, "value", 100, round, fmt.Sprint("device ", key))
		m.Find(0) // what is in use stays
	}
	known := 0
	for key := range int64(2000) {
		if m.knows(key) {
			known++
		}
	}
	if known < 100 || known > 330 || !m.knows(1999) || !m.knows(0) {
		t.Errorf("%d answers are known, want some 300, and the last one and the one in use", known)
	}
	m.Keep(3000, "value", 100_000, round, "device 3000")
	if m.knows(3000) {
		t.Error("an answer larger than the memory is kept")
	}
	m.learn(1999, "device 1999")
	m.exec(`SELECT count(pg_notify('changes', 'device ' || n)) FROM generate_series(100000, 125000) n`)
	m.eventually("so many changes make it forget", func() bool { return !m.knows(1999) })
}
