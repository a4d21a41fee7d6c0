-- +goose Up
-- What the registry keeps, and for whom. The registry asks before it keeps a blob, so that a row is there before the bytes
-- are, and goes only after them.
--
-- A repository belongs to an image and lives as long as that is being built, or was. unused_since is when it was first seen to
-- be of no use; removing: its links in the storage are being taken away, and it does not come back.
-- organization is the owner at the time of the push, for when the image is gone and with it the way to its owner.
CREATE TABLE registry_repository (
    name         TEXT PRIMARY KEY,
    created_at   TEXT    NOT NULL,
    image        INTEGER REFERENCES image (id) ON DELETE SET NULL,
    organization INTEGER REFERENCES organization (id) ON DELETE SET NULL,
    unused_since TEXT,
    removing     INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX registry_repository_image ON registry_repository (image);
CREATE INDEX registry_repository_orphan ON registry_repository (organization) WHERE image IS NULL;
CREATE INDEX registry_repository_unused ON registry_repository (unused_since) WHERE unused_since IS NOT NULL;

-- sweeping: no repository has it any more and its bytes are being deleted; nobody may link it until they are.
CREATE TABLE registry_blob (
    digest     TEXT PRIMARY KEY,
    size       INTEGER NOT NULL CHECK (size >= 0),
    created_at TEXT    NOT NULL,
    sweeping   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX registry_blob_sweeping ON registry_blob (digest) WHERE sweeping = 1;

CREATE TABLE registry_link (
    repository TEXT NOT NULL REFERENCES registry_repository (name) ON DELETE CASCADE,
    digest     TEXT NOT NULL REFERENCES registry_blob (digest),
    PRIMARY KEY (repository, digest)
);
CREATE INDEX registry_link_digest ON registry_link (digest);

-- How many bytes of distinct blobs an organization may have, where it is not the server's default; NULL: as many as it likes.
CREATE TABLE registry_quota (
    organization INTEGER PRIMARY KEY REFERENCES organization (id) ON DELETE CASCADE,
    bytes        INTEGER
);

-- When the storage was last compared with these rows; without a row, never: there may be blobs from before them.
CREATE TABLE registry_scan (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    scanned_at TEXT NOT NULL
);
