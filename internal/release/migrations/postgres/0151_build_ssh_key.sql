-- +goose Up
-- The SSH key with which a build was opened, see opened_by_key.
ALTER TABLE "release" ADD COLUMN opened_by_ssh_key BIGINT;
