-- +goose Up
-- Whether the fleet has shut support staff out for good: no grant opens it or a device of it again.
ALTER TABLE application ADD COLUMN is_closed_to_support INTEGER NOT NULL DEFAULT 0;
