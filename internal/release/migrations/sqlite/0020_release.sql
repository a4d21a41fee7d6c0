-- +goose Up
-- A release is final exactly when it has a revision. raw_version and version are derived from the semver columns, created_at
-- and revision by the release package, which alone writes this table.
-- heartbeat_at is the last sign of life of the builder that works on a running release.
CREATE TABLE "release" (
    id                      INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at              TEXT    NOT NULL,
    belongs_to__application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    "commit"                TEXT    NOT NULL,
    composition             TEXT    NOT NULL DEFAULT '{}',
    status                  TEXT    NOT NULL CHECK (status IN ('running', 'success', 'failed', 'error', 'cancelled', 'interrupted')),
    source                  TEXT    NOT NULL,
    build_log               TEXT,
    is_invalidated          INTEGER NOT NULL DEFAULT 0,
    invalidation_reason     TEXT,
    start_timestamp         TEXT    NOT NULL,
    end_timestamp           TEXT,
    update_timestamp        TEXT    NOT NULL,
    release_version         TEXT,
    contract                TEXT,
    is_passing_tests        INTEGER NOT NULL DEFAULT 1,
    is_finalized_at__date   TEXT,
    phase                   TEXT CHECK (phase IN ('next', 'current', 'sunset', 'end-of-life')),
    is_final                INTEGER NOT NULL DEFAULT 1,
    semver                  TEXT    NOT NULL DEFAULT '0.0.0',
    semver_major            INTEGER NOT NULL DEFAULT 0,
    semver_minor            INTEGER NOT NULL DEFAULT 0,
    semver_patch            INTEGER NOT NULL DEFAULT 0,
    semver_prerelease       TEXT    NOT NULL DEFAULT '',
    semver_build            TEXT    NOT NULL DEFAULT '',
    variant                 TEXT    NOT NULL DEFAULT '',
    revision                INTEGER,
    raw_version             TEXT    NOT NULL,
    version                 TEXT    NOT NULL,
    known_issue_list        TEXT,
    note                    TEXT,
    is_created_by__user     INTEGER REFERENCES "user" (id) ON DELETE SET NULL,
    heartbeat_at            TEXT,
    CHECK ((is_final = 1) = (revision IS NOT NULL))
);
CREATE INDEX release_newest ON "release" (belongs_to__application, start_timestamp);
CREATE INDEX release_created ON "release" (belongs_to__application, created_at);
CREATE INDEX release_commit ON "release" ("commit");
CREATE INDEX release_user ON "release" (is_created_by__user);
CREATE INDEX release_running ON "release" (heartbeat_at) WHERE status = 'running';
CREATE UNIQUE INDEX release_one_success_a_commit ON "release" (belongs_to__application, "commit") WHERE status = 'success';
CREATE UNIQUE INDEX release_one_valid_a_release_version ON "release" (belongs_to__application, release_version)
    WHERE status = 'success' AND is_invalidated = 0 AND release_version IS NOT NULL;
CREATE UNIQUE INDEX release_revision ON "release"
    (belongs_to__application, semver_major, semver_minor, semver_patch, semver_prerelease, variant, revision)
    WHERE revision IS NOT NULL;

-- An image outlives no fleet; the release package deletes both together, which is why the service is no cascade here: a
-- service that images were built of cannot be deleted by itself.
CREATE TABLE image (
    id                            INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at                    TEXT    NOT NULL,
    start_timestamp               TEXT    NOT NULL,
    end_timestamp                 TEXT,
    push_timestamp                TEXT,
    dockerfile                    TEXT,
    is_a_build_of__service        INTEGER NOT NULL REFERENCES service (id),
    image_size                    INTEGER,
    is_stored_at__image_location  TEXT    NOT NULL UNIQUE,
    project_type                  TEXT,
    error_message                 TEXT,
    build_log                     TEXT,
    status                        TEXT    NOT NULL CHECK (status IN ('running', 'success', 'failed', 'error', 'cancelled', 'interrupted')),
    content_hash                  TEXT,
    contract                      TEXT,
    CHECK (status <> 'success' OR (push_timestamp IS NOT NULL AND content_hash IS NOT NULL))
);
CREATE INDEX image_service ON image (is_a_build_of__service);

CREATE TABLE release_image (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at          TEXT    NOT NULL,
    image               INTEGER NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    is_part_of__release INTEGER NOT NULL REFERENCES "release" (id) ON DELETE CASCADE,
    UNIQUE (is_part_of__release, image)
);
CREATE INDEX release_image_image ON release_image (image);

CREATE TABLE image_label (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at    TEXT    NOT NULL,
    release_image INTEGER NOT NULL REFERENCES release_image (id) ON DELETE CASCADE,
    label_name    TEXT    NOT NULL,
    value         TEXT    NOT NULL,
    UNIQUE (release_image, label_name)
);

CREATE TABLE image_environment_variable (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at    TEXT    NOT NULL,
    release_image INTEGER NOT NULL REFERENCES release_image (id) ON DELETE CASCADE,
    name          TEXT    NOT NULL,
    value         TEXT    NOT NULL,
    UNIQUE (release_image, name)
);

CREATE TABLE release_tag (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    "release" INTEGER NOT NULL REFERENCES "release" (id) ON DELETE CASCADE,
    tag_key TEXT    NOT NULL,
    value   TEXT    NOT NULL,
    UNIQUE ("release", tag_key)
);
