package stored

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Usage is what the whole registry keeps, organization by organization.
func (s *Rows) Usage(ctx context.Context, tx *db.Tx) (u api.RegistryUsage, err error) {
	err = tx.QueryRowContext(ctx, `SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT), CAST(COALESCE(SUM(sweeping), 0) AS BIGINT) FROM registry_blob`).
		Scan(&u.Blobs, &u.Bytes, &u.Sweeping)
	if err == nil {
		err = tx.QueryRowContext(ctx, `SELECT COUNT(*), COUNT(unused_since) FROM registry_repository`).Scan(&u.Repositories, &u.Unused)
	}
	if err != nil {
		return u, fmt.Errorf("usage of the registry: %w", err)
	}
	if u.ScannedAt, err = scanned(ctx, tx); err != nil {
		return u, err
	}
	if s.cfg.Quota > 0 {
		u.Default = &s.cfg.Quota
	}
	ids, err := db.Column[int64](ctx, tx, `SELECT id FROM organization ORDER BY handle`)
	if err != nil {
		return u, fmt.Errorf("organizations: %w", err)
	}
	for _, id := range ids {
		use, err := s.Use(ctx, tx, id)
		if err != nil {
			return u, err
		}
		if use.Bytes > 0 || use.Own {
			u.Organizations = append(u.Organizations, use)
		}
	}
	return u, nil
}

// Use is what one organization keeps.
func (s *Rows) Use(ctx context.Context, tx *db.Tx, organization int64) (use api.RegistryUse, err error) {
	if err = tx.QueryRowContext(ctx, `SELECT handle FROM organization WHERE id = ?`, organization).Scan(&use.Organization); err != nil {
		return use, fmt.Errorf("organization %d: %w", organization, err)
	}
	if use.Bytes, _, err = usedBy(ctx, tx, organization); err != nil {
		return use, err
	}
	quota, own, err := s.quotaOf(ctx, tx, organization)
	if err != nil {
		return use, err
	}
	if use.Own = own; quota.Valid {
		use.Quota = &quota.Int64
	}
	var live int64
	err = tx.QueryRowContext(ctx, `SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM registry_blob WHERE digest IN (
SELECT l.digest FROM application a JOIN service s ON s.application = a.id JOIN image i ON i.is_a_build_of__service = s.id
JOIN registry_repository r ON r.image = i.id JOIN registry_link l ON l.repository = r.name
WHERE a.organization = ? AND i.status IN ('running', 'success'))`, organization).Scan(&live)
	if err != nil {
		return use, fmt.Errorf("what organization %d uses: %w", organization, err)
	}
	use.Unused = use.Bytes - live
	return use, nil
}

// UseOfMember is what an organization keeps, for one of its people; fleet by fleet for its administrators, as others need not know of all
// fleets. Whoever is none does not learn that it exists.
func (s *Rows) UseOfMember(ctx context.Context, tx *db.Tx, by access.Caller, handle string) (api.RegistryUse, error) {
	var id int64
	err := tx.QueryRowContext(ctx, `SELECT o.id FROM organization o JOIN organization_membership m ON m.is_member_of__organization = o.id
WHERE o.handle = ? AND m."user" = ?`, handle, by.User).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return api.RegistryUse{}, api.Errorf(api.NotFound, "There is no organization %q.", handle)
	}
	if err != nil {
		return api.RegistryUse{}, fmt.Errorf("organization %q: %w", handle, err)
	}
	use, err := s.Use(ctx, tx, id)
	if err != nil {
		return use, err
	}
	administers, err := rights.Administers(ctx, tx, by, id)
	if err != nil || !administers {
		return use, err
	}
	use.Fleets, err = fleets(ctx, tx, id)
	return use, err
}

// fleets adds up what each fleet of an organization has, and what it alone has.
func fleets(ctx context.Context, tx *db.Tx, organization int64) (list []api.FleetUse, err error) {
	rows, err := tx.QueryContext(ctx, `WITH has AS (
SELECT DISTINCT a.id AS fleet, a.slug AS slug, l.digest AS digest FROM application a JOIN service s ON s.application = a.id
JOIN image i ON i.is_a_build_of__service = s.id JOIN registry_repository r ON r.image = i.id JOIN registry_link l ON l.repository = r.name
WHERE a.organization = ?),
shared AS (SELECT digest, COUNT(*) AS n FROM has GROUP BY digest)
SELECT has.slug, CAST(SUM(b.size) AS BIGINT), CAST(COALESCE(SUM(CASE WHEN shared.n = 1 THEN b.size END), 0) AS BIGINT)
FROM has JOIN shared ON shared.digest = has.digest JOIN registry_blob b ON b.digest = has.digest GROUP BY has.slug ORDER BY has.slug`, organization)
	if err != nil {
		return nil, fmt.Errorf("what the fleets of organization %d have: %w", organization, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var f api.FleetUse
		if err := rows.Scan(&f.Fleet, &f.Bytes, &f.Alone); err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, rows.Err()
}

// SetQuota gives an organization a quota of its own, or the default again, and says whose it was.
func (s *Rows) SetQuota(ctx context.Context, tx *db.Tx, ask api.SetQuota) (organization int64, use api.RegistryUse, err error) {
	if ask.Bytes != nil && *ask.Bytes < 0 {
		return 0, use, api.Errorf(api.Invalid, "bytes: is negative")
	}
	err = tx.QueryRowContext(ctx, `SELECT id FROM organization WHERE handle = ?`, ask.Organization).Scan(&organization)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, use, api.Errorf(api.NotFound, "There is no organization %q.", ask.Organization)
	}
	if err == nil && ask.Default {
		_, err = tx.ExecContext(ctx, `DELETE FROM registry_quota WHERE organization = ?`, organization)
	} else if err == nil {
		_, err = tx.ExecContext(ctx, `INSERT INTO registry_quota (organization, bytes) VALUES (?, ?)
ON CONFLICT (organization) DO UPDATE SET bytes = excluded.bytes`, organization, ask.Bytes)
	}
	if err != nil {
		return 0, use, fmt.Errorf("quota of organization %q: %w", ask.Organization, err)
	}
	use, err = s.Use(ctx, tx, organization)
	return organization, use, err
}
