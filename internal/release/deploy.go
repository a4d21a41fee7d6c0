package release

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// A deployment is a release that a client makes row by row, of images that it built itself, as balena deploy does: it makes the
// release, an image for each service, says which belongs to which, pushes, says what it pushed, and calls the release a success. It
// pushes into quarantine; calling it a success only asks for the promotion, which a builder does, see promotion.go. Rows are what
// tells a place in quarantine from a repository of a release: a name says nothing.

const (
	// maxOpenDeployments bounds what a fleet's people can leave half done, and with it what lies in quarantine.
	maxOpenDeployments = 16
	// maxLooseImages bounds the images that somebody made and has not put into a release.
	maxLooseImages = 2 * maxServices
	// deployTime is how long a client may take to push.
	deployTime = 6 * time.Hour
	// looseTime is how long an image may belong to no release.
	looseTime = time.Hour
	// maxMessage is what balena's client cuts its error messages to, and more than it needs.
	maxMessage = 300_000
)

var commitForm = pattern.New(`^[0-9a-f]{32}([0-9a-f]{8})?$`)

// givenOnce are the columns of a release that are said when it is made, and never again.
var givenOnce = []string{"belongs_to__application", "commit", "composition", "source", "start_timestamp", "contract", "is_created_by__user"}

// errQuarantine answers whoever wants to change an image that is not theirs to change any more.
var errQuarantine = api.Errorf(api.Forbidden, "Only whoever made a release can add to it, and only while it is being pushed.")

// checkMade looks at a release that a client makes, and takes what it may not choose out of its hands.
func checkMade(ctx context.Context, tx *db.Tx, c *odata.Change, fleetID int64) error {
	if c.Caller.Kind == access.System {
		return nil
	}
	if status := c.Values["status"]; status != nil && status != api.StatusRunning {
		return api.Errorf(api.Invalid, "status: a release begins as %q; push its images, and say then that it is a success.", api.StatusRunning)
	}
	if by := c.Values["is_created_by__user"]; by != nil && by != c.Caller.User {
		return api.Errorf(api.Invalid, "is_created_by__user: must be you.")
	}
	if commit := c.Values["commit"]; commit != nil && !commitForm.MatchString(fmt.Sprint(commit)) {
		return api.Errorf(api.Invalid, "commit: must be 32 or 40 hexadecimal digits.")
	}
	text, _ := c.Values["composition"].(json.RawMessage)
	var composition struct {
		Services map[string]json.RawMessage `json:"services"`
	}
	if json.Unmarshal(text, &composition) != nil || len(composition.Services) == 0 || len(composition.Services) > maxServices {
		return api.Errorf(api.Invalid, "composition: must be an object with 1 to %d services.", maxServices)
	}
	if err := checkContract(c); err != nil {
		return err
	}
	var open int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM deployment d JOIN "release" r ON r.id = d."release"
WHERE d.emptied_at IS NULL AND r.status = 'running' AND r.belongs_to__application = ?`, fleetID).Scan(&open); err != nil {
		return fmt.Errorf("count open deployments: %w", err)
	}
	if open >= maxOpenDeployments {
		return api.Errorf(api.Conflict, "%d releases of this fleet are being pushed already; finish or cancel one of them.", open)
	}
	c.Values["status"], c.Values["source"], c.Values["is_created_by__user"] = api.StatusRunning, "local", c.Caller.User
	return nil
}

func checkContract(c *odata.Change) error {
	if text, ok := c.Values["contract"].(json.RawMessage); ok && (len(text) > maxText*4 || len(text) == 0 || text[0] != '{' && string(text) != "null") {
		return api.Errorf(api.Invalid, "contract: must be an object of at most %d bytes.", maxText*4)
	}
	return nil
}

// afterMade gives a new release its deployment, and keeps what its maker showed: it ends with that.
func (r *Releases) afterMade(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op != odata.Create || c.Caller.Kind == access.System {
		return nil
	}
	id := c.IDs[0]
	proof, err := account.ProofOf(ctx, tx, c.Caller)
	if err != nil {
		return fmt.Errorf("make release: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `UPDATE "release" SET opened_by_key = ?, opened_with_login = ? WHERE id = ?`, proof.Key, proof.Login, id); err != nil {
		return fmt.Errorf("make release %d: %w", id, err)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO deployment ("release", created_at) VALUES (?, ?)`, id, tx.NowText()); err != nil {
		return fmt.Errorf("make release %d: %w", id, err)
	}
	b, err := r.Get(ctx, tx, id)
	if err != nil {
		return err
	}
	return recordBuild(ctx, tx, c.Caller, b, c.Values["is_final"] == false)
}

