-- +goose Up
-- Whose database this is: the domain, and a mark of the pepper under which its tokens are hashed, which does not tell the pepper.
CREATE TABLE site (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    domain TEXT NOT NULL,
    mark   TEXT NOT NULL
);
