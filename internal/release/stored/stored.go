// Package stored owns the rows about what the registry keeps: which blobs, in which repositories, for which organization. The rows
// decide what is garbage and how much an organization has; the registry asks before it keeps a blob and after it has deleted one.
package stored

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbers 0200 to 0209.
func Migrations() fs.FS { return db.Folder(migrations) }

// Config is what the rows need to know.
type Config struct {
	Site api.Site `json:"-"`
	// Quota is how many bytes of distinct blobs an organization may have that has no quota of its own; 0: as many as it likes.
	Quota int64 `json:"quota,omitempty"`
	// MaxRepository bounds the bytes of one repository, which is those of one image; 0 means 32 GiB.
	MaxRepository int64 `json:"max_repository,omitempty"`
	// MaxLinks bounds the blobs of one repository; 0 means 4096.
	MaxLinks int64 `json:"max_links,omitempty"`
}

// Validate names the first field that is wrong.
func (c Config) Validate() error {
	switch {
	case c.Quota < 0:
		return errors.New("quota: is negative")
	case c.MaxRepository < 0:
		return errors.New("max_repository: is negative")
	case c.MaxLinks < 0:
		return errors.New("max_links: is negative")
	}
	return nil
}

// Rows are the package's functions with what they need.
type Rows struct{ cfg Config }

// New makes it.
func New(cfg Config) *Rows {
	if cfg.MaxRepository == 0 {
		cfg.MaxRepository = 32 << 30
	}
	if cfg.MaxLinks == 0 {
		cfg.MaxLinks = 4096
	}
	return &Rows{cfg: cfg}
}

var (
	repositoryForm = pattern.New(`^v2/[0-9a-f]{32}(-[0-9]{1,3})?$`)
	digestForm     = pattern.New(`^sha256:[0-9a-f]{64}$`)
)

// owner is whose a repository is.
type owner struct {
	image        int64
	status       string
	organization int64
	handle       string
}

// imageOf finds the image that a repository belongs to. The name of one that holds a part of it has a number behind it.
func (s *Rows) imageOf(ctx context.Context, tx *db.Tx, repository string) (o owner, found bool, err error) {
	if !repositoryForm.MatchString(repository) {
		return o, false, api.Errorf(api.Invalid, "repository: %q is not the name of one", repository)
	}
	base, _, _ := strings.Cut(repository, "-")
	const find = `SELECT i.id, i.status, o.id, o.handle FROM image i JOIN service s ON s.id = i.is_a_build_of__service
JOIN application a ON a.id = s.application JOIN organization o ON o.id = a.organization WHERE i.is_stored_at__image_location `
	err = tx.QueryRowContext(ctx, find+`= ?`, s.cfg.Site.Host("registry2")+"/"+base).Scan(&o.image, &o.status, &o.organization, &o.handle)
	if errors.Is(err, sql.ErrNoRows) { // the server may have had another name or port then
		err = tx.QueryRowContext(ctx, find+`LIKE ?`, "%/"+base).Scan(&o.image, &o.status, &o.organization, &o.handle)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return o, false, nil
	}
	if err != nil {
		return o, false, fmt.Errorf("repository %s: %w", repository, err)
	}
	return o, true, nil
}

// pushing finds the owner of a repository into which a running build pushes.
func (s *Rows) pushing(ctx context.Context, tx *db.Tx, repository string) (owner, error) {
	o, found, err := s.imageOf(ctx, tx, repository)
	if err == nil && (!found || o.status != api.StatusRunning) {
		err = api.Errorf(api.NotFound, "no build that runs pushes to %s", repository)
	}
	return o, err
}

// used is what an organization has: the bytes of its distinct blobs, and its largest. What is gone counts until it is collected.
const used = ` FROM registry_blob WHERE digest IN (
SELECT l.digest FROM application a JOIN service s ON s.application = a.id JOIN image i ON i.is_a_build_of__service = s.id
JOIN registry_repository r ON r.image = i.id JOIN registry_link l ON l.repository = r.name WHERE a.organization = ?1
UNION ALL
SELECT l.digest FROM registry_repository r JOIN registry_link l ON l.repository = r.name WHERE r.image IS NULL AND r.organization = ?1)`

// account is how an organization stands with its quota.
type account struct {
	used, largest int64
	quota         sql.NullInt64
}

func (a account) left() int64 { return a.quota.Int64 - a.used }

// accountOf adds up what an organization has, if it has a quota.
func (s *Rows) accountOf(ctx context.Context, tx *db.Tx, organization int64) (a account, err error) {
	if a.quota, _, err = s.quotaOf(ctx, tx, organization); err != nil || !a.quota.Valid {
		return a, err
	}
	a.used, a.largest, err = usedBy(ctx, tx, organization)
	return a, err
}

func usedBy(ctx context.Context, tx *db.Tx, organization int64) (bytes, largest int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT), COALESCE(MAX(size), 0)`+used, organization).Scan(&bytes, &largest)
	if err != nil {
		return 0, 0, fmt.Errorf("what organization %d has in the registry: %w", organization, err)
	}
	return bytes, largest, nil
}

// quotaOf is an organization's own quota, or the server's default.
func (s *Rows) quotaOf(ctx context.Context, tx *db.Tx, organization int64) (quota sql.NullInt64, own bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT bytes FROM registry_quota WHERE organization = ?`, organization).Scan(&quota)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return sql.NullInt64{Int64: s.cfg.Quota, Valid: s.cfg.Quota > 0}, false, nil
	case err != nil:
		return quota, false, fmt.Errorf("quota of organization %d: %w", organization, err)
	}
	return quota, true, nil
}

