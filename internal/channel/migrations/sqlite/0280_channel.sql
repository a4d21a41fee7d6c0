-- +goose Up
-- The place of a device in the network of the control channel: it has the same address always.
CREATE TABLE channel_slot (
    device    INTEGER PRIMARY KEY NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    number    INTEGER NOT NULL,
    last_from TEXT,
    UNIQUE (number)
);

-- Devices that were given a certificate. They do not get in without it any more.
CREATE TABLE channel_identity (
    device       INTEGER PRIMARY KEY NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    key_sha256   TEXT NOT NULL,
    certified_at TEXT NOT NULL,
    expires_at   TEXT NOT NULL
);

-- The certificates that they were given and that hold still.
CREATE TABLE channel_certificate (
    sha256     TEXT PRIMARY KEY NOT NULL,
    device     INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX channel_certificate_device ON channel_certificate (device);

-- Who has sessions, and when it last said so.
CREATE TABLE channel_instance (
    name    TEXT PRIMARY KEY NOT NULL,
    boot    TEXT NOT NULL,
    seen_at TEXT NOT NULL
) WITHOUT ROWID;

-- The sessions. They outlive their device: until it is said that they have ended they are to be cut.
CREATE TABLE channel_session (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    session     TEXT NOT NULL,
    instance    TEXT NOT NULL,
    device      INTEGER NOT NULL,
    application INTEGER NOT NULL,
    api_key     INTEGER NOT NULL,
    identity    TEXT NOT NULL,
    address     TEXT NOT NULL,
    came_from   TEXT NOT NULL,
    since       TEXT NOT NULL,
    UNIQUE (session)
);
CREATE INDEX channel_session_device ON channel_session (device);
CREATE INDEX channel_session_instance ON channel_session (instance);

-- Refused logins: of a device from a network, and of everybody from one.
CREATE TABLE channel_refusal (
    counter  TEXT NOT NULL CHECK (counter IN ('pair', 'address')),
    key      TEXT NOT NULL,
    failures INTEGER NOT NULL,
    last_at  TEXT NOT NULL,
    PRIMARY KEY (counter, key)
) WITHOUT ROWID;
CREATE INDEX channel_refusal_last ON channel_refusal (last_at);
