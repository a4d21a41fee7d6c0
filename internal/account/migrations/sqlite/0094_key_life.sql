-- +goose Up
-- How many days a new key of a member, or of a service account, lives at most; NULL: no bound.
ALTER TABLE organization ADD COLUMN max_key_days INTEGER CHECK (max_key_days > 0);