// full is the refusal of what does not fit.
func full(handle string, a account, what string) error {
	return api.Errorf(api.Forbidden, "the images of organization %s take %s of the %s that it may have%s: delete releases that no device needs, "+
		"or ask the operator for a larger quota (what is deleted counts until it is collected, after an hour or two)",
		handle, api.FormatBytes(a.used), api.FormatBytes(a.quota.Int64), what)
}

// Room says how large a blob may be that a build begins to push.
func (s *Rows) Room(ctx context.Context, tx *db.Tx, repository string) (api.RegistryRoom, error) {
	o, err := s.pushing(ctx, tx, repository)
	if err != nil {
		return api.RegistryRoom{}, err
	}
	room := api.RegistryRoom{Organization: o.handle, Largest: -1}
	a, err := s.accountOf(ctx, tx, o.organization)
	switch {
	case err != nil:
		return room, err
	case !a.quota.Valid:
		return room, nil
	case a.left() <= 0:
		return room, full(o.handle, a, "")
	}
	room.Largest = max(a.left(), a.largest)
	return room, nil
}

// MayBuild refuses a build for an organization that could not push one.
func (s *Rows) MayBuild(ctx context.Context, tx *db.Tx, fleet int64) error {
	var o owner
	err := tx.QueryRowContext(ctx, `SELECT o.id, o.handle FROM application a JOIN organization o ON o.id = a.organization WHERE a.id = ?`, fleet).
		Scan(&o.organization, &o.handle)
	if err != nil {
		return fmt.Errorf("organization of fleet %d: %w", fleet, err)
	}
	a, err := s.accountOf(ctx, tx, o.organization)
	if err == nil && a.quota.Valid && a.left() <= 0 {
		err = full(o.handle, a, "")
	}
	return err
}

// Link writes down that a repository has a blob, before the registry keeps it. To do it again is harmless.
func (s *Rows) Link(ctx context.Context, tx *db.Tx, push api.RegistryPush) error {
	if err := checkBlob(push.Digest, push.Size); err != nil {
		return err
	}
	o, err := s.pushing(ctx, tx, push.Repository)
	if err != nil {
		return err
	}
	if err := s.enter(ctx, tx, push.Repository, o); err != nil {
		return err
	}
	if err := s.fits(ctx, tx, push, o); err != nil {
		return err
	}
	return link(ctx, tx, push.Repository, api.RegistryBlob{Digest: push.Digest, Size: push.Size})
}

func checkBlob(digest string, size int64) error {
	if !digestForm.MatchString(digest) {
		return api.Errorf(api.Invalid, "digest: %q is not a SHA-256", digest)
	}
	if size < 0 {
		return api.Errorf(api.Invalid, "size: is negative")
	}
	return nil
}

// enter makes the row of a repository.
func (s *Rows) enter(ctx context.Context, tx *db.Tx, repository string, o owner) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO registry_repository (name, created_at, image, organization) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO NOTHING`, repository, tx.NowText(), o.image, o.organization); err != nil {
		return fmt.Errorf("repository %s: %w", repository, err)
	}
	var removing bool
	if err := tx.QueryRowContext(ctx, `SELECT removing FROM registry_repository WHERE name = ?`, repository).Scan(&removing); err != nil {
		return fmt.Errorf("repository %s: %w", repository, err)
	}
	if removing {
		return api.Errorf(api.Conflict, "%s is being removed", repository)
	}
	return nil
}

// fits refuses a blob that would be too much for its repository or its organization.
func (s *Rows) fits(ctx context.Context, tx *db.Tx, push api.RegistryPush, o owner) error {
	var links, bytes int64
	err := tx.QueryRowContext(ctx, `SELECT COUNT(*), CAST(COALESCE(SUM(b.size), 0) AS BIGINT) FROM registry_link l JOIN registry_blob b ON b.digest = l.digest
WHERE l.repository = ? AND l.digest <> ?`, push.Repository, push.Digest).Scan(&links, &bytes)
	switch {
	case err != nil:
		return fmt.Errorf("repository %s: %w", push.Repository, err)
	case links >= s.cfg.MaxLinks:
		return api.Errorf(api.TooLarge, "an image has at most %d blobs", s.cfg.MaxLinks)
	case bytes+push.Size > s.cfg.MaxRepository:
		return api.Errorf(api.TooLarge, "an image is at most %s large", api.FormatBytes(s.cfg.MaxRepository))
	}
	a, err := s.accountOf(ctx, tx, o.organization)
	if err != nil || !a.quota.Valid || push.Size <= a.left() {
		return err
	}
	var has bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1`+used+` AND digest = ?2)`, o.organization, push.Digest).Scan(&has); err != nil {
		return fmt.Errorf("organization %d and %s: %w", o.organization, push.Digest, err)
	}
	if has {
		return nil
	}
	return full(o.handle, a, ", and a blob of "+api.FormatBytes(push.Size)+" does not fit")
}

// link writes a blob and its link.
func link(ctx context.Context, tx *db.Tx, repository string, b api.RegistryBlob) error {
	var sweeping bool
	err := tx.QueryRowContext(ctx, `INSERT INTO registry_blob (digest, size, created_at) VALUES (?, ?, ?)
ON CONFLICT (digest) DO UPDATE SET size = excluded.size RETURNING sweeping`, b.Digest, b.Size, tx.NowText()).Scan(&sweeping)
	if err != nil {
		return fmt.Errorf("blob %s: %w", b.Digest, err)
	}
	if sweeping {
		return api.Errorf(api.Unavailable, "%s is being deleted; try again in a moment", b.Digest)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO registry_link (repository, digest) VALUES (?, ?) ON CONFLICT (repository, digest) DO NOTHING`,
		repository, b.Digest); err != nil {
		return fmt.Errorf("blob %s of %s: %w", b.Digest, repository, err)
	}
	return nil
}
