-- +goose Up
-- How the HTTP server of a device's agent is called over the control channel: its port, and the key that it asks for. The device says both;
-- neither is shown to anybody.
ALTER TABLE device ADD COLUMN api_port BIGINT;
ALTER TABLE device ADD COLUMN api_secret TEXT COLLATE "C";
