package release

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// A build is a release that a builder works on: [Releases.Open], [Releases.AddImages], a [Releases.Heartbeat] every few seconds,
// [Releases.Finish]. A builder that did not hear an answer may repeat the step (a repeated Open makes another build; the first
// ends by its silence). A build that has ended stays as it ended: a success that arrives after a cancellation changes nothing.

const (
	maxLog      = 1 << 20 // bytes of a build log that are kept: the end of it
	maxServices = 100
	maxText     = 64 << 10 // of a Dockerfile, an error
)

var digestForm = pattern.New(`^sha256:[0-9a-f]{64}$`)

// Open begins a build for a fleet of which the caller may make releases.
func (r *Releases) Open(ctx context.Context, tx *db.Tx, by access.Caller, ask api.BuildRequest) (api.Build, error) {
	if by.Kind != access.User && by.Kind != access.ScopedKey {
		return api.Build{}, api.Errorf(api.Forbidden, "Only people can push to a fleet.")
	}
	fl, err := fleet.FindBySlug(ctx, tx, by, ask.Slug)
	if err != nil {
		return api.Build{}, err
	}
	if err := rights.Require(ctx, tx, by, fl.ID, access.Releases); err != nil {
		return api.Build{}, fmt.Errorf("open build: %w", err)
	}
	if r.cfg.Room != nil {
		if err := r.cfg.Room(ctx, tx, fl.ID); err != nil {
			return api.Build{}, fmt.Errorf("open build: %w", err)
		}
	}
	f := full{CreatedMS: tx.Now.UnixMilli()}
	var finalized any
	if !ask.Draft {
		if f.Revision, err = nextRevision(ctx, tx, fl.ID, f.version); err != nil {
			return api.Build{}, err
		}
		finalized = tx.NowText()
	}
	object, err := f.object()
	if err != nil {
		return api.Build{}, err
	}
	proof, err := account.ProofOf(ctx, tx, by)
	if err != nil {
		return api.Build{}, fmt.Errorf("open build: %w", err)
	}
	var id int64
	err = tx.QueryRowContext(ctx, `
INSERT INTO "release" (created_at, belongs_to__application, "commit", status, source, start_timestamp, update_timestamp,
    is_final, revision, is_finalized_at__date, raw_version, version, is_created_by__user, heartbeat_at, opened_by_key, opened_with_login,
    opened_by_ssh_key)
VALUES ($1, $2, $3, 'running', 'cloud', $1, $1, $4, $5, $6, $7, $8, $9, $1, $10, $11, $12) RETURNING id`,
		tx.NowText(), fl.ID, randomHex(), f.Revision.Valid, f.Revision, finalized, f.raw(), string(object), by.User, proof.Key, proof.Login,
		proof.SSH).Scan(&id)
	if err != nil {
		return api.Build{}, fmt.Errorf("open build for fleet %d: %w", fl.ID, err)
	}
	b, err := r.Get(ctx, tx, id)
	if err != nil {
		return api.Build{}, err
	}
	return b, recordBuild(ctx, tx, by, b, ask.Draft)
}

// recordBuild writes down that somebody brings code into a fleet.
func recordBuild(ctx context.Context, tx *db.Tx, by access.Caller, b api.Build, draft bool) error {
	owners, err := fleet.Organizations(ctx, tx, []int64{b.Fleet.ID})
	if err != nil {
		return err
	}
	return audit.Record(ctx, tx, by, audit.Entry{Act: "release.build", Kind: "release", ID: b.ID, Name: b.Commit, Fleet: b.Fleet.ID,
		Organization: owners[b.Fleet.ID], Detail: map[string]any{"draft": draft}})
}

