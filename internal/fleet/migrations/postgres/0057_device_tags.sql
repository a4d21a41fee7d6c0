-- +goose Up
-- Whether the devices of a fleet may give themselves tags.
ALTER TABLE application ADD COLUMN allows_tags_from_devices BIGINT NOT NULL DEFAULT 0;
