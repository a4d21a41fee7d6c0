-- +goose Up
-- Which login a session comes from: one that is refreshed goes on as another row of the same, one that it approves for another program
-- is a login of its own. Builds know those of before by the time of their login.
ALTER TABLE session ADD COLUMN login TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE session SET login = authenticated_at;
