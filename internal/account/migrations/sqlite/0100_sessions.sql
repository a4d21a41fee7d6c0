-- +goose Up
-- Sessions: what opened them, from which client, what they still wait for, and from where they were last used.
ALTER TABLE session ADD COLUMN client TEXT NOT NULL DEFAULT 'other';
ALTER TABLE session ADD COLUMN opened_by TEXT NOT NULL DEFAULT 'password';
ALTER TABLE session ADD COLUMN awaits TEXT NOT NULL DEFAULT '' CHECK (awaits IN ('', 'code', 'enrolment'));
ALTER TABLE session ADD COLUMN is_proven INTEGER NOT NULL DEFAULT 0;    -- a second factor was given
ALTER TABLE session ADD COLUMN last_address TEXT NOT NULL DEFAULT '';

-- A disabled user keeps everything and can use nothing. A password of '' is none.
ALTER TABLE "user" ADD COLUMN is_disabled INTEGER NOT NULL DEFAULT 0;

-- What an organization asks of how its members sign in.
ALTER TABLE organization ADD COLUMN is_forbidding_passwords INTEGER NOT NULL DEFAULT 0;
ALTER TABLE organization ADD COLUMN is_requiring_two_factor INTEGER NOT NULL DEFAULT 0;
