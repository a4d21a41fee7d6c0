-- +goose Up
-- SSH public keys of people.
CREATE TABLE user__has__public_key (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    "user"     INTEGER NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    title      TEXT NOT NULL,
    public_key TEXT NOT NULL,
    UNIQUE ("user", public_key)
);
