package apiserver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// bootstrap makes the first user, once, for the parent to write into admin.json.
func (s *Server) bootstrap(w http.ResponseWriter, r *http.Request) error {
	admin, err := s.accounts.Bootstrap(r.Context(), "admin@"+s.cfg.Site.Domain, "admin")
	if err != nil {
		return err
	}
	if admin == nil {
		admin = &api.Admin{}
	}
	admin.URL = s.cfg.Site.URL("api")
	return web.WriteJSON(w, http.StatusOK, admin)
}

func (s *Server) newUser(w http.ResponseWriter, r *http.Request) error {
	var req api.NewUser
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	made, err := s.accounts.CreateUser(r.Context(), req)
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusCreated, made)
}

func (s *Server) setPassword(w http.ResponseWriter, r *http.Request) error {
	var req api.NewUser
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	made, err := s.accounts.SetPassword(r.Context(), req.Email, req.Password)
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, made)
}

// setSupport makes a user one of the people who give support, or no longer.
func (s *Server) setSupport(w http.ResponseWriter, r *http.Request) error {
	var req api.SupportStaff
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	return route.Write(r.Context(), s.db, func(tx *db.Tx) error {
		id, err := s.accounts.SetSupport(r.Context(), tx, req)
		if err != nil {
			return err
		}
		act := "support.appoint"
		if !req.Support {
			act = "support.dismiss"
		}
		return audit.Record(r.Context(), tx, access.From(r.Context()), audit.Entry{Act: act, Kind: "user", ID: id, Name: req.User, User: id})
	}, func() error { return web.WriteJSON(w, http.StatusOK, req) })
}

// check reads the whole database and says whether its file is whole: 200, or 503 with what is wrong.
func (s *Server) check(w http.ResponseWriter, r *http.Request) error {
	if err := s.db.Check(r.Context()); err != nil {
		return web.WriteJSON(w, http.StatusServiceUnavailable, err.Error())
	}
	return web.WriteJSON(w, http.StatusOK, "ok")
}

// backup streams a consistent copy of the database. The length comes first, so that a cut copy is seen to be one.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) error {
	if s.db.Dialect() != db.SQLite {
		return api.Errorf(api.Invalid, "the database is on a PostgreSQL server, whose own pg_dump copies it")
	}
	if err := s.recordOperator(r.Context(), "server.backup", s.cfg.Site.Domain); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.cfg.Dir, "backup-")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "roadstead.db")
	if err := s.db.Snapshot(r.Context(), file); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	// The copy needs no name any more: however the request ends, nothing is left behind.
	if err := os.RemoveAll(dir); err != nil {
		return errors.Join(fmt.Errorf("backup: %w", err), f.Close())
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	w.Header().Set("Content-Type", "application/vnd.sqlite3")
	w.Header().Set("Content-Length", fmt.Sprint(info.Size()))
	if _, err := io.Copy(w, f); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}
