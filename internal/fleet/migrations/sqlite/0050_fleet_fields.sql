-- +goose Up
-- What a fleet says of itself to strangers, and until when its owner lets support in.
ALTER TABLE application ADD COLUMN is_discoverable INTEGER NOT NULL DEFAULT 1;
ALTER TABLE application ADD COLUMN is_accessible_by_support_until__date TEXT;

-- Who makes which family of boards.
CREATE TABLE device_manufacturer (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    slug TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL
);

CREATE TABLE device_family (
    id                                  INTEGER PRIMARY KEY AUTOINCREMENT,
    slug                                TEXT NOT NULL UNIQUE,
    name                                TEXT NOT NULL,
    is_manufactured_by__device_manufacturer INTEGER REFERENCES device_manufacturer (id)
);
CREATE INDEX device_family_manufacturer ON device_family (is_manufactured_by__device_manufacturer);

ALTER TABLE device_type ADD COLUMN belongs_to__device_family INTEGER REFERENCES device_family (id);
CREATE INDEX device_type_family ON device_type (belongs_to__device_family);
