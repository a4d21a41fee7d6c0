package apiserver

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/factor"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/channel"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/device/nudge"
	"github.com/roadstead-io/roadstead/internal/device/publicurl"
	"github.com/roadstead-io/roadstead/internal/devicessh"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/gitsource"
	"github.com/roadstead-io/roadstead/internal/job"
	"github.com/roadstead-io/roadstead/internal/mail"
	"github.com/roadstead-io/roadstead/internal/reach"
	"github.com/roadstead-io/roadstead/internal/release"
	"github.com/roadstead-io/roadstead/internal/release/stored"
	"github.com/roadstead-io/roadstead/internal/release/workers"
	"github.com/roadstead-io/roadstead/internal/signin"
	"github.com/roadstead-io/roadstead/internal/trust"
)

//go:embed migrations
var own embed.FS

// Migrations makes every table of the API: account has the numbers 0001 to 0009 and 0040 to 0049, fleet 0010 to 0019 and 0050 to
// 0059, release 0020 to 0029 and 0060 to 0069 and 0190 to 0199, device 0030 to 0039 and 0070 to 0079, audit 0084 to 0089, signin 0110 to 0119 and 0136, this package and those
// that came later have the numbers from 0080 that are left.
func Migrations() []fs.FS {
	sub, err := fs.Sub(own, "migrations")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	return []fs.FS{audit.Migrations(), account.Migrations(), factor.Migrations(), fleet.Migrations(), release.Migrations(), stored.Migrations(), workers.Migrations(), device.Migrations(), sub, job.Migrations(), mail.Migrations(), signin.Migrations(), gitsource.Migrations(), devicessh.Migrations(),
		channel.Migrations(), publicurl.Migrations(), reach.Migrations(),
		nudge.Migrations(), action.Migrations(), trust.Migrations()}
}

// How long a database server that does not answer is waited for when the role starts. After that the role ends with the reason
// and its parent starts it again.
const (
	databasePatience = 20 * time.Second
	databasePause    = 500 * time.Millisecond
)

// openDatabase opens the file in the role's directory, or the database that the configuration names.
func openDatabase(cfg Config, log *slog.Logger) (*db.DB, error) {
	where := db.Config{Path: filepath.Join(cfg.Dir, "roadstead.db"), Now: cfg.Now}
	if cfg.SQL != "" {
		where = db.Config{DSN: cfg.SQL, Now: cfg.Now}
	}
	for began := time.Now(); ; {
		d, err := db.Open(where)
		if err == nil || !db.IsUnavailable(err) || time.Since(began) > databasePatience {
			return d, err
		}
		log.Warn("the database does not answer; it is tried again", "error", err)
		timer := time.NewTimer(databasePause)
		<-timer.C
	}
}

// migrate brings a database that is empty or ours to the newest schema, and writes down whose it is.
func (s *Server) migrate(ctx context.Context, pepper []byte) error {
	tables, err := s.db.Tables(ctx)
	if err != nil {
		return err
	}
	if len(tables) > 0 && !slices.Contains(tables, db.Versions) {
		return fmt.Errorf("%w: %s holds tables that are not ours (%s, …); give the server one of its own", db.ErrUnsuitable,
			s.db.Address(), tables[0])
	}
	if slices.Contains(tables, "site") {
		if err := s.claim(ctx, pepper); err != nil {
			return err
		}
	}
	if err := s.db.Migrate(ctx, Migrations()...); err != nil {
		return err
	}
	return s.claim(ctx, pepper)
}

// claim writes down whose database this is, or checks that it is ours.
func (s *Server) claim(ctx context.Context, pepper []byte) error {
	mac := hmac.New(sha256.New, pepper)
	mac.Write([]byte("site of " + s.cfg.Site.Domain))
	mark := hex.EncodeToString(mac.Sum(nil))
	var domain, marked string
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT domain, mark FROM site WHERE id = 1`).Scan(&domain, &marked)
		if errors.Is(err, sql.ErrNoRows) {
			domain, marked = s.cfg.Site.Domain, mark
			_, err = tx.ExecContext(ctx, `INSERT INTO site (id, domain, mark) VALUES (1, ?, ?)`, domain, mark)
		}
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("claim %s: %w", s.db.Address(), err)
	case domain != s.cfg.Site.Domain:
		return fmt.Errorf("%w: %s belongs to the domain %s, not to %s", db.ErrUnsuitable, s.db.Address(), domain, s.cfg.Site.Domain)
	case marked != mark:
		return fmt.Errorf("%w: %s belongs to another server of the domain %s: its tokens are hashed under another pepper than this "+
			"data directory's", db.ErrUnsuitable, s.db.Address(), domain)
	}
	return nil
}
