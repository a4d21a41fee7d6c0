-- +goose Up
-- Machines that build for this server and are not its own. token_hash is of the secret with which one joins, once, and stays so that
-- a second use is told apart from a wrong secret; public_key is the SHA-256 of the key by which it is known from then on. connected is what
-- the builder said last; the columns after it are what the worker said of itself.
CREATE TABLE build_worker (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at       TEXT NOT NULL,
    name             TEXT NOT NULL UNIQUE,
    token_hash       TEXT NOT NULL UNIQUE,
    token_expires_at TEXT NOT NULL,
    public_key       TEXT UNIQUE,
    joined_at        TEXT,
    seen_at          TEXT,
    connected        INTEGER NOT NULL DEFAULT 0,
    address          TEXT NOT NULL DEFAULT '',
    version          TEXT NOT NULL DEFAULT '',
    buildkit         TEXT NOT NULL DEFAULT '',
    platforms        TEXT NOT NULL DEFAULT '[]',
    why              TEXT NOT NULL DEFAULT ''
);
