package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/origin"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/standing"
)

// releaseView is the JSON form of a release.
type releaseView struct {
	ID        int64             `json:"id"`
	Commit    string            `json:"commit"`
	Version   string            `json:"version"`
	Status    string            `json:"status"`
	Final     bool              `json:"final"`
	Fleet     string            `json:"fleet"`
	Source    string            `json:"source"`
	CreatedAt string            `json:"created_at"`
	EndedAt   *string           `json:"ended_at"`
	Note      string            `json:"note"`
	Tags      map[string]string `json:"tags"`
	SignedBy  string            `json:"signed_by,omitempty"` // in words; of the newest releases
	Images    []imageView       `json:"images,omitempty"`
	Log       *string           `json:"log,omitempty"`
	Compose   json.RawMessage   `json:"composition,omitempty"`
}

// imageView is one service of a release.
type imageView struct {
	Service string `json:"service"`
	Status  string `json:"status"`
	Image   string `json:"image"` // by digest, once it is known
	Size    *int64 `json:"size"`  // bytes
	Error   string `json:"error,omitempty"`
}

const (
	releaseFields = "id,commit,status,raw_version,is_final,source,created_at,end_timestamp,note"
	releaseExpand = "belongs_to__application($select=id,uuid,slug),release_tag($select=id,tag_key,value)"
	imageExpand   = "release_image($select=id;" +
		"$expand=image($select=id,status,is_stored_at__image_location,content_hash,image_size,error_message;" +
		"$expand=is_a_build_of__service($select=id,service_name)))"
)

func viewRelease(r client.Release) releaseView {
	v := releaseView{
		ID: r.ID, Commit: r.Commit, Version: r.RawVersion, Status: r.Status, Final: r.IsFinal, Fleet: r.Fleet.Get().Slug,
		Source: r.Source, CreatedAt: r.CreatedAt, EndedAt: cmdline.OrNil(r.EndedAt), Note: r.Note, Tags: map[string]string{},
	}
	for _, t := range r.Tags {
		v.Tags[t.Key] = t.Value
	}
	for _, ri := range r.Images {
		i := ri.Image.Get()
		iv := imageView{Service: i.Service.Get().Name, Status: i.Status, Image: i.Location, Error: i.Error}
		if i.ContentHash != "" {
			iv.Image += "@" + i.ContentHash
		}
		if n, err := i.Size.Int64(); err == nil {
			iv.Size = &n
		}
		v.Images = append(v.Images, iv)
	}
	return v
}

func (a *app) releaseCommand() *cobra.Command {
	cmd := cmdline.Group("release", "Releases: what was built of a fleet's source",
		a.releaseListCommand(), a.releaseShowCommand(), a.releaseCancelCommand(), a.releaseFinalizeCommand(),
		a.releaseRemoveCommand(), a.releaseAssetCommand(), origin.DiffCommand(a.App))
	cmd.AddCommand(a.releaseFieldCommands()...)
	cmd.AddCommand(trust.ReleaseCommands(a.App)...)
	return cmd
}

func (a *app) releaseListCommand() *cobra.Command {
	var top int
	cmd := &cobra.Command{
		Use: "list [FLEET]", Aliases: []string{"ls"}, Short: "List a fleet's releases, newest first",
		Example: "  roadstead release list hello\n  roadstead release list hello --limit 5 -o json",
		Args:    cmdline.Args(0, 1), ValidArgsFunction: cmdline.First(a.Fleets()),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			f, err := c.FindFleet(cmd.Context(), cmdline.FleetOr(strings.Join(args, "")), client.Query{})
			if err != nil {
				return err
			}
			found, err := client.Get[client.Release](cmd.Context(), c, "release", client.Query{
				Select: releaseFields, Expand: releaseExpand, OrderBy: "created_at desc", Top: top,
				Filter: client.Where("belongs_to__application eq ?", f.ID)})
			if err != nil {
				return err
			}
			views := make([]releaseView, len(found))
			signers := standing.Signers(cmd.Context(), c, f.UUID)
			for i, r := range found {
				views[i] = viewRelease(r)
				views[i].SignedBy = signedBy(r, signers)
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Id", "Commit", "Version", "Status", "Final", "Signed by", "Created"}}
				for _, v := range views {
					g.Add(strconv.FormatInt(v.ID, 10), terminal.Short(v.Commit), v.Version, v.Status, terminal.Yes(v.Final), v.SignedBy, terminal.Ago(v.CreatedAt))
				}
				return g
			})
		},
	}
	cmd.Flags().IntVar(&top, "limit", 100, "at most so many")
	return cmd
}

