-- +goose Up

-- What a user may do in a fleet; the ids are the levels of internal/access. Administrators are those of the organization.
CREATE TABLE application_membership_role (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL
);
INSERT INTO application_membership_role (id, name, description) VALUES
    (1, 'observer', 'Reads all of the fleet.'),
    (2, 'operator', 'Reads all of the fleet and works on its devices.'),
    (3, 'developer', 'Reads all of the fleet, works on its devices and decides what they run.');

CREATE TABLE user_application_membership (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    "user" INTEGER NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    is_member_of__application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    application_membership_role INTEGER NOT NULL REFERENCES application_membership_role (id),
    UNIQUE ("user", is_member_of__application)
);
CREATE INDEX user_application_membership_application ON user_application_membership (is_member_of__application);

CREATE TABLE team (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    belongs_to__organization INTEGER NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT,
    UNIQUE (belongs_to__organization, name)
);

CREATE TABLE team_membership (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    "user" INTEGER NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    is_member_of__team INTEGER NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    UNIQUE ("user", is_member_of__team)
);
CREATE INDEX team_membership_team ON team_membership (is_member_of__team);

CREATE TABLE team_application_access (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    team INTEGER NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    grants_access_to__application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    application_membership_role INTEGER NOT NULL REFERENCES application_membership_role (id),
    UNIQUE (team, grants_access_to__application)
);
CREATE INDEX team_application_access_application ON team_application_access (grants_access_to__application);

CREATE TABLE organization_membership_tag (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_membership INTEGER NOT NULL REFERENCES organization_membership (id) ON DELETE CASCADE,
    tag_key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (organization_membership, tag_key)
);

-- An invitation waits for whoever holds its token, which is kept as a hash like every other.
CREATE TABLE invitee (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    email TEXT NOT NULL UNIQUE
);

CREATE TABLE organization_invite (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    invited INTEGER NOT NULL REFERENCES invitee (id),
    is_invited_to__organization INTEGER NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    organization_membership_role INTEGER NOT NULL REFERENCES organization_membership_role (id),
    message TEXT,
    is_created_by__user INTEGER REFERENCES "user" (id) ON DELETE CASCADE,
    token_hash TEXT NOT NULL UNIQUE,
    expires_at TEXT NOT NULL,
    UNIQUE (invited, is_invited_to__organization)
);
CREATE INDEX organization_invite_organization ON organization_invite (is_invited_to__organization);
CREATE INDEX organization_invite_creator ON organization_invite (is_created_by__user);

CREATE TABLE application_invite (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    invited INTEGER NOT NULL REFERENCES invitee (id),
    is_invited_to__application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    application_membership_role INTEGER NOT NULL REFERENCES application_membership_role (id),
    message TEXT,
    is_created_by__user INTEGER REFERENCES "user" (id) ON DELETE CASCADE,
    token_hash TEXT NOT NULL UNIQUE,
    expires_at TEXT NOT NULL,
    UNIQUE (invited, is_invited_to__application)
);
CREATE INDEX application_invite_application ON application_invite (is_invited_to__application);
CREATE INDEX application_invite_creator ON application_invite (is_created_by__user);

-- People of whoever runs the server: customers may open a fleet or a device to them for a time.
ALTER TABLE "user" ADD COLUMN is_support_staff INTEGER NOT NULL DEFAULT 0;

-- A key may be limited to a level and to some fleets, and may be one that reads one fleet. The table is made anew because the
-- kinds are part of it.
CREATE TABLE api_key_new (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    kind TEXT NOT NULL CHECK (kind IN ('user', 'provisioning', 'device', 'fleet')),
    key_hash TEXT NOT NULL UNIQUE,
    is_of__actor INTEGER NOT NULL REFERENCES actor (id) ON DELETE CASCADE,
    name TEXT,
    description TEXT,
    expiry_date TEXT,
    max_uses INTEGER CHECK (max_uses > 0), -- NULL: no bound
    uses INTEGER NOT NULL DEFAULT 0,       -- of a provisioning key: registrations; never above max_uses
    last_used_at TEXT,                     -- to the minute
    max_level INTEGER NOT NULL DEFAULT 4 CHECK (max_level BETWEEN 1 AND 4),
    is_for_some_fleets INTEGER NOT NULL DEFAULT 0,
    CHECK (max_uses IS NULL OR uses <= max_uses)
);
INSERT INTO api_key_new (id, created_at, kind, key_hash, is_of__actor, name, description, expiry_date, max_uses, uses, last_used_at)
SELECT id, created_at, kind, key_hash, is_of__actor, name, description, expiry_date, max_uses, uses, last_used_at FROM api_key;
DROP TABLE api_key;
ALTER TABLE api_key_new RENAME TO api_key;
CREATE INDEX api_key_actor ON api_key (is_of__actor);

-- The fleets of a key that is for some only. A fleet that is deleted leaves the key with the others, or with none.
CREATE TABLE api_key_fleet (
    api_key INTEGER NOT NULL REFERENCES api_key (id) ON DELETE CASCADE,
    application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    PRIMARY KEY (api_key, application)
);
CREATE INDEX api_key_fleet_application ON api_key_fleet (application);

-- Until now every member could do everything in every fleet of the organization. Nobody loses what they have: members become
-- developers of the fleets that there are.
INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), m."user", a.id, 3
FROM organization_membership m JOIN application a ON a.organization = m.is_member_of__organization
WHERE m.organization_membership_role = 2;
