package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this program",
		Example: "  roadstead version -o json",
		Args:    cmdline.Args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Built   string `json:"built"`
				Go      string `json:"go"`
				OS      string `json:"os"`
				Arch    string `json:"arch"`
			}{version, built, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			if a.Output == "json" {
				return a.JSON(v)
			}
			_, err := fmt.Fprintf(a.Out, "roadstead %s (%s, %s/%s)\n", v.Version, v.Go, v.OS, v.Arch)
			return err
		},
	}
}
