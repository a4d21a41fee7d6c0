package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

func (a *app) apiCommand() *cobra.Command {
	var data string
	var raw bool
	cmd := &cobra.Command{
		Use: "api [METHOD] PATH", Short: "Send a request to the API and print the answer",
		Long: `Send a request with your credentials and print the body of the answer; without a method it is GET, or POST when there is a body.
Spaces in the path need not be escaped. On a terminal JSON is laid out over several lines; elsewhere, or with --raw, it is printed as
it came. A status of 400 and above is an error.`,
		Example: `  roadstead api '/v7/device?$select=uuid,device_name&$filter=is_online eq true'
  roadstead api '/v7/device/$count?$filter=is_online eq false'
  roadstead api PATCH '/v7/device(5)' -d '{"note": "by the window"}'`,
		Args: cmdline.Args(1, 2), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := a.body(data)
			if err != nil {
				return err
			}
			method, path := http.MethodGet, args[len(args)-1]
			switch {
			case len(args) == 2:
				method = strings.ToUpper(args[0])
			case body != nil:
				method = http.MethodPost
			}
			if !strings.HasPrefix(path, "/") {
				return cmdline.Usagef("the path %q must begin with /", path)
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
			if a.Width() > 0 && !raw {
				var laid bytes.Buffer
				if json.Indent(&laid, answer, "", "  ") == nil {
					answer = laid.Bytes()
				}
			}
			if len(answer) > 0 && answer[len(answer)-1] != '\n' {
				answer = append(answer, '\n')
			}
			_, err = a.Out.Write(answer)
			return err
		},
	}
	cmd.Flags().StringVarP(&data, "data", "d", "", "JSON body; @FILE reads it from a file, @- from the standard input")
	cmd.Flags().BoolVar(&raw, "raw", false, "print the answer as it came")
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
