-- +goose Up
-- When an SSH key was used last, and from where.
ALTER TABLE user__has__public_key ADD COLUMN last_used_at TEXT COLLATE "C";
ALTER TABLE user__has__public_key ADD COLUMN last_used_from TEXT COLLATE "C";
