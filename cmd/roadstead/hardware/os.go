package hardware

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

type osVersionView struct {
	Version string `json:"version"`
	Fleet   string `json:"fleet"`
	Phase   string `json:"phase"`
	Issues  string `json:"known_issues"`
}

type osRelease struct {
	client.Release
	Phase  string `json:"phase"`
	Issues string `json:"known_issue_list"`
}

func (a hardware) osCommand() *cobra.Command {
	versions := a.Command(cmdline.Action{
		Use: "versions DEVICE-TYPE", Short: "List the operating systems that the server knows for a kind of hardware, newest first",
		Example: "  roadstead os versions raspberrypi4-64", Least: 1, Most: 1, Complete: cmdline.First(a.DeviceTypes()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			id, err := FindDeviceType(ctx, c, args[0])
			if err != nil {
				return err
			}
			q := client.Query{
				Select: "id,raw_version,phase,known_issue_list", Expand: "belongs_to__application($select=id,slug)",
				OrderBy: "semver_major desc,semver_minor desc,semver_patch desc,revision desc",
				Filter: client.Where("status eq 'success' and is_final eq true and is_invalidated eq false and "+
					"belongs_to__application/any(a:a/is_host eq true and a/is_for__device_type eq ?)", id)}
			return cmdline.List(ctx, a.App, c, "release", q,
				func(r osRelease) osVersionView {
					return osVersionView{Version: r.RawVersion, Fleet: r.Fleet.Get().Slug, Phase: r.Phase, Issues: r.Issues}
				}, []string{"Version", "Fleet", "Phase", "Known issues"},
				func(v osVersionView) []string {
					return []string{v.Version, v.Fleet, v.Phase, strings.TrimSpace(v.Issues)}
				})
		},
	})
	return cmdline.Group("os", "Operating systems of devices", versions)
}
