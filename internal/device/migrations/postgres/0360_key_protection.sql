-- +goose Up
-- How a device says that it keeps its keys: "file" or "tpm".
ALTER TABLE device ADD COLUMN key_protection TEXT COLLATE "C";
