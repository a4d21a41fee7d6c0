-- +goose Up
-- CPU architectures, comma-separated, that the fleet is built for beside that of its device type; null: none.
ALTER TABLE application ADD COLUMN is_also_built_for TEXT COLLATE "C";
