// Package signin is the commands about who you are to the server: logging in and out, the password, second factors.
package signin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// signin adds these commands to what they stand on.
type signin struct{ *cmdline.App }

// Commands are all of them.
func Commands(app *cmdline.App) []*cobra.Command {
	a := signin{app}
	return []*cobra.Command{a.loginCommand(), a.logoutCommand(), a.whoamiCommand(), a.passwordCommand(), a.twoFactorCommand(), a.passkeyCommand(), a.accountCommand()}
}

type loginFlags struct {
	email, password, token, code, caFile string
	passwordStdin, codeStdin             bool
	web, device                          bool
	port                                 int
}

func (a signin) loginCommand() *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in to a server and remember it",
		Long: `Log in with e-mail address (or user name) and password, or with an API key. What is not given is asked for. If you have
a second factor, its code is asked for too; a recovery code does as well. --code or, better, --code-stdin takes it where nobody can be
asked; with --password-stdin the code is the second line.

With --web the browser of this computer asks you on the dashboard, where sign-in providers and passkeys work, too. With --device you are
shown a code to type there, on any computer.

The server and the token are kept in ` + "`~/.config/roadstead/config.json`" + `, readable by you alone.`,
		Example: `  roadstead login --url https://api.example.com
  roadstead login --url example.com:8443 --ca-file ca.pem --email me@example.com --password-stdin < password
  roadstead login --web
  roadstead login --device
  roadstead login --token "$KEY"`,
		Args: cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.login(cmd.Context(), f) },
	}
	cmd.Flags().StringVarP(&f.email, "email", "e", "", "e-mail address or user name")
	cmd.Flags().StringVarP(&f.password, "password", "p", "", "password (others on this machine can see it; better is --password-stdin)")
	cmd.Flags().BoolVar(&f.passwordStdin, "password-stdin", false, "read the password from the standard input")
	cmd.Flags().StringVarP(&f.token, "token", "t", "", "an API key or session token, in place of a password; - reads it from the standard input")
	cmd.Flags().StringVar(&f.code, "code", "", "code of your second factor, or a recovery code (others on this machine can see it; better is --code-stdin)")
	cmd.Flags().BoolVar(&f.codeStdin, "code-stdin", false, "read the code from the standard input, after the password if that is read there too")
	cmd.Flags().StringVar(&f.caFile, "ca-file", "", "root certificate (PEM) of the server, to be remembered with the login")
	cmd.Flags().BoolVarP(&f.web, "web", "w", false, "log in with the browser of this computer; without one, with a code as --device")
	cmd.Flags().BoolVar(&f.device, "device", false, "log in with a code, in a browser anywhere")
	cmd.Flags().IntVar(&f.port, "port", 0, "of --web: the port of this computer where the browser brings the session; 0 is any")
	cmd.MarkFlagsMutuallyExclusive("token", "password", "password-stdin", "web", "device")
	cmd.MarkFlagsMutuallyExclusive("token", "email")
	cmd.MarkFlagsMutuallyExclusive("code", "code-stdin")
	for _, other := range []string{"token", "web", "device"} {
		cmd.MarkFlagsMutuallyExclusive("code-stdin", other)
	}
	return cmd
}

func (a signin) login(ctx context.Context, f loginFlags) error {
	saved, err := cmdline.LoadSettings()
	if err != nil {
		return err
	}
	if a.URL == "" && os.Getenv("ROADSTEAD_URL") == "" && saved.URL == "" {
		if a.URL, err = a.Ask("Server (https://api.example.com)"); err != nil {
			return cmdline.Usagef("give the server with --url")
		}
	}
	address, err := a.Server(saved)
	if err != nil {
		return cmdline.Usagef("%w", err)
	}
	next := &cmdline.Settings{URL: address}
	if saved.URL == address {
		next.CA = saved.CA
	}
	if f.caFile != "" {
		pem, err := os.ReadFile(f.caFile)
		if err != nil {
			return fmt.Errorf("--ca-file: %w", err)
		}
		if _, err := cmdline.Roots(string(pem)); err != nil {
			return fmt.Errorf("--ca-file: %s: %w", f.caFile, err)
		}
		next.CA = string(pem)
	}
	if next.Token, err = a.credentials(ctx, f, next); err != nil {
		return err
	}
	return a.remember(ctx, next)
}

// remember saves a login once the server has said whose it is.
func (a signin) remember(ctx context.Context, next *cmdline.Settings) error {
	address := next.URL
	c, err := a.ClientFor(address, next.Token, next)
	if err != nil {
		return err
	}
	who, err := c.Whoami(ctx)
	if err != nil {
		return fmt.Errorf("the token does not hold: %w", err)
	}
	if err := next.Save(); err != nil {
		return err
	}
	if os.Getenv("ROADSTEAD_TOKEN") != "" {
		a.Say("Note: ROADSTEAD_TOKEN is set; it is used in place of this login.")
	}
	if a.Output == "json" {
		return a.JSON(view(who, address))
	}
	a.Say("Logged in to %s as %s.", address, principal(who))
	return nil
}

