-- +goose Up
-- Which process does a periodic chore, and until when it may count on being the only one.
CREATE TABLE lease (
    name   TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    holder TEXT COLLATE "C" NOT NULL,
    until  TEXT COLLATE "C" NOT NULL
);
