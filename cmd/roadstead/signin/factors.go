package signin

import (
	"bufio"
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"rsc.io/qr"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// secondFactor makes a session whole that waits for a code: the one given, or one that is asked for. Somebody who has no second
// factor yet, but must have one, sets it up on the way.
func (a signin) secondFactor(ctx context.Context, c *client.Client, code string) (string, error) {
	// A session that waits for a code may set nothing up: the server's answer tells what this one waits for.
	seed, err := c.SetupTOTP(ctx)
	if err == nil {
		a.Say("An organization of yours asks its members for a second factor, and you have none yet.")
		out, err := a.enrol(ctx, c, seed, code)
		return out.Token, err
	}
	if !errors.Is(err, api.ErrUnauthorized) && !errors.Is(err, api.ErrConflict) {
		return "", err
	}
	if code == "" {
		if code, err = a.Ask("Code of your second factor, or a recovery code"); err != nil {
			return "", cmdline.Usagef("this user has a second factor; give its code with --code-stdin or --code")
		}
	}
	token, err := c.VerifyCode(ctx, strings.TrimSpace(code))
	if errors.Is(err, api.ErrUnauthorized) {
		return "", api.Errorf(api.Invalid, "the code is wrong, or was used already")
	}
	return token, later(err)
}

// save puts the token of a session that took the place of the one used before into the settings, if that was the saved one.
func (a signin) save(token string) error {
	if os.Getenv("ROADSTEAD_TOKEN") != "" {
		a.Say("The session of ROADSTEAD_TOKEN has ended. Log in again.")
		return nil
	}
	saved, err := cmdline.LoadSettings()
	if err != nil {
		return err
	}
	saved.Token = token
	return saved.Save()
}

func (a signin) twoFactorCommand() *cobra.Command {
	var code string
	codeFlag := func(cmd *cobra.Command, usage string) *cobra.Command {
		cmd.Flags().StringVar(&code, "code", "", usage)
		return cmd
	}
	ask := func(what string) (string, error) {
		if code != "" {
			return code, nil
		}
		given, err := a.Ask(what)
		if err != nil {
			return "", cmdline.Usagef("give a code with --code")
		}
		return given, nil
	}
	enable := codeFlag(a.Command(cmdline.Action{
		Use: "enable", Short: "Set up one-time codes as your second factor",
		Long: `Set up one-time codes (TOTP) as your second factor. Scan the picture with an app that makes codes, then type the code it shows. Ten
recovery codes are printed, once: each lets you in when the app is lost. All your other sessions end.`,
		Example: "  roadstead two-factor enable",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			seed, err := c.SetupTOTP(ctx)
			if err != nil {
				return err
			}
			out, err := a.enrol(ctx, c, seed, code)
			if err != nil {
				return err
			}
			if err := a.save(out.Token); err != nil {
				return err
			}
			if a.Output == "json" {
				return a.JSON(map[string]any{"recovery_codes": out.RecoveryCodes})
			}
			return nil
		},
	}), "the code that the app shows, where nobody can be asked")
	disable := codeFlag(a.Command(cmdline.Action{
		Use: "disable", Short: "Take your one-time codes away", Example: "  roadstead two-factor disable --code 123456",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			given, err := ask("Code, or a recovery code")
			if err != nil {
				return err
			}
			token, err := c.DisableTOTP(ctx, given)
			if err != nil {
				return later(err)
			}
			a.Say("One-time codes are disabled.")
			return a.save(token)
		},
	}), "a code, or a recovery code")
	renew := codeFlag(a.Command(cmdline.Action{
		Use: "recovery-codes", Short: "Make ten new recovery codes; the old ones end", Example: "  roadstead two-factor recovery-codes --code 123456",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			given, err := ask("Code, or a recovery code")
			if err != nil {
				return err
			}
			codes, err := c.RenewRecoveryCodes(ctx, given)
			if err != nil {
				return later(err)
			}
			return a.Show(codes, func() *terminal.Grid { return codeGrid(codes) })
		},
	}), "a code, or a recovery code")
	status := a.Command(cmdline.Action{
		Use: "status", Aliases: []string{"list"}, Short: "Show your second factors", Example: "  roadstead two-factor status",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Factors(ctx)
			if err != nil {
				return err
			}
			return a.Show(list, func() *terminal.Grid { return factorGrid(list) })
		},
	})
	return cmdline.Group("two-factor", "Your second factor", enable, disable, renew, status)
}

