-- +goose Up

-- Roles are sets of verbs (see internal/access), and an organization may have its own. The table is made anew because a name is now
-- unique in its organization only. Those who refer to it wait: their rows are there again before the transaction ends.
PRAGMA defer_foreign_keys = ON;
CREATE TABLE application_membership_role_new (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    modified_at TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    verbs TEXT NOT NULL,           -- as they are said: a JSON list of names
    mask INTEGER NOT NULL,         -- the same as bits
    belongs_to__organization INTEGER REFERENCES organization (id) ON DELETE CASCADE, -- NULL: built in
    UNIQUE (belongs_to__organization, name)
);
DROP TABLE application_membership_role;
ALTER TABLE application_membership_role_new RENAME TO application_membership_role;
INSERT INTO application_membership_role (id, created_at, modified_at, name, description, verbs, mask) VALUES
    (1, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', 'observer', 'Reads all of the fleet.', '["read"]', 1),
    (2, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', 'operator', 'Reads all of the fleet and works on its devices.',
        '["read","devices","actions","shell","keys"]', 31),
    (3, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', 'developer', 'Reads all of the fleet, works on its devices and decides what they run.',
        '["read","devices","actions","shell","keys","releases","settings"]', 127);
CREATE UNIQUE INDEX application_membership_role_built_in ON application_membership_role (name) WHERE belongs_to__organization IS NULL;
UPDATE sqlite_sequence SET seq = 99 WHERE name = 'application_membership_role';

-- Who has a role is asked before it is deleted.
CREATE INDEX user_application_membership_role ON user_application_membership (application_membership_role);
CREATE INDEX team_application_access_role ON team_application_access (application_membership_role);
CREATE INDEX application_invite_role ON application_invite (application_membership_role);

-- A membership may end by itself; NULL: it does not.
ALTER TABLE user_application_membership ADD COLUMN end_date TEXT;
ALTER TABLE team_application_access ADD COLUMN end_date TEXT;
ALTER TABLE organization_membership ADD COLUMN end_date TEXT;
CREATE INDEX user_application_membership_end ON user_application_membership (end_date) WHERE end_date IS NOT NULL;
CREATE INDEX team_application_access_end ON team_application_access (end_date) WHERE end_date IS NOT NULL;
CREATE INDEX organization_membership_end ON organization_membership (end_date) WHERE end_date IS NOT NULL;
