-- +goose Up
-- Where a release comes from, as the signer signed it. It is written once, when the build succeeds, and goes with the release.
CREATE TABLE release_statement (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    "release"  INTEGER NOT NULL UNIQUE REFERENCES "release" (id) ON DELETE CASCADE,
    key_id     TEXT NOT NULL,
    envelope   TEXT NOT NULL
);

-- What the statement says of the bill of materials of one image: its digest, or why there is none.
CREATE TABLE image_sbom (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at    TEXT NOT NULL,
    release_image INTEGER NOT NULL UNIQUE REFERENCES release_image (id) ON DELETE CASCADE,
    digest        TEXT,
    packages      INTEGER,
    missing       TEXT
);

-- What the statement says that one image was built from.
CREATE TABLE image_base (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at    TEXT NOT NULL,
    release_image INTEGER NOT NULL REFERENCES release_image (id) ON DELETE CASCADE,
    name          TEXT NOT NULL,
    digest        TEXT NOT NULL,
    UNIQUE (release_image, name, digest)
);
CREATE INDEX image_base_name ON image_base (name);
