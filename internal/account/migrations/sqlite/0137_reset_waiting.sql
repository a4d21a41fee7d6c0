-- +goose Up
-- Wishes that nobody has looked at yet are looked for every two seconds.
CREATE INDEX password_reset_wish_waiting ON password_reset_wish (id) WHERE email IS NOT NULL;
