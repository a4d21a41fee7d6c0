package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/sshhost"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

func verifyCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "verify --data DIR",
		Short: "Check the database, the audit log, every stored image and the files' modes",
		Long: `Check everything the server keeps, whether it runs or not: the database by its own check, the audit log by its chain and by
what the signer signed, every blob of the registry against its digest, and that no secret is readable by somebody who should
not read it.`,
		Example: "  roadsteadd admin verify --data /var/lib/roadstead",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := dataDir(data)
			if err != nil {
				return err
			}
			return verify(cmd.Context(), cmd.OutOrStdout(), supervise.Layout(dir))
		},
	}
	dataFlag(cmd, &data)
	return cmd
}

func verify(ctx context.Context, out io.Writer, l supervise.Layout) error {
	var problems []error
	if err := verifyDatabase(ctx, l); err != nil {
		problems = append(problems, err)
	} else {
		_, _ = fmt.Fprintln(out, "database: whole")
	}
	if err := verifyAudit(ctx, out, l); err != nil {
		problems = append(problems, err)
	}
	blobs, err := verifyBlobs(ctx, l)
	if err != nil {
		problems = append(problems, err)
	} else {
		_, _ = fmt.Fprintf(out, "registry: %d blobs, all as their digests say\n", blobs)
	}
	if err := verifyModes(l); err != nil {
		problems = append(problems, err)
	} else {
		_, _ = fmt.Fprintln(out, "files: modes and owners are right")
	}
	return errors.Join(problems...)
}

// verifyBlobs reads every stored blob, wherever the registry was last told to keep them.
func verifyBlobs(ctx context.Context, l supervise.Layout) (int, error) {
	dir := l.Role(api.RoleRegistry)
	cfg, err := load[registry.Config](dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("the registry's configuration: %w", err)
	}
	cfg.Dir = dir
	return registry.VerifyBlobs(ctx, cfg)
}

// verifyDatabase lets the api role check its own file, or does it when no server runs.
func verifyDatabase(ctx context.Context, l supervise.Layout) error {
	if err := prepareRun(l); err != nil {
		return err
	}
	address, err := databaseOf(l)
	if err != nil {
		return err
	}
	if address != "" {
		return checkPostgres(ctx, address)
	}
	free, err := l.Lock()
	if err == nil {
		defer free()
		return checkDatabase(ctx, filepath.Join(l.Role(api.RoleAPI), databaseFile))
	}
	res, err := callAPI(ctx, l, "/internal/v1/check", nil)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// verifyModes looks for secrets that are open to others.
func verifyModes(l supervise.Layout) error {
	var problems []error
	for _, name := range []string{l.AdminFile(), l.Path("pki"), l.Run()} {
		info, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			problems = append(problems, fmt.Errorf("%s is open to others: mode %04o", name, info.Mode().Perm()))
		}
	}
	dirs, err := os.ReadDir(l.Role(""))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		problems = append(problems, verifyRole(l.Role(d.Name()), d.Name())...)
	}
	return errors.Join(problems...)
}

// verifyRole looks at one role's directory. The build service's is open to its group, which is the builder's way to it.
func verifyRole(dir, name string) []error {
	var problems []error
	allowed := fs.FileMode(0o700)
	if name == roleBuildkit {
		allowed = 0o710
	}
	info, err := os.Stat(dir)
	if err != nil {
		return []error{err}
	}
	if extra := info.Mode().Perm() &^ allowed; extra != 0 {
		problems = append(problems, fmt.Errorf("%s is open to others: mode %04o", dir, info.Mode().Perm()))
	}
	for _, secret := range []string{"key.pem", "tls.key", "token.key", signer.AuditKeyFile, signer.StatementKeyFile, signer.ChannelKeyFile, signer.SSHUsersKeyFile, signer.SSHHostsKeyFile, sshhost.KeyFile, signer.AuditFile, signer.TrustKeyFile, signer.TrustMemoryFile, registry.CredentialsFile, "pepper", databaseFile, "role.json"} {
		info, err := os.Lstat(filepath.Join(dir, secret))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			problems = append(problems, err)
		} else if info.Mode().Perm()&0o077 != 0 {
			problems = append(problems, fmt.Errorf("%s is open to others: mode %04o", filepath.Join(dir, secret), info.Mode().Perm()))
		}
	}
	return problems
}
