// Package cmdline is what every command of the command line stands on: the flags that all take, the connection to the server
// as the saved login has it, what is printed and with which exit code, and names that the shell completes.
package cmdline

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// App is one run of the program: its terminal, its global flags and what it knows of the server.
type App struct {
	*terminal.Terminal
	Version string // of the program

	URL     string // --url
	Output  string // --output: table or json
	Started bool   // the command line was understood; later errors are not about usage
}

// ErrDifferent ends a command that compared and was asked to tell by its exit code; nothing more is said.
var ErrDifferent = errors.New("different")

// ExitError ends the program with the code of another that it ran; nothing more is said.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// usageError marks an error as a mistake in the call.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Usagef is a mistake in how the program was called; it ends it with the exit code for those.
func Usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Run runs a command line and gives the exit code.
func (a *App) Run(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil {
		a.Say("interrupted")
		return exitInterrupted
	}
	if exit := new(ExitError); errors.As(err, &exit) {
		return exit.Code // what was run in our place has said why
	}
	if errors.Is(err, terminal.ErrDeclined) || errors.Is(err, ErrDifferent) {
		return exitFailed // who said no knows, and a difference was printed
	}
	a.Say("error: %v", err)
	if hint := advice(err); hint != "" {
		a.Say("%s", hint)
	}
	if usage := errors.As(err, new(usageError)); usage || !a.Started {
		fmt.Fprintf(a.Err, "Run `%s --help` for how to use it.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// Show prints the objects as JSON, or the grid made from them.
func (a *App) Show(objects any, g func() *terminal.Grid) error {
	if a.Output == "json" {
		return a.JSON(objects)
	}
	a.Table(g())
	return nil
}

// Connect makes a client for the server and the principal that flags, environment and saved login name.
func (a *App) Connect(ctx context.Context) (*client.Client, error) {
	saved, err := LoadSettings()
	if err != nil {
		return nil, err
	}
	address, err := a.Server(saved)
	if err != nil {
		return nil, err
	}
	token := os.Getenv("ROADSTEAD_TOKEN")
	mine := token == "" && saved.URL == address // a saved token goes to the server that gave it, to no other
	if mine {
		token = saved.Token
	}
	if token == "" {
		return nil, api.Errorf(api.Unauthorized, "you are not logged in to %s", address)
	}
	c, err := a.ClientFor(address, token, saved)
	if err != nil {
		return nil, err
	}
	if at, session := client.TokenIssued(token); mine && session && time.Since(at) > 24*time.Hour {
		if fresh, err := c.Refresh(ctx); err == nil {
			saved.Token = fresh
			if err := saved.Save(); err != nil {
				return nil, err
			}
			return c.As(fresh), nil
		} else if errors.Is(err, api.ErrUnauthorized) {
			return nil, fmt.Errorf("your session has ended: %w", err)
		}
	}
	return c, nil
}

// Server is the address that --url, the environment or the saved login names, in this order.
func (a *App) Server(saved *Settings) (string, error) {
	for _, s := range []string{a.URL, os.Getenv("ROADSTEAD_URL"), saved.URL} {
		if s != "" {
			return client.Endpoint(s)
		}
	}
	return "", api.Errorf(api.Unauthorized, "you are not logged in, and neither --url nor ROADSTEAD_URL names a server")
}

// ClientFor makes a client with the roots that the environment or the saved login says to trust.
func (a *App) ClientFor(address, token string, saved *Settings) (*client.Client, error) {
	cfg := client.Config{URL: address, Token: token, UserAgent: "roadstead/" + a.Version}
	// The root that was given for this very server comes before what the environment says about all of them.
	switch file := os.Getenv("SSL_CERT_FILE"); {
	case saved.CA != "" && saved.URL == address:
		var err error
		if cfg.CA, err = Roots(saved.CA); err != nil {
			return nil, fmt.Errorf("the saved root certificate: %w", err)
		}
	case file != "":
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("SSL_CERT_FILE: %w", err)
		}
		if cfg.CA, err = Roots(string(pem)); err != nil {
			return nil, fmt.Errorf("SSL_CERT_FILE: %w", err)
		}
	}
	return client.New(cfg)
}

func Roots(pem string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return nil, errors.New("it holds no certificate in PEM form")
	}
	return pool, nil
}

// advice says what to do about an error; "" when there is nothing to say beyond it.
func advice(err error) string {
	var many *client.AmbiguousError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &many):
		return "Give more digits, or the full name."
	case errors.As(err, &unknown):
		return "If the server has a certificate authority of its own, give its ca.pem: `roadstead login --ca-file ca.pem`, " +
			"or set SSL_CERT_FILE."
	case errors.As(err, &host):
		return "The certificate is for other names: is the address right?"
	case errors.As(err, &dns):
		return "Is the address right? `roadstead whoami` shows the server in use; --url or ROADSTEAD_URL name another one."
	case errors.As(err, &op) && op.Op == "dial":
		return "Is the server running, and is the address right?"
	case errors.Is(err, api.ErrUnauthorized):
		if os.Getenv("ROADSTEAD_TOKEN") != "" {
			return "ROADSTEAD_TOKEN is set; is it still valid, and may it do this?"
		}
		return "Log in with `roadstead login`."
	case errors.Is(err, api.ErrUnavailable):
		return "The server is up, but not all of it: try again in a moment."
	}
	return ""
}

// Group is a command that only holds others.
func Group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return Usagef("%q is not a command of `roadstead %s`", args[0], use)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return Usagef("say what to do: %s", strings.Join(names(cmd.Commands()), ", "))
		},
	}
	cmd.AddCommand(subs...)
	return cmd
}

func names(cmds []*cobra.Command) []string {
	var list []string
	for _, c := range cmds {
		if c.IsAvailableCommand() {
			list = append(list, c.Name())
		}
	}
	return list
}

// Args checks the number of arguments and says which are missing.
func Args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least {
			return Usagef("something is missing: %s", cmd.UseLine())
		}
		if most >= 0 && len(args) > most {
			return Usagef("%q is too much: %s", args[most], cmd.UseLine())
		}
		return nil
	}
}
