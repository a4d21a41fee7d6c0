-- +goose Up
-- A permission to enter one device that a certificate was signed for: the certificate names it. What its holder showed is in proof_….
CREATE TABLE device_ssh_grant (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at  TEXT    NOT NULL,
    name        TEXT    NOT NULL UNIQUE,
    device      INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    "user"      INTEGER NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    proof_key   INTEGER,
    proof_login TEXT,
    proof_ssh   INTEGER,
    address     TEXT    NOT NULL,
    until       TEXT    NOT NULL
);
CREATE INDEX device_ssh_grant_device ON device_ssh_grant (device);
CREATE INDEX device_ssh_grant_user ON device_ssh_grant ("user");
CREATE INDEX device_ssh_grant_until ON device_ssh_grant (until);

-- Who was in a device. It refers to no row: it is read when the device or the person is gone. token is a hash; with the token the device
-- tells of the session. seen_at is when the device last did.
CREATE TABLE device_ssh_session (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at   TEXT    NOT NULL,
    device       INTEGER NOT NULL,
    device_uuid  TEXT    NOT NULL,
    application  INTEGER NOT NULL,
    organization INTEGER NOT NULL,
    "user"       INTEGER NOT NULL,
    user_name    TEXT    NOT NULL,
    proof_key    INTEGER,
    proof_login  TEXT,
    proof_ssh    INTEGER,
    is_support   INTEGER NOT NULL,
    let_in_by    TEXT    NOT NULL CHECK (let_in_by IN ('certificate', 'key')),
    address      TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    target       TEXT    NOT NULL,
    bytes_in     INTEGER NOT NULL DEFAULT 0,
    bytes_out    INTEGER NOT NULL DEFAULT 0,
    seen_at      TEXT    NOT NULL,
    ended_at     TEXT,
    exit_code    INTEGER,
    why          TEXT    NOT NULL DEFAULT '',
    token        TEXT    NOT NULL,
    is_recorded  INTEGER NOT NULL
);
CREATE INDEX device_ssh_session_device ON device_ssh_session (device_uuid, id);
CREATE INDEX device_ssh_session_open ON device_ssh_session (seen_at) WHERE ended_at IS NULL;
CREATE INDEX device_ssh_session_created ON device_ssh_session (created_at);

-- What a session showed, as asciicast version 2.
CREATE TABLE device_ssh_recording (
    session INTEGER PRIMARY KEY REFERENCES device_ssh_session (id) ON DELETE CASCADE,
    data    TEXT    NOT NULL
);
