// Package job says which of several processes on one database does a periodic chore. The work of a chore must be harmless when
// it is done twice: a lease keeps processes from doing it for nothing, and from getting into each other's way.
package job

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/roadstead-io/roadstead/internal/db"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the table of this package, number 0081.
func Migrations() fs.FS {
	return db.Folder(migrations)
}

// Leases are those of one process. On SQLite, which has a single process, it holds all of them and writes nothing.
type Leases struct {
	db     *db.DB
	holder string
}

// NewLeases makes the leases of this process.
func NewLeases(d *db.DB) *Leases { return &Leases{db: d, holder: rand.Text()} }

// grace is added to a lease so that clocks need not agree exactly, and its holder may be late.
const grace = 30 * time.Second

// Take takes a lease for a time, or renews it. False: another process holds it.
func (l *Leases) Take(ctx context.Context, name string, time time.Duration) (held bool, err error) {
	if l.db.Dialect() == db.SQLite {
		return true, nil
	}
	if held, err = l.free(ctx, name); err != nil || !held { // most of the time another one's is only read
		return false, err
	}
	err = l.db.Write(ctx, func(tx *db.Tx) (err error) {
		if held, err = l.mine(ctx, tx, name); err != nil || !held {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO lease (name, holder, until) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until`,
			name, l.holder, db.FormatTime(tx.Now.Add(time)))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", name, err)
	}
	return held, nil
}

func (l *Leases) free(ctx context.Context, name string) (free bool, err error) {
	err = l.db.ReadOne(ctx, func(tx *db.Tx) (err error) {
		free, err = l.mine(ctx, tx, name)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", name, err)
	}
	return free, nil
}

// mine reports whether nobody else holds a lease.
func (l *Leases) mine(ctx context.Context, tx *db.Tx, name string) (bool, error) {
	var holder, until string
	err := tx.QueryRowContext(ctx, `SELECT holder, until FROM lease WHERE name = ?`, name).Scan(&holder, &until)
	if errors.Is(err, sql.ErrNoRows) {
		return true, nil
	}
	return err == nil && (holder == l.holder || until <= tx.NowText()), err
}

// Release gives up all leases of this process, so that another one need not wait for their end.
func (l *Leases) Release(ctx context.Context) error {
	if l.db.Dialect() == db.SQLite {
		return nil
	}
	return l.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM lease WHERE holder = ?`, l.holder); err != nil {
			return fmt.Errorf("release leases: %w", err)
		}
		return nil
	})
}

// Every has a chore done once a period until the context ends. What goes wrong is logged, and tried again the next time.
func Every(ctx context.Context, log *slog.Logger, what string, period time.Duration, chore func(ctx context.Context) error) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := chore(ctx); err != nil && ctx.Err() == nil {
				log.ErrorContext(ctx, what, "error", err)
			}
		}
	}
}

// Only makes of a chore that runs once a period one that only the process does which holds its lease. The chore's context ends
// with the lease.
func (l *Leases) Only(name string, period time.Duration, chore func(ctx context.Context) error) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		life := 2*period + grace
		held, err := l.Take(ctx, name, life)
		if err != nil || !held {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, life)
		defer cancel()
		return chore(ctx)
	}
}
