-- +goose Up
-- Whose database this is: the domain, and a mark of the pepper under which its tokens are hashed, which does not tell the pepper.
CREATE TABLE site (
    id     BIGINT PRIMARY KEY CHECK (id = 1),
    domain TEXT COLLATE "C" NOT NULL,
    mark   TEXT COLLATE "C" NOT NULL
);
