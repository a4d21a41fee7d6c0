package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"
)

// fill gives every flag that the command line does not set its value from the environment, else from the configuration file.
func fill(cmd *cobra.Command) error {
	if cmd.Name() == "role" || strings.HasPrefix(cmd.Name(), "__") { // a child gets everything on its command line
		return nil
	}
	flags := cmd.Flags()
	var file map[string]any
	if f := flags.Lookup("config"); f != nil {
		path := f.Value.String()
		if !f.Changed && path == "" {
			path = os.Getenv(envName(f.Name))
		}
		if path != "" {
			var err error
			if file, err = readSettings(path, flags); err != nil {
				return usageError{err}
			}
		}
	}
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || f.Name == "config" {
			return
		}
		if v, ok := os.LookupEnv(envName(f.Name)); ok && v != "" {
			if err := f.Value.Set(v); err != nil {
				errs = append(errs, fmt.Errorf("%s=%q: %w", envName(f.Name), v, err))
			}
			return
		}
		if v, ok := file[keyName(f.Name)]; ok {
			if err := f.Value.Set(fmt.Sprint(v)); err != nil {
				errs = append(errs, fmt.Errorf("configuration file: %s: %w", keyName(f.Name), err))
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	return nil
}

func envName(flag string) string { return "ROADSTEAD_" + strings.ToUpper(keyName(flag)) }

func keyName(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// readSettings reads a configuration file (JSON is YAML too). A key that is no flag is an error: it would be ignored silently.
func readSettings(path string, flags *pflag.FlagSet) (map[string]any, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	var m map[string]any
	if err := yaml.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("--config %s: %w", path, err)
	}
	var known []string
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && f.Name != "config" && !f.Hidden {
			known = append(known, keyName(f.Name))
		}
	})
	for k, v := range m {
		if !slices.Contains(known, k) {
			return nil, fmt.Errorf("--config %s: there is no setting %q; there are %s", path, k, strings.Join(known, ", "))
		}
		switch v.(type) {
		case map[string]any, []any, nil:
			return nil, fmt.Errorf("--config %s: %s: one value is wanted", path, k)
		}
	}
	return m, nil
}

// logger makes the program's log.
func logger(w io.Writer, format string) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: slog.LevelInfo}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, usageError{fmt.Errorf("--log-format %q: there are text and json", format)}
}

// dataFlag adds --data.
func dataFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "data", "", "the data `DIR` that holds everything this server keeps")
}

// dataDir is the data directory as an absolute path without links, because users of roles are checked against that.
func dataDir(dir string) (string, error) {
	if dir == "" {
		return "", usageError{errors.New("--data is missing: the directory that holds everything this server keeps")}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("there is no directory %s", abs)
	}
	if err != nil {
		return "", fmt.Errorf("--data: %w", err)
	}
	return real, nil
}
