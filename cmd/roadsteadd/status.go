package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

func statusCommand() *cobra.Command {
	var data, output string
	cmd := &cobra.Command{
		Use:   "status --data DIR",
		Short: "Show every role: process, user, address, and how it is",
		Long:  "Show every role of the server that runs on DIR. The exit code is 0 only when all of them are well.",
		Example: `  roadsteadd status --data /var/lib/roadstead
  roadsteadd status --data /var/lib/roadstead -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" && output != "table" {
				return usageError{fmt.Errorf("-o %s: there are table and json", output)}
			}
			dir, err := dataDir(data)
			if err != nil {
				return err
			}
			s, err := supervise.Ask(cmd.Context(), supervise.Layout(dir))
			if err != nil {
				return err
			}
			all := fullStatus{Status: s}
			if m, err := mailStatus(cmd.Context(), supervise.Layout(dir)); err == nil { // what keeps it from answering is said above
				all.Mail = &m
			}
			if p, err := pullStatus(cmd.Context(), supervise.Layout(dir)); err == nil {
				all.Pulls = &p
			}
			if err := printStatus(cmd.OutOrStdout(), all, output); err != nil {
				return err
			}
			if !s.Healthy {
				return errors.New("not everything is well")
			}
			return nil
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVarP(&output, "output", "o", "table", "form of the answer: table or json")
	return cmd
}

// fullStatus is what the parent says, and how letters go out.
type fullStatus struct {
	*supervise.Status
	Mail  *api.MailStatus      `json:"mail,omitempty"`
	Pulls *api.PullCacheStatus `json:"pull_cache,omitempty"`
}

func printStatus(w io.Writer, s fullStatus, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "ROLE\tPID\tUSER\tADDRESS\tSTATE\tRESTARTS\tSINCE\tWHY")
	for _, r := range s.Roles {
		pid := "-"
		if r.PID != 0 {
			pid = strconv.Itoa(r.PID)
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", r.Role, pid, r.User, dash(r.Address), r.State, r.Restarts,
			r.Since.Local().Format(time.DateTime), r.Why)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, r := range s.Roles {
		if r.Tells != "" {
			defer func() { _, _ = fmt.Fprintf(w, "%s: %s\n", r.Role, r.Tells) }()
		}
	}
	if s.Pulls != nil {
		defer func() { _, _ = fmt.Fprintln(w, pullLine(*s.Pulls)) }()
	}
	if s.Mail != nil {
		defer func() { _, _ = fmt.Fprintln(w, mailLine(*s.Mail)) }()
	}
	if s.Alone != "" {
		return nil
	}
	_, err := fmt.Fprintln(w, strings.TrimSpace(fmt.Sprintf("\ndatabase: %s, %s: %s %s", s.Database.Kind, s.Database.At, s.Database.State, s.Database.Why)))
	return err
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// oneLine is an error's text without line breaks.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
