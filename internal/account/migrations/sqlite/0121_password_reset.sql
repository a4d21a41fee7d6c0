-- +goose Up
-- Wishes for a letter to choose a new password. They are answered behind the request, so that nobody learns from it who has an account.
-- The address is gone when the wish was looked at; keyed hashes of it and of the network stay for an hour, to count.
CREATE TABLE password_reset_wish (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at  TEXT NOT NULL,
    account_key TEXT NOT NULL,
    network_key TEXT NOT NULL,
    email       TEXT,
    address     TEXT
);
CREATE INDEX password_reset_wish_account ON password_reset_wish (account_key, created_at);
CREATE INDEX password_reset_wish_network ON password_reset_wish (network_key, created_at);
CREATE INDEX password_reset_wish_created ON password_reset_wish (created_at);

-- The one link that each user has at most.
CREATE TABLE password_reset (
    "user"     INTEGER PRIMARY KEY REFERENCES "user" (id) ON DELETE CASCADE,
    token_hash TEXT NOT NULL UNIQUE,
    expires_at TEXT NOT NULL
);
