-- +goose Up
-- The networks that each user has signed in from: a sign-in from another is told of by mail.
CREATE TABLE sign_in_place (
    "user"       BIGINT NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    network      TEXT COLLATE "C" NOT NULL,
    last_seen_at TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY ("user", network)
);
