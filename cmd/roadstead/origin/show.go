package origin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/internal/provenance"
)

// provenanceView is the JSON form of `release show --provenance`.
type provenanceView struct {
	Release   int64                 `json:"release"`
	Commit    string                `json:"commit"`
	Verified  bool                  `json:"verified"` // always true: what does not verify is not shown
	Key       string                `json:"key"`
	Statement *provenance.Statement `json:"statement"`
	Envelope  json.RawMessage       `json:"envelope"`
}

// Provenance shows where a release comes from, once that is verified.
func Provenance(ctx context.Context, a *cmdline.App, c *client.Client, ref, keyFile string) error {
	r, err := find(ctx, c, ref)
	if err != nil {
		return err
	}
	s, err := verify(ctx, c, r, keyFile)
	if err != nil {
		return err
	}
	if a.Output == "json" {
		return a.JSON(provenanceView{Release: r.ID, Commit: r.Commit, Verified: true, Key: s.key, Statement: s.Statement, Envelope: s.envelope})
	}
	p, run := s.Predicate.BuildDefinition, s.Predicate.RunDetails
	g := &terminal.Grid{Rows: [][]string{
		{"Commit", r.Commit}, {"Fleet", p.ExternalParameters.Fleet}, {"Builder", run.Builder.ID}, {"Started", run.Metadata.StartedOn},
		{"Finished", run.Metadata.FinishedOn}, {"Signed by", "key " + short(s.key)},
	}}
	for _, k := range slices.Sorted(maps.Keys(p.ExternalParameters.Source)) {
		g.Add("Source", k+" "+p.ExternalParameters.Source[k])
	}
	for _, d := range p.ResolvedDependencies {
		if d.Name == "git" {
			g.Add("Git", d.URI+" "+d.Digest["gitCommit"])
		}
	}
	a.Table(g)
	fmt.Fprintln(a.Out)
	images := &terminal.Grid{Head: []string{"Service", "Image", "How", "Dockerfile", "Bill of materials"}}
	for _, i := range r.images() {
		how := p.ExternalParameters.Services[i.Service]
		origin := how.Origin
		if how.BuiltElsewhere {
			origin += " (built elsewhere; only its digest is known)"
		}
		for _, said := range s.SBOMs(i.Location) {
			list := "none: " + said.Missing
			if said.Digest != "" {
				list = fmt.Sprintf("%d packages", said.Packages)
			}
			name, file := i.Service, how.Dockerfile
			if said.Platform != "" {
				name, file = name+" "+said.Platform, how.Platforms[said.Platform].Dockerfile
			}
			images.Add(name, short(cmp.Or(said.Image, i.Digest)), origin, file, list)
		}
	}
	a.Table(images)
	bases := &terminal.Grid{Head: []string{"Built from", "Digest", "Services"}}
	for _, b := range s.Bases() {
		bases.Add(b.Name, b.Sum(), b.Annotations["services"])
	}
	if len(bases.Rows) > 0 {
		fmt.Fprintln(a.Out)
		a.Table(bases)
	}
	return nil
}

// SBOM shows what is in the images of a release, once that is verified.
func SBOM(ctx context.Context, a *cmdline.App, c *client.Client, ref, keyFile string) error {
	r, err := find(ctx, c, ref)
	if err != nil {
		return err
	}
	s, err := verify(ctx, c, r, keyFile)
	if err != nil {
		return err
	}
	list, err := bills(ctx, c, r, s)
	if err != nil {
		return err
	}
	if a.Output == "json" {
		return a.JSON(list)
	}
	g := &terminal.Grid{Head: []string{"Service", "Kind", "Package", "Version"}}
	for _, b := range list {
		if b.Missing != "" {
			a.Say("No bill of materials was made of the image of %s: %s", b.of(), b.Missing)
		}
		for _, n := range b.Notes {
			a.Say("The bill of materials of %s is not complete: %s", b.of(), n)
		}
		for _, p := range b.packages {
			g.Add(strings.TrimSpace(b.Service+" "+b.Platform), p.Kind, p.Name, p.Version)
		}
	}
	a.Table(g)
	return nil
}

// short is what tells one digest from another on a screen; -o json has all of it.
func short(digest string) string {
	if hex, ok := strings.CutPrefix(digest, "sha256:"); ok {
		return "sha256:" + hex[:min(12, len(hex))]
	}
	return digest[:min(12, len(digest))]
}
