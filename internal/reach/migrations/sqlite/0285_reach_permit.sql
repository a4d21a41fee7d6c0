-- +goose Up
-- Connections to devices that are open. A row refers to no other: it is what the end of the connection is told with in the audit log, when
-- the device or the user may be gone. seen_at is when the vpn role spoke of it last.
CREATE TABLE reach_permit (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    permit       TEXT    NOT NULL UNIQUE,
    kind         TEXT    NOT NULL CHECK (kind IN ('tunnel', 'url', 'ssh')),
    created_at   TEXT    NOT NULL,
    seen_at      TEXT    NOT NULL,
    device       INTEGER NOT NULL,
    uuid         TEXT    NOT NULL,
    application  INTEGER NOT NULL,
    organization INTEGER NOT NULL,
    port         INTEGER NOT NULL,
    "user"       INTEGER NOT NULL,
    username     TEXT    NOT NULL,
    api_key      INTEGER,
    login        TEXT,
    ssh_key      INTEGER,
    address      TEXT    NOT NULL,
    is_support   INTEGER NOT NULL,
    serial       INTEGER NOT NULL
);
CREATE INDEX reach_permit_device ON reach_permit (device);
CREATE INDEX reach_permit_user ON reach_permit ("user");
CREATE INDEX reach_permit_seen ON reach_permit (seen_at);
