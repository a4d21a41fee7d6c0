package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// releaseField is a command that writes fields of one release.
func (a *app) releaseField(use, short, example string, most int, fields func(args []string) (map[string]any, string)) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: use, Short: short, Example: example, Least: 1, Most: most, Complete: cmdline.First(a.Releases()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.FindRelease(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			set, done := fields(args[1:])
			if err := c.Patch(ctx, client.ID("release", r.ID), client.Query{}, set); err != nil {
				return err
			}
			a.Say("Release %s %s", terminal.Short(r.Commit), done)
			return nil
		},
	})
}

func (a *app) releaseFieldCommands() []*cobra.Command {
	var reason string
	invalidate := a.releaseField("invalidate RELEASE", "Mark a release as bad: nothing follows it any more",
		"  roadstead release invalidate 4f0c1aa --reason 'leaks memory'", 1, func([]string) (map[string]any, string) {
			set := map[string]any{"is_invalidated": true}
			if reason != "" {
				set["invalidation_reason"] = reason
			}
			return set, "is marked as bad."
		})
	invalidate.Flags().StringVar(&reason, "reason", "", "why, for whoever asks later")
	validate := a.releaseField("validate RELEASE", "Take back that a release is bad", "  roadstead release validate 4f0c1aa", 1,
		func([]string) (map[string]any, string) {
			return map[string]any{"is_invalidated": false, "invalidation_reason": nil}, "is good again."
		})
	note := a.releaseField("note RELEASE [TEXT]", "Write a note on a release; without a text it is removed",
		"  roadstead release note 12 'fixes the clock'", 2, func(args []string) (map[string]any, string) {
			return map[string]any{"note": strings.Join(args, "")}, "has its note."
		})
	issues := a.releaseField("known-issues RELEASE [TEXT]", "Say what is known to be wrong with a release; without a text, nothing",
		"  roadstead release known-issues 12 'the clock is late'", 2, func(args []string) (map[string]any, string) {
			return map[string]any{"known_issue_list": strings.Join(args, "")}, "has its list of known issues."
		})
	return []*cobra.Command{invalidate, validate, note, issues}
}

func (a *app) releaseRemoveCommand() *cobra.Command {
	return a.RemoveCommand(cmdline.Removal{
		Use: "rm RELEASE...", Short: "Remove releases that nothing runs", Most: -1, Complete: a.Releases(),
		Example: "  roadstead release rm 12 13 --yes",
		Find: func(ctx context.Context, c *client.Client, args []string) ([]cmdline.Doomed, error) {
			var found []cmdline.Doomed
			for _, arg := range args {
				r, err := c.FindRelease(ctx, arg, client.Query{Select: "id,commit,raw_version"})
				if err != nil {
					return nil, err
				}
				found = append(found, cmdline.Doomed{
					Address: client.ID("release", r.ID), Name: fmt.Sprintf("release %s (%s)", terminal.Short(r.Commit), r.RawVersion)})
			}
			return found, nil
		},
	})
}

// assetView is the JSON form of an asset.
type assetView struct {
	ID          int64  `json:"id"`
	Key         string `json:"key"`
	Filename    string `json:"filename"`
	ContentType string `json:"content_type"`
	Size        int64  `json:"size"` // bytes
	Checksum    string `json:"checksum"`
}

func viewAsset(r client.Asset) assetView {
	v := assetView{ID: r.ID, Key: r.Key}
	if r.File != nil {
		v.Filename, v.ContentType, v.Size, v.Checksum = r.File.Name, r.File.ContentType, r.File.Size, r.File.Checksum
	}
	return v
}

// findAsset finds an asset of a release; nil when there is none of that key.
func findAsset(ctx context.Context, c *client.Client, release, key string) (*client.Release, *client.Asset, error) {
	r, err := c.FindRelease(ctx, release, client.Query{})
	if err != nil {
		return nil, nil, err
	}
	found, err := client.Get[client.Asset](ctx, c, "release_asset", client.Query{
		Select: "id,asset_key,asset", Filter: client.Where("release eq ? and asset_key eq ?", r.ID, key)})
	if err != nil || len(found) == 0 {
		return r, nil, err
	}
	return r, &found[0], nil
}

