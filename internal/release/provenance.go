package release

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/provenance"
)

// Where a release comes from is one statement that the signer signed while the build ran; see docs/provenance.md. It is taken with
// the end of the build, once, and only when it is about exactly the images that the release then has. What can be asked for of it
// by itself (the digests of the bills of materials, what the images were built from) is copied from it into rows.

// keepStatement verifies the statement of a build that ends well and records it.
func (r *Releases) keepStatement(ctx context.Context, tx *db.Tx, build api.Build, images []api.BuildImage, result api.BuildResult) error {
	if len(result.Statement) == 0 && len(r.cfg.StatementKeys) > 0 {
		return api.Errorf(api.Invalid, "Build %d comes without the signed statement of what it was made from; only with one it becomes a release.", build.ID)
	}
	if len(result.Statement) == 0 { // a server without a signer, which only tests have: `up` writes the keys before the role starts
		return nil
	}
	if len(r.cfg.StatementKeys) == 0 {
		return api.Errorf(api.Unavailable, "This server knows no key for statements: %s is not in the api role's directory.", provenance.KeysFile)
	}
	statement, key, err := provenance.Open(result.Statement, r.cfg.StatementKeys)
	if err == nil {
		err = statement.About(r.cfg.Site, build.ID, build.Commit, released(images, result))
	}
	if err != nil {
		return api.Errorf(api.Invalid, "The statement of where build %d comes from is not accepted: %v.", build.ID, err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO release_statement (created_at, "release", key_id, envelope) VALUES ($1, $2, $3, $4)`,
		tx.NowText(), build.ID, key, string(result.Statement))
	if err != nil {
		return fmt.Errorf("build %d: statement: %w", build.ID, err)
	}
	for _, image := range images {
		if err := keepParts(ctx, tx, build.ID, image, statement); err != nil {
			return fmt.Errorf("build %d: image %d: %w", build.ID, image.ID, err)
		}
	}
	return nil
}

// released are the images of a release as its build ends.
func released(images []api.BuildImage, result api.BuildResult) []provenance.Image {
	list := make([]provenance.Image, 0, len(images))
	for _, i := range images {
		out := provenance.Image{Service: i.Service, Location: i.Location}
		if n := slices.IndexFunc(result.Images, func(r api.BuildImageResult) bool { return r.ID == i.ID }); n >= 0 {
			out.Digest = result.Images[n].Digest
		}
		list = append(list, out)
	}
	return list
}

// keepParts copies what a statement says of one image into rows.
func keepParts(ctx context.Context, tx *db.Tx, build int64, image api.BuildImage, s *provenance.Statement) error {
	const part = `SELECT $1, id, $2, $3, $4 FROM release_image WHERE is_part_of__release = $5 AND image = $6`
	sbom := s.SBOM(image.Location)
	var digest, packages, missing any
	if sbom.Digest != "" {
		digest, packages = sbom.Digest, sbom.Packages
	} else {
		missing = sbom.Missing
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO image_sbom (created_at, release_image, digest, packages, missing) `+part,
		tx.NowText(), digest, packages, missing, build, image.ID); err != nil {
		return fmt.Errorf("bill of materials: %w", err)
	}
	for _, base := range s.Bases() {
		if !slices.Contains(strings.Fields(base.Annotations["services"]), image.Service) {
			continue
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO image_base (created_at, release_image, name, digest)
SELECT $1, id, $2, $3 FROM release_image WHERE is_part_of__release = $4 AND image = $5`,
			tx.NowText(), base.Name, base.Sum(), build, image.ID); err != nil {
			return fmt.Errorf("base %s: %w", base.Name, err)
		}
	}
	return nil
}

func releaseStatement() *odata.Resource {
	people := odata.Rule{Read: access.On(access.Read, "release", "belongs_to__application")}
	devices := odata.Rule{Read: access.Along(own, onRelease...)}
	return &odata.Resource{
		Name: "release_statement",
		Columns: []odata.Column{
			id(), created(),
			{Name: "release", Type: odata.ForeignKey, To: "release", Reverse: []string{"release_statement"}},
			{Name: "key_id", Type: odata.String},
			{Name: "envelope", Type: odata.String, Explicit: true},
		},
		Keys:    [][]string{{"release"}},
		Rules:   map[access.Kind]odata.Rule{access.User: people, access.ScopedKey: people, access.Device: devices, access.FleetKey: devices},
		Refused: onlyBuilds(),
	}
}

func imageSBOM() *odata.Resource {
	return &odata.Resource{
		Name: "image_sbom",
		Columns: []odata.Column{
			id(), created(), inside("image_sbom"),
			{Name: "digest", Type: odata.String, Null: true},
			{Name: "packages", Type: odata.Integer, Null: true},
			{Name: "missing", Type: odata.String, Null: true},
		},
		Keys:    [][]string{{"release_image"}},
		Rules:   insideRules(),
		Refused: onlyBuilds(),
	}
}

func imageBase() *odata.Resource {
	return &odata.Resource{
		Name: "image_base",
		Columns: []odata.Column{
			id(), created(), inside("image_base"),
			{Name: "name", Type: odata.String},
			{Name: "digest", Type: odata.String},
		},
		Keys:    [][]string{{"release_image", "name", "digest"}},
		Rules:   insideRules(),
		Refused: onlyBuilds(),
	}
}
