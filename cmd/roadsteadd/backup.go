package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

const databaseFile = "roadstead.db"

func backupCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "backup FILE --data DIR",
		Short: "Write everything the server keeps to one file",
		Long: `Write everything the server keeps to one tar file: a consistent copy of the database, every key, the images. The server
may run meanwhile. The file holds all secrets of the server: keep it as safe as the server. The build cache is left out. A database on
a PostgreSQL server is copied with pg_dump, which must be on this machine.`,
		Example: "  roadsteadd admin backup /backup/roadstead-$(date +%F).tar --data /var/lib/roadstead",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := dataDir(data)
			if err != nil {
				return err
			}
			return backup(cmd.Context(), supervise.Layout(dir), args[0])
		},
	}
	dataFlag(cmd, &data)
	return cmd
}

func restoreCommand() *cobra.Command {
	var data string
	var to upFlags
	cmd := &cobra.Command{
		Use:   "restore FILE --data DIR",
		Short: "Make a data directory from a backup",
		Long: `Make a data directory from a backup. DIR must be empty or not exist; ` + "`roadsteadd up`" + ` starts the server on it. The backup
of a server on PostgreSQL needs an empty database as well, and pg_restore on this machine.`,
		Example: `  roadsteadd admin restore roadstead-2026-11-21.tar --data /var/lib/roadstead
  roadsteadd admin restore roadstead-2026-11-21.tar --data /var/lib/roadstead --sql-file /etc/roadstead.sql`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := logger(os.Stderr, "text")
			if err != nil {
				return err
			}
			if _, err := to.database(log, cmd.Flags().Changed("sql")); err != nil {
				return usageError{err}
			}
			return restore(cmd.Context(), args[0], data, to.sql)
		},
	}
	dataFlag(cmd, &data)
	sqlFlags(cmd, &to)
	return cmd
}

// backup writes the database first, so that every image it names is among the files copied after it.
func backup(ctx context.Context, l supervise.Layout, file string) (err error) {
	if err := checkOutside(l, file); err != nil {
		return err
	}
	copied, done, err := database(ctx, l)
	if err != nil {
		return err
	}
	defer done()
	out, err := os.OpenFile(file+".part", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("backup: %w", err), os.Remove(file+".part"))
		}
	}()
	tw := tar.NewWriter(out)
	if err := errors.Join(addFile(tw, path.Join("roles", api.RoleAPI, filepath.Base(copied)), copied), addTree(ctx, tw, l)); err != nil {
		return errors.Join(err, out.Close())
	}
	if err := errors.Join(tw.Close(), out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(file+".part", file); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(file))
}

// checkOutside refuses a file in the data directory: the backup would hold it, and each later one all before it.
func checkOutside(l supervise.Layout, file string) error {
	abs, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if rel, err := filepath.Rel(string(l), dir); err == nil && filepath.IsLocal(rel) {
		return usageError{fmt.Errorf("%s lies in the data directory: write the backup somewhere else", file)}
	}
	return nil
}

// left out of a backup: what is only true while the server runs, what is copied apart, what can be made again.
func leftOut(name string) bool {
	dir, file := path.Split(name)
	switch {
	case name == "run", name == path.Join("roles", "buildkit"), name == path.Join("roles", api.RoleBuilder, "pulls"), strings.HasSuffix(name, "/_uploads"):
		return true
	case dir == path.Join("roles", api.RoleAPI)+"/":
		return strings.HasPrefix(file, databaseFile) || strings.HasPrefix(file, "backup-") || file == "bus"
	}
	// What the signer remembers of the audit log is newer than the copy of the database, which it would then refuse to go on from.
	// The transparency log begins anew, under another name: from one of yesterday devices would not go on.
	return strings.HasSuffix(file, ".tmp") || dir == path.Join("roles", api.RoleSigner)+"/" &&
		(file == signer.AuditFile || file == signer.TrustLogFile || file == signer.TrustLeavesFile)
}

func addTree(ctx context.Context, tw *tar.Writer, l supervise.Layout) error {
	return filepath.WalkDir(string(l), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rel, err := filepath.Rel(string(l), p)
		if err != nil || rel == "." {
			return err
		}
		name := filepath.ToSlash(rel)
		if leftOut(name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		switch {
		case d.IsDir():
			info, err := d.Info()
			if err != nil {
				return err
			}
			return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: int64(info.Mode().Perm())})
		case d.Type().IsRegular():
			return addFile(tw, name, p)
		}
		return nil // sockets and the like are made anew
	})
}

func addFile(tw *tar.Writer, name, file string) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyN(tw, f, info.Size())
	return err
}

// copyDatabase asks the api role for a copy, or makes it when no server runs.
func copyDatabase(ctx context.Context, l supervise.Layout, file string) error {
	free, err := l.Lock()
	if err == nil {
		defer free()
		d, err := db.Open(db.Config{Path: filepath.Join(l.Role(api.RoleAPI), databaseFile)})
		if err != nil {
			return err
		}
		return errors.Join(d.Snapshot(ctx, file), d.Close(), os.Chmod(file, 0o600))
	}
	res, err := callAPI(ctx, l, "/internal/v1/backup", nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, res.Body)
	if err == nil && res.ContentLength >= 0 && n != res.ContentLength {
		err = fmt.Errorf("it was cut short: %d of %d bytes", n, res.ContentLength)
	}
	return errors.Join(err, f.Close())
}

// restore makes everything beside the data directory and puts it in place as the last step.
func restore(ctx context.Context, file, data, address string) (err error) {
	if data == "" {
		return usageError{errors.New("--data is missing: the directory to make")}
	}
	dir, err := filepath.Abs(data)
	if err != nil {
		return err
	}
	if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
		return fmt.Errorf("%s is not empty: a backup is restored into a directory of its own", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".restore-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("restore: %w", err), os.RemoveAll(tmp))
		}
	}()
	if err := extract(ctx, in, tmp); err != nil {
		return err
	}
	if err := restoreDatabase(ctx, supervise.Layout(tmp), address); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o711); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// restoreDatabase checks the database that was unpacked, or fills another from its dump.
func restoreDatabase(ctx context.Context, l supervise.Layout, address string) error {
	role := l.Role(api.RoleAPI)
	if _, err := os.Stat(filepath.Join(role, dumpFile)); err == nil {
		return restoreDump(ctx, l, address)
	}
	if address != "" {
		return usageError{errors.New("--sql: this is the backup of a server on SQLite, which needs no database besides DIR")}
	}
	return checkDatabase(ctx, filepath.Join(role, databaseFile))
}

// extract unpacks through a root that nothing in the archive can leave.
func extract(ctx context.Context, in io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			if err := root.MkdirAll(name, 0o700); err != nil {
				return err
			}
			if err := root.Chmod(name, fs.FileMode(h.Mode).Perm()); err != nil {
				return err
			}
		case tar.TypeReg:
			if err := extractFile(root, name, tr, fs.FileMode(h.Mode).Perm()); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is neither a file nor a directory: this is no backup of ours", h.Name)
		}
	}
}

func extractFile(root *os.Root, name string, r io.Reader, mode fs.FileMode) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

func checkDatabase(ctx context.Context, file string) error {
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("the database is missing: %w", err)
	}
	d, err := db.Open(db.Config{Path: file})
	if err != nil {
		return err
	}
	return errors.Join(d.Check(ctx), d.Close())
}
