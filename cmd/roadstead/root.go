package main

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

// app is one run of the program: its terminal, its global flags and what it knows of the server.
type app struct {
	*terminal.Terminal

	url     string // --url
	output  string // --output: table or json
	started bool   // the command line was understood; later errors are not about usage
}

// usageError is a mistake in how the program was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func (a *app) run(ctx context.Context, args []string) int {
	root := a.command()
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
	if errors.Is(err, terminal.ErrDeclined) {
		return exitFailed // who said no knows
	}
	a.Say("error: %v", err)
	if hint := advice(err); hint != "" {
		a.Say("%s", hint)
	}
	if usage := errors.As(err, new(usageError)); usage || !a.started {
		fmt.Fprintf(a.Err, "Run `%s --help` for how to use it.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "roadstead",
		Short: "Push source to a fleet of devices, and look inside them",
		Long: `roadstead talks to a Roadstead server: log in, make a fleet, push a project to it, and look at the devices that run it.

Fleets are named by slug (organization/name) or by name, devices by uuid, by the first digits of it or by name, releases by
commit, by the first digits of it or by number.

Environment:
  ROADSTEAD_URL     the server, in place of the one that you logged in to
  ROADSTEAD_TOKEN   a session token or an API key, in place of the saved one
  ROADSTEAD_FLEET   the fleet where a command takes one and none is given
  SSL_CERT_FILE     root certificates (PEM) to trust, such as the server's own ca.pem
  NO_COLOR          no colours

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.`,
		Example: `  roadstead login --url https://api.example.com
  roadstead fleet create hello --type generic-amd64
  roadstead push hello ./my-project
  roadstead device init hello -o config.json
  roadstead device list -o json`,
		SilenceErrors: true, SilenceUsage: true,
		Version: version,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "table" && a.output != "json" {
				return usagef("--output is %q; it can be table or json", a.output)
			}
			a.started = true
			return nil
		},
	}
	root.SetVersionTemplate("roadstead {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&a.url, "url", "", "the server (https://api.example.com, or only the domain)")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "table", "what to print: table or json")
	fixed(root, "output", "table", "json")
	root.AddCommand(a.loginCommand(), a.logoutCommand(), a.whoamiCommand(), a.fleetCommand(), a.deviceCommand(),
		a.pushCommand(), a.deployCommand(), a.releaseCommand(), a.envCommand(), a.tagCommand(), a.keyCommand(),
		a.deviceTypeCommand(), a.apiCommand(), a.versionCommand())
	return root
}

// show prints the objects as JSON, or the grid made from them.
func (a *app) show(objects any, g func() *terminal.Grid) error {
	if a.output == "json" {
		return a.JSON(objects)
	}
	a.Table(g())
	return nil
}

// connect makes a client for the server and the principal that flags, environment and saved login name.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	saved, err := loadSettings()
	if err != nil {
		return nil, err
	}
	address, err := a.server(saved)
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
	c, err := a.clientFor(address, token, saved)
	if err != nil {
		return nil, err
	}
	if at, session := client.TokenIssued(token); mine && session && time.Since(at) > 24*time.Hour {
		if fresh, err := c.Refresh(ctx); err == nil {
			saved.Token = fresh
			if err := saved.save(); err != nil {
				return nil, err
			}
			return c.As(fresh), nil
		} else if errors.Is(err, api.ErrUnauthorized) {
			return nil, fmt.Errorf("your session has ended: %w", err)
		}
	}
	return c, nil
}

// server is the address that --url, the environment or the saved login names, in this order.
func (a *app) server(saved *settings) (string, error) {
	for _, s := range []string{a.url, os.Getenv("ROADSTEAD_URL"), saved.URL} {
		if s != "" {
			return client.Endpoint(s)
		}
	}
	return "", api.Errorf(api.Unauthorized, "you are not logged in, and neither --url nor ROADSTEAD_URL names a server")
}

func (a *app) clientFor(address, token string, saved *settings) (*client.Client, error) {
	cfg := client.Config{URL: address, Token: token, UserAgent: "roadstead/" + version}
	switch file := os.Getenv("SSL_CERT_FILE"); {
	case file != "":
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("SSL_CERT_FILE: %w", err)
		}
		if cfg.CA, err = roots(string(pem)); err != nil {
			return nil, fmt.Errorf("SSL_CERT_FILE: %w", err)
		}
	case saved.CA != "" && saved.URL == address:
		var err error
		if cfg.CA, err = roots(saved.CA); err != nil {
			return nil, fmt.Errorf("the saved root certificate: %w", err)
		}
	}
	return client.New(cfg)
}

func roots(pem string) (*x509.CertPool, error) {
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

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("%q is not a command of `roadstead %s`", args[0], use)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("say what to do: %s", strings.Join(names(cmd.Commands()), ", "))
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

// args checks the number of arguments and says which are missing.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least {
			return usagef("something is missing: %s", cmd.UseLine())
		}
		if most >= 0 && len(args) > most {
			return usagef("%q is too much: %s", args[most], cmd.UseLine())
		}
		return nil
	}
}
