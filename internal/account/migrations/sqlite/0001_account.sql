-- +goose Up

-- Who acts: a user, a fleet or a device each have one actor, and keys belong to actors.
CREATE TABLE actor (
    id INTEGER PRIMARY KEY AUTOINCREMENT
);

CREATE TABLE organization (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    name TEXT NOT NULL,
    handle TEXT NOT NULL UNIQUE,
    company_name TEXT,
    industry TEXT,
    website TEXT,
    is_frozen INTEGER NOT NULL DEFAULT 0,
    is_enforcing_saml_login INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE user (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    actor INTEGER NOT NULL UNIQUE REFERENCES actor (id),
    username TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL UNIQUE,          -- lower case
    password TEXT NOT NULL,              -- argon2id, in PHC form
    has_legacy_link_to__organization INTEGER REFERENCES organization (id) ON DELETE SET NULL
);
CREATE INDEX user_organization ON user (has_legacy_link_to__organization);

CREATE TABLE organization_membership_role (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
INSERT INTO organization_membership_role (id, name) VALUES (1, 'administrator'), (2, 'member');

CREATE TABLE organization_membership (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    user INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    is_member_of__organization INTEGER NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    organization_membership_role INTEGER NOT NULL REFERENCES organization_membership_role (id),
    UNIQUE (user, is_member_of__organization)
);
CREATE INDEX organization_membership_organization ON organization_membership (is_member_of__organization, user);

-- Keys are kept as HMAC-SHA256 under a pepper that is not in the database.
CREATE TABLE api_key (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    kind TEXT NOT NULL CHECK (kind IN ('user', 'provisioning', 'device')),
    key_hash TEXT NOT NULL UNIQUE,
    is_of__actor INTEGER NOT NULL REFERENCES actor (id) ON DELETE CASCADE,
    name TEXT,
    description TEXT,
    expiry_date TEXT,
    max_uses INTEGER CHECK (max_uses > 0), -- NULL: no bound
    uses INTEGER NOT NULL DEFAULT 0,       -- of a provisioning key: registrations; never above max_uses
    last_used_at TEXT,                     -- to the minute
    CHECK (max_uses IS NULL OR uses <= max_uses)
);
CREATE INDEX api_key_actor ON api_key (is_of__actor);

-- A session token names its row by the HMAC of its jti and dies with it.
CREATE TABLE session (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    token_hash TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL,
    authenticated_at TEXT NOT NULL,        -- when the password was last given
    expires_at TEXT NOT NULL,
    last_used_at TEXT,                     -- to the minute
    address TEXT NOT NULL DEFAULT '',
    user_agent TEXT NOT NULL DEFAULT ''
);
CREATE INDEX session_user ON session (user);
CREATE INDEX session_expiry ON session (expires_at);
