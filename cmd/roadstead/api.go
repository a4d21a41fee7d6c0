package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

func (a *app) apiCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use: "api METHOD PATH", Short: "Send a request to the API and print the answer",
		Long: `Send a request with your credentials and print the body of the answer as it is. Spaces in the path need not
be escaped.`,
		Example: `  roadstead api GET '/v7/device?$select=uuid,device_name&$filter=is_online eq true'
  roadstead api PATCH '/v7/device(5)' -d '{"note": "by the window"}'`,
		Args: cmdline.Args(2, 2), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			method, path := strings.ToUpper(args[0]), args[1]
			if !strings.HasPrefix(path, "/") {
				return cmdline.Usagef("the path %q must begin with /", path)
			}
			body, err := a.body(data)
			if err != nil {
				return err
			}
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			var answer json.RawMessage
			var sent any
			if body != nil {
				sent = body
			}
			if err := c.Do(cmd.Context(), method, escapeSpaces(path), sent, &answer); err != nil {
				return err
			}
			if len(answer) > 0 && answer[len(answer)-1] != '\n' {
				answer = append(answer, '\n')
			}
			_, err = a.Out.Write(answer)
			return err
		},
	}
	cmd.Flags().StringVarP(&data, "data", "d", "", "JSON body; @FILE reads it from a file, @- from the standard input")
	return cmd
}

func (a *app) body(data string) (json.RawMessage, error) {
	if data == "" {
		return nil, nil
	}
	text := []byte(data)
	if file, ok := strings.CutPrefix(data, "@"); ok {
		var err error
		if file == "-" {
			text, err = io.ReadAll(a.In)
		} else {
			text, err = os.ReadFile(file)
		}
		if err != nil {
			return nil, fmt.Errorf("--data: %w", err)
		}
	}
	if !json.Valid(text) {
		return nil, cmdline.Usagef("--data is not JSON")
	}
	return text, nil
}

// escapeSpaces escapes what cannot stand in a request line, and leaves all else as it was written.
func escapeSpaces(path string) string {
	return strings.NewReplacer(" ", "%20", `"`, "%22", "<", "%3C", ">", "%3E").Replace(path)
}
