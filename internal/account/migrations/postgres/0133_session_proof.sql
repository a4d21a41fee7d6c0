-- +goose Up
-- How the login of a session was proved: one that another session let in is proved as that one was. Of those from before it is not known, so
-- they count as proved with a password.
ALTER TABLE session ADD COLUMN proved_by TEXT COLLATE "C" NOT NULL DEFAULT 'password';
UPDATE session SET proved_by = CASE WHEN opened_by = 'another session' THEN 'password' ELSE opened_by END;
