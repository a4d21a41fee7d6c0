-- +goose Up
-- What whoever opened a build had shown: the build ends with it.
ALTER TABLE "release" ADD COLUMN opened_by_key INTEGER;
ALTER TABLE "release" ADD COLUMN opened_with_login TEXT;
