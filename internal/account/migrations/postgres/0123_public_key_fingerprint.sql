-- +goose Up
-- The fingerprint of a key itself, whatever its comment is: one account has it. The server fills it in for the keys that are there already,
-- see FingerprintKeys.
ALTER TABLE user__has__public_key ADD COLUMN fingerprint TEXT COLLATE "C";
CREATE UNIQUE INDEX user__has__public_key_fingerprint ON user__has__public_key (fingerprint);