// enrol shows a seed and confirms it with a code.
func (a signin) enrol(ctx context.Context, c *client.Client, seed, code string) (api.Enrolled, error) {
	if _, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(seed); err != nil {
		return api.Enrolled{}, errors.New("the server's answer is no seed")
	}
	host := c.URL()
	if u, err := url.Parse(c.URL()); err == nil {
		host = strings.TrimPrefix(u.Hostname(), "api.")
	}
	link := "otpauth://totp/" + url.PathEscape(host) + "?" + url.Values{"secret": {seed}, "issuer": {host}}.Encode()
	if code == "" {
		if picture, err := qr.Encode(link, qr.L); err == nil && terminal.IsTerminal(a.Err) {
			_, _ = fmt.Fprint(a.Err, draw(picture))
		}
		a.Say("Scan this with an app that makes one-time codes, or type the secret: %s", seed)
		var err error
		if code, err = a.Ask("Code that the app shows now"); err != nil {
			return api.Enrolled{}, cmdline.Usagef("set up a second factor where you can be asked: roadstead login, in a terminal")
		}
	}
	out, err := c.EnableTOTP(ctx, strings.TrimSpace(code))
	if err != nil {
		return out, later(err)
	}
	a.Say("Your second factor is enabled.")
	if len(out.RecoveryCodes) > 0 && a.Output != "json" {
		a.Say("Keep these recovery codes where you find them without the app. Each works once:")
		for _, code := range out.RecoveryCodes {
			a.Say("  %s", code)
		}
	}
	return out, nil
}

// draw makes two rows of a picture one line of text, dark on light whatever colours the terminal has.
func draw(code *qr.Code) string {
	var b strings.Builder
	const quiet = 2 // a margin that readers need
	for y := -quiet; y < code.Size+quiet; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := -quiet; x < code.Size+quiet; x++ {
			switch upper, lower := code.Black(x, y), code.Black(x, y+1); {
			case upper && lower:
				b.WriteString("█")
			case upper:
				b.WriteString("▀")
			case lower:
				b.WriteString("▄")
			default:
				b.WriteString(" ")
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String()
}

func codeGrid(codes []string) *terminal.Grid {
	g := &terminal.Grid{Head: []string{"Recovery code"}}
	for _, c := range codes {
		g.Add(c)
	}
	return g
}

func factorGrid(list []api.Factor) *terminal.Grid {
	g := &terminal.Grid{Head: []string{"Id", "Kind", "Name", "Added", "Last used", "Note"}}
	for _, f := range list {
		id, note := "", ""
		if f.ID != 0 {
			id = strconv.FormatInt(f.ID, 10)
		}
		switch {
		case f.Suspect:
			note = "there may be a copy of it; remove it"
		case f.Left > 0:
			note = fmt.Sprintf("%d left", f.Left)
		case f.WayIn:
			note = "signs in without a password"
		}
		g.Add(id, f.Kind, f.Name, terminal.Ago(f.CreatedAt), terminal.Ago(f.LastUsedAt), note)
	}
	return g
}

func (a signin) passkeyCommand() *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List your passkeys", Example: "  roadstead passkey list",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := c.Factors(ctx)
			if err != nil {
				return err
			}
			keys := []api.Factor{}
			for _, f := range all {
				if f.Kind == "passkey" {
					keys = append(keys, f)
				}
			}
			return a.Show(keys, func() *terminal.Grid { return factorGrid(keys) })
		},
	})
	rm := a.Command(cmdline.Action{
		Use: "rm ID", Aliases: []string{"remove"}, Short: "Remove a passkey", Least: 1, Most: 1, Example: "  roadstead passkey rm 3",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return cmdline.Usagef("%q is no passkey; see roadstead passkey list", args[0])
			}
			token, err := c.RemovePasskey(ctx, id)
			if err != nil {
				return err
			}
			a.Say("Removed passkey %d.", id)
			return a.save(token)
		},
	})
	return cmdline.Group("passkey", "Your passkeys; a browser makes them", list, rm)
}

func (a signin) passwordCommand() *cobra.Command {
	var stdin bool
	change := a.Command(cmdline.Action{
		Use: "change", Short: "Change your password; all your other sessions end",
		Long: `Change your password. All your other sessions end; API keys stay. The passwords are asked for, or read from the standard input: the
current one in the first line, the new one in the second.`,
		Example: "  roadstead password change",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			current, next, err := a.passwords(stdin)
			if err != nil {
				return err
			}
			token, err := c.ChangePassword(ctx, api.ChangePassword{Current: current, New: next})
			if err != nil {
				return later(err)
			}
			a.Say("Your password is changed.")
			return a.save(token)
		},
	})
	change.Flags().BoolVar(&stdin, "password-stdin", false, "read both from the standard input, a line each")
	return cmdline.Group("password", "Your password", change)
}

// passwords asks for the current and the new password.
func (a signin) passwords(stdin bool) (current, next string, err error) {
	if stdin {
		lines := bufio.NewScanner(io.LimitReader(a.In, 4096))
		if !lines.Scan() {
			return "", "", cmdline.Usagef("the standard input has no password")
		}
		current = lines.Text()
		if !lines.Scan() {
			return "", "", cmdline.Usagef("the standard input has no second line with the new password")
		}
		return current, lines.Text(), lines.Err()
	}
	if current, err = a.AskSecret("Current password"); err != nil {
		return "", "", err
	}
	if next, err = a.AskSecret("New password"); err != nil {
		return "", "", err
	}
	again, err := a.AskSecret("New password, again")
	if err == nil && again != next {
		err = cmdline.Usagef("the two are not the same")
	}
	return current, next, err
}