// credentials gets a token: the one given, or one for a password.
func (a signin) credentials(ctx context.Context, f loginFlags, next *cmdline.Settings) (string, error) {
	if f.token == "-" {
		return terminal.FirstLine(a.In)
	}
	if f.token != "" {
		return f.token, nil
	}
	var err error
	if f.web || f.device {
		c, err := a.ClientFor(next.URL, "", next)
		if err != nil {
			return "", err
		}
		way := Web{Client: c, Say: a.Say, Port: f.port}
		if f.device {
			return Device(ctx, way)
		}
		return Browser(ctx, way)
	}
	if f.email == "" {
		if f.passwordStdin || f.password != "" {
			return "", cmdline.Usagef("give --email with the password")
		}
		if f.email, err = a.Ask("E-mail address or user name"); err != nil {
			return "", cmdline.Usagef("give --email and --password-stdin, or --token")
		}
	}
	in := bufio.NewReader(io.LimitReader(a.In, 4096)) // of which only what is asked for is read
	switch {
	case f.passwordStdin:
		f.password, err = terminal.NextLine(in)
	case f.password == "":
		f.password, err = a.AskSecret("Password")
	}
	if err == nil && f.codeStdin {
		if f.code, err = terminal.NextLine(in); err == nil && f.code == "" {
			err = cmdline.Usagef("--code-stdin: the standard input has no code")
		}
	}
	if err != nil {
		return "", err
	}
	c, err := a.ClientFor(next.URL, "", next)
	if err != nil {
		return "", err
	}
	token, err := c.Login(ctx, f.email, f.password)
	if errors.Is(err, api.ErrUnauthorized) {
		return "", api.Errorf(api.Invalid, "wrong e-mail address, user name or password")
	}
	if err != nil {
		return "", later(err)
	}
	if !client.TwoFactorDue(token) {
		return token, nil
	}
	return a.secondFactor(ctx, c.As(token), f.code)
}

// later tells how long a throttled client is to wait.
func later(err error) error {
	var re *client.ResponseError
	if errors.As(err, &re) && re.Status == api.RateLimited.Status() {
		if wait, ok := re.RetryAfter(); ok {
			return fmt.Errorf("%w; wait %s", err, wait)
		}
	}
	return err
}

func (a signin) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "End the session and forget it",
		Example: "  roadstead logout",
		Args:    cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			saved, err := cmdline.LoadSettings()
			if err != nil {
				return err
			}
			if saved.Token == "" {
				a.Say("You were not logged in.")
				return nil
			}
			if _, session := client.TokenIssued(saved.Token); session {
				c, err := a.ClientFor(saved.URL, saved.Token, saved)
				if err != nil {
					return err
				}
				if err := c.Logout(cmd.Context()); err != nil && !errors.Is(err, api.ErrUnauthorized) {
					a.Say("The server did not hear of it, so the session lives on until it expires: %v", err)
				}
			}
			saved.Token = ""
			if err := saved.Save(); err != nil {
				return err
			}
			a.Say("Logged out of %s.", saved.URL)
			return nil
		},
	}
}

// whoamiView is the JSON form of whoami.
type whoamiView struct {
	Server   string  `json:"server"`
	Kind     string  `json:"kind"` // user, application or device
	ID       int64   `json:"id"`
	Username string  `json:"username,omitempty"`
	Email    *string `json:"email,omitempty"`

	ServiceAccountOf string `json:"service_account_of,omitempty"` // handle of the organization

	Slug string `json:"slug,omitempty"`
	UUID string `json:"uuid,omitempty"`
}

func view(w *api.Whoami, server string) whoamiView {
	return whoamiView{
		Server: server, Kind: w.ActorType, ID: w.ActorTypeID, Username: w.Username, Email: w.Email, Slug: w.Slug, UUID: w.UUID,
		ServiceAccountOf: w.ServiceAccountOf}
}

func principal(w *api.Whoami) string {
	switch w.ActorType {
	case "device":
		return "device " + w.UUID
	case "application":
		return "fleet " + w.Slug
	}
	if w.ServiceAccountOf != "" {
		return fmt.Sprintf("%s (service account of %s)", w.Username, w.ServiceAccountOf)
	}
	if w.Email != nil && *w.Email != "" {
		return fmt.Sprintf("%s (%s)", w.Username, *w.Email)
	}
	return w.Username
}

func (a signin) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show the server and who you are there",
		Example: "  roadstead whoami\n  roadstead whoami -o json",
		Args:    cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			who, err := c.Whoami(cmd.Context())
			if err != nil {
				return fmt.Errorf("%s: %w", c.URL(), err)
			}
			return a.Show(view(who, c.URL()), func() *terminal.Grid {
				return &terminal.Grid{Rows: [][]string{{"Server", c.URL()}, {"You are", principal(who)}}}
			})
		},
	}
}
