package db_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

func openOn(t *testing.T, p *dbtest.Postgres, database string) *db.DB {
	t.Helper()
	d, err := db.Open(db.Config{DSN: p.DSN(database)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// The server is killed in the middle of writes and comes back: what was acknowledged is there, who asks meanwhile is told to
// come again, and nobody has to reconnect.
func TestTheServerIsKilled(t *testing.T) {
	p := dbtest.NewPostgres(t)
	p.Exec("postgres", `CREATE DATABASE rs`)
	d, ctx := openOn(t, p, "rs"), t.Context()
	if err := d.Migrate(ctx, dbtest.Schema("0001_t.sql", "-- +goose Up\nCREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE);\n")); err != nil {
		t.Fatal(err)
	}
	write := func(v string) error {
		return d.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES (?)`, v)
			return err
		})
	}
	var (
		mu           sync.Mutex // covers what follows
		acknowledged []string
		odd          []error
		away         int
		writers      sync.WaitGroup
	)
	writing, stop := context.WithCancel(ctx)
	for g := range 4 {
		writers.Go(func() {
			for i := 0; writing.Err() == nil; i++ {
				v := fmt.Sprintf("%d-%d", g, i)
				err := write(v)
				mu.Lock()
				switch {
				case err == nil:
					acknowledged = append(acknowledged, v)
				case db.IsUnavailable(err) && errors.Is(err, api.ErrUnavailable):
					away++
				default:
					odd = append(odd, err)
				}
				mu.Unlock()
			}
		})
	}
	some := func(what string, enough func() bool) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			mu.Lock()
			done := enough()
			mu.Unlock()
			if done {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("no %s within a minute", what)
			}
			<-time.After(time.Millisecond)
		}
	}
	for range 3 {
		mu.Lock()
		before := len(acknowledged)
		mu.Unlock()
		some("writes", func() bool { return len(acknowledged) > before+50 })
		p.Kill()
		mu.Lock()
		missed := away
		mu.Unlock()
		some("refusals", func() bool { return away > missed })
		if err := d.Read(ctx, func(*db.Tx) error { return nil }); !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("read without a server: got %v", err)
		}
		p.Start()
	}
	mu.Lock()
	before := len(acknowledged)
	mu.Unlock()
	some("writes after the last start", func() bool { return len(acknowledged) > before+50 })
	stop()
	writers.Wait()
	for _, err := range odd {
		t.Errorf("an odd error: %v", err)
	}
	kept := map[string]bool{}
	if err := d.Read(ctx, func(tx *db.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT v FROM t`)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var v string
			if err := rows.Scan(&v); err != nil {
				return err
			}
			kept[v] = true
		}
		return rows.Err()
	}); err != nil {
		t.Fatal(err)
	}
	for _, v := range acknowledged {
		if !kept[v] {
			t.Errorf("%s was acknowledged and is lost", v)
		}
	}
	t.Logf("%d acknowledged, %d kept, %d refused", len(acknowledged), len(kept), away)
}

// A connection that was ended between two uses is replaced without anybody noticing.
func TestConnectionsThatWereEnded(t *testing.T) {
	p := dbtest.NewPostgres(t)
	d, ctx := openOn(t, p, "postgres"), t.Context()
	one := func(tx *db.Tx) error {
		var n int
		return tx.QueryRowContext(ctx, `SELECT 1`).Scan(&n)
	}
	for name, use := range map[string]func(context.Context, func(*db.Tx) error) error{"Read": d.Read, "ReadOne": d.ReadOne, "Write": d.Write} {
		if err := use(ctx, one); err != nil {
			t.Fatal(err)
		}
		p.Exec("postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'roadstead'`)
		if err := use(ctx, one); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := d.Write(ctx, func(tx *db.Tx) error { // in the middle of one it shows
		p.Exec("postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'roadstead'`)
		return one(tx)
	})
	if !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("in the middle: got %v", err)
	}
}

// A statement whose caller has gone does not go on at the server.
func TestACancelledStatementEndsAtTheServer(t *testing.T) {
	p := dbtest.NewPostgres(t)
	d := openOn(t, p, "postgres")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := d.Read(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `SELECT pg_sleep(60)`)
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		var n int
		if err := d.ReadOne(t.Context(), func(tx *db.Tx) error {
			return tx.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60)'`).Scan(&n)
		}); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the statement still runs")
		}
	}
}

func TestServersThatAreRefused(t *testing.T) {
	p := dbtest.NewPostgres(t)
	p.Exec("postgres", `CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`)
	p.Exec("postgres", `CREATE ROLE stranger`)
	for name, test := range map[string]struct {
		dsn, want  string
		unsuitable bool
	}{
		"encoding":    {p.DSN("latin"), "encoding is LATIN1", true},
		"no database": {p.DSN("nowhere"), `"nowhere" does not exist`, true},
		"no login":    {strings.Replace(p.DSN("postgres"), "postgres@", "stranger@", 1), "not permitted to log in", true},
		"no server":   {"postgres://rs:hush@/x?host=/nonexistent", "/nonexistent", false},
		"bad address": {"postgres://rs:hush@127.0.0.1:1/x?sslmode=odd", "sslmode", false},
	} {
		d, err := db.Open(db.Config{DSN: test.dsn})
		if err == nil {
			_ = d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, db.ErrUnsuitable) != test.unsuitable {
			t.Errorf("%s: got %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
		if name == "no server" && !db.IsUnavailable(err) {
			t.Errorf("%s: it is not said to be away: %v", name, err)
		}
	}
}
