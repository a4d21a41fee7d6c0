-- +goose Up
-- What is known of an organization's logo; its bytes lie in the store of blobs.
ALTER TABLE organization ADD COLUMN logo_image TEXT;
