package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/ledger"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// verifyAudit checks the audit log in the database against the signer's own key and against what the signer remembers, none of which
// comes from the database. It reads the database itself where it can; from a running server with SQLite it has the log from the api role.
func verifyAudit(ctx context.Context, out io.Writer, l supervise.Layout) error {
	dir := l.Role(api.RoleSigner)
	key, err := signer.AuditKey(filepath.Join(dir, signer.AuditKeyFile))
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if _, err := supervise.Ask(ctx, l); err == nil { // of a running server, what is there by now gets signed first
		res, err := callAPI(ctx, l, "/internal/v1/audit/checkpoint", nil)
		if err != nil {
			return fmt.Errorf("audit log: have it signed: %w", err)
		}
		_ = res.Body.Close()
	}
	last, err := signer.LastAudit(filepath.Join(dir, signer.AuditFile)) // before the log is read: what is signed meanwhile may be newer
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	var known []api.AuditCheckpoint
	if last != nil {
		known = append(known, *last)
	}
	from, to := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = to.CloseWithError(exportAudit(ctx, l, to))
	}()
	report, err := ledger.Verify(from, []api.AuditKey{key}, known...)
	_ = from.Close()
	<-done
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if report.Whole() && report.After != report.Removed { // whoever owns the database can move the beginning; the log itself must say so
		report.Problems = append(report.Problems, ledger.Problem{Seq: 1, Text: fmt.Sprintf(
			"entries 1 to %d are missing, and no entry says that they were removed when their time was over", report.After)})
	}
	if !report.Whole() {
		problems := []error{errors.New("the audit log is not what was sealed")}
		for _, p := range report.Problems {
			problems = append(problems, errors.New("audit log: "+p.Text))
		}
		return errors.Join(problems...)
	}
	signed := "not signed yet"
	if report.Signed > 0 {
		signed = fmt.Sprintf("signed up to entry %d", report.Signed)
	}
	_, _ = fmt.Fprintf(out, "audit log: entries %d to %d, whole, %s\n", report.First, report.Last, signed)
	return nil
}

// exportAudit writes the whole log.
func exportAudit(ctx context.Context, l supervise.Layout, to io.Writer) error {
	cfg, err := load[apiserver.Config](l.Role(api.RoleAPI))
	if err != nil {
		return err
	}
	where := db.Config{DSN: cfg.SQL}
	if cfg.SQL == "" {
		free, err := l.Lock()
		if err != nil { // the server runs
			res, err := callAPI(ctx, l, "/internal/v1/audit/export", nil)
			if err != nil {
				return err
			}
			defer func() { _ = res.Body.Close() }()
			_, err = io.Copy(to, res.Body)
			return err
		}
		defer free()
		where = db.Config{Path: filepath.Join(l.Role(api.RoleAPI), databaseFile)}
	}
	d, err := db.Open(where)
	if err != nil {
		return err
	}
	return errors.Join(audit.Export(ctx, d, to, cfg.Site.Domain, 0, nil), d.Close())
}
