package build

import (
	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

func platformsCommand(a *cmdline.App) *cobra.Command {
	return &cobra.Command{
		Use: "platforms", Short: "Show for which machines images can be built, and by which workers",
		Long: `Show for which machines (platforms, as linux/arm64) the server builds images, and on which of its workers. A worker runs the
programs of its own processor natively; those of others in an emulator, where it has one, which takes several times as long. Where it has
none, the reason stands there.`,
		Example: "  roadstead build platforms\n  roadstead build platforms -o json",
		Args:    cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			all, err := c.BuildPlatforms(cmd.Context())
			if err != nil {
				return err
			}
			return a.Show(all.Workers, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Platform", "Worker", "How"}}
				for _, w := range all.Workers {
					if w.Error != "" {
						g.Add("", w.Name, "does not answer: "+w.Error)
						continue
					}
					for _, p := range w.Platforms {
						how := "emulated"
						if p.Native {
							how = "native"
						}
						g.Add(p.Platform, w.Name, how)
					}
					for _, p := range w.Missing {
						g.Add(p.Platform, w.Name, "not: "+p.Why)
					}
				}
				return g
			})
		},
	}
}