// deployment is what is known of one, and of its release.
type deployment struct {
	status    string
	fleet     int64
	maker     sql.NullInt64
	finalised bool
}

// open reports whether a caller may still add to it.
func (d deployment) open(by access.Caller) bool {
	return d.status == api.StatusRunning && !d.finalised && (by.Kind == access.System || d.maker.Valid && d.maker.Int64 == by.User)
}

// deploymentOf finds the deployment of a release; found is false for a release that a build made.
func deploymentOf(ctx context.Context, tx *db.Tx, release int64) (d deployment, found bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT r.status, r.belongs_to__application, r.is_created_by__user, d.finalised_at IS NOT NULL
FROM deployment d JOIN "release" r ON r.id = d."release" WHERE d."release" = ?`, release).Scan(&d.status, &d.fleet, &d.maker, &d.finalised)
	if errors.Is(err, sql.ErrNoRows) {
		return d, false, nil
	}
	if err != nil {
		return d, false, fmt.Errorf("deployment %d: %w", release, err)
	}
	return d, true, nil
}

// changeDeployed is a change of status of a release that a client makes. handled is false when it is one that every release knows.
func (r *Releases) changeDeployed(ctx context.Context, tx *db.Tx, c *odata.Change, status any) (handled bool, err error) {
	if len(c.IDs) != 1 || status != api.StatusSuccess && status != api.StatusFailed {
		return false, nil
	}
	id := c.IDs[0]
	d, found, err := deploymentOf(ctx, tx, id)
	if err != nil || !found {
		return false, err
	}
	delete(c.Values, "status")
	delete(c.Values, "end_timestamp") // the clock of the server says when
	if c.Caller.User != d.maker.Int64 {
		return true, errQuarantine
	}
	switch {
	case status == d.status: // said again
	case d.status != api.StatusRunning:
		return true, api.Errorf(api.Invalid, "The release has ended: %s.", d.status)
	case status == api.StatusFailed && d.finalised:
		return true, api.Errorf(api.Invalid, "The release is being checked; cancel it instead.")
	case status == api.StatusFailed:
		c.Values["status"], c.Values["end_timestamp"] = api.StatusFailed, tx.NowText()
		return true, endImages(ctx, tx, id, api.StatusFailed)
	default:
		if !d.finalised {
			if err := r.finalise(ctx, tx, id); err != nil {
				return true, err
			}
		}
		c.Then = func(ctx context.Context) error { return r.awaitPromotion(ctx, id) }
	}
	return true, nil
}

// finalise closes the quarantine of a release and gives its images the places where a builder is to put them.
func (r *Releases) finalise(ctx context.Context, tx *db.Tx, id int64) error {
	if _, err := tx.ExecContext(ctx, `UPDATE deployment SET finalised_at = ? WHERE "release" = ?`, tx.NowText(), id); err != nil {
		return fmt.Errorf("finalise release %d: %w", id, err)
	}
	// What the client says of its images stands, but whether they are good is for the builder to say.
	if _, err := tx.ExecContext(ctx, `UPDATE image SET status = 'running' WHERE id IN (SELECT image FROM quarantine WHERE "release" = ?)
AND status = 'success'`, id); err != nil {
		return fmt.Errorf("finalise release %d: %w", id, err)
	}
	return r.relocate(ctx, tx, id)
}

// relocate takes the names of places in quarantine away from the images of a release.
func (r *Releases) relocate(ctx context.Context, tx *db.Tx, id int64) error {
	images, err := db.Column[int64](ctx, tx, `SELECT i.id FROM quarantine q JOIN image i ON i.id = q.image
WHERE q."release" = ? AND i.is_quarantined = 1 ORDER BY i.id`, id)
	if err != nil {
		return fmt.Errorf("release %d: its quarantine: %w", id, err)
	}
	for _, image := range images {
		if _, err := tx.ExecContext(ctx, `UPDATE image SET is_stored_at__image_location = ?, is_quarantined = 0 WHERE id = ?`,
			r.cfg.Site.Host("registry2")+"/v2/"+randomHex(), image); err != nil {
			return fmt.Errorf("release %d: image %d: %w", id, image, err)
		}
	}
	return nil
}

// beforeImage makes images for clients that build by themselves, and lets them say what they pushed.
func (r *Releases) beforeImage(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Caller.Kind == access.System || c.Op == odata.Delete {
		return nil
	}
	if err := checkImage(c); err != nil {
		return err
	}
	if c.Op == odata.Update {
		return mayDescribe(ctx, tx, c)
	}
	var loose int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM quarantine WHERE made_by = ? AND "release" IS NULL`, c.Caller.User).Scan(&loose); err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	if loose >= maxLooseImages {
		return api.Errorf(api.Conflict, "%d images that you made belong to no release yet.", loose)
	}
	if status := c.Values["status"]; status != nil && status != api.StatusRunning {
		return api.Errorf(api.Invalid, "status: an image begins as %q.", api.StatusRunning)
	}
	c.Values["created_at"], c.Values["start_timestamp"], c.Values["status"] = tx.NowText(), tx.NowText(), api.StatusRunning
	c.Values["is_stored_at__image_location"], c.Values["is_quarantined"] = r.cfg.Site.Host("registry2")+"/v2/"+randomHex(), true
	return nil
}

