-- +goose Up
-- How the public address of a device may be opened, while device.is_web_accessible says that it is on. No row is port 80 for everybody.
-- serial goes up with every change: what was opened before it ends.
CREATE TABLE device_public_url (
    device            INTEGER PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    port              INTEGER NOT NULL,
    is_login_required INTEGER NOT NULL,
    token_hash        TEXT,
    allow             TEXT    NOT NULL,
    until             TEXT,
    serial            INTEGER NOT NULL
);
CREATE INDEX device_public_url_until ON device_public_url (until) WHERE until IS NOT NULL;
