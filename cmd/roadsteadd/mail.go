package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/mail"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// mailFlags say through which server letters go out. What the files hold goes into the api role's role.json and nowhere else.
type mailFlags struct {
	mail.Server
	passwordFile, caFile string
}

func (m *mailFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&m.URL, "smtp", "", "`URL` of the mail server: smtps://USER@HOST:465, or smtp://USER@HOST:587 with STARTTLS; empty means no mail")
	fs.StringVar(&m.passwordFile, "smtp-password-file", "", "a `FILE` that holds the password of the mail server's user")
	fs.StringVar(&m.caFile, "smtp-ca-file", "", "a `FILE` with the certificate that the mail server's is checked against; empty means the system's")
	fs.BoolVar(&m.Insecure, "smtp-insecure", false, "speak to a mail server on this machine without TLS")
	fs.StringVar(&m.From, "mail-from", "", "whom letters are from, `'NAME <ADDRESS>'`")
}

// read reads the files and checks the whole.
func (m *mailFlags) read() error {
	if m.passwordFile != "" {
		data, err := os.ReadFile(m.passwordFile)
		if err != nil {
			return fmt.Errorf("--smtp-password-file: %w", err)
		}
		if m.Password = strings.TrimRight(string(data), "\r\n"); m.Password == "" {
			return fmt.Errorf("--smtp-password-file: %s is empty", m.passwordFile)
		}
	}
	if m.caFile != "" {
		data, err := os.ReadFile(m.caFile)
		if err != nil {
			return fmt.Errorf("--smtp-ca-file: %w", err)
		}
		m.RootCA = string(data)
	}
	if err := m.Validate(); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	return nil
}

func mailCommand() *cobra.Command {
	var data, output, to string
	cmd := &cobra.Command{
		Use:   "mail --data DIR [--test ADDRESS]",
		Short: "Show how letters to people go out, or send one to try",
		Long: "Show whether the running server sends letters, how many wait, how many could not be sent in the last seven days, and what was\n" +
			"wrong with the last one. With --test a letter that says nothing is sent to ADDRESS; ask again to see what became of it.",
		Example: `  roadsteadd admin mail --data /var/lib/roadstead
  roadsteadd admin mail --data /var/lib/roadstead --test me@example.com`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "json" && output != "table" {
				return usageError{fmt.Errorf("-o %s: there are table and json", output)}
			}
			dir, err := dataDir(data)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			if to != "" {
				body, err := json.Marshal(api.TestLetter{To: to})
				if err != nil {
					return err
				}
				res, err := callAPI(ctx, supervise.Layout(dir), "/internal/v1/mail/test", body)
				if err != nil {
					return err
				}
				_ = res.Body.Close()
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "a letter to", to, "is on its way")
				return err
			}
			s, err := mailStatus(ctx, supervise.Layout(dir))
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), mailLine(s))
			return err
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVar(&to, "test", "", "send a letter to `ADDRESS`")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "form of the answer: table or json")
	return cmd
}

// mailStatus asks the api role how letters go out.
func mailStatus(ctx context.Context, layout supervise.Layout) (s api.MailStatus, err error) {
	res, err := callAPI(ctx, layout, "/internal/v1/mail", nil)
	if err != nil {
		return s, err
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&s); err != nil {
		return s, fmt.Errorf("the api role's answer: %w", err)
	}
	return s, nil
}

func mailLine(s api.MailStatus) string {
	line := "mail: off"
	if s.On || s.Waiting+s.Failed > 0 {
		line = fmt.Sprintf("mail: %d waiting, %d failed in seven days", s.Waiting, s.Failed)
	}
	if !s.On && s.Waiting > 0 {
		line += "; no mail server is configured"
	}
	if s.Why != "" {
		line += ": " + s.Why
	}
	return line
}
