-- +goose Up
-- The fingerprint of a key itself, whatever its comment is: one account has it. The server fills it in for the keys that are there already,
-- see FingerprintKeys.
ALTER TABLE user__has__public_key ADD COLUMN fingerprint TEXT COLLATE "C";
CREATE UNIQUE INDEX user__has__public_key_fingerprint ON user__has__public_key (fingerprint);
-- Uniques are checked in the order in which they were made, as SQLite checks them: an error names the first that is violated.
ALTER TABLE user__has__public_key DROP CONSTRAINT user__has__public_key_user_public_key_key;
ALTER TABLE user__has__public_key ADD UNIQUE ("user", public_key);
