-- +goose Up

-- A key that is for some devices: those that carry one of its tags at the time, in the fleets that it is for.
ALTER TABLE api_key ADD COLUMN is_for_some_devices INTEGER NOT NULL DEFAULT 0;
CREATE TABLE api_key_device_tag (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    api_key INTEGER NOT NULL REFERENCES api_key (id) ON DELETE CASCADE,
    tag_key TEXT NOT NULL,
    value TEXT, -- NULL: any
    UNIQUE (api_key, tag_key, value)
);
