-- +goose Up
-- The fleets with a tag are looked for when a key is for those.
CREATE INDEX application_tag_key ON application_tag (tag_key);