func (a *app) releaseShowCommand() *cobra.Command {
	var log, composition, provenance, sbom bool
	var keyFile string
	cmd := &cobra.Command{
		Use: "show RELEASE", Short: "Show one release, its log, its composition, where it comes from or what is in it",
		Long: `Show one release. --provenance says where it comes from (source, base images, builder) and --sbom which packages are in its images. Both
are verified before anything is shown: the signature of the server's signer, and that it is about exactly the images of this release.`,
		Example: `  roadstead release show 4f0c1aa
  roadstead release show 12 --log
  roadstead release show 12 --composition
  roadstead release show 12 --provenance
  roadstead release show 12 --sbom -o json`,
		Args: cmdline.Args(1, 1), ValidArgsFunction: cmdline.First(a.Releases()),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			switch {
			case provenance:
				return origin.Provenance(cmd.Context(), a.App, c, args[0], keyFile)
			case sbom:
				return origin.SBOM(cmd.Context(), a.App, c, args[0], keyFile)
			}
			q := client.Query{Select: releaseFields, Expand: releaseExpand + "," + imageExpand}
			if log {
				q.Select += ",build_log"
			}
			if composition {
				q.Select += ",composition"
			}
			r, err := c.FindRelease(cmd.Context(), args[0], q)
			if err != nil {
				return err
			}
			signed := ""
			if !log && !composition {
				signed = signedBy(*r, standing.Signers(cmd.Context(), c, r.Fleet.Get().UUID))
			}
			return a.showRelease(*r, signed, log, composition)
		},
	}
	cmd.Flags().BoolVar(&log, "log", false, "print the build's log")
	cmd.Flags().BoolVar(&composition, "composition", false, "print the composition that devices get (JSON, which is YAML too)")
	cmd.Flags().BoolVar(&provenance, "provenance", false, "print where the release comes from, verified")
	cmd.Flags().BoolVar(&sbom, "sbom", false, "print the packages in its images, verified (-o json: CycloneDX documents)")
	cmd.Flags().StringVar(&keyFile, "key", "", "`FILE` with the public keys to believe, in place of those that the server tells")
	cmd.MarkFlagsMutuallyExclusive("log", "composition", "provenance", "sbom")
	return cmd
}

// signedBy says who has signed a release that was built.
func signedBy(r client.Release, signers func(commit string) string) string {
	if r.Status != api.StatusSuccess {
		return ""
	}
	return signers(r.Commit)
}

func (a *app) showRelease(r client.Release, signed string, log, composition bool) error {
	v := viewRelease(r)
	v.SignedBy = signed
	switch {
	case a.Output == "json":
		if log {
			v.Log = &r.BuildLog
		}
		if composition {
			v.Compose = r.Composition
		}
		return a.JSON(v)
	case log:
		_, err := io.WriteString(a.Out, terminal.Lines(strings.TrimRight(r.BuildLog, "\n"))+"\n")
		return err
	case composition:
		return a.JSON(r.Composition)
	}
	g := &terminal.Grid{Rows: [][]string{
		{"Commit", v.Commit}, {"Id", strconv.FormatInt(v.ID, 10)}, {"Version", v.Version}, {"Fleet", v.Fleet},
		{"Status", v.Status}, {"Final", terminal.Yes(v.Final)}, {"Created", v.CreatedAt}}}
	if v.EndedAt != nil {
		g.Add("Ended", *v.EndedAt)
	}
	if v.SignedBy != "" {
		g.Add("Signed by", v.SignedBy)
	}
	for _, k := range slices.Sorted(maps.Keys(v.Tags)) {
		g.Add("Tag", k+"="+v.Tags[k])
	}
	if v.Note != "" {
		g.Add("Note", v.Note)
	}
	a.Table(g)
	if len(v.Images) == 0 {
		return nil
	}
	fmt.Fprintln(a.Out)
	images := &terminal.Grid{Head: []string{"Service", "Size", "Digest", "Status"}}
	for _, i := range v.Images {
		bytes := ""
		if i.Size != nil {
			bytes = terminal.Size(*i.Size)
		}
		status := i.Status
		if i.Error != "" {
			status += ": " + i.Error
		}
		images.Add(i.Service, bytes, shortDigest(i.Image), status)
	}
	a.Table(images)
	return nil
}

// shortDigest is what tells one image from another on a screen; -o json has the whole reference.
func shortDigest(image string) string {
	_, digest, _ := strings.Cut(image, "@")
	return digest[:min(len(digest), len("sha256:")+12)]
}

func (a *app) releaseCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cancel RELEASE", Short: "Cancel a running build",
		Example: "  roadstead release cancel 12",
		Args:    cmdline.Args(1, 1), ValidArgsFunction: cmdline.First(a.Releases()),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			r, err := c.FindRelease(cmd.Context(), args[0], client.Query{Select: "id,commit,status"})
			if err != nil {
				return err
			}
			if r.Status != api.StatusRunning {
				return api.Errorf(api.Invalid, "release %s is not being built: it is %s", terminal.Short(r.Commit), r.Status)
			}
			if err := c.CancelBuild(cmd.Context(), r.ID); err != nil {
				return err
			}
			a.Say("Cancelled the build of release %d.", r.ID)
			return nil
		},
	}
}

func (a *app) releaseFinalizeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "finalize RELEASE", Short: "Make a draft final, so that devices follow it",
		Example: "  roadstead release finalize 4f0c1aa",
		Args:    cmdline.Args(1, 1), ValidArgsFunction: cmdline.First(a.Releases()),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			r, err := c.FindRelease(cmd.Context(), args[0], client.Query{Select: "id,commit,is_final"})
			if err != nil {
				return err
			}
			if r.IsFinal {
				a.Say("Release %s is final already.", terminal.Short(r.Commit))
				return nil
			}
			err = c.Patch(cmd.Context(), client.ID("release", r.ID), client.Query{}, map[string]any{"is_final": true})
			if err != nil {
				return err
			}
			a.Say("Release %s is final.", terminal.Short(r.Commit))
			return nil
		},
	}
}
