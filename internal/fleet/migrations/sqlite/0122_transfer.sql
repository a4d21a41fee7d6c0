-- +goose Up
-- Fleets that an organization offers to another one.
CREATE TABLE fleet_transfer (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at          TEXT NOT NULL,
    expires_at          TEXT NOT NULL,
    application         INTEGER NOT NULL UNIQUE REFERENCES application (id) ON DELETE CASCADE,
    from_organization   INTEGER NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    to_organization     INTEGER NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    is_created_by__user INTEGER NOT NULL REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX fleet_transfer_from ON fleet_transfer (from_organization);
CREATE INDEX fleet_transfer_to ON fleet_transfer (to_organization);
CREATE INDEX fleet_transfer_creator ON fleet_transfer (is_created_by__user);
