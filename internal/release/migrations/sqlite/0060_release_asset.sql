-- +goose Up
-- A file that people hang on a release. The row holds what is known of it; its bytes lie in the store of blobs.
CREATE TABLE release_asset (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    "release" INTEGER NOT NULL REFERENCES "release" (id) ON DELETE CASCADE,
    asset_key TEXT    NOT NULL,
    asset     TEXT,
    UNIQUE ("release", asset_key)
);