// Get says how a build stands. Its repositories are listed only while it runs: nobody may push to them before or after.
func (r *Releases) Get(ctx context.Context, tx *db.Tx, id int64) (api.Build, error) {
	b := api.Build{ID: id, Fleet: &api.BuildFleet{}}
	var also string
	err := tx.QueryRowContext(ctx, `
SELECT r."commit", r.status, a.id, a.uuid, a.slug, t.slug, c.slug, coalesce(a.is_also_built_for, ''), a.organization
FROM "release" r JOIN application a ON a.id = r.belongs_to__application
JOIN device_type t ON t.id = a.is_for__device_type JOIN cpu_architecture c ON c.id = t.is_of__cpu_architecture
WHERE r.id = $1`, id).
		Scan(&b.Commit, &b.Status, &b.Fleet.ID, &b.Fleet.UUID, &b.Fleet.Slug, &b.Fleet.DeviceType, &b.Fleet.Arch, &also,
			&b.Fleet.Organization)
	if errors.Is(err, sql.ErrNoRows) {
		return api.Build{}, api.Errorf(api.NotFound, "There is no build %d.", id)
	}
	if err != nil {
		return api.Build{}, fmt.Errorf("build %d: %w", id, err)
	}
	b.Fleet.Also = fleet.BuildsAlso(also)
	if b.Quarantine, err = quarantineOf(ctx, tx, id); err != nil {
		return api.Build{}, err
	}
	if b.Status != api.StatusRunning {
		return b, nil
	}
	images, err := buildImages(ctx, tx, id)
	if err != nil {
		return api.Build{}, err
	}
	for _, image := range images {
		b.Repositories = append(b.Repositories, image.Repository)
	}
	return b, nil
}

// buildImages lists the images of a build in the order in which they were added. One whose location is a place in quarantine is not
// a builder's to push to.
func buildImages(ctx context.Context, tx *db.Tx, id int64) ([]api.BuildImage, error) {
	rows, err := tx.QueryContext(ctx, `
SELECT i.id, s.service_name, i.is_stored_at__image_location
FROM release_image ri JOIN image i ON i.id = ri.image JOIN service s ON s.id = i.is_a_build_of__service
WHERE ri.is_part_of__release = $1 AND i.is_quarantined = 0 ORDER BY i.id`, id)
	if err != nil {
		return nil, fmt.Errorf("build %d: images: %w", id, err)
	}
	var images []api.BuildImage
	for rows.Next() {
		var image api.BuildImage
		if err := rows.Scan(&image.ID, &image.Service, &image.Location); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		_, image.Repository, _ = strings.Cut(image.Location, "/")
		images = append(images, image)
	}
	return images, errors.Join(rows.Err(), rows.Close())
}

// running gives a build that has not ended, with the id of its fleet.
func (r *Releases) running(ctx context.Context, tx *db.Tx, id int64) (api.Build, error) {
	b, err := r.Get(ctx, tx, id)
	if err == nil && b.Status != api.StatusRunning {
		err = api.Errorf(api.Conflict, "Build %d has ended: %s.", id, b.Status)
	}
	return b, err
}