// checkImage bounds what a client says of an image.
func checkImage(c *odata.Change) error {
	switch c.Values["status"] {
	case nil, api.StatusRunning, api.StatusSuccess, api.StatusFailed:
	default:
		return api.Errorf(api.Invalid, "status: an image is running, success or failed.")
	}
	if hash, ok := c.Values["content_hash"].(string); ok && !digestForm.MatchString(hash) {
		return api.Errorf(api.Invalid, "content_hash: must be sha256: and 64 hexadecimal digits.")
	}
	if c.Values["status"] == api.StatusSuccess && (c.Values["content_hash"] == nil || c.Values["push_timestamp"] == nil) {
		return api.Errorf(api.Invalid, "content_hash: an image that succeeded was pushed; say what, and push_timestamp, when.")
	}
	for column, most := range map[string]int{"dockerfile": maxText, "project_type": 255, "error_message": maxMessage, "build_log": maxLog} {
		if text, ok := c.Values[column].(string); ok {
			c.Values[column] = cut(text, most)
		}
	}
	return checkContract(c)
}

// mayDescribe lets only the maker say something of an image, as long as its release is being pushed.
func mayDescribe(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if _, moved := c.Values["is_a_build_of__service"]; moved {
		return api.Errorf(api.Forbidden, "is_a_build_of__service: an image is made for a service, and stays its.")
	}
	for _, id := range c.IDs {
		var release sql.NullInt64
		err := tx.QueryRowContext(ctx, `SELECT "release" FROM quarantine WHERE image = ?`, id).Scan(&release)
		if errors.Is(err, sql.ErrNoRows) {
			return errQuarantine
		}
		if err != nil {
			return fmt.Errorf("change image %d: %w", id, err)
		}
		d, found, err := deploymentOf(ctx, tx, release.Int64)
		if err != nil {
			return err
		}
		if !found || !d.open(c.Caller) {
			return errQuarantine
		}
	}
	return nil
}

// afterImage gives a new image its place in quarantine.
func afterImage(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op != odata.Create || c.Caller.Kind == access.System {
		return nil
	}
	location, _ := c.Values["is_stored_at__image_location"].(string)
	_, repository, _ := strings.Cut(location, "/")
	if _, err := tx.ExecContext(ctx, `INSERT INTO quarantine (image, created_at, made_by, repository) VALUES (?, ?, ?, ?)`,
		c.IDs[0], tx.NowText(), c.Caller.User, repository); err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	return nil
}

