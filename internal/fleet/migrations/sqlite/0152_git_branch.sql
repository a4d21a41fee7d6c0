-- +goose Up
-- The branch that builds when it is pushed to the fleet's repository; null: main and master.
ALTER TABLE application ADD COLUMN git_branch TEXT;
