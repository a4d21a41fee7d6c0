-- +goose Up
-- How the public address of a device may be opened, while device.is_web_accessible says that it is on. No row is port 80 for everybody.
-- serial goes up with every change: what was opened before it ends.
CREATE TABLE device_public_url (
    device            BIGINT PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    port              BIGINT NOT NULL,
    is_login_required BIGINT NOT NULL,
    token_hash        TEXT COLLATE "C",
    allow             TEXT COLLATE "C"    NOT NULL,
    until             TEXT COLLATE "C",
    serial            BIGINT NOT NULL
);
CREATE INDEX device_public_url_until ON device_public_url (until) WHERE until IS NOT NULL;
