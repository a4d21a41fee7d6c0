-- +goose Up

-- Whom a sign-in provider knows a user as. Only issuer and subject say who somebody is; the label is for people.
CREATE TABLE user_identity (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    user INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    provider TEXT NOT NULL,
    label TEXT NOT NULL,
    last_used_at TEXT,
    UNIQUE (issuer, subject)
);
CREATE INDEX user_identity_user ON user_identity (user);

-- Memberships that an identity's claims made. Those that people gave are not here, and are never touched.
CREATE TABLE identity_membership (
    identity INTEGER NOT NULL REFERENCES user_identity (id) ON DELETE CASCADE,
    membership INTEGER NOT NULL REFERENCES organization_membership (id) ON DELETE CASCADE,
    is_administrator INTEGER NOT NULL,
    PRIMARY KEY (identity, membership)
);
CREATE INDEX identity_membership_membership ON identity_membership (membership);

-- States that have come back from a provider, until they would have expired: none comes back twice.
CREATE TABLE sign_in_state (
    hash TEXT PRIMARY KEY NOT NULL,
    expires_at TEXT NOT NULL
);
CREATE INDEX sign_in_state_expires ON sign_in_state (expires_at);

-- Logins that a program without a browser waits for.
CREATE TABLE device_login (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    device_hash TEXT NOT NULL UNIQUE,
    user_hash TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    address TEXT NOT NULL,
    poll_seconds INTEGER NOT NULL,
    last_polled_at TEXT,
    answer TEXT NOT NULL CHECK (answer IN ('', 'approved', 'denied')),
    user INTEGER REFERENCES user (id) ON DELETE CASCADE,
    session INTEGER
);
CREATE INDEX device_login_user ON device_login (user);
CREATE INDEX device_login_expires ON device_login (expires_at);
CREATE INDEX device_login_address ON device_login (address);

-- Codes that a user typed and that nobody waits for: somebody may be guessing.
CREATE TABLE device_login_miss (
    user INTEGER PRIMARY KEY NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    misses INTEGER NOT NULL,
    last_at TEXT NOT NULL
);