// AddImages says what a build is made of and gives every service an image of its own to push.
func (r *Releases) AddImages(ctx context.Context, tx *db.Tx, id int64, ask api.BuildImagesRequest) ([]api.BuildImage, error) {
	if err := r.endWithoutRight(ctx, tx, id); err != nil {
		return nil, err
	}
	b, err := r.running(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	if err := checkParts(ask); err != nil {
		return nil, err
	}
	have, err := buildImages(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	for _, image := range have {
		if !slices.Contains(ask.Services, image.Service) {
			return nil, api.Errorf(api.Conflict, "Build %d has an image for service %q already.", id, image.Service)
		}
	}
	if _, err := tx.ExecContext(ctx, `
UPDATE "release" SET composition = $1, update_timestamp = $2, heartbeat_at = $2 WHERE id = $3`,
		string(ask.Composition), tx.NowText(), id); err != nil {
		return nil, fmt.Errorf("build %d: composition: %w", id, err)
	}
	if err := describe(ctx, tx, id, b.Fleet.ID, ask.Contract); err != nil {
		return nil, err
	}
	for _, name := range ask.Services {
		if slices.ContainsFunc(have, func(i api.BuildImage) bool { return i.Service == name }) {
			continue
		}
		if err := r.addImage(ctx, tx, id, b.Fleet.ID, name); err != nil {
			return nil, err
		}
	}
	return buildImages(ctx, tx, id)
}

func checkParts(ask api.BuildImagesRequest) error {
	var composition map[string]json.RawMessage
	if json.Unmarshal(ask.Composition, &composition) != nil || composition == nil {
		return api.Errorf(api.Invalid, "The composition of a release must be an object.")
	}
	if len(ask.Services) == 0 {
		return api.Errorf(api.Invalid, "A release has at least one service.")
	}
	if len(ask.Services) > maxServices {
		return api.Errorf(api.TooLarge, "A release has at most %d services.", maxServices)
	}
	for i, name := range ask.Services {
		if err := fleet.CheckServiceName(name); err != nil {
			return err
		}
		if slices.Contains(ask.Services[:i], name) {
			return api.Errorf(api.Invalid, "Service %q is named twice.", name)
		}
	}
	return nil
}

// addImage makes the row of one image, with a location in the registry that nothing else ever had.
func (r *Releases) addImage(ctx context.Context, tx *db.Tx, build, fleetID int64, name string) error {
	service, err := fleet.EnsureService(ctx, tx, fleetID, name)
	if err != nil {
		return fmt.Errorf("build %d: %w", build, err)
	}
	var image int64
	err = tx.QueryRowContext(ctx, `
INSERT INTO image (created_at, start_timestamp, is_a_build_of__service, is_stored_at__image_location, status)
VALUES ($1, $1, $2, $3, 'running') RETURNING id`,
		tx.NowText(), service, r.cfg.Site.Host("registry2")+"/v2/"+randomHex()).Scan(&image)
	if err != nil {
		return fmt.Errorf("build %d: image of %q: %w", build, name, err)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO release_image (created_at, image, is_part_of__release) VALUES ($1, $2, $3)`,
		tx.NowText(), image, build); err != nil {
		return fmt.Errorf("build %d: image of %q: %w", build, name, err)
	}
	return nil
}

// endWithoutRight cancels a running build whose maker may not push any more: the key or the session that opened it is gone, or the verb on
// the fleet is. Whoever stole a key has no release in the fleet when it is taken from them.
func (r *Releases) endWithoutRight(ctx context.Context, tx *db.Tx, id int64) error {
	var user sql.NullInt64
	var fleetID int64
	var proof account.Proof
	err := tx.QueryRowContext(ctx, `SELECT is_created_by__user, belongs_to__application, opened_by_key, opened_with_login, opened_by_ssh_key FROM "release"
WHERE id = $1 AND status = 'running'`, id).Scan(&user, &fleetID, &proof.Key, &proof.Login, &proof.SSH)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("build %d: %w", id, err)
	}
	by, holds, err := r.cfg.Accounts.Holds(ctx, tx, proof, user.Int64)
	if err != nil {
		return fmt.Errorf("build %d: %w", id, err)
	}
	if holds {
		verbs, err := rights.FleetVerbs(ctx, tx, by, fleetID)
		if err != nil {
			return fmt.Errorf("build %d: %w", id, err)
		}
		if verbs.Has(access.Releases) {
			return nil
		}
	}
	if err := endImages(ctx, tx, id, api.StatusCancelled); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE "release" SET status = 'cancelled', end_timestamp = $1, update_timestamp = $1 WHERE id = $2 AND status = 'running'`,
		tx.NowText(), id)
	if err != nil {
		return fmt.Errorf("build %d: cancel: %w", id, err)
	}
	return nil
}

// Heartbeat keeps a running build alive and tells the builder how it stands: it stops when somebody cancelled it, or when its maker may not
// push any more.
func (r *Releases) Heartbeat(ctx context.Context, tx *db.Tx, id int64) (api.Build, error) {
	if err := r.endWithoutRight(ctx, tx, id); err != nil {
		return api.Build{}, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE "release" SET heartbeat_at = $1 WHERE id = $2 AND status = 'running'`,
		tx.NowText(), id); err != nil {
		return api.Build{}, fmt.Errorf("build %d: heartbeat: %w", id, err)
	}
	return r.Get(ctx, tx, id)
}

// Finish ends a build and answers how it stands now. A success needs a digest for every image; the fleet then finds its newest
// release. For a build that has ended already only a log that is still missing is taken.
func (r *Releases) Finish(ctx context.Context, tx *db.Tx, id int64, result api.BuildResult) (api.Build, error) {
	switch result.Status {
	case api.StatusSuccess, api.StatusFailed, api.StatusCancelled:
	default:
		return api.Build{}, api.Errorf(api.Invalid, "A build ends as success, failed or cancelled, not as %q.", result.Status)
	}
	if err := r.endWithoutRight(ctx, tx, id); err != nil {
		return api.Build{}, err
	}
	b, err := r.Get(ctx, tx, id)
	if err != nil {
		return api.Build{}, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE "release" SET build_log = $1 WHERE id = $2 AND build_log IS NULL`,
		logOf(result), id); err != nil {
		return api.Build{}, fmt.Errorf("build %d: log: %w", id, err)
	}
	if b.Status != api.StatusRunning {
		return b, nil
	}
	images, err := buildImages(ctx, tx, id)
	if err != nil {
		return api.Build{}, err
	}
	if err := checkResult(images, result); err != nil {
		return api.Build{}, fmt.Errorf("finish build %d: %w", id, err)
	}
	for _, image := range result.Images {
		if err := finishImage(ctx, tx, id, result, image); err != nil {
			return api.Build{}, err
		}
	}
	if err := addLabels(ctx, tx, id, images, result); err != nil {
		return api.Build{}, err
	}
	if result.Status == api.StatusSuccess {
		if err := r.keepStatement(ctx, tx, b, images, result); err != nil {
			return api.Build{}, err
		}
	}
	if err := endImages(ctx, tx, id, result.Status); err != nil {
		return api.Build{}, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE "release" SET status = $1, end_timestamp = $2, update_timestamp = $2 WHERE id = $3`,
		result.Status, tx.NowText(), id); err != nil {
		return api.Build{}, fmt.Errorf("finish build %d: %w", id, err)
	}
	if err := r.cfg.Fleets.Track(ctx, tx, b.Fleet.ID); err != nil {
		return api.Build{}, err
	}
	return r.Get(ctx, tx, id)
}

// checkResult refuses results for images of other builds, and a success of which a part is missing.
func checkResult(images []api.BuildImage, result api.BuildResult) error {
	good := map[int64]bool{}
	for _, image := range result.Images {
		if !slices.ContainsFunc(images, func(i api.BuildImage) bool { return i.ID == image.ID }) {
			return api.Errorf(api.Invalid, "Image %d is not part of the build.", image.ID)
		}
		switch image.Status {
		case api.StatusSuccess:
			if !digestForm.MatchString(image.Digest) || image.Size < 0 {
				return api.Errorf(api.Invalid, "Image %d: success needs the digest of what was pushed.", image.ID)
			}
			good[image.ID] = true
		case api.StatusFailed, api.StatusCancelled:
		default:
			return api.Errorf(api.Invalid, "Image %d: unknown status %q.", image.ID, image.Status)
		}
	}
	if result.Status != api.StatusSuccess {
		return nil
	}
	if len(images) == 0 {
		return api.Errorf(api.Invalid, "A build without images cannot succeed.")
	}
	for _, image := range images {
		if !good[image.ID] {
			return api.Errorf(api.Invalid, "The build cannot succeed: service %q has no image.", image.Service)
		}
	}
	return nil
}

// finishImage records what became of one image.
func finishImage(ctx context.Context, tx *db.Tx, build int64, result api.BuildResult, image api.BuildImageResult) error {
	var pushed, digest, size any
	if image.Status == api.StatusSuccess {
		pushed, digest, size = tx.NowText(), image.Digest, image.Size
	}
	message := image.Error
	if message == "" && image.Status == api.StatusFailed {
		message = result.Error
	}
	_, err := tx.ExecContext(ctx, `
UPDATE image SET status = $1, end_timestamp = $2, push_timestamp = $3, content_hash = $4, image_size = $5,
    dockerfile = NULLIF($6, ''), project_type = NULLIF($7, ''), error_message = NULLIF($8, '') WHERE id = $9`,
		image.Status, tx.NowText(), pushed, digest, size,
		cut(image.Dockerfile, maxText), cut(image.ProjectType, 255), cut(message, maxText), image.ID)
	if err != nil {
		return fmt.Errorf("build %d: image %d: %w", build, image.ID, err)
	}
	return nil
}

// addLabels keeps the labels of the images. A label in the composition wins over the image's own of that name, and devices let
// the rows made here win over the composition; so those are left out, and with them what a device would refuse the whole
// release for.
func addLabels(ctx context.Context, tx *db.Tx, build int64, images []api.BuildImage, result api.BuildResult) error {
	var text string
	if err := tx.QueryRowContext(ctx, `SELECT composition FROM "release" WHERE id = $1`, build).Scan(&text); err != nil {
		return fmt.Errorf("build %d: composition: %w", build, err)
	}
	var composition struct {
		Services map[string]struct{ Labels labelNames }
	}
	_ = json.Unmarshal([]byte(text), &composition) // one of another form names no labels
	service := map[int64]string{}
	for _, image := range images {
		service[image.ID] = image.Service
	}
	for _, image := range result.Images {
		composed := composition.Services[service[image.ID]].Labels
		for name, value := range image.Labels {
			if composed[name] || fleet.CheckLabelName(name) != nil || len(value) > maxText {
				continue
			}
			_, err := tx.ExecContext(ctx, `
INSERT INTO image_label (created_at, release_image, label_name, value)
SELECT $1, id, $2, $3 FROM release_image WHERE is_part_of__release = $4 AND image = $5
ON CONFLICT (release_image, label_name) DO NOTHING`,
				tx.NowText(), name, value, build, image.ID)
			if err != nil {
				return fmt.Errorf("build %d: image %d: label %q: %w", build, image.ID, name, err)
			}
		}
	}
	return nil
}

// labelNames are the names of a compose block's labels, which stand there as an object or as a list of "name=value".
type labelNames map[string]bool

// UnmarshalJSON reads either form; anything else has no names.
func (l *labelNames) UnmarshalJSON(data []byte) error {
	*l = labelNames{}
	var object map[string]any
	if json.Unmarshal(data, &object) == nil {
		for name := range object {
			(*l)[name] = true
		}
		return nil
	}
	var list []string
	if json.Unmarshal(data, &list) == nil {
		for _, entry := range list {
			name, _, _ := strings.Cut(entry, "=")
			(*l)[name] = true
		}
	}
	return nil
}

// logOf is the text that people get to see: the end of a long log, and the error if it is not in it.
func logOf(result api.BuildResult) string {
	text := result.Log
	if result.Error != "" && !strings.Contains(text, result.Error) {
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		text += result.Error + "\n"
	}
	if len(text) > maxLog {
		const mark = "[the beginning of this log was cut off]\n"
		text = mark + strings.ToValidUTF8(text[len(text)-maxLog+len(mark):], "")
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD") // no database keeps a zero byte
}

func cut(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
}