// putIn says to which release an image belongs: of the same maker and the same fleet, one for each service.
func putIn(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Caller.Kind == access.System || c.Op != odata.Create {
		return nil
	}
	image, _ := c.Values["image"].(int64)
	release, _ := c.Values["is_part_of__release"].(int64)
	d, found, err := deploymentOf(ctx, tx, release)
	if err != nil {
		return err
	}
	if !found || !d.open(c.Caller) {
		return errQuarantine
	}
	var fleetID, service int64
	err = tx.QueryRowContext(ctx, `SELECT s.application, s.id FROM quarantine q JOIN image i ON i.id = q.image
JOIN service s ON s.id = i.is_a_build_of__service WHERE q.image = ? AND q."release" IS NULL AND q.made_by = ?`, image, c.Caller.User).Scan(&fleetID, &service)
	if errors.Is(err, sql.ErrNoRows) || err == nil && fleetID != d.fleet {
		return api.Errorf(api.Invalid, "image: must be one that you made for a service of the release's fleet, and put into no other release.")
	}
	if err != nil {
		return fmt.Errorf("put image %d into release %d: %w", image, release, err)
	}
	var twice bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM release_image ri JOIN image i ON i.id = ri.image
WHERE ri.is_part_of__release = ? AND i.is_a_build_of__service = ?)`, release, service).Scan(&twice); err != nil {
		return fmt.Errorf("put image %d into release %d: %w", image, release, err)
	}
	if twice {
		return api.Errorf(api.Invalid, "image: the release has an image of that service already.")
	}
	if _, err := tx.ExecContext(ctx, `UPDATE quarantine SET "release" = ? WHERE image = ?`, release, image); err != nil {
		return fmt.Errorf("put image %d into release %d: %w", image, release, err)
	}
	return nil
}

// alongside lets the maker of a release say what goes with one of its images, while it is being pushed.
func alongside(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Caller.Kind == access.System || c.Op != odata.Create {
		return nil
	}
	inside, _ := c.Values["release_image"].(int64)
	var release int64
	err := tx.QueryRowContext(ctx, `SELECT is_part_of__release FROM release_image WHERE id = ?`, inside).Scan(&release)
	if errors.Is(err, sql.ErrNoRows) {
		return errQuarantine
	}
	if err != nil {
		return fmt.Errorf("release image %d: %w", inside, err)
	}
	d, found, err := deploymentOf(ctx, tx, release)
	if err != nil {
		return err
	}
	if !found || !d.open(c.Caller) {
		return errQuarantine
	}
	if value, _ := c.Values["value"].(string); len(value) > maxText {
		return api.Errorf(api.TooLarge, "value: is longer than %d bytes.", maxText)
	}
	return nil
}

// quarantineScope is what a client asks for: repository:v2/<32 hex>[:tag]:pull,push.
var quarantineScope = pattern.New(`^repository:(v2/[0-9a-f]{32})(?::[\w.-]+)?:([a-z,*]+)$`)

// PushGrants says into which places in quarantine a caller may push: those of a release of their own that is being pushed right now,
// in a fleet of which they may make releases. It leaves out everything else, as the protocol wants.
func (r *Releases) PushGrants(ctx context.Context, tx *db.Tx, by access.Caller, scopes []string) ([]api.Grant, error) {
	if by.Kind != access.User && by.Kind != access.ScopedKey {
		return nil, nil
	}
	var grants []api.Grant
	allowed := map[int64]bool{}
	for _, s := range scopes {
		m := quarantineScope.FindStringSubmatch(s)
		if m == nil || !slices.Contains(strings.Split(m[2], ","), "push") || len(grants) >= maxServices ||
			slices.ContainsFunc(grants, func(g api.Grant) bool { return g.Name == m[1] }) {
			continue
		}
		var fleetID int64
		err := tx.QueryRowContext(ctx, `SELECT r.belongs_to__application FROM quarantine q JOIN deployment d ON d."release" = q."release"
JOIN "release" r ON r.id = d."release" WHERE q.repository = ? AND q.made_by = ? AND r.is_created_by__user = ? AND r.status = 'running'
AND d.finalised_at IS NULL`, m[1], by.User, by.User).Scan(&fleetID)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("registry token: %w", err)
		}
		may, known := allowed[fleetID]
		if !known {
			verbs, err := rights.FleetVerbs(ctx, tx, by, fleetID)
			if err != nil {
				return nil, fmt.Errorf("registry token: %w", err)
			}
			may = verbs.Has(access.Releases)
			allowed[fleetID] = may
		}
		if may {
			grants = append(grants, api.Grant{Type: "repository", Name: m[1], Actions: []string{"pull", "push"}, Quarantine: true})
		}
	}
	return grants, nil
}

// labelHooks and environmentHooks are the checks of what goes with an image.
func labelHooks() []odata.Hook { return []odata.Hook{alongside, fleet.ValidateLabel} }

func environmentHooks() []odata.Hook { return []odata.Hook{alongside, fleet.ValidateEnvVar} }
