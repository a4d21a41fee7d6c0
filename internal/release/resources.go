package release

import (
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// onlyBuilds says to people who try to write what builds write how a release is made.
func onlyBuilds() map[odata.Op]string {
	const how = "Releases and their images are made by builds: push the source, with balena push, git push or roadstead push; " +
		"or, of images that were built elsewhere, with roadstead deploy or balena deploy."
	return map[odata.Op]string{odata.Create: how, odata.Update: how, odata.Delete: how}
}

// Resources declares everything that this package serves.
func (r *Releases) Resources() []*odata.Resource {
	return []*odata.Resource{r.release(), r.image(), releaseImage(), imageLabel(), imageEnvVar(), releaseTag(), r.asset(),
		releaseStatement(), imageSBOM(), imageBase()}
}

func id() odata.Column { return odata.Column{Name: "id", Type: odata.Integer} }

func created() odata.Column { return odata.Column{Name: "created_at", Type: odata.Date} }

// forObservers is the SQL of a column that only those read who observe the fleet: a public release is everybody's, the words of its
// build are not, for they may tell of more than the result. To others it is null. A device reads the log of its fleet's releases.
func forObservers(column, observed string) string {
	return "CASE WHEN " + observed + " THEN {t}." + column + " END"
}

// forBuilders is the same for an image, whose fleet is that of its service.
func forBuilders(column string) string {
	observed := strings.ReplaceAll(rights.FleetSQL(access.Read), "{t}", "bf")
	return forObservers(column, `EXISTS (SELECT 1 FROM service bs JOIN application bf ON bf.id = bs.application
		WHERE bs.id = {t}.is_a_build_of__service AND `+observed+`)`)
}

func (r *Releases) release() *odata.Resource {
	return &odata.Resource{
		Name:    "release",
		Columns: releaseColumns(),
		Rules:   releaseRules(),
		Refused: onlyBuilds(),
		Before:  []odata.Hook{r.beforeRelease},
		After:   []odata.Hook{r.afterRelease},
	}
}

func releaseColumns() []odata.Column {
	return []odata.Column{
		id(), created(),
		{Name: "belongs_to__application", Type: odata.ForeignKey, To: "application", Reverse: []string{"owns__release"}},
		{Name: "commit", Type: odata.String, MaxLen: 40},
		{Name: "composition", Type: odata.JSON},
		{Name: "status", Type: odata.String},
		{Name: "source", Type: odata.String},
		{
			Name: "build_log", Type: odata.String, Null: true, Explicit: true,
			SQL: forObservers("build_log", "("+rights.ParentSQL(access.Read)+" OR {t}.belongs_to__application = @fleet)"),
		},
		{Name: "is_invalidated", Type: odata.Boolean},
		{Name: "invalidation_reason", Type: odata.String, Null: true},
		{Name: "start_timestamp", Type: odata.Date},
		{Name: "end_timestamp", Type: odata.Date, Null: true},
		{Name: "update_timestamp", Type: odata.Date},
		{Name: "release_version", Type: odata.String, Null: true, MaxLen: 255},
		{Name: "contract", Type: odata.JSON, Null: true},
		{Name: "is_passing_tests", Type: odata.Boolean},
		{Name: "is_finalized_at__date", Type: odata.Date, Null: true},
		{Name: "phase", Type: odata.String, Null: true},
		{Name: "is_final", Type: odata.Boolean},
		{Name: "semver", Type: odata.String},
		{Name: "semver_major", Type: odata.Integer},
		{Name: "semver_minor", Type: odata.Integer},
		{Name: "semver_patch", Type: odata.Integer},
		{Name: "semver_prerelease", Type: odata.String},
		{Name: "semver_build", Type: odata.String},
		{Name: "variant", Type: odata.String},
		{Name: "revision", Type: odata.Integer, Null: true},
		{Name: "raw_version", Type: odata.String},
		{Name: "version", Type: odata.JSON},
		{Name: "known_issue_list", Type: odata.String, Null: true},
		{Name: "note", Type: odata.String, Null: true},
		{Name: "is_created_by__user", Type: odata.ForeignKey, To: "user", Null: true, Reverse: []string{"creates__release"}},
	}
}

func (r *Releases) image() *odata.Resource {
	return &odata.Resource{
		Name: "image",
		Columns: []odata.Column{
			id(), created(),
			{Name: "start_timestamp", Type: odata.Date},
			{Name: "end_timestamp", Type: odata.Date, Null: true},
			{Name: "push_timestamp", Type: odata.Date, Null: true},
			{Name: "dockerfile", Type: odata.String, Null: true, Read: forBuilders("dockerfile")},
			{
				Name: "is_a_build_of__service", Type: odata.ForeignKey, To: "service",
				Synonyms: []string{"is_a_build_of__application__has__service_name"}, Reverse: []string{"is_built_by__image"},
			},
			{Name: "image_size", Type: odata.BigInteger, Null: true},
			{Name: "is_stored_at__image_location", Type: odata.String},
			{Name: "project_type", Type: odata.String, Null: true},
			{Name: "error_message", Type: odata.String, Null: true, Read: forBuilders("error_message")},
			{Name: "build_log", Type: odata.String, Null: true, Explicit: true, Read: forBuilders("build_log")},
			{Name: "status", Type: odata.String},
			{Name: "content_hash", Type: odata.String, Null: true},
			{Name: "contract", Type: odata.JSON, Null: true},
			{Name: "is_quarantined", Type: odata.Boolean, Hidden: true},
		},
		Keys:    [][]string{{"is_stored_at__image_location"}},
		Rules:   imageRules(),
		Actions: imageActs(),
		Refused: onlyBuilds(),
		Before:  []odata.Hook{r.beforeImage},
		After:   []odata.Hook{afterImage},
	}
}

func releaseImage() *odata.Resource {
	return &odata.Resource{
		Name:     "release_image",
		Synonyms: []string{"image__is_part_of__release"},
		Columns: []odata.Column{
			id(), created(),
			{
				Name: "image", Type: odata.ForeignKey, To: "image", Synonyms: []string{"contains__image"},
				Reverse: []string{"release_image", "image__is_part_of__release", "is_part_of__release"},
			},
			{
				Name: "is_part_of__release", Type: odata.ForeignKey, To: "release", Synonyms: []string{"release"},
				Reverse: []string{"release_image", "image__is_part_of__release", "contains__image"},
			},
		},
		Keys:    [][]string{{"is_part_of__release", "image"}},
		Rules:   partRules(),
		Refused: onlyBuilds(),
		Before:  []odata.Hook{putIn},
	}
}

// inside is the column that ties a row to one image in one release.
func inside(reverse ...string) odata.Column {
	return odata.Column{
		Name: "release_image", Type: odata.ForeignKey, To: "release_image",
		Synonyms: []string{"image__is_part_of__release"}, Reverse: reverse,
	}
}

func imageLabel() *odata.Resource {
	return &odata.Resource{
		Name:     "image_label",
		Synonyms: []string{"image__is_part_of__release__has__label_name"},
		Columns: []odata.Column{
			id(), created(),
			inside("image_label", "image__is_part_of__release__has__label_name", "release_image__has__label_name"),
			{Name: "label_name", Type: odata.String},
			{Name: "value", Type: odata.String},
		},
		Keys:    [][]string{{"release_image", "label_name"}},
		Rules:   insideRules("release_image", "label_name", "value"),
		Refused: onlyBuilds(),
		Before:  labelHooks(),
	}
}

func imageEnvVar() *odata.Resource {
	return &odata.Resource{
		Name:     "image_environment_variable",
		Synonyms: []string{"image__is_part_of__release__has__name"},
		Columns: []odata.Column{
			id(), created(),
			inside("image_environment_variable", "image__is_part_of__release__has__name", "release_image__has__name"),
			{Name: "name", Type: odata.String},
			{Name: "value", Type: odata.String},
		},
		Keys:    [][]string{{"release_image", "name"}},
		Rules:   insideRules("release_image", "name", "value"),
		Refused: onlyBuilds(),
		Before:  environmentHooks(),
	}
}

func releaseTag() *odata.Resource {
	return &odata.Resource{
		Name:     "release_tag",
		Synonyms: []string{"release__has__tag_key"},
		Columns: []odata.Column{
			id(),
			{
				Name: "release", Type: odata.ForeignKey, To: "release",
				Reverse: []string{"release_tag", "release__has__tag_key"},
			},
			{Name: "tag_key", Type: odata.String, MaxLen: 1000},
			{Name: "value", Type: odata.String},
		},
		Keys:   [][]string{{"release", "tag_key"}},
		Rules:  tagRules("release", "tag_key", "value"),
		Before: []odata.Hook{fleet.ValidateTag},
	}
}
