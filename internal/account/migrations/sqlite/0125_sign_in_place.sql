-- +goose Up
-- The networks that each user has signed in from: a sign-in from another is told of by mail.
CREATE TABLE sign_in_place (
    "user"       INTEGER NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    network      TEXT NOT NULL,
    last_seen_at TEXT NOT NULL,
    PRIMARY KEY ("user", network)
);
