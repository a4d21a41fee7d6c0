-- +goose Up
-- The trust of a fleet, once somebody asked for it. changes counts what was published: who publishes says which number they began with.
-- version and counter are the highest that were used; held_by, approval and shell are what the newest root and targets say.
CREATE TABLE trust_fleet (
    application INTEGER PRIMARY KEY NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    created_at  TEXT    NOT NULL,
    changes     INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    counter     INTEGER NOT NULL,
    held_by     TEXT    NOT NULL CHECK (held_by IN ('server', 'owner')),
    approval    TEXT    NOT NULL CHECK (approval IN ('builder', 'builder+owner', 'owner-only')),
    shell       TEXT    NOT NULL
);

-- Published metadata: all versions of root, the newest of the others.
CREATE TABLE trust_file (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at  TEXT    NOT NULL,
    application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    role        TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    expires_at  TEXT    NOT NULL,
    data        TEXT    NOT NULL,
    UNIQUE (application, role, version)
);

-- What is signed the digest of. It does not change; counter is that of its newest listing.
CREATE TABLE trust_document (
    "release"   INTEGER PRIMARY KEY NOT NULL REFERENCES "release" (id) ON DELETE CASCADE,
    created_at  TEXT    NOT NULL,
    application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    "commit"    TEXT    NOT NULL,
    counter     INTEGER NOT NULL,
    sha256      TEXT    NOT NULL,
    data        TEXT    NOT NULL,
    UNIQUE (application, "commit")
);

-- Uploaded files that too few have signed.
CREATE TABLE trust_pending (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at  TEXT    NOT NULL,
    application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    role        TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    data        TEXT    NOT NULL,
    UNIQUE (application, role)
);

-- The transparency log: as far as it is signed, its leaves, and the hashes of its tree as golang.org/x/mod/sumdb/tlog numbers them. A leaf
-- whose entry is NULL was signed, and got lost with a database of which this one is an older copy.
CREATE TABLE trust_log (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    serial     INTEGER NOT NULL,
    signed     INTEGER NOT NULL,
    checkpoint TEXT    NOT NULL
);
INSERT INTO trust_log (id, serial, signed, checkpoint) VALUES (1, 0, 0, '');

CREATE TABLE trust_leaf (
    number     INTEGER PRIMARY KEY NOT NULL,
    created_at TEXT    NOT NULL,
    hash       TEXT    NOT NULL,
    fleet      TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    entry      TEXT
);
CREATE INDEX trust_leaf_hash ON trust_leaf (hash);
CREATE INDEX trust_leaf_fleet ON trust_leaf (fleet, name);

CREATE TABLE trust_hash (
    number INTEGER PRIMARY KEY NOT NULL,
    hash   TEXT    NOT NULL
);

-- Signatures of witnesses under checkpoints.
CREATE TABLE trust_cosignature (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT    NOT NULL,
    size       INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    line       TEXT    NOT NULL,
    UNIQUE (size, name)
);

-- Checkpoints that somebody believes and that do not fit the log: this server, or somebody with its keys, has shown two histories.
CREATE TABLE trust_evidence (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT    NOT NULL,
    device     INTEGER,
    checkpoint TEXT    NOT NULL,
    why        TEXT    NOT NULL,
    sha256     TEXT    NOT NULL,
    UNIQUE (sha256)
);

-- What devices say of their checks.
CREATE TABLE device_trust (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at         TEXT    NOT NULL,
    device             INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    state              TEXT    NOT NULL CHECK (state IN ('verified', 'rejected', 'waiting')),
    "commit"           TEXT,
    counter            INTEGER,
    sha256             TEXT,
    approval           TEXT,
    held_by            TEXT,
    rejected           TEXT,
    rejection_reason   TEXT,
    rejection_key      TEXT,
    rejection_expected TEXT,
    rejection_got      TEXT,
    checkpoint         TEXT,
    versions           TEXT    NOT NULL,
    seen_at            TEXT    NOT NULL,
    UNIQUE (device)
);
CREATE INDEX device_trust_state ON device_trust (state);
