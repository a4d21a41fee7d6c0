-- +goose Up
-- When the device came into its present organization; NULL when it was always there. What it logged before is not for those
-- who have it now.
ALTER TABLE device ADD COLUMN log_since TEXT COLLATE "C";
