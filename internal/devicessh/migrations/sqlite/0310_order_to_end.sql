-- +goose Up
-- Somebody has ordered an end to a session. Its device is told when it next asks whether the session may go on.
ALTER TABLE device_ssh_session ADD COLUMN is_to_end INTEGER NOT NULL DEFAULT 0;
