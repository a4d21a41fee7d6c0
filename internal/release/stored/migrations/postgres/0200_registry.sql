-- +goose Up
-- What the registry keeps, and for whom. The registry asks before it keeps a blob, so that a row is there before the bytes
-- are, and goes only after them.
--
-- A repository belongs to an image and lives as long as that is being built, or was. unused_since is when it was first seen to
-- be of no use; removing: its links in the storage are being taken away, and it does not come back.
-- organization is the owner at the time of the push, for when the image is gone and with it the way to its owner.
CREATE TABLE registry_repository (
    name         TEXT COLLATE "C" PRIMARY KEY,
    created_at   TEXT COLLATE "C"    NOT NULL,
    image        BIGINT REFERENCES image (id) ON DELETE SET NULL,
    organization BIGINT REFERENCES organization (id) ON DELETE SET NULL,
    unused_since TEXT COLLATE "C",
    removing     BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX registry_repository_image ON registry_repository (image);
CREATE INDEX registry_repository_orphan ON registry_repository (organization) WHERE image IS NULL;
CREATE INDEX registry_repository_unused ON registry_repository (unused_since) WHERE unused_since IS NOT NULL;

-- sweeping: no repository has it any more and its bytes are being deleted; nobody may link it until they are.
CREATE TABLE registry_blob (
    digest     TEXT COLLATE "C" PRIMARY KEY,
    size       BIGINT NOT NULL CHECK (size >= 0),
    created_at TEXT COLLATE "C"    NOT NULL,
    sweeping   BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX registry_blob_sweeping ON registry_blob (digest) WHERE sweeping = 1;

CREATE TABLE registry_link (
    repository TEXT COLLATE "C" NOT NULL REFERENCES registry_repository (name) ON DELETE CASCADE,
    digest     TEXT COLLATE "C" NOT NULL REFERENCES registry_blob (digest),
    PRIMARY KEY (repository, digest)
);
CREATE INDEX registry_link_digest ON registry_link (digest);

-- How many bytes of distinct blobs an organization may have, where it is not the server's default; NULL: as many as it likes.
CREATE TABLE registry_quota (
    organization BIGINT PRIMARY KEY REFERENCES organization (id) ON DELETE CASCADE,
    bytes        BIGINT
);

-- When the storage was last compared with these rows; without a row, never: there may be blobs from before them.
CREATE TABLE registry_scan (
    id         BIGINT PRIMARY KEY CHECK (id = 1),
    scanned_at TEXT COLLATE "C" NOT NULL
);
