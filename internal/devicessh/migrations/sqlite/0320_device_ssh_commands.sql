-- +goose Up
-- What a session was asked to run: a JSON list of the first commands, cut and escaped, and how many there were.
ALTER TABLE device_ssh_session ADD COLUMN commands TEXT NOT NULL DEFAULT '';
ALTER TABLE device_ssh_session ADD COLUMN command_count INTEGER NOT NULL DEFAULT 0;
