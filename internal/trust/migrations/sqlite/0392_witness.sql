-- +goose Up
-- Witnesses of the transparency log: who brought the first signature of each. One that the operator removed stays, so that it does not come back.
CREATE TABLE trust_witness (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    brought_by INTEGER REFERENCES "user" (id) ON DELETE SET NULL,
    removed_at TEXT,
    UNIQUE (name)
);
CREATE INDEX trust_witness_brought_by ON trust_witness (brought_by);
INSERT INTO trust_witness (created_at, name) SELECT min(created_at), name FROM trust_cosignature GROUP BY name ORDER BY min(id);
