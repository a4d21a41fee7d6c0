package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// maxImportFile bounds a file of releases; the api role takes no larger one.
const maxImportFile = 16 << 20

func osCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "os", Short: "Operating systems and supervisors that devices can be told to run", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(osImportCommand())
	return cmd
}

func osImportCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "import FILE --data DIR",
		Short: "Bring in releases of operating systems and supervisors",
		Long: `Bring in releases of operating systems and supervisors, all that are in FILE or none. FILE is a JSON list; - is standard input.
A release that is there already keeps its image, and gets its phase, note, known issues, tags and invalidation from FILE.

Each entry has "kind" ("os" with "device_type", or "supervisor" with "arch") and "version", and may have "variant", "line" ("esr"),
"draft", "image" (repository@sha256:…, where devices pull it), "size", "labels", "phase" (next, current, sunset, end-of-life), "note",
"known_issues", "invalidated", "invalidation_reason", "contract" and "tags".

Clients list the versions with "balena os versions" and "roadstead os versions"; "balena device os-update" points a device to one.`,
		Example: `  roadsteadd admin os import systems.json --data /var/lib/roadstead
  echo '[{"kind":"os","device_type":"raspberrypi4-64","version":"6.0.24"}]' | roadsteadd admin os import - --data /var/lib/roadstead`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return importOS(cmd, data, args[0]) },
	}
	dataFlag(cmd, &data)
	return cmd
}

func importOS(cmd *cobra.Command, data, file string) error {
	dir, err := dataDir(data)
	if err != nil {
		return err
	}
	list, err := readOSReleases(cmd.InOrStdin(), file)
	if err != nil {
		return err
	}
	body, err := json.Marshal(list)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
	defer cancel()
	res, err := callAPI(ctx, supervise.Layout(dir), "/internal/v1/os-releases", body)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	var results []api.OSReleaseResult
	if err := json.NewDecoder(io.LimitReader(res.Body, maxImportFile)).Decode(&results); err != nil {
		return fmt.Errorf("the api role's answer: %w", err)
	}
	for _, r := range results {
		what := "there already"
		if r.Created {
			what = "new"
		}
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s\t%s\t%s\n", r.Fleet, r.Version, what)
	}
	return nil
}

// readOSReleases reads the file strictly: a key that is misspelt would be ignored silently.
func readOSReleases(stdin io.Reader, file string) (list []api.OSRelease, err error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	dec := json.NewDecoder(io.LimitReader(in, maxImportFile))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&list); err != nil {
		return nil, usageError{fmt.Errorf("%s is not a list of releases: %w", file, err)}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, usageError{fmt.Errorf("%s holds more than one list", file)}
	}
	return list, nil
}

// ownContracts is the folder of the operator's own device types, if there is one in the data directory.
func ownContracts(l supervise.Layout) string {
	dir := l.Path("contracts")
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return ""
	}
	return dir
}
