-- +goose Up
-- Which process does a periodic chore, and until when it may count on being the only one.
CREATE TABLE lease (
    name   TEXT PRIMARY KEY NOT NULL,
    holder TEXT NOT NULL,
    until  TEXT NOT NULL
) WITHOUT ROWID;
