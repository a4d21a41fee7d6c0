-- +goose Up

-- A service account is a user without a password that belongs to an organization and acts by keys only. No session of one can be
-- made, whatever way of signing in is added.
ALTER TABLE "user" ADD COLUMN is_service_account_of__organization BIGINT REFERENCES organization (id) ON DELETE CASCADE;
CREATE INDEX user_service_account ON "user" (is_service_account_of__organization) WHERE is_service_account_of__organization IS NOT NULL;
-- +goose StatementBegin
CREATE FUNCTION session_of_service_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT is_service_account_of__organization FROM "user" WHERE id = NEW."user") IS NOT NULL THEN
        RAISE EXCEPTION 'a service account has no sessions';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER session_of_service_account BEFORE INSERT ON session FOR EACH ROW EXECUTE FUNCTION session_of_service_account();
