-- +goose Up
-- What an action sets of a device's host configuration, as JSON; gone when the action is over, for there may be a proxy's password in it.
ALTER TABLE device_action ADD COLUMN network TEXT COLLATE "C";
