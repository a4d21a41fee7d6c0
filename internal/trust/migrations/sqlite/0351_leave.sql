-- +goose Up
-- Devices that went from one fleet to another while they checked what they run: the fleet that they came from says that they may.
CREATE TABLE trust_leave (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at  TEXT    NOT NULL,
    application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    device      INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    goes_to     INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    UNIQUE (application, device)
);
CREATE INDEX trust_leave_device ON trust_leave (device);
CREATE INDEX trust_leave_goes_to ON trust_leave (goes_to);
