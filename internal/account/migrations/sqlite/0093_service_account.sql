-- +goose Up

-- A service account is a user without a password that belongs to an organization and acts by keys only. No session of one can be
-- made, whatever way of signing in is added.
ALTER TABLE "user" ADD COLUMN is_service_account_of__organization INTEGER REFERENCES organization (id) ON DELETE CASCADE;
CREATE INDEX user_service_account ON "user" (is_service_account_of__organization) WHERE is_service_account_of__organization IS NOT NULL;
-- +goose StatementBegin
CREATE TRIGGER session_of_service_account BEFORE INSERT ON session
BEGIN
    SELECT RAISE(ABORT, 'a service account has no sessions')
    FROM "user" WHERE id = NEW."user" AND is_service_account_of__organization IS NOT NULL;
END;
-- +goose StatementEnd
