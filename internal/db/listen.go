package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

const (
	// askEvery is how often a listener asks its server for a sign of life, and heardFor how long what it has heard is the whole
	// truth after it asked. One answer may be late without anybody noticing.
	askEvery = 900 * time.Millisecond
	heardFor = 2 * time.Second
	// listenPause is between two tries to reach the server.
	listenPause = time.Second
)

// listener hears what committed transactions told with pg_notify, its own process' and all others', on a connection of its own. It
// hears of a change some milliseconds after the commit, and knows at any time whether it can be sure of that. On SQLite, where one
// process writes, nobody tells anything.
type listener struct {
	db      *DB
	channel string
	log     *slog.Logger
	heard   func(subject string) // what a transaction told
	began   func()               // it begins to hear now: what was told before it may have missed

	start time.Time
	until atomic.Int64 // since start; the listener is sure of what it heard until then
}

// current says whether everything has been heard that was told more than two seconds ago. The server said so: whatever it sent
// before the answer to a question had been committed before the question was asked. A connection that hangs, a server that is gone or
// a process that gets no time make it false by themselves.
func (l *listener) current() bool {
	until := l.until.Load()
	return until != 0 && int64(time.Since(l.start)) < until
}

// run listens until the context ends.
func (l *listener) run(ctx context.Context) error {
	if l.db.dialect != Postgres {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(listenPause)
	defer tick.Stop()
	for said := ""; ; {
		err := l.listen(ctx)
		if l.until.Swap(0) != 0 {
			said = ""
		}
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != said { // a server that is away is away for many tries
			said = err.Error()
			l.log.WarnContext(ctx, "changes are not heard of, so the database is asked each time", "channel", l.channel, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// listen listens on one connection for as long as it is alive.
func (l *listener) listen(ctx context.Context) error {
	cfg := l.db.server.Copy()
	cfg.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { l.heard(n.Payload) }
	cfg.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler { // to wait no longer does not end the connection
		return &pgconn.DeadlineContextWatcherHandler{Conn: c.Conn()}
	}
	conn, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if err != nil {
		return fmt.Errorf("db: listen: %w", err)
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(bye)
	}()
	if _, err := l.ask(ctx, conn, `LISTEN "`+l.channel+`"`); err != nil {
		return err
	}
	l.began()
	for {
		asked := time.Now()
		if err := l.answers(ctx, conn); err != nil {
			return err
		}
		l.until.Store(int64(asked.Sub(l.start) + heardFor))
		if err := l.wait(ctx, conn, asked.Add(askEvery)); err != nil {
			return err
		}
	}
}

// answers asks the server for a sign of life. Notifications are for the session that listens: it must be that one which answers,
// and no pooler in between that keeps it for itself.
func (l *listener) answers(ctx context.Context, conn *pgconn.PgConn) error {
	pid, err := l.ask(ctx, conn, `SELECT pg_backend_pid()`)
	if err != nil {
		return err
	}
	if pid != fmt.Sprint(conn.PID()) {
		return errors.New("db: listen: there is a pooler before the database, which passes no notifications on")
	}
	return nil
}

// ask runs a statement and gives the first value of its answer. What is told meanwhile is heard before that.
func (l *listener) ask(ctx context.Context, conn *pgconn.PgConn, query string) (value string, err error) {
	ctx, cancel := context.WithTimeout(ctx, heardFor)
	defer cancel()
	results, err := conn.Exec(ctx, query).ReadAll()
	if err != nil {
		return "", fmt.Errorf("db: listen: %w", err)
	}
	if len(results) == 1 && len(results[0].Rows) == 1 {
		value = string(results[0].Rows[0][0])
	}
	return value, nil
}

// wait hears until a moment.
func (l *listener) wait(ctx context.Context, conn *pgconn.PgConn, until time.Time) error {
	waiting, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for {
		switch err := conn.WaitForNotification(waiting); {
		case err == nil:
		case ctx.Err() != nil || conn.IsClosed() || waiting.Err() == nil:
			return fmt.Errorf("db: listen: %w", err)
		default:
			return nil
		}
	}
}
