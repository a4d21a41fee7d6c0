package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadsteadd/bases"
	"github.com/roadstead-io/roadstead/cmd/roadsteadd/witness"
	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

func adminCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Look after a server: users, base images, operating systems, registry, quotas, build workers, transparency log, backup, restore, verify",
		Long:  "Look after a server, on the machine it runs on and as the user that started it.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	user := &cobra.Command{Use: "user", Short: "Look after the users: add, disable, passwords, second factors, sessions", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	user.AddCommand(userAddCommand(), userPasswordCommand(), userSupportCommand())
	user.AddCommand(userCommands()...)
	shelf := &cobra.Command{Use: "base", Short: "The base images that builds may start from", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	shelf.AddCommand(baseImportCommand(), bases.ListCommand(dataFlag, basesOf), bases.RebuildCommand(dataFlag, basesOf))
	cmd.AddCommand(user, shelf, osCommand(), mailCommand(), registryCommand(), quotaCommand(), workerCommand(), logCommand(), witness.Command(operation, askAPI),
		backupCommand(), restoreCommand(), verifyCommand())
	return cmd
}

func userAddCommand() *cobra.Command {
	var data, username string
	var stdin bool
	cmd := &cobra.Command{
		Use:   "add EMAIL --data DIR",
		Short: "Add a user",
		Long:  "Add a user to the running server. Without --password-stdin the server invents a password; it is shown once.",
		Example: `  roadsteadd admin user add grace@example.com --data /var/lib/roadstead
  roadsteadd admin user add ops@example.com --username ops --password-stdin --data /var/lib/roadstead <secret`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return userCall(cmd, data, "/internal/v1/users", api.NewUser{Email: args[0], Username: username}, stdin)
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVar(&username, "username", "", "the user's `NAME`; empty means made from the address")
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

func userPasswordCommand() *cobra.Command {
	var data string
	var stdin bool
	cmd := &cobra.Command{
		Use:     "password EMAIL|USERNAME --data DIR",
		Short:   "Set a new password",
		Long:    "Set a new password. Without --password-stdin the server invents one; it is shown once. The user's sessions end.",
		Example: "  roadsteadd admin user password admin@example.com --data /var/lib/roadstead",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return userCall(cmd, data, "/internal/v1/users/password", api.NewUser{Email: args[0]}, stdin)
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

func userCall(cmd *cobra.Command, data, path string, user api.NewUser, stdin bool) error {
	if stdin {
		line, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 4096))
		if err != nil {
			return err
		}
		user.Password = strings.TrimRight(string(line), "\r\n")
		if user.Password == "" {
			return usageError{errors.New("--password-stdin: standard input holds no password")}
		}
	}
	dir, err := dataDir(data)
	if err != nil {
		return err
	}
	body, err := json.Marshal(user)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
	defer cancel()
	res, err := callAPI(ctx, supervise.Layout(dir), path, body)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	var made api.NewUser
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&made); err != nil {
		return fmt.Errorf("the api role's answer: %w", err)
	}
	out := cmd.OutOrStdout()
	_, _ = fmt.Fprintln(out, "email:   ", made.Email)
	if made.Username != "" {
		_, _ = fmt.Fprintln(out, "username:", made.Username)
	}
	if made.Password != "" {
		_, _ = fmt.Fprintln(out, "password:", made.Password)
	}
	return nil
}

// callAPI asks the api role of the running server, as the role "admin".
func callAPI(ctx context.Context, l supervise.Layout, path string, body []byte) (*http.Response, error) {
	status, err := supervise.Ask(ctx, l)
	if err != nil {
		return nil, err
	}
	id, err := pki.LoadIdentity(l.Role(api.RoleAdmin))
	if err != nil {
		return nil, err
	}
	for _, r := range status.Roles {
		if r.Role != api.RoleAPI {
			continue
		}
		peer := id.Client(api.RoleAPI, r.Address)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, peer.URL+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := peer.HTTP.Do(req)
		if err != nil {
			return nil, fmt.Errorf("the api role does not answer: %w", err)
		}
		if res.StatusCode >= 300 {
			return nil, refusal(res)
		}
		return res, nil
	}
	return nil, errors.New("the server has no api role")
}

// refusal is an answer that is no success, as an error.
func refusal(res *http.Response) error {
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	text := ""
	if err != nil || json.Unmarshal(data, &text) != nil || text == "" {
		text = "the api role answered " + res.Status
	}
	return &api.Error{Code: api.CodeOf(res.StatusCode), Text: text}
}

func baseImportCommand() *cobra.Command {
	var data, arch string
	cmd := &cobra.Command{
		Use:   "import NAME ARCHIVE.tar --data DIR",
		Short: "Import a base image",
		Long: `Import a base image, so that a Dockerfile can say FROM NAME. The archive is an OCI image layout or a root file system,
as a tar file. It replaces the image of that name and architecture.`,
		Example: "  roadsteadd admin base import base/busybox busybox.tar --data /var/lib/roadstead",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := dataDir(data)
			if err != nil {
				return err
			}
			f, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			return base.Import(supervise.Layout(dir).Bases(), args[0], f, arch)
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVar(&arch, "arch", "amd64", "the image's `ARCHITECTURE`, as fleets name it: amd64, aarch64, armv7hf, …")
	return cmd
}

// basesOf is where the server of a data directory has its base images.
func basesOf(data string) (string, error) {
	dir, err := dataDir(data)
	if err != nil {
		return "", err
	}
	if err := prepareRun(supervise.Layout(dir)); err != nil {
		return "", err
	}
	return supervise.Layout(dir).Bases(), nil
}

// database gives a file with a consistent copy of the server's database, whether it runs or not; done removes it.
func database(ctx context.Context, l supervise.Layout) (file string, done func(), err error) {
	if err := prepareRun(l); err != nil {
		return "", nil, err
	}
	tmp, err := os.MkdirTemp(l.Run(), "copy-")
	if err != nil {
		return "", nil, err
	}
	done = func() { _ = os.RemoveAll(tmp) }
	address, err := databaseOf(l)
	if err == nil && address != "" {
		file = filepath.Join(tmp, dumpFile)
		err = dump(ctx, address, file)
	} else if err == nil {
		file = filepath.Join(tmp, databaseFile)
		err = copyDatabase(ctx, l, file)
	}
	if err != nil {
		done()
		return "", nil, fmt.Errorf("copy the database: %w", err)
	}
	return file, done, nil
}

// prepareRun makes sure that a directory is a server's, and that its lock has a place.
func prepareRun(l supervise.Layout) error {
	if _, err := os.Stat(l.SiteFile()); err != nil {
		return fmt.Errorf("%s is no data directory: %w", l, err)
	}
	return os.MkdirAll(l.Run(), 0o700)
}
