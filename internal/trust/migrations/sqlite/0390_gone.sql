-- +goose Up
-- Fleets that were deleted while devices that went from them had still to ask for the words that let them go. Their trust is kept under the number that they had,
-- until the last of these devices has come, or is deleted: so nothing of it hangs on the fleet by reference.
CREATE TABLE trust_gone (
    application INTEGER PRIMARY KEY NOT NULL,
    created_at  TEXT    NOT NULL,
    uuid        TEXT    NOT NULL,
    slug        TEXT    NOT NULL
);

CREATE TABLE trust_fleet_kept (
    application INTEGER PRIMARY KEY NOT NULL,
    created_at  TEXT    NOT NULL,
    changes     INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    counter     INTEGER NOT NULL,
    held_by     TEXT    NOT NULL CHECK (held_by IN ('server', 'owner')),
    approval    TEXT    NOT NULL CHECK (approval IN ('builder', 'builder+owner', 'owner-only')),
    shell       TEXT    NOT NULL
);
INSERT INTO trust_fleet_kept SELECT application, created_at, changes, version, counter, held_by, approval, shell FROM trust_fleet;
DROP TABLE trust_fleet;
ALTER TABLE trust_fleet_kept RENAME TO trust_fleet;

CREATE TABLE trust_file_kept (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at  TEXT    NOT NULL,
    application INTEGER NOT NULL,
    role        TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    expires_at  TEXT    NOT NULL,
    data        TEXT    NOT NULL,
    UNIQUE (application, role, version)
);
INSERT INTO trust_file_kept SELECT id, created_at, application, role, version, expires_at, data FROM trust_file;
DROP TABLE trust_file;
ALTER TABLE trust_file_kept RENAME TO trust_file;

CREATE TABLE trust_leave_kept (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at  TEXT    NOT NULL,
    application INTEGER NOT NULL,
    device      INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    goes_to     INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    UNIQUE (application, device)
);
INSERT INTO trust_leave_kept SELECT id, created_at, application, device, goes_to FROM trust_leave;
DROP TABLE trust_leave;
ALTER TABLE trust_leave_kept RENAME TO trust_leave;
CREATE INDEX trust_leave_device ON trust_leave (device);
CREATE INDEX trust_leave_goes_to ON trust_leave (goes_to);
