package account_test

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// until shows a folder of migrations without those from a number on.
type until struct {
	fs.FS
	number string
}

func (u until) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := fs.ReadDir(u.FS, name)
	var kept []fs.DirEntry
	for _, e := range all {
		if e.IsDir() || filepath.Base(e.Name()) < u.number {
			kept = append(kept, e)
		}
	}
	return kept, err
}

func (u until) Open(name string) (fs.File, error) {
	if base := filepath.Base(name); strings.HasSuffix(base, ".sql") && base >= u.number {
		return nil, fs.ErrNotExist
	}
	return u.FS.Open(name)
}

func (u until) Sub(dir string) (fs.FS, error) {
	sub, err := fs.Sub(u.FS, dir)
	return until{sub, u.number}, err
}

// A server that had members, teams and limited keys before there were verbs has them after.
func TestLevelsBecomeVerbs(t *testing.T) {
	before := []fs.FS{until{audit.Migrations(), "0090"}, until{account.Migrations(), "0090"}, dbtest.Schema("0010_above.sql", above)}
	d := dbtest.Open(t, nil, before...)
	write := func(query string) {
		t.Helper()
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.ExecContext(t.Context(), query)
			return err
		}); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	for _, query := range []string{
		`INSERT INTO actor (id) VALUES (1), (2), (3)`,
		`INSERT INTO organization (id, created_at, name, handle) VALUES (1, '2026-01-01T00:00:00.000Z', 'acme', 'acme')`,
		`INSERT INTO "user" (id, created_at, actor, username, email, password) VALUES (1, '2026-01-01T00:00:00.000Z', 1, 'ann', 'ann@example.com', 'x'),
			(2, '2026-01-01T00:00:00.000Z', 2, 'bob', 'bob@example.com', 'x')`,
		`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role)
			VALUES ('2026-01-01T00:00:00.000Z', 1, 1, 1)`,
		`INSERT INTO application (id, actor, organization) VALUES (1, 3, 1)`,
		`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
			VALUES ('2026-01-01T00:00:00.000Z', 2, 1, 2)`,
		`INSERT INTO team (id, created_at, belongs_to__organization, name) VALUES (1, '2026-01-01T00:00:00.000Z', 1, 'crew')`,
		`INSERT INTO team_application_access (created_at, team, grants_access_to__application, application_membership_role)
			VALUES ('2026-01-01T00:00:00.000Z', 1, 1, 3)`,
		`INSERT INTO api_key (id, created_at, kind, key_hash, is_of__actor, max_level) VALUES
			(1, '2026-01-01T00:00:00.000Z', 'user', 'a', 1, 1), (2, '2026-01-01T00:00:00.000Z', 'user', 'b', 1, 2),
			(3, '2026-01-01T00:00:00.000Z', 'user', 'c', 1, 3), (4, '2026-01-01T00:00:00.000Z', 'user', 'd', 1, 4)`,
	} {
		write(query)
	}
	if err := d.Migrate(t.Context(), audit.Migrations(), account.Migrations(), dbtest.Schema("0010_above.sql", above)); err != nil {
		t.Fatal(err)
	}
	if err := d.Read(t.Context(), func(tx *db.Tx) error {
		have, err := rights.FleetVerbs(t.Context(), tx, access.Caller{Kind: access.User, User: 2}, 1)
		if have != access.Operator.Verbs() {
			t.Errorf("an operator has %s", have)
		}
		for key, l := range access.Levels() {
			have, err := rights.FleetVerbs(t.Context(), tx, access.Caller{Kind: access.ScopedKey, User: 1, Key: int64(key + 1)}, 1)
			if err != nil || have != l.Verbs() {
				t.Errorf("a key of the level %s has %s, %v", l, have, err)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// What refers to the roles refers to them still, and new ones are counted from a hundred on.
	write(`INSERT INTO application_membership_role (created_at, modified_at, name, verbs, mask, belongs_to__organization)
		VALUES ('2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', 'operator', '["read"]', 1, 1)`)
	write(`UPDATE user_application_membership SET application_membership_role = 100`)
	err := d.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.ExecContext(t.Context(), `DELETE FROM application_membership_role WHERE id = 100`)
		return err
	})
	if err == nil {
		t.Error("a role is deleted that a membership refers to")
	}
}

// A build that runs while a server is brought to a version where sessions have logins goes on, and sessions of unknown proof count as proved
// with a password.
func TestSessionsOfBeforeHaveALogin(t *testing.T) {
	d := dbtest.Open(t, nil, until{audit.Migrations(), "0133"}, until{account.Migrations(), "0133"}, dbtest.Schema("0010_above.sql", above))
	err := d.Write(t.Context(), func(tx *db.Tx) error {
		for _, query := range []string{
			`INSERT INTO actor (id) VALUES (1)`,
			`INSERT INTO "user" (id, created_at, actor, username, email, password) VALUES (1, '2026-01-01T00:00:00.000Z', 1, 'ann', 'ann@example.com', 'x')`,
			`INSERT INTO session ("user", token_hash, created_at, authenticated_at, expires_at, opened_by) VALUES
				(1, 'a', '2026-01-02T00:00:00.000Z', '2026-01-01T00:00:00.000Z', 'x', 'provider'),
				(1, 'b', '2026-01-02T00:00:00.000Z', '2026-01-01T00:00:00.000Z', 'x', 'another session')`,
		} {
			if _, err := tx.ExecContext(t.Context(), query); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context(), audit.Migrations(), account.Migrations(), dbtest.Schema("0010_above.sql", above)); err != nil {
		t.Fatal(err)
	}
	var got []string
	err = d.Read(t.Context(), func(tx *db.Tx) (err error) {
		got, err = db.Column[string](t.Context(), tx, `SELECT token_hash || ' ' || login || ' ' || proved_by FROM session ORDER BY id`)
		return err
	})
	if want := []string{"a 2026-01-01T00:00:00.000Z provider", "b 2026-01-01T00:00:00.000Z password"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