func (a *app) releaseAssetCommand() *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list RELEASE", Aliases: []string{"ls"}, Short: "List the files that hang on a release", Least: 1, Most: 1,
		Example: "  roadstead release asset list 12", Complete: cmdline.First(a.Releases()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.FindRelease(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			q := client.Query{Select: "id,asset_key,asset", Filter: client.Where("release eq ?", r.ID), OrderBy: "asset_key asc"}
			return cmdline.List(ctx, a.App, c, "release_asset", q, viewAsset, []string{"Key", "File", "Size", "Type", "Id"},
				func(v assetView) []string {
					return []string{v.Key, v.Filename, terminal.Size(v.Size), v.ContentType, strconv.FormatInt(v.ID, 10)}
				})
		},
	})
	rm := a.RemoveCommand(cmdline.Removal{
		Use: "rm RELEASE KEY", Short: "Remove a file from a release", Most: 2, Complete: cmdline.First(a.Releases()),
		Example: "  roadstead release asset rm 12 manual.pdf --yes",
		Find: func(ctx context.Context, c *client.Client, args []string) ([]cmdline.Doomed, error) {
			if len(args) != 2 {
				return nil, cmdline.Usagef("give the release and the key of the file")
			}
			_, asset, err := findAsset(ctx, c, args[0], args[1])
			if err != nil {
				return nil, err
			}
			if asset == nil {
				return nil, api.Errorf(api.NotFound, "the release has no file %q", args[1])
			}
			return []cmdline.Doomed{{Address: client.ID("release_asset", asset.ID), Name: "file " + asset.Key}}, nil
		},
	})
	return cmdline.Group("asset", "Files that hang on a release: manuals, images, anything", a.assetUpload(), list, a.assetDownload(), rm)
}

func (a *app) assetUpload() *cobra.Command {
	var key, contentType string
	var overwrite bool
	cmd := a.Command(cmdline.Action{
		Use: "upload RELEASE FILE", Short: "Hang a file on a release", Least: 2, Most: 2,
		Example:  "  roadstead release asset upload 12 manual.pdf\n  roadstead release asset upload 12 build/out.img --key disk --overwrite",
		Complete: cmdline.ThenFiles(a.Releases()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			f, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				return err
			}
			if !st.Mode().IsRegular() {
				return cmdline.Usagef("%s is not a file", args[1])
			}
			if key == "" {
				key = filepath.Base(args[1])
			}
			r, old, err := findAsset(ctx, c, args[0], key)
			if err != nil {
				return err
			}
			row := int64(0)
			if old != nil && !overwrite {
				return api.Errorf(api.Conflict, "the release has a file %q already; add --overwrite, or choose another --key", key)
			} else if old != nil {
				row = old.ID
			}
			bar := a.Progress("Uploading "+key, st.Size())
			made, err := c.UploadAsset(ctx, r.ID, key, row, client.Upload{
				Name: filepath.Base(args[1]), ContentType: contentType, Size: st.Size(), From: f, Sent: bar.At})
			bar.End()
			if err != nil {
				return err
			}
			return a.Made(viewAsset(*made), "Uploaded %s (%s).", key, terminal.Size(st.Size()))
		},
	})
	cmd.Flags().StringVar(&key, "key", "", "what to call it there; the file's name when it is not given")
	cmd.Flags().StringVar(&contentType, "content-type", "application/octet-stream", "what kind of file it is")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "put it in the place of one that has the key")
	return cmd
}

func (a *app) assetDownload() *cobra.Command {
	var to string
	cmd := a.Command(cmdline.Action{
		Use: "download RELEASE KEY", Short: "Fetch a file of a release", Least: 2, Most: 2, Complete: cmdline.First(a.Releases()),
		Example: "  roadstead release asset download 12 manual.pdf\n  roadstead release asset download 12 notes --to - | less",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			_, asset, err := findAsset(ctx, c, args[0], args[1])
			if err != nil {
				return err
			}
			if asset == nil || asset.File == nil {
				return api.Errorf(api.NotFound, "the release has no file %q", args[1])
			}
			if to == "-" {
				return c.Download(ctx, asset.File, a.Out)
			}
			if to == "" {
				to = filepath.Base(filepath.Clean("/" + asset.File.Name)) // a name, whatever somebody uploaded it as
			}
			return a.saveAs(to, func(w io.Writer) error {
				bar := a.Progress("Downloading "+args[1], asset.File.Size)
				defer bar.End()
				return c.Download(ctx, asset.File, bar.Counting(w))
			})
		},
	})
	cmd.Flags().StringVar(&to, "to", "", `the file to write; "-" is the standard output, and nothing is its own name`)
	return cmd
}

// saveAs writes a new file that appears when it is whole.
func (a *app) saveAs(name string, write func(w io.Writer) error) error {
	if _, err := os.Lstat(name); err == nil {
		return cmdline.Usagef("%s exists already; choose another file with --to", name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".download-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when all went well
	err = write(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(f.Name(), 0o644); err != nil { // the temporary file was its owner's alone
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	a.Say("Wrote %s.", name)
	return nil
}
