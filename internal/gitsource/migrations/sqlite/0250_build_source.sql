-- +goose Up
-- A repository elsewhere that a fleet is built from. secret and credentials are sealed with a key that is not in the database. Builds are
-- made with the right of made_by; stopped says why there are none.
CREATE TABLE build_source (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at  TEXT    NOT NULL,
    application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    made_by     INTEGER REFERENCES "user" (id) ON DELETE SET NULL,
    url         TEXT    NOT NULL,
    form        TEXT    NOT NULL CHECK (form IN ('github', 'gitlab', 'gitea')),
    branch      TEXT    NOT NULL,
    tags        TEXT    NOT NULL,
    is_draft    INTEGER NOT NULL,
    hook        TEXT    NOT NULL UNIQUE,
    secret      TEXT    NOT NULL,
    username    TEXT    NOT NULL,
    credentials TEXT,
    public_key  TEXT    NOT NULL,
    host_key    TEXT    NOT NULL,
    stopped     TEXT,
    refused     INTEGER NOT NULL DEFAULT 0,
    refused_at  TEXT
);
CREATE INDEX build_source_application ON build_source (application);
CREATE INDEX build_source_maker ON build_source (made_by);

-- What came to the webhook of a source, or was asked of it by a person, and what became of it. One that is running is claimed by a
-- process of the git role until claimed_until; one that waits is not begun before then.
CREATE TABLE build_delivery (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at    TEXT    NOT NULL,
    source        INTEGER NOT NULL REFERENCES build_source (id) ON DELETE CASCADE,
    event         TEXT    NOT NULL,
    guid          TEXT    NOT NULL,
    ref           TEXT    NOT NULL,
    "commit"      TEXT    NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('waiting', 'running', 'built', 'failed', 'skipped', 'superseded', 'refused')),
    reason        TEXT    NOT NULL,
    "release"     INTEGER REFERENCES "release" (id) ON DELETE SET NULL,
    claim         TEXT,
    claimed_until TEXT,
    attempts      INTEGER NOT NULL DEFAULT 0,
    ended_at      TEXT
);
CREATE INDEX build_delivery_source ON build_delivery (source, id);
CREATE INDEX build_delivery_open ON build_delivery (id) WHERE state IN ('waiting', 'running');
CREATE INDEX build_delivery_release ON build_delivery ("release") WHERE "release" IS NOT NULL;

-- What came to a webhook once, so that it does nothing when it comes again: kept for as long as the secret that it was signed with.
CREATE TABLE build_source_seen (
    source   INTEGER NOT NULL REFERENCES build_source (id) ON DELETE CASCADE,
    mark     TEXT    NOT NULL,
    delivery INTEGER NOT NULL,
    PRIMARY KEY (source, mark)
);
